"""The only module that runs queries for the runtime.

Queries run on threads of this module, never on the event loop and never on the thread that a request brought along:
that one is gone when the request is, while sessions live on. There are a few lanes, each a thread with a
connection of its own: one writer (the order of a session's writes is the order of its life), a few readers for
requests, one for heartbeats, whose time limits are short, so that a slow query elsewhere never looks like a death, and
one for looking after the sessions of others, whose rows a worker that was cut off may have locked.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

from django.db import InterfaceError, OperationalError, close_old_connections, connections, router, transaction
from django.db.models import Count, Exists, OuterRef, Q
from django.utils import timezone

from ..conf.settings import get_settings
from ..exceptions import (
    CallHidden,
    MaxConcurrentSessionsExceeded,
    MaxSessionsExceeded,
    MaxSessionsPerCallExceeded,
    NoWorker,
    SessionLimitExceeded,
)
from ..messaging import notifications
from ..messaging.layer import get_layer, worker_group
from ..messaging.outbox import send_from_anywhere
from ..models import AgentSession, EndReason, EventLine, SessionCommand, SessionEvent, Slot, Turn, Worker, WorkerState
from ..models.worker import seconds_ago
from ..signals import session_ended
from ..utils.process import ProcessIdentity, is_known_dead
from ..utils.validation import call_key
from .mysql import limit_seconds

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from ..conf.prices import Cost
    from ..models.session import AgentSessionQuerySet
    from ..models.worker import WorkerQuerySet

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

DATABASE_ERRORS = (OperationalError, InterfaceError)
"""What a database that does not answer, or that chose a transaction as the victim of a deadlock, raises."""

_READERS = 2
_GUESTS = 16
_QUERY_SECONDS = 20.0
_MOST_LOCKS_SECONDS = 10.0
_IDLE_SECONDS = 5.0
_DEADLOCK_TRIES = 5
_DEADLOCK = ("deadlock", "could not serialize", "database is locked", "record has changed since last read")
"""The last is what MariaDB says under REPEATABLE READ with innodb_snapshot_isolation."""
_SLOT_AGE = timedelta(days=1)
_COMMAND_AGE = timedelta(minutes=1)
_BATCH = 500


class _Lane:
    """One thread with a connection of its own, outside any pool, which outlives the single query but not an error.

    ``seconds()`` is how long the database may take to answer it: nothing here is worth waiting for longer, and a
    process must be able to end while the database is away.
    """

    def __init__(self, name: str, seconds: Callable[[], float]) -> None:
        self._name = name
        self._seconds = seconds
        self._executor: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._used_at = 0.0
        self.pending = 0

    async def run(self, fn: Callable[[], T]) -> T:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, thread_name_prefix=self._name, initializer=self._prepare)
            executor = self._executor
        self.pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, partial(self._unit, fn))
        finally:
            self.pending -= 1

    def close(self, timeout: float) -> bool:
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is None:
            return True
        closing = executor.submit(connections.close_all)
        executor.shutdown(wait=False)
        try:
            closing.result(timeout)
        except TimeoutError:
            return False
        return True

    def _prepare(self) -> None:
        alias = router.db_for_write(Worker)
        connection = connections[alias].copy()
        options = connection.settings_dict.setdefault("OPTIONS", {})
        options.pop("pool", None)
        seconds = max(1, int(self._seconds()))
        if connection.vendor == "sqlite":
            options["timeout"] = min(options.get("timeout", seconds), seconds)
        elif connection.vendor == "postgresql":
            options.setdefault("connect_timeout", seconds)
            options.setdefault("tcp_user_timeout", seconds * 1000)
        elif connection.vendor == "mysql":
            options.setdefault("connect_timeout", seconds)
            # Longer than the database has (`limit_seconds`), whose answer tells what became of the statement.
            options.setdefault("read_timeout", seconds + 1)
            options.setdefault("write_timeout", seconds + 1)
        connections[alias] = connection

    def _unit(self, fn: Callable[[], T]) -> T:
        connection = connections[router.db_for_write(Worker)]
        idle = time.monotonic() - self._used_at > _IDLE_SECONDS
        if idle and connection.connection is not None and not connection.is_usable():
            connection.close()  # the database was started anew: better found out now than in the middle
        if connection.connection is None:
            self._connect(connection)
        try:
            return fn()
        finally:
            self._used_at = time.monotonic()
            if connection.connection is not None and connection.errors_occurred:
                if connection.is_usable():
                    connection.errors_occurred = False
                else:
                    connection.close()
            for other in connections.all(initialized_only=True):
                if other is not connection:
                    other.close_if_unusable_or_obsolete()

    def _connect(self, connection: BaseDatabaseWrapper) -> None:
        connection.ensure_connection()
        # A pooler that gives each transaction another connection would keep this for others. Who has one says so:
        if connection.vendor == "postgresql" and not connection.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS"):
            with connection.cursor() as cursor:
                limits = {"statement_timeout": self._seconds(), "idle_in_transaction_session_timeout": _locks_seconds()}
                for name, seconds in limits.items():
                    cursor.execute("SELECT set_config(%s, %s, false)", [name, str(int(seconds * 1000))])
        elif connection.vendor == "mysql":
            limit_seconds(connection, self._seconds())
            if getattr(connection, "mysql_is_mariadb", False):  # MySQL has no such limit
                with connection.cursor() as cursor:
                    cursor.execute("SET SESSION idle_transaction_timeout = %s", [max(1, int(_locks_seconds()))])


def _locks_seconds() -> float:
    """How long the database waits for us in the middle of a transaction.

    A process that was stopped there, or cut off, would hold its locks for hours otherwise, and with a slot's lock keep
    all workers from starting.
    """
    return min(_MOST_LOCKS_SECONDS, get_settings().WORKER_TTL)


def _pulse_seconds() -> float:
    return get_settings().WORKER_TTL / 3


_writer = _Lane("visionagents-writer", lambda: _QUERY_SECONDS)
_readers = [_Lane(f"visionagents-reader-{number}", lambda: _QUERY_SECONDS) for number in range(_READERS)]
_pulse = _Lane("visionagents-pulse", _pulse_seconds)
_reaper = _Lane("visionagents-reaper", lambda: _QUERY_SECONDS)


async def read(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a synchronous function that reads from the database in a reader's thread."""
    return await min(_readers, key=lambda lane: lane.pending).run(partial(fn, *args, **kwargs))


