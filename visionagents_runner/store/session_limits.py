"""The admission of new sessions: what they count against, decided in the transaction that inserts their rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.db import router, transaction

from ..exceptions import (
    MaxConcurrentSessionsExceeded,
    MaxSessionsExceeded,
    MaxSessionsPerCallExceeded,
    SessionLimitExceeded,
)
from ..models import AgentSession, Slot
from . import database
from .calls import Visible, check_visible, slot_of_call
from .errors import try_again_after_deadlock

if TYPE_CHECKING:
    from ..models.session import AgentSessionQuerySet


@dataclass(frozen=True, slots=True)
class Limits:
    """What an admission must respect, counted in live sessions that workers have taken; None means no limit."""

    per_worker: int | None = None
    """Of one agent on one worker."""
    per_call: int | None = None
    """Of one agent's launcher, on one call, over all workers."""
    per_agent: int | None = None
    """Of one agent, over all workers."""
    per_user: int | None = None
    """Of one user, over all workers. Sessions that nobody signed in for are not counted."""
    in_all: int | None = None
    """Over all agents and workers."""

    @property
    def over_all(self) -> bool:
        """Whether one of those over all workers is in force: a queued session may be held back by it."""
        return any(limit is not None for limit in (self.per_call, self.per_agent, self.per_user, self.in_all))


async def admit(session: AgentSession, limits: Limits, visible: Visible | None = None) -> None:
    """Insert the row of a new session if the limits allow it, or raise and insert nothing.

    ``visible`` is what whoever starts it may see; None: all.

    Raises:
        CallHidden: there is a session on the call which they may not see.
        MaxConcurrentSessionsExceeded: the launcher's limit on this worker is reached.
        MaxSessionsPerCallExceeded, MaxSessionsExceeded: a limit over all workers is reached.
    """
    await database.write(_admit, session, limits, visible)


def _admit(session: AgentSession, limits: Limits, visible: Visible | None) -> None:
    def attempt() -> None:
        with transaction.atomic(using=router.db_for_write(AgentSession)):
            check_limits(session, limits, visible)
            session.insert()

    try_again_after_deadlock(attempt)


async def enqueue(session: AgentSession, visible: Visible | None = None) -> None:
    """Insert a row that is queued.

    Raises:
        CallHidden: as `admit`.
    """
    await database.write(_enqueue, session, visible)


def _enqueue(session: AgentSession, visible: Visible | None) -> None:
    def attempt() -> None:
        with transaction.atomic(using=router.db_for_write(AgentSession)):
            if visible is not None:
                Slot.objects.take([slot_of_call(session)])
                check_visible(session, visible)
            session.insert_queued()

    try_again_after_deadlock(attempt)


def check_limits(session: AgentSession, limits: Limits, visible: Visible | None = None) -> None:
    """Raise if one more session would be too many, or one is hidden from whoever starts it.

    What is found stays true until the transaction ends.
    """
    there = AgentSession.objects.occupying()
    worker_id, user_id = session.worker_id, session.started_by_id
    assert worker_id is not None
    checks: list[tuple[int | None, tuple[str, str], AgentSessionQuerySet, type[SessionLimitExceeded], str]] = [
        (
            limits.per_worker,
            ("worker", f"{worker_id}:{session.agent}"),
            there.filter(worker_id=worker_id, agent=session.agent),
            MaxConcurrentSessionsExceeded,
            "concurrent sessions",
        ),
        (
            limits.per_call,
            slot_of_call(session),
            there.on_call(session.call_type, session.call_id),
            MaxSessionsPerCallExceeded,
            "sessions for this call",
        ),
        (
            limits.per_agent,
            ("agent", session.agent),
            there.filter(agent=session.agent),
            MaxSessionsExceeded,
            "sessions of this agent",
        ),
        (
            limits.per_user if user_id is not None else None,
            ("user", str(user_id)),
            there.filter(started_by_id=user_id),
            MaxSessionsExceeded,
            "sessions for this user",
        ),
        (limits.in_all, ("all", ""), there, MaxSessionsExceeded, "sessions on all workers"),
    ]
    slots = [slot for limit, slot, *_ in checks if limit is not None]
    Slot.objects.take(slots if visible is None else [*slots, slot_of_call(session)])
    if visible is not None:
        check_visible(session, visible)
    for limit, _, counted, error, what in checks:
        if limit is not None and counted.count() >= limit:
            raise error(f"Reached maximum number of {what} ({limit})")
