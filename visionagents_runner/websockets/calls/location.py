"""Which worker's room the people of a call meet in: that of the worker whose agent was on the call first."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from typing import TypeAlias

from ...conf.settings import get_settings
from ...messaging.layer import get_link
from ...models import AgentSession, SessionStatus, WorkerState
from ...models.session import AgentSessionQuerySet
from ...models.worker import seconds_ago
from ...store import database, errors
from ...worker.current import current_worker
from ..protocol import Code, Fatal
from .access import live_sessions

_UNREACHED = "The agent of this invitation cannot be reached now: try again in a moment"
_UNTAKEN = "No worker has taken the session of this invitation yet: try again in a moment"

Call: TypeAlias = tuple[str, str]
"""Type and id."""

_AT_ONCE = 500


async def home_of(
    call: Call, session_id: str | None = None, *, exclude: Collection[uuid.UUID] = ()
) -> uuid.UUID | None:
    """Return the worker in whose room people of ``call`` meet; None: in this process, also if there is no agent yet.

    An invitation to a session leads to the worker of that one. Workers of ``exclude`` are as if they had no agent.

    Raises:
        Fatal: no worker that gives signs of life runs that session, or none has taken it yet.
    """
    if session_id is not None:
        home = await _home_of_session(session_id)
        return None if home in exclude else home
    here = live_sessions(*call)
    if here and get_link() is None:
        return None
    try:
        home = await database.read(_first_home, call, list(exclude))
    except errors.DATABASE_ERRORS:
        if not here:
            raise
        return None
    return None if home == _mine() else home


async def _home_of_session(session_id: str) -> uuid.UUID | None:
    worker = current_worker()
    if worker is not None and worker.get_session(session_id) is not None:
        return None
    home = await database.read(_session_home, session_id)
    if home is None:
        queued = await database.read(_is_queued, session_id)
        raise Fatal(Code.ELSEWHERE, _UNTAKEN if queued else _UNREACHED)
    return None if home == _mine() else home


async def at_other_workers(calls: Collection[Call], keys: Iterable[uuid.UUID] | None = None) -> set[Call]:
    """Return those of ``calls`` that an agent of another worker is on; with ``keys``, an agent of these sessions."""
    return await database.read(_at_other_workers, list(calls), None if keys is None else list(keys), _mine())


def _mine() -> uuid.UUID | None:
    worker = current_worker()
    return None if worker is None else worker.id


def _running(*statuses: SessionStatus) -> AgentSessionQuerySet:
    return AgentSession.objects.live().filter(
        status__in=statuses,
        worker__state__in=(WorkerState.RUNNING, WorkerState.DRAINING),
        worker__heartbeat_at__gte=seconds_ago(get_settings().WORKER_TTL),
    )


def _first_home(call: Call, exclude: list[uuid.UUID]) -> uuid.UUID | None:
    rows = _running(SessionStatus.STARTING, SessionStatus.ACTIVE).on_call(*call).exclude(worker_id__in=exclude)
    return rows.order_by("created_at", "pk").values_list("worker_id", flat=True).first()


def _session_home(session_id: str) -> uuid.UUID | None:
    rows = _running(SessionStatus.STARTING, SessionStatus.ACTIVE, SessionStatus.CLOSING).filter(pk=session_id)
    return rows.values_list("worker_id", flat=True).first()


def _is_queued(session_id: str) -> bool:
    return AgentSession.objects.live().filter(pk=session_id, status=SessionStatus.QUEUED).exists()


def _at_other_workers(calls: list[Call], keys: list[uuid.UUID] | None, mine: uuid.UUID | None) -> set[Call]:
    # Only once the agent is built: one that cannot be built is not worth going there.
    rows = _running(SessionStatus.ACTIVE)
    if mine is not None:
        rows = rows.exclude(worker_id=mine)
    if keys is not None:
        rows = rows.filter(pk__in=keys)
    wanted, found = set(calls), set[Call]()
    for start in range(0, len(calls), _AT_ONCE):
        ids = {call_id for _, call_id in calls[start : start + _AT_ONCE]}
        found.update(rows.filter(call_id__in=ids).values_list("call_type", "call_id"))
    return found & wanted
