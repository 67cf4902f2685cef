"""Retention: deleting ended sessions, with their history, once they are old enough."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from django.db import OperationalError, connections, router, transaction
from django.db.models import Count, Exists, OuterRef, ProtectedError, Q, QuerySet

from ..conf.settings import SETTING, get_settings
from ..exceptions import RunnerConfigurationError
from ..models import AgentSession, SessionEvent, SessionStatus, Worker, WorkerState
from ..models.worker import seconds_ago
from ..utils.durations import LONGEST
from .errors import is_deadlock

if TYPE_CHECKING:
    from ..models.session import AgentSessionQuerySet

T = TypeVar("T")

MOST_EVENTS = 5_000
"""How many events go in one transaction, unless a single session has more: nothing else waits long for it."""

DID_NOT_END_WELL = (SessionStatus.FAILED, SessionStatus.LOST)

_TRIES = 5
_WORKER_AGE = timedelta(days=1)


@dataclass(slots=True)
class Tally:
    """What was deleted, or would be."""

    sessions: Counter[str] = field(default_factory=Counter)
    """By end state."""
    events: int = 0
    workers: int = 0


def default_age() -> timedelta | None:
    """Return how long the setting RETENTION keeps ended sessions, None for ever.

    Raises:
        RunnerConfigurationError: it is no length of time. Zero might be meant as "off", or as "at once": it is refused.
    """
    kept = get_settings().RETENTION
    if kept is None:
        return None
    seconds = kept.total_seconds() if isinstance(kept, timedelta) else kept
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
        raise RunnerConfigurationError(
            f"{SETTING}['RETENTION'] is {kept!r}: make it a timedelta or a number of seconds above 0, or leave it out"
        )
    return timedelta(seconds=min(seconds, LONGEST.total_seconds()))


def old_sessions(age: timedelta, *, keep_failed: bool = False) -> AgentSessionQuerySet:
    """Return the sessions that ended more than ``age`` ago; with ``keep_failed``, only those that ended well."""
    sessions = AgentSession.objects.using(_database()).ended_longer_ago_than(min(age, LONGEST))
    return sessions.exclude(status__in=DID_NOT_END_WELL) if keep_failed else sessions


def old_workers(age: timedelta) -> QuerySet[Worker]:
    """Return the workers that stopped more than ``age`` ago, a day at least, and of which no session is left.

    A day, because one that was declared dead may only be slow, and comes back under its old name.
    """
    stopped = Worker.objects.using(_database()).filter(state=WorkerState.STOPPED)
    old = stopped.filter(stopped_at__lt=seconds_ago(min(max(age, _WORKER_AGE), LONGEST).total_seconds()))
    return old.filter(~Exists(AgentSession.objects.filter(worker=OuterRef("pk"))))


def preview(age: timedelta, *, keep_failed: bool = False) -> dict[str, tuple[int, int]]:
    """Return how many sessions, and events of them, `prune` would delete, by end state."""
    sessions = old_sessions(age, keep_failed=keep_failed).order_by()
    counted = dict(sessions.values_list("status").annotate(count=Count("pk")))
    of_old = SessionEvent.objects.using(_database()).filter(session__in=sessions.values("pk")).order_by()
    events = dict(of_old.values_list("session__status").annotate(count=Count("pk")))
    return {status: (count, events.get(status, 0)) for status, count in sorted(counted.items())}


def prune(
    age: timedelta,
    *,
    keep_failed: bool = False,
    batch_size: int = 200,
    tally: Tally | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Tally:
    """Delete the sessions that ended more than ``age`` ago, their events, and workers of which nothing is left.

    Each batch is a transaction of its own, and a session goes together with its history: whoever stops half way has
    lost nothing but what was to be deleted, and may begin again. Several may run at once; each takes other sessions
    where the database can skip locked rows, and they take turns where it cannot.

    Args:
        tally: Counts along, for a caller that may be interrupted.
        on_batch: Called after each batch with the number of its sessions.
    """
    tally = Tally() if tally is None else tally
    sessions = old_sessions(age, keep_failed=keep_failed).order_by("created_at", "pk")
    after: tuple[datetime, uuid.UUID] | None = None
    while True:
        began_at = time.monotonic()
        batch = _try_again(partial(_delete_batch, sessions, after, batch_size))
        if batch is None:
            break
        after, states, events = batch
        tally.sessions.update(states)
        tally.events += events
        if on_batch is not None:
            on_batch(states.total())
        _let_others_write(time.monotonic() - began_at)
    while keys := list(old_workers(age).order_by("pk").values_list("pk", flat=True)[:batch_size]):
        try:
            _, deleted = Worker.objects.using(_database()).filter(pk__in=keys).delete()
        except ProtectedError:
            break  # one of them came back this very moment
        tally.workers += deleted.get(Worker._meta.label, 0)
    return tally


def _delete_batch(
    sessions: AgentSessionQuerySet, after: tuple[datetime, uuid.UUID] | None, size: int
) -> tuple[tuple[datetime, uuid.UUID], Counter[str], int] | None:
    """Delete the next of ``sessions``, in their order. Returns where to go on, what went, and how many events.

    It goes on after the last one instead of from the start, where those that are kept would be read again each time.
    """
    features = connections[_database()].features
    with transaction.atomic(using=_database()):
        if after is not None:
            sessions = sessions.filter(Q(created_at__gt=after[0]) | Q(created_at=after[0], pk__gt=after[1]))
        if features.has_select_for_update:
            sessions = sessions.select_for_update(skip_locked=features.has_select_for_update_skip_locked)
        rows = sessions.values_list("pk", "created_at", "status", "event_seq")[:size]
        chosen: list[tuple[uuid.UUID, datetime, str, int]] = []
        events = 0
        for row in rows:
            events += row[3]  # the number of its last event
            if chosen and events > MOST_EVENTS:
                break
            chosen.append(row)
        if not chosen:
            return None
        doomed = AgentSession.objects.using(_database()).filter(pk__in=[row[0] for row in chosen])
        _, deleted = doomed.only("pk").delete()
    last = chosen[-1]
    return (last[1], last[0]), Counter(str(row[2]) for row in chosen), deleted.get(SessionEvent._meta.label, 0)


def _try_again(attempt: Callable[[], T]) -> T:
    for number in range(_TRIES):
        try:
            return attempt()
        except OperationalError as error:
            if number == _TRIES - 1 or not is_deadlock(error):
                raise
            time.sleep(0.1 * 2**number)
    raise AssertionError("unreachable")


def _let_others_write(seconds: float) -> None:
    """Wait as long as the last batch took where one writer at a time is all there is, and calls go on."""
    if connections[_database()].vendor == "sqlite":
        time.sleep(min(seconds, 0.25))


def _database() -> str:
    return router.db_for_write(AgentSession)
