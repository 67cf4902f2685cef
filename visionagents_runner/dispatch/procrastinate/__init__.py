"""What brings queued sessions to workers sooner than their poll: Procrastinate, where the project has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...messaging.notifications import set_engine
from .choice import uses_procrastinate

if TYPE_CHECKING:
    from ..claimer import Engine


def install() -> None:
    """Hand sessions that this process queues to the engine. For `AppConfig.ready`: it asks no database."""
    if uses_procrastinate():
        from .jobs import hand_over

        set_engine(hand_over)


def load_engine() -> Engine | None:
    """Return the engine of this process, not opened yet; None where the poll does it."""
    if not uses_procrastinate():
        return None
    from .worker import ProcrastinateEngine

    return ProcrastinateEngine()
