"""The threads on which the runtime queries the database.

Queries run on these, never on the event loop and never on the thread that a request brought along: that one is gone
when the request is, while sessions live on. There are a few lanes, each a thread with a connection of its own: one
writer (the order of a session's writes is the order of its life), a few readers for requests, one for heartbeats, whose
time limits are short, so that a slow query elsewhere never looks like a death, and one for looking after the sessions
of others, whose rows a worker that was cut off may have locked.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from django.db import close_old_connections, connections, router

from ..conf.settings import get_settings
from ..models import Worker
from .errors import DATABASE_ERRORS, first_line
from .mysql import limit_seconds

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
_READERS = 2
_GUESTS = 16
_QUERY_SECONDS = 20.0
_MOST_LOCKS_SECONDS = 10.0
_IDLE_SECONDS = 5.0


class _QueryThread:
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


_writer = _QueryThread("visionagents-writer", lambda: _QUERY_SECONDS)
_readers = [_QueryThread(f"visionagents-reader-{number}", lambda: _QUERY_SECONDS) for number in range(_READERS)]
_pulse = _QueryThread("visionagents-pulse", _pulse_seconds)
_reaper = _QueryThread("visionagents-reaper", lambda: _QUERY_SECONDS)


async def read(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a synchronous function that reads from the database in a reader's thread."""
    return await min(_readers, key=lambda lane: lane.pending).run(partial(fn, *args, **kwargs))


async def write(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a synchronous function that writes to the database, after all the writes asked for before."""
    return await _writer.run(partial(fn, *args, **kwargs))


async def run_heartbeat(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run the function that records a worker's heartbeat."""
    return await _pulse.run(partial(fn, *args, **kwargs))


async def run_reaping(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run the function that looks after the sessions of other workers."""
    return await _reaper.run(partial(fn, *args, **kwargs))


async def persist(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Like `write`, but try again, for ever, while the database does not answer. ``fn`` must be idempotent."""
    delay = 0.1
    while True:
        try:
            return await write(fn, *args, **kwargs)
        except DATABASE_ERRORS as error:
            logger.warning("The database does not answer (%s); trying again in %.1f s", first_line(error), delay)
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
