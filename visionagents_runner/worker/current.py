"""The worker of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .worker import AgentWorker

_current: AgentWorker | None = None


def current_worker() -> AgentWorker | None:
    """Return the worker of this process, if one runs."""
    return _current


def set_current_worker(worker: AgentWorker | None) -> None:
    global _current
    _current = worker
