"""What the feeds read. Synchronous, for `database.read`."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...models import AgentSession, SessionEvent, SessionStatus
from ...models.worker import seconds_ago

PAGE = 100
"""Events of a session that are read at once."""
MOST_AT_ONCE = 1000
"""Events that one look reads, of all sessions together: they may have 16 KB each. The rest comes with the next look."""
COUNT_LIMIT = 1000
"""Sessions are counted up to here: more would cost more than it tells."""

_CHUNK = 500
_DAY_SECONDS = 24 * 3600.0
_LONGEST_SECONDS = 7 * _DAY_SECONDS
"""Of a session that failed: the index goes by when it was asked for."""

LISTED = ("id", "call_id", "call_type", "agent", "status", "end_reason", "created_at", "started_at", "joined_at")
_FIELDS = (*LISTED, "ended_at", "started_by_id", "event_seq")


@dataclass(frozen=True, slots=True)
class News:
    """A session as it is, with what its history has after some number; of that no more than a page."""

    status: str
    end_reason: str
    ended: bool
    worker_id: uuid.UUID | None
    seq: int
    """The last number that its history has."""
    rows: list[SessionEvent]


def news_of(after: Mapping[uuid.UUID, int | None]) -> dict[uuid.UUID, News]:
    """Return the news of those of these sessions that exist, each after its number; without rows where it is None."""
    found: dict[uuid.UUID, News] = {}
    behind: dict[uuid.UUID, int] = {}
    for chunk in _chunks(list(after)):
        rows = AgentSession.objects.filter(pk__in=chunk).order_by()
        for pk, status, reason, ended_at, worker_id, seq in rows.values_list(
            "pk", "status", "end_reason", "ended_at", "worker_id", "event_seq"
        ):
            found[pk] = News(str(status), str(reason), ended_at is not None, worker_id, seq, [])
            start = after[pk]
            if start is not None and seq > start:
                behind[pk] = start
    for pk, start in behind.items():
        found[pk].rows.extend(events_after(pk, start, max(1, min(PAGE, MOST_AT_ONCE // len(behind)))))
    return found


def events_after(key: uuid.UUID, seq: int, most: int = PAGE) -> list[SessionEvent]:
    """Return one page of a session's history."""
    return list(SessionEvent.objects.filter(session_id=key, seq__gt=seq).order_by("seq")[:most])


def newest(limit: int) -> list[AgentSession]:
    return list(AgentSession.objects.only(*_FIELDS).order_by("-created_at", "-id")[:limit])


def live(limit: int) -> list[AgentSession]:
    return list(AgentSession.objects.live().only(*_FIELDS).order_by("-created_at", "-id")[:limit])


def by_key(keys: Iterable[uuid.UUID]) -> list[AgentSession]:
    rows: list[AgentSession] = []
    for chunk in _chunks(list(keys)):
        rows += AgentSession.objects.filter(pk__in=chunk).only(*_FIELDS).order_by("created_at", "id")
    return rows


def counts(user_ids: Iterable[Any]) -> dict[Any, dict[str, int]]:
    """Return `_counts` for each user of what they started; for None, of all sessions."""
    return {user_id: _counts(user_id) for user_id in user_ids}


def _counts(user_id: Any) -> dict[str, int]:
    sessions = AgentSession.objects.order_by()
    if user_id is not None:
        sessions = sessions.filter(started_by_id=user_id)
    states = Counter(sessions.live().values_list("status", flat=True)[:COUNT_LIMIT])
    failed = sessions.filter(
        status=SessionStatus.FAILED,
        ended_at__gte=seconds_ago(_DAY_SECONDS),
        created_at__gte=seconds_ago(_DAY_SECONDS + _LONGEST_SECONDS),
    )
    return {
        "live": sum(states.values()),
        **{state.value: states[state.value] for state in LIVE_STATES},
        "failed_24h": failed.values("pk")[:COUNT_LIMIT].count(),
        "limit": COUNT_LIMIT,
    }


LIVE_STATES = (
    SessionStatus.QUEUED,
    SessionStatus.STARTING,
    SessionStatus.ACTIVE,
    SessionStatus.CLOSING,
    SessionStatus.UNREACHABLE,
)


def _chunks(keys: Sequence[uuid.UUID]) -> Iterable[Sequence[uuid.UUID]]:
    return (keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK))
