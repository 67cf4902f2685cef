"""What this process is told of what it wrote itself, and who takes what it queues.

The rows are what counts, and every worker polls them; this only makes it quick. All of it is told once it is committed,
on the thread that wrote: a listener passes it on, and does no more.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import transaction

from ..utils.listeners import Listeners
from .layer import QUEUE_GROUP
from .outbox import send_from_anywhere

if TYPE_CHECKING:
    from ..models import AgentSession, EndReason

logger = logging.getLogger(__name__)

NewsListener = Callable[[Sequence[uuid.UUID], bool], None]
QueueListener = Callable[[], None]
CloseListener = Callable[[Sequence[uuid.UUID], str, bool], None]
EndListener = Callable[[Sequence[uuid.UUID], "EndReason"], None]
Engine = Callable[["AgentSession"], None]

_news = Listeners[NewsListener]()
_queued = Listeners[QueueListener]()
_close_requests = Listeners[CloseListener]()
_ends = Listeners[EndListener]()
_engine: Engine | None = None


def on_news(listener: NewsListener) -> Callable[[], None]:
    """Have ``listener(session ids, whether their states changed)`` called when their histories went on.

    Returns what ends that, as each of the others here does.
    """
    return _news.add(listener)


def tell_of_news_on_commit(keys: Sequence[uuid.UUID], *, using: str, states: bool) -> None:
    """Tell of these sessions when the transaction of ``using`` is committed. Costs nothing where nobody listens."""
    if _news and keys:
        transaction.on_commit(partial(_tell, _news, keys, states), using=using, robust=True)


def on_queued(listener: QueueListener) -> Callable[[], None]:
    """Have ``listener()`` called when this process has queued sessions."""
    return _queued.add(listener)


def tell_of_queued() -> None:
    """Tell the worker here that there are queued sessions; where none runs, workers elsewhere."""
    _tell(_queued)
    if not _queued and not has_engine():
        send_from_anywhere(QUEUE_GROUP, {"type": "queue.news"})


def set_engine(engine: Engine | None) -> None:
    """Have an engine given each session that is queued from now on, to bring it to one worker; None for none.

    ``engine(session)`` is called inside the transaction that inserts the row: what it writes must roll back with that.
    """
    global _engine
    _engine = engine


def has_engine() -> bool:
    return _engine is not None


def give_to_engine(session: AgentSession) -> None:
    """Give the engine, if there is one, a session that is being queued in the present transaction."""
    if _engine is not None:
        _engine(session)


def on_close_request(listener: CloseListener) -> Callable[[], None]:
    """Have ``listener(session ids, by, force)`` called when this process has committed close requests.

    The worker uses it to close its own sessions at once instead of at its next poll. Other workers are told too.
    """
    return _close_requests.add(listener)


def tell_of_close_requests(keys: Sequence[uuid.UUID], by: str, force: bool) -> None:
    _tell(_close_requests, keys, by, force)


def on_end(listener: EndListener) -> Callable[[], None]:
    """Have ``listener(session ids, reason)`` called when this process has ended sessions on their rows."""
    return _ends.add(listener)


def tell_of_ends(keys: Sequence[uuid.UUID], reason: EndReason) -> bool:
    """Returns whether anybody listens."""
    _tell(_ends, keys, reason)
    return bool(_ends)


def _tell(listeners: Listeners[Any], *values: Any) -> None:
    for listener in listeners:
        try:
            listener(*values)
        except Exception:
            logger.exception("A listener to changes of sessions failed")
