"""Starting sessions on whichever worker has room, from any code of the project: a WSGI view, a task, a shell, cron.

A dispatched session is a row with the status ``queued``, written in the caller's transaction. A worker that hosts its
agent and has room takes it, by a conditional UPDATE, and starts it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from asgiref.sync import sync_to_async
from django.utils import timezone

from ..exceptions import InvalidInput
from ..models import AgentSession, SessionStatus
from ..models.session import PRIORITIES
from ..models.worker import in_seconds
from ..registry import get_runner
from ..utils.validation import clean_call_part, clean_metadata

_MAX_SOURCE_LENGTH = 32


def dispatch(
    call_id: str,
    *,
    agent: str | None = None,
    call_type: str = "default",
    metadata: dict[str, Any] | None = None,
    at: datetime | timedelta | None = None,
    expires_at: datetime | timedelta | None = None,
    priority: int = 0,
    started_by: Any = None,
    source: str = "code",
) -> AgentSession:
    """Queue a session for the first worker that has room, and return its row at once.

    It takes part in the caller's transaction: what is rolled back is never started.

    Args:
        call_id: The call to join; ``call_type`` its type.
        agent: Name of the launcher; None for the runner's default.
        metadata: A JSON object of at most 16 KB, kept on the row and handed to ``create_agent``.
        at: When to start, aware, or how long from now; None for now.
        expires_at: When it is too late to start, or how long from now: it then ends as ``expired``. None: it waits.
        priority: From -100 to 100. Of those that are due, the highest goes first.
        started_by: The user that it belongs to.
        source: Where it came from, for display.

    Raises:
        InvalidInput: an argument is malformed; nothing was queued.
        AgentNotFound: the runner has no agent of that name.
        RunnerConfigurationError: there is no runner.
    """

    due_at, due_in = _moment("at", at)
    expires, expires_in = _moment("expires_at", expires_at)
    row = AgentSession(
        agent=get_runner().launcher(agent).name,
        call_id=clean_call_part("call_id", call_id),
        call_type=clean_call_part("call_type", call_type),
        metadata=clean_metadata(metadata),
        status=SessionStatus.QUEUED,
        due_at=due_at,
        expires_at=expires,
        priority=_clean_priority(priority),
        started_by=started_by,
        source=source[:_MAX_SOURCE_LENGTH],
        created_at=timezone.now(),
    )
    if expires_in is not None and expires_in <= max(due_in or timedelta(), timedelta()):
        raise InvalidInput("expires_at", "must be later than the start")
    row.insert_queued()
    return row


async def adispatch(call_id: str, **options: Any) -> AgentSession:
    """`dispatch` for asynchronous code."""
    return await sync_to_async(dispatch)(call_id, **options)


def _clean_priority(priority: Any) -> int:
    if not isinstance(priority, int) or isinstance(priority, bool) or priority not in PRIORITIES:
        raise InvalidInput("priority", f"must be an integer from {PRIORITIES[0]} to {PRIORITIES[-1]}")
    return priority


def _moment(name: str, value: Any) -> tuple[Any, timedelta | None]:
    """Return what the row is given, and how long from now that is. An interval is reckoned by the database's clock."""
    if value is None:
        return None, None
    if isinstance(value, timedelta):
        try:
            timezone.now() + value
        except OverflowError:
            raise InvalidInput(name, "is too far away") from None
        return in_seconds(value.total_seconds()), value
    if not isinstance(value, datetime):
        raise InvalidInput(name, f"must be a datetime or a timedelta, not {type(value).__name__}")
    if timezone.is_naive(value):
        raise InvalidInput(name, "must be aware: give it a time zone (django.utils.timezone.make_aware)")
    return value, value - timezone.now()
