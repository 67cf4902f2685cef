"""The only module that runs queries for the runtime.

Queries run on threads of this module, never on the event loop and never on the thread that a request brought along:
that one is gone when the request is, while sessions live on. There are three kinds of lane, each a thread with a
connection of its own: one writer (the order of a session's writes is the order of its life), a few readers for
requests, and one for heartbeats, whose time limits are short, so that a slow query elsewhere never looks like a death.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from django.db import InterfaceError, OperationalError, close_old_connections, connections, router, transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from .conf import get_settings
from .exceptions import MaxConcurrentSessionsExceeded, MaxSessionsPerCallExceeded
from .identifiers import call_key
from .models import AgentSession, EndReason, EventLine, SessionEvent, Slot, Worker, WorkerState
from .models.worker import seconds_ago
from .process import ProcessIdentity, is_known_dead

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from .costs import Cost

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

DATABASE_ERRORS = (OperationalError, InterfaceError)
"""What a database that does not answer, or that chose a transaction as the victim of a deadlock, raises."""

_READERS = 2
_GUESTS = 16
_QUERY_SECONDS = 20.0
_IDLE_SECONDS = 5.0
_DEADLOCK_TRIES = 5
_SLOT_AGE = timedelta(days=1)
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
            options.setdefault("read_timeout", seconds)
            options.setdefault("write_timeout", seconds)
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
                cursor.execute("SELECT set_config('statement_timeout', %s, false)", [str(int(self._seconds() * 1000))])


def _pulse_seconds() -> float:
    return get_settings().WORKER_TTL / 3


_writer = _Lane("visionagents-writer", lambda: _QUERY_SECONDS)
_readers = [_Lane(f"visionagents-reader-{number}", lambda: _QUERY_SECONDS) for number in range(_READERS)]
_pulse = _Lane("visionagents-pulse", _pulse_seconds)


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
    results = [lane.close(max(0.0, deadline - time.monotonic())) for lane in (_writer, *_readers, _pulse)]
    return all(results)


# Sessions


@dataclass(frozen=True, slots=True)
class Limits:
    """What an admission must respect; None means no limit."""

    per_worker: int | None = None
    per_call: int | None = None


async def admit(session: AgentSession, limits: Limits) -> None:
    """Insert the row of a new session if the limits allow it, or raise and insert nothing.

    Raises:
        MaxConcurrentSessionsExceeded: the launcher's limit on this worker is reached.
        MaxSessionsPerCallExceeded: the limit of sessions on this call, over all workers, is reached.
    """
    await write(_admit, session, limits)


def _admit(session: AgentSession, limits: Limits) -> None:
    worker_id = session.worker_id
    assert worker_id is not None
    slots = []
    if limits.per_worker is not None:
        slots.append(("worker", f"{worker_id}:{session.agent}"))
    if limits.per_call is not None:
        slots.append(("call", call_key(session.call_type, session.call_id)))

    def attempt() -> None:
        with transaction.atomic(using=router.db_for_write(AgentSession)):
            Slot.objects.take(slots)
            if limits.per_worker is not None:
                there = AgentSession.objects.occupying().filter(worker_id=worker_id, agent=session.agent)
                if there.count() >= limits.per_worker:
                    raise MaxConcurrentSessionsExceeded(
                        f"Reached maximum number of concurrent sessions ({limits.per_worker})"
                    )
            if limits.per_call is not None:
                there = AgentSession.objects.occupying().on_call(session.call_type, session.call_id)
                if there.count() >= limits.per_call:
                    raise MaxSessionsPerCallExceeded(
                        f"Reached maximum number of sessions for this call ({limits.per_call})"
                    )
            session.insert()

    _try_again_after_deadlock(attempt)


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
    return "deadlock" in text or "could not serialize" in text or "database is locked" in text


async def get_session(pk: uuid.UUID | str) -> AgentSession | None:
    """Return the row with that id, or None: also for an id that is no UUID."""
    try:
        key = pk if isinstance(pk, uuid.UUID) else uuid.UUID(pk)
    except ValueError:
        return None
    return await read(AgentSession.objects.filter(pk=key).first)


CloseListener = Callable[[Sequence[uuid.UUID], str, bool], None]
_close_listeners: list[CloseListener] = []


def on_close_request(listener: CloseListener) -> Callable[[], None]:
    """Have ``listener(session ids, by, force)`` called, on any thread, after this process wrote close requests.

    The worker uses it to close its own sessions at once instead of at its next poll. Returns a function that ends it.
    """
    _close_listeners.append(listener)

    def remove() -> None:
        with suppress(ValueError):
            _close_listeners.remove(listener)

    return remove


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
    count = sessions.request_close(by=by, force=force)
    if force:
        silent = Q(worker__isnull=True) | Q(worker__state=WorkerState.STOPPED)
        silent |= Q(worker__heartbeat_at__lt=seconds_ago(get_settings().WORKER_TTL))
        orphans = list(sessions.live().filter(silent).values_list("pk", flat=True))
        AgentSession.objects.filter(pk__in=orphans).finish(EndReason.REQUESTED, data={"by": by, "orphan": True})
    for listener in list(_close_listeners):
        listener(keys, by, force)
    return count


async def close_requests(worker: Worker) -> list[tuple[uuid.UUID, bool]]:
    """Return ``(id, force)`` of the live sessions of ``worker`` that somebody asked to close."""
    asked = AgentSession.objects.live().filter(worker_id=worker.pk, close_requested_at__isnull=False)
    return await read(lambda: list(asked.order_by().values_list("pk", "force_close")))


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


async def beat(
    worker: Worker, *, within: float, draining: bool = False, loop_lag: dict[str, Any] | None = None
) -> bool:
    """Record a heartbeat, with the lag of the worker's loop, and take back sessions that others thought unreachable.

    Returns False if others had declared this worker dead; it is revived then, and its former sessions are lost.

    Raises:
        TimeoutError: the database did not answer ``within`` seconds.
    """
    return await asyncio.wait_for(_pulse.run(partial(_beat, worker, draining, loop_lag or {})), within)


def _beat(worker: Worker, draining: bool, loop_lag: dict[str, Any]) -> bool:
    alive = Worker.objects.beat(worker.pk, loop_lag=loop_lag)
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
    left = AgentSession.objects.filter(worker_id=worker.pk).finish(
        EndReason.DRAINED, error="The worker stopped before the session had closed."
    )
    worker.mark_stopped()
    Slot.objects.filter(scope="worker", key__startswith=f"{worker.pk}:").delete()
    return left


async def reap(me: Worker, identity: ProcessIdentity) -> list[uuid.UUID]:
    """Look after the sessions of workers that died: mark them unreachable, then lost. Returns the ids of the lost.

    Any worker may do this at any time: each change is conditional, so that of several exactly one makes it.
    """
    return await write(_reap, me, identity)


def _reap(me: Worker, identity: ProcessIdentity) -> list[uuid.UUID]:
    settings = get_settings()
    others = Worker.objects.running().exclude(pk=me.pk)
    lost: list[uuid.UUID] = []
    for worker in others.filter(boot_id=identity.boot_id, pid_namespace=identity.pid_namespace).exclude(boot_id=""):
        if is_known_dead(worker.pid, worker.process_started):
            lost += _bury(worker, "The worker's process ended without closing it.")
    for worker in others.silent(settings.WORKER_TTL + settings.WORKER_GRACE):
        lost += _bury(worker, f"The worker has been silent since {worker.heartbeat_at:%Y-%m-%d %H:%M:%S} UTC.")
    silent = list(others.silent(settings.WORKER_TTL).values_list("pk", flat=True))
    if silent:
        AgentSession.objects.filter(worker_id__in=silent).mark_unreachable()
    # A worker that was stopped while one of its starts was being admitted leaves a row that nobody runs.
    orphans = AgentSession.objects.filter(worker__state=WorkerState.STOPPED)
    lost += orphans.finish(EndReason.WORKER_LOST, error="The worker stopped before the session had begun.")
    Slot.objects.filter(taken_at__lt=Now() - _SLOT_AGE, scope="call").delete()
    return lost


def _bury(worker: Worker, why: str) -> list[uuid.UUID]:
    lost = AgentSession.objects.filter(worker_id=worker.pk).finish(EndReason.WORKER_LOST, error=why)
    worker.mark_stopped()
    Slot.objects.filter(scope="worker", key__startswith=f"{worker.pk}:").delete()
    if lost:
        logger.warning("Worker %s is gone; %d of its sessions are lost", worker, len(lost))
    return lost


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
