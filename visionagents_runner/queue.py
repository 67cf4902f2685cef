"""What moves queued sessions to workers, for whoever queues one: on any thread of any process.

The rows are the queue, and every worker looks at it each POLL_INTERVAL. Hints and an engine make that quick; an engine
brings each session to one worker instead of all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from .utils.listeners import Listeners

if TYPE_CHECKING:
    from .models import AgentSession

logger = logging.getLogger(__name__)

HandOver = Callable[["AgentSession"], None]
"""``hand_over(session)`` is called inside the transaction that inserts the queued row, and must roll back with it."""

_hand_over: HandOver | None = None
_listeners = Listeners[Callable[[], None]]()
_otherwise: Callable[[], None] | None = None


def set_engine(hand_over: HandOver | None) -> None:
    """Have sessions that are queued from now on handed to an engine; None for none."""
    global _hand_over
    _hand_over = hand_over


def has_engine() -> bool:
    return _hand_over is not None


def hand_over(session: AgentSession) -> None:
    if _hand_over is not None:
        _hand_over(session)


def on_queued(listener: Callable[[], None]) -> Callable[[], None]:
    """Have ``listener()`` called, on any thread, when this process has queued sessions. Returns what ends that."""
    return _listeners.add(listener)


def set_messenger(send: Callable[[], None]) -> None:
    """Have ``send()`` called where a process without a worker queues sessions: workers elsewhere are told."""
    global _otherwise
    _otherwise = send


def tell() -> None:
    """Tell workers that there are queued sessions; once that is committed."""
    for listener in _listeners:
        listener()
    if not _listeners and not has_engine() and _otherwise is not None:
        _otherwise()
