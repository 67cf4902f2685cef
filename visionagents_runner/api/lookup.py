"""Finding a session: in memory where it runs in this process, else its row."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from math import isfinite
from typing import Any

from django.http import HttpRequest

from ..auth.permissions import Access, judged_since
from ..conf.settings import get_settings
from ..models import AgentSession, SessionStatus
from ..sessions.session import LiveSession
from ..store import database, session_rows
from ..utils.paths import scope_of
from ..utils.tasks import shared
from ..utils.timestamps import iso
from ..worker.current import current_worker
from .errors import session_not_found


@dataclass(frozen=True, slots=True)
class Found:
    """A session, read alike whether this process runs it or only its row tells of it."""

    row: AgentSession
    live: LiveSession | None = None
    """The session itself, where this process runs it: what is so this moment, before the row says it."""

    @property
    def key(self) -> uuid.UUID:
        return self.row.pk

    @property
    def id(self) -> str:
        return str(self.row.pk)

    @property
    def call_type(self) -> str:
        return self.row.call_type

    @property
    def call_id(self) -> str:
        return self.row.call_id

    @property
    def started_by_id(self) -> Any:
        return self.row.started_by_id

    @property
    def status(self) -> str:
        return (self.live or self.row).status

    @property
    def end_reason(self) -> str | None:
        return (self.live or self.row).end_reason or None

    @property
    def started_at(self) -> datetime | None:
        """When the agent was built and began to join; None before."""
        if self.live is None:
            return self.row.started_at
        return None if self.live.task is None else self.live.started_at

    @property
    def joined_at(self) -> datetime | None:
        return (self.live or self.row).joined_at

    @property
    def ended_at(self) -> datetime | None:
        return (self.live or self.row).ended_at


def running(session: LiveSession) -> Found:
    return Found(session.row, session)


def live_session(request: HttpRequest, session_id: str) -> LiveSession | None:
    """Return the session if this process runs it. Neither a query nor a thread is needed."""
    worker = current_worker()
    # Under WSGI the request has an event loop of its own, not the session's.
    if worker is None or scope_of(request) is None:
        return None
    session = worker.get_session(session_id)
    return None if session is None or session.finished else session


async def find(request: HttpRequest, session_id: str) -> Found | None:
    """Return a session, ended or not, by its id as the client wrote it."""
    if (session := live_session(request, session_id)) is not None:
        return running(session)
    try:
        key = uuid.UUID(session_id)
    except ValueError:
        return None
    if str(key) != session_id.lower():  # braces, "urn:uuid:" and the like
        return None
    if (session := live_session(request, str(key))) is not None:
        return running(session)
    since = judged_since(request)
    if since is None:
        row = await session_rows.get_session(key)
    else:
        row = await shared(("session", str(key)), since, partial(session_rows.get_session, key))
    return None if row is None else Found(row)


async def find_visible(request: HttpRequest, session_id: str, access: Access) -> Found:
    """Return a session that ``access`` may see.

    Raises:
        APIError: 404, alike for a session that they may not see and for one that does not exist.
    """
    found = await find(request, session_id)
    if found is None or not await access.sees(request, found):
        raise session_not_found(session_id)
    return found


async def find_on_call(request: HttpRequest, call_id: str, session_id: str, access: Access) -> Found:
    """Like `find_visible`, but only a session on that call that has not ended.

    Raises:
        APIError: 404.
    """
    found = await find_visible(request, session_id, access)
    if found.call_id != call_id or found.ended_at is not None:
        raise session_not_found(session_id)
    return found


async def call_of(request: HttpRequest, session_id: str) -> str | None:
    found = await find(request, session_id)
    return None if found is None else found.call_id


def describe(found: Found) -> dict[str, Any]:
    """Return the keys of `schemas.SessionInfo`."""
    return {
        "session_id": found.id,
        "call_id": found.call_id,
        "call_type": found.call_type,
        "agent": found.row.agent,
        "status": str(found.status),
        "end_reason": str(found.end_reason) if found.end_reason else None,
        "created_at": iso(found.row.created_at),
        "started_at": iso(found.started_at),
        "joined_at": iso(found.joined_at),
        "ended_at": iso(found.ended_at),
    }


async def detail(request: HttpRequest, found: Found, access: Access) -> dict[str, Any]:
    """Return the keys of `schemas.SessionDetail`, but for its cost. Only one that is lost takes a query."""
    row = found.row
    successor = await database.read(restarted_as, row) if found.status == SessionStatus.LOST else None
    seen = successor is not None and await access.sees(request, successor)
    return {
        **describe(found),
        "metadata": row.metadata,
        **queued_and_restarted(row),
        "restarted_as": str(successor.pk) if successor is not None and seen else None,
    }


def queued_and_restarted(row: AgentSession) -> dict[str, Any]:
    """Return what `schemas.SessionDetail` says of a row besides, as far as the row itself tells."""
    # Both sessions are of the same person: who may see the one may see the other.
    return {
        "due_at": iso(row.due_at),
        "restart_of": None if row.restart_of_id is None else str(row.restart_of_id),
    }


def restarted_as(row: AgentSession) -> AgentSession | None:
    """Return the session that goes on for one that is lost, if there is one. Synchronous, for `database.read`."""
    return AgentSession.objects.filter(restart_of=row.pk).only("call_id", "started_by_id").first()


def began(found: Found) -> str | None:
    """Return when the agent began to join, or, before that, when it was asked for: in /calls it is never null."""
    return iso(found.started_at or found.row.created_at)


def measured(found: Found) -> dict[str, Any]:
    """Return the agent's metrics: of this moment where this process runs it, else what its worker wrote last."""
    if found.live is not None:
        metrics, at = found.live.metrics(), datetime.now(UTC)
    else:
        metrics, at = found.row.metrics, found.row.metrics_at or found.started_at or found.row.created_at
    return {"metrics_generated_at": iso(at), "metrics": {name: _finite(value) for name, value in metrics.items()}}


def priced(found: Found) -> dict[str, Any]:
    """Return ``{"cost": schemas.Cost}``, or {} where nothing is known of it. Only for who may see metrics."""
    if (live := found.live) is not None:
        known = live.cost(live.metrics()) if get_settings().PRICES else None
        if known is None:
            return {}
        amount, currency, unpriced = known.amount, known.currency, known.unpriced
    else:
        amount, currency, unpriced = found.row.cost, found.row.cost_currency, found.row.cost_unpriced
    if not currency:
        return {}
    return {
        "cost": {
            "amount": None if amount is None else f"{amount:f}",
            "currency": currency,
            "unpriced": unpriced,
        }
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value
