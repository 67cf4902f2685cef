"""What workers do with queued sessions: look which are due, take one, put one back."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from django.db import router, transaction
from django.db.models import Count

from ..conf.settings import get_settings
from ..exceptions import (
    NoWorker,
    SessionLimitExceeded,
)
from ..models import AgentSession, Worker
from ..models.worker import seconds_ago
from . import database
from .errors import try_again_after_deadlock
from .session_limits import Limits, check_limits


async def due(agents: Sequence[str], most: int, *, overdue: float = 0.0) -> list[AgentSession]:
    """Return queued sessions of these agents that may start now, those that shall be first before others.

    With ``overdue``, only those that might have been started so many seconds ago.
    """
    return await database.read(_due, agents, most, overdue)


def _due(agents: Sequence[str], most: int, overdue: float) -> list[AgentSession]:
    rows = AgentSession.objects.due().filter(agent__in=agents)
    if overdue:
        rows = rows.filter(due_at__lte=seconds_ago(overdue))
    return list(rows[:most])


async def claim(session: AgentSession, limits: Limits, *, restartable: bool) -> bool:
    """Take a queued session for the worker that ``session.worker_id`` names, if the limits allow it.

    False if it is not queued any more, or not due.

    Raises:
        SessionLimitExceeded: as `admit`; it stays queued.
    """
    return await database.write(_claim, session, limits, restartable)


def _claim(session: AgentSession, limits: Limits, restartable: bool) -> bool:
    assert session.worker_id is not None
    worker_id = session.worker_id

    def attempt() -> bool:
        with transaction.atomic(using=router.db_for_write(AgentSession)):
            check_limits(session, limits)
            # What went on for a lost session is not started again a second time.
            again = restartable and session.restart_of_id is None
            return AgentSession.objects.claim(session.pk, worker_id, restartable=again)

    return try_again_after_deadlock(attempt)


async def unclaim(session: AgentSession, worker_id: uuid.UUID) -> bool:
    """Give back a session that was claimed and not begun."""
    return await database.persist(AgentSession.objects.unclaim, session.pk, worker_id)


async def postpone(key: uuid.UUID, seconds: float, *, because: SessionLimitExceeded) -> bool:
    """Let a queued session wait for so long."""
    return await database.write(AgentSession.objects.postpone, key, seconds, why=str(because), limit=because.limit)


async def hurry(
    most: int, *, agents: Iterable[str], calls: Iterable[tuple[str, str]], users: Iterable[Any]
) -> list[AgentSession]:
    """See `AgentSessionQuerySet.hurry`."""
    return await database.write(AgentSession.objects.hurry, most, agents=agents, calls=calls, users=users)


async def headroom_elsewhere(agent: str, *, exclude: uuid.UUID | None = None) -> int | None:
    """Return how many more sessions of ``agent`` other workers than ``exclude`` could take now.

    None if there is no bound. It is a look, not a promise.

    Raises:
        NoWorker: no other worker hosts that agent and takes sessions.
    """
    return await database.read(_headroom_elsewhere, agent, exclude)


def _headroom_elsewhere(agent: str, exclude: uuid.UUID | None) -> int | None:
    taking = Worker.objects.taking(agent, get_settings().WORKER_TTL)
    limits: dict[uuid.UUID, int | None] = {
        pk: agents[agent] for pk, agents in taking.values_list("pk", "agents") if pk != exclude
    }
    if not limits:
        raise NoWorker(f"No worker that hosts the agent {agent!r} takes sessions")
    there = AgentSession.objects.occupying().filter(worker_id__in=list(limits), agent=agent)
    taken = dict(there.order_by().values_list("worker_id").annotate(Count("pk")))
    headroom = 0
    for pk, limit in limits.items():
        if limit is None:
            return None
        headroom += max(0, limit - taken.get(pk, 0))
    return headroom