async def write(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a synchronous function that writes to the database, after all the writes asked for before."""
    return await _writer.run(partial(fn, *args, **kwargs))


async def persist(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Like `write`, but try again, for ever, while the database does not answer. ``fn`` must be idempotent."""
    delay = 0.1
    while True:
        try:
            return await write(fn, *args, **kwargs)
        except DATABASE_ERRORS as error:
            logger.warning("The database does not answer (%s); trying again in %.1f s", _first_line(error), delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 5.0)


_guests: ThreadPoolExecutor | None = None


async def call(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a synchronous function of the project, which may query, in a thread that is none of ours.

    It may take its time (an HTTP request, say) without holding up what the runtime reads and writes.
    """
    global _guests
    if _guests is None:
        _guests = ThreadPoolExecutor(_GUESTS, thread_name_prefix="visionagents-call")

    def unit() -> T:
        try:
            return fn(*args, **kwargs)
        finally:
            close_old_connections()

    return await asyncio.get_running_loop().run_in_executor(_guests, unit)


def close(timeout: float = 10.0) -> bool:
    """End the threads and close their connections; the next query opens new ones.

    Returns False if one of them still waits for the database after ``timeout`` seconds; Python would join it at its
    exit.
    """
    global _guests
    if _guests is not None:
        _guests.shutdown(wait=False, cancel_futures=True)
        _guests = None
    deadline = time.monotonic() + timeout
    results = [lane.close(max(0.0, deadline - time.monotonic())) for lane in (_writer, *_readers, _pulse, _reaper)]
    return all(results)


# Sessions


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


@dataclass(frozen=True, slots=True)
class Visible:
    """What somebody may see who does not see all: a call with another session is closed to their starts.

    A session hears the whole call, and is read by who started it. So nobody starts one on a call that has a live
    session which is hidden from them, unless another one there is theirs, which hears it anyway.
    """

    user_id: Any = None
    """Whose sessions are theirs; None: nobody's."""
    known: frozenset[uuid.UUID] = frozenset()
    """Others that they may see."""


class OnCall(NamedTuple):
    """A session that is on a call."""

    id: uuid.UUID
    call_id: str
    started_by_id: Any


MOST_ON_CALL = 200
"""Sessions that `present_on` finds; nobody is asked whether somebody may see so many."""


async def present_on(call_type: str, call_id: str) -> list[OnCall]:
    """Return the sessions that are on a call, also those that wait for a worker: no more than `MOST_ON_CALL`."""
    return await read(_present_on, call_type, call_id)


def _present_on(call_type: str, call_id: str) -> list[OnCall]:
    # Where there are replicas, one that lags would hide the session that matters: the newest.
    rows = AgentSession.objects.using(router.db_for_write(AgentSession)).present().on_call(call_type, call_id)
    return [OnCall(*row) for row in rows.order_by().values_list("pk", "call_id", "started_by_id")[:MOST_ON_CALL]]


async def admit(session: AgentSession, limits: Limits, visible: Visible | None = None) -> None:
    """Insert the row of a new session if the limits allow it, or raise and insert nothing.

    ``visible`` is what whoever starts it may see; None: all.

    Raises:
        CallHidden: there is a session on the call which they may not see.
        MaxConcurrentSessionsExceeded: the launcher's limit on this worker is reached.
        MaxSessionsPerCallExceeded, MaxSessionsExceeded: a limit over all workers is reached.
    """
    await write(_admit, session, limits, visible)


def _admit(session: AgentSession, limits: Limits, visible: Visible | None) -> None:
    def attempt() -> None:
        with transaction.atomic(using=router.db_for_write(AgentSession)):
            _check_limits(session, limits, visible)
            session.insert()

    _try_again_after_deadlock(attempt)


async def enqueue(session: AgentSession, visible: Visible | None = None) -> None:
    """Insert a row that is queued.

    Raises:
        CallHidden: as `admit`.
    """
    await write(_enqueue, session, visible)


def _enqueue(session: AgentSession, visible: Visible | None) -> None:
    from ..dispatch.dispatch import insert_queued

    def attempt() -> None:
        with transaction.atomic(using=router.db_for_write(AgentSession)):
            if visible is not None:
                Slot.objects.take([_slot_of_call(session)])
                _check_visible(session, visible)
            insert_queued(session)

    _try_again_after_deadlock(attempt)


def _slot_of_call(session: AgentSession) -> tuple[str, str]:
    return "call", call_key(session.call_type, session.call_id)


def _check_visible(session: AgentSession, visible: Visible) -> None:
    """Raise if a session is hidden from whoever starts this one. The call's slot is taken."""
    rows = AgentSession.objects.using(router.db_for_write(AgentSession)).present()
    there = dict(rows.on_call(session.call_type, session.call_id).values_list("pk", "started_by_id"))
    if visible.user_id is not None and visible.user_id in there.values():
        return
    if not there.keys() <= visible.known:
        raise CallHidden("You may not see every session of this call, so you may not start one on it")


def _check_limits(session: AgentSession, limits: Limits, visible: Visible | None = None) -> None:
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
            _slot_of_call(session),
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
    Slot.objects.take(slots if visible is None else [*slots, _slot_of_call(session)])
    if visible is not None:
        _check_visible(session, visible)
    for limit, _, counted, error, what in checks:
        if limit is not None and counted.count() >= limit:
            raise error(f"Reached maximum number of {what} ({limit})")


# The queue


async def due(agents: Sequence[str], most: int, *, overdue: float = 0.0) -> list[AgentSession]:
    """Return queued sessions of these agents that may start now, those that shall be first before others.

    With ``overdue``, only those that might have been started so many seconds ago.
    """
    return await read(_due, agents, most, overdue)


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
    return await write(_claim, session, limits, restartable)


def _claim(session: AgentSession, limits: Limits, restartable: bool) -> bool:
    assert session.worker_id is not None
    worker_id = session.worker_id

    def attempt() -> bool:
        with transaction.atomic(using=router.db_for_write(AgentSession)):
            _check_limits(session, limits)
            # What went on for a lost session is not started again a second time.
            again = restartable and session.restart_of_id is None
            return AgentSession.objects.claim(session.pk, worker_id, restartable=again)

    return _try_again_after_deadlock(attempt)


async def unclaim(session: AgentSession, worker_id: uuid.UUID) -> bool:
    """Give back a session that was claimed and not begun."""
    return await persist(AgentSession.objects.unclaim, session.pk, worker_id)


async def postpone(key: uuid.UUID, seconds: float, *, why: str) -> bool:
    """Let a queued session wait for so long."""
    return await write(AgentSession.objects.postpone, key, seconds, why=why)


async def hurry(
    most: int, *, agents: Iterable[str], calls: Iterable[tuple[str, str]], users: Iterable[Any]
) -> list[AgentSession]:
    """See `AgentSessionQuerySet.hurry`."""
    return await write(AgentSession.objects.hurry, most, agents=agents, calls=calls, users=users)


async def places_elsewhere(agent: str, *, but: uuid.UUID | None = None) -> int | None:
    """Return how many more sessions of ``agent`` other workers than ``but`` could take now.

    None if there is no bound. It is a look, not a promise.

    Raises:
        NoWorker: no other worker hosts that agent and takes sessions.
    """
    return await read(_places_elsewhere, agent, but)


def _places_elsewhere(agent: str, but: uuid.UUID | None) -> int | None:
    taking = Worker.objects.taking(agent, get_settings().WORKER_TTL)
    limits: dict[uuid.UUID, int | None] = {
        pk: agents[agent] for pk, agents in taking.values_list("pk", "agents") if pk != but
    }
    if not limits:
        raise NoWorker(f"No worker that hosts the agent {agent!r} takes sessions")
    there = AgentSession.objects.occupying().filter(worker_id__in=list(limits), agent=agent)
    taken = dict(there.order_by().values_list("worker_id").annotate(Count("pk")))
    places = 0
    for pk, limit in limits.items():
        if limit is None:
            return None
        places += max(0, limit - taken.get(pk, 0))
    return places


def _try_again_after_deadlock(attempt: Callable[[], T]) -> T:
    for _ in range(_DEADLOCK_TRIES - 1):
        try:
            return attempt()
        except OperationalError as error:
            if not _is_deadlock(error):
                raise
    return attempt()


def _is_deadlock(error: OperationalError) -> bool:
    text = str(error).lower()
    return any(words in text for words in _DEADLOCK)


async def get_session(pk: uuid.UUID | str) -> AgentSession | None:
    """Return the row with that id, or None: also for an id that is no UUID."""
    try:
        key = pk if isinstance(pk, uuid.UUID) else uuid.UUID(pk)
    except ValueError:
        return None
    return await read(AgentSession.objects.filter(pk=key).first)


async def request_close(pk: uuid.UUID | str, *, by: str = "", force: bool = False) -> bool:
    """Ask the worker of a session, wherever it runs, to close it. True if the request is new."""
    return bool(await write(request_close_sync, [pk], by=by, force=force))


def request_close_sync(pks: Iterable[uuid.UUID | str], *, by: str = "", force: bool = False) -> int:
    """Ask the workers of these sessions to close them; for synchronous code such as the admin.

    With ``force``, a session whose worker is silent or gone, so that nobody is there to close it, ends here and now.
    Returns how many requests are new.
    """
    keys = [pk if isinstance(pk, uuid.UUID) else uuid.UUID(pk) for pk in pks]
    sessions = AgentSession.objects.filter(pk__in=keys)
    asked, ended = sessions.request_close(by=by, force=force)
    count = len(asked) + len(ended)
    if force:
        silent = Q(worker__isnull=True) | Q(worker__state=WorkerState.STOPPED)
        silent |= Q(worker__heartbeat_at__lt=seconds_ago(get_settings().WORKER_TTL))
        orphans = list(sessions.live().filter(silent).values_list("pk", flat=True))
        orphaned = AgentSession.objects.filter(pk__in=orphans)
        ended += orphaned.finish(EndReason.REQUESTED, data={"by": by, "orphan": True})
    told = partial(_tell_of_close, keys, by, force)
    transaction.on_commit(told, using=router.db_for_write(AgentSession), robust=True)
    if ended:
        told = partial(_tell_of_ends, ended, EndReason.REQUESTED)
        transaction.on_commit(told, using=router.db_for_write(AgentSession), robust=True)
    return count


def _tell_of_ends(keys: Sequence[uuid.UUID], reason: EndReason) -> None:
    """Have the worker here tell of these ends on its loop; where none runs, do that on this thread."""
    if not notifications.tell_of_ends(keys, reason):
        told = {"status": reason.status.value, "end_reason": reason.value}
        for key in keys:
            session_ended.send_robust(AgentSession, session_id=str(key), **told)


def _tell_of_close(keys: Sequence[uuid.UUID], by: str, force: bool) -> None:
    """Tell the workers of these sessions, here and elsewhere. Who is not reached sees it at the next poll."""
    notifications.tell_of_close_requests(keys, by, force)
    if get_layer() is None:
        return
    theirs: dict[uuid.UUID, list[str]] = {}
    live = AgentSession.objects.live().filter(pk__in=keys, worker__isnull=False).order_by()
    for pk, worker_id in live.values_list("pk", "worker_id"):
        theirs.setdefault(worker_id, []).append(str(pk))
    for worker_id, sessions in theirs.items():
        message = {"type": "control.close", "sessions": sessions, "by": by, "force": force}
        send_from_anywhere(worker_group(worker_id), message)


class Wanted(NamedTuple):
    """What others want of a session."""

    session_id: uuid.UUID
    close: bool
    force: bool
    commands: bool
    """Whether there are commands that wait to be taken."""


async def wanted_of(worker_id: uuid.UUID, *, commands_within: float) -> list[Wanted]:
    """Return what is wanted of the live sessions of a worker, those of which nothing is wanted left out."""
    return await read(_wanted_of, worker_id, commands_within)


def _wanted_of(worker_id: uuid.UUID, commands_within: float) -> list[Wanted]:
    commands = SessionCommand.objects.waiting(commands_within).filter(session=OuterRef("pk"))
    mine = AgentSession.objects.live().filter(worker_id=worker_id).annotate(commands_wait=Exists(commands))
    wanted = mine.filter(Q(close_requested_at__isnull=False) | Q(commands_wait=True)).order_by()
    fields = wanted.values_list("pk", "close_requested_at", "force_close", "commands_wait")
    return [Wanted(pk, at is not None, force, waits) for pk, at, force, waits in fields]


async def live_sessions_of(worker: Worker) -> list[uuid.UUID]:
    """Return the live sessions of ``worker``."""
    mine = AgentSession.objects.live().filter(worker_id=worker.pk)
    return await read(lambda: list(mine.order_by().values_list("pk", flat=True)))


async def end_not_begun(worker: Worker, session_ids: Sequence[uuid.UUID], why: str) -> list[uuid.UUID]:
    """End those of these sessions that are live and a worker's, as never begun. Returns their ids."""
    if not session_ids:
        return []
    mine = AgentSession.objects.filter(worker_id=worker.pk)
    return await write(mine.finish, EndReason.CREATE_FAILED, error=why, keys=session_ids)


async def ended_among(session_ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Return those of these sessions whose rows have ended."""
    return await read(_ended_among, session_ids)


def _ended_among(session_ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    ended: list[uuid.UUID] = []
    for start in range(0, len(session_ids), _BATCH):  # SQLite takes a limited number of parameters
        rows = AgentSession.objects.ended().filter(pk__in=session_ids[start : start + _BATCH])
        ended += rows.order_by().values_list("pk", flat=True)
    return ended


async def record(lines: Sequence[EventLine], *, after: Mapping[uuid.UUID, int] | None = None) -> dict[uuid.UUID, int]:
    """Append ``lines`` to the histories of their sessions, all or none. Returns the last number of each session.

    After a failure that leaves open whether they were written, give ``after``, the last number of each session that
    was returned before: they are not written twice.
    """
    known = None if after is None else dict(after)
    return await write(_try_again_after_deadlock, partial(SessionEvent.objects.append, lines, after=known))


async def save_metrics(
    snapshots: Mapping[uuid.UUID, Mapping[str, Any]], costs: Mapping[uuid.UUID, Cost] | None = None
) -> None:
    """Keep the latest metrics of running agents, and what they cost, on their rows: every worker can show them."""
    await write(_save_metrics, snapshots, costs or {})


def _save_metrics(snapshots: Mapping[uuid.UUID, Mapping[str, Any]], costs: Mapping[uuid.UUID, Cost]) -> None:
    now = timezone.now()
    with transaction.atomic(using=router.db_for_write(AgentSession)):
        for pk, metrics in snapshots.items():
            priced = costs[pk].values() if pk in costs else {}
            AgentSession.objects.filter(pk=pk).update(metrics=dict(metrics), metrics_at=now, **priced)


# Workers


async def register(worker: Worker) -> None:
    await write(partial(worker.save, force_insert=True))


async def beat(worker: Worker, *, within: float, draining: bool = False, **values: Any) -> bool:
    """Record a heartbeat, with further ``values``, and take back sessions that others thought unreachable.

    Returns False if others had declared this worker dead; it is revived then, and its former sessions are lost.

    Raises:
        TimeoutError: the database did not answer ``within`` seconds.
    """
    return await asyncio.wait_for(_pulse.run(partial(_beat, worker, draining, values)), within)


def _beat(worker: Worker, draining: bool, values: dict[str, Any]) -> bool:
    alive = Worker.objects.beat(worker.pk, **values)
    if worker.leaving:
        return True  # it stopped while this was on its way, and stays so
    if not alive:
        worker.revive(draining=draining)
    AgentSession.objects.filter(worker_id=worker.pk).mark_reachable()
    return alive


async def set_draining(worker: Worker, draining: bool = True) -> None:
    await persist(worker.mark_draining if draining else worker.mark_running)


async def drain_requested(worker: Worker) -> bool:
    """Whether an operator wants this worker to take no new sessions."""
    return await read(Worker.objects.filter(pk=worker.pk, drain_requested_at__isnull=False).exists)


async def stop(worker: Worker) -> list[uuid.UUID]:
    """Say goodbye for a worker. Sessions that it could not end itself end now as `drained`; returns their ids."""
    return await write(_stop, worker)


def _stop(worker: Worker) -> list[uuid.UUID]:
    worker.leaving = True
    left = AgentSession.objects.filter(worker_id=worker.pk).finish(
        EndReason.DRAINED, error="The worker stopped before the session had closed."
    )
    worker.mark_stopped()
    Slot.objects.forget_worker(worker.pk)
    return left


class Reaped(NamedTuple):
    """The sessions that looking after others has ended."""

    lost: list[uuid.UUID]
    expired: list[uuid.UUID]


async def reap(
    me: Worker, identity: ProcessIdentity, *, may_judge: Callable[[], bool] = lambda: True, every: float = 0.0
) -> Reaped:
    """Look after the sessions of workers that died, mark them unreachable, then lost, and after those in the queue.

    Any worker may do this at any time: each change is conditional, so that of several exactly one makes it. While
    ``may_judge()``, asked on any thread, says no, only workers of this machine whose processes are known to be gone
    count as dead.

    What takes looking at the sessions of all workers is done by one of them in ``every`` seconds; with 0, at each call.
    """
    return await _reaper.run(partial(_reap, me, identity, may_judge, every))


def _reap(me: Worker, identity: ProcessIdentity, may_judge: Callable[[], bool], every: float) -> Reaped:
    others = Worker.objects.running().exclude(pk=me.pk)
    lost: list[uuid.UUID] = []
    expired: list[uuid.UUID] = []
    for worker in others.filter(boot_id=identity.boot_id, pid_namespace=identity.pid_namespace).exclude(boot_id=""):
        if is_known_dead(worker.pid, worker.process_started):
            lost += _bury(worker, "The worker's process ended without closing it.")
    if may_judge() and _my_turn("judge", every):
        lost += _judge_silent(others, may_judge)
    if _my_turn("sweep", every):
        expired = AgentSession.objects.expire()
        # A worker that was stopped while one of its starts was being admitted leaves a row that nobody runs.
        stopped = Worker.objects.filter(state=WorkerState.STOPPED)
        orphans = AgentSession.objects.filter(worker_id__in=stopped.values("pk"))
        lost += orphans.finish(EndReason.WORKER_LOST, error="The worker stopped before the session had begun.")
        SessionCommand.objects.sweep(_COMMAND_AGE)
        Slot.objects.forget_old(_SLOT_AGE)
    return Reaped(lost, expired)


def _my_turn(name: str, every: float) -> bool:
    return not every or Turn.objects.take(name, every)


def _judge_silent(others: WorkerQuerySet, may_judge: Callable[[], bool]) -> list[uuid.UUID]:
    settings = get_settings()
    lost: list[uuid.UUID] = []
    most = settings.WORKER_TTL + settings.WORKER_GRACE
    dead = list(others.silent(most))
    silent = list(others.silent(settings.WORKER_TTL).values_list("pk", flat=True))
    # Asked again: if that took long, it was the database that was silent.
    if not silent or not may_judge():
        return []
    for worker in dead:
        why = f"The worker has been silent since {worker.heartbeat_at:%Y-%m-%d %H:%M:%S} UTC."
        lost += _bury(worker, why, silent_for=most)
    theirs = AgentSession.objects.filter(worker_id__in=silent)
    # Their worker, if it lives, has stopped these by its own clock, so that they can go on elsewhere at once.
    lost += theirs.filter(restartable=True).finish(
        EndReason.WORKER_LOST, error="The worker has been silent for its time-to-live (WORKER_TTL)."
    )
    theirs.mark_unreachable()
    return lost


def _bury(worker: Worker, why: str, *, silent_for: float | None = None) -> list[uuid.UUID]:
    """End a worker and its sessions; with ``silent_for``, unless it has given a sign of life meanwhile."""
    # First, so that it takes nothing more should it live all the same. What this leaves, should we die here, is swept.
    if not worker.mark_stopped(silent_for=silent_for):
        return []
    lost = AgentSession.objects.filter(worker_id=worker.pk).finish(EndReason.WORKER_LOST, error=why)
    Slot.objects.forget_worker(worker.pk)
    if lost:
        logger.warning("Worker %s is gone; %d of its sessions are lost", worker, len(lost))
    return lost


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
