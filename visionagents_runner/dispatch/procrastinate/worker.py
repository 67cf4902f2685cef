"""A worker of Procrastinate inside a worker of ours: each of its jobs tries to start one queued session here."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg_pool
from django.conf import settings
from django.utils import timezone
from procrastinate import App, PsycopgConnector
from procrastinate.contrib.django import connector_params
from procrastinate.exceptions import AppNotOpen, ConnectorException
from procrastinate.jobs import Status

from ...conf.settings import get_settings
from ...store import errors, session_rows
from ...utils.tasks import HeldTasks, spawn
from ..claimer import Claimer, Placed
from .choice import sessions_database
from .job_manager import RoomJobManager, cause_of, pause
from .jobs import TASK, queue_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ...models import AgentSession

logger = logging.getLogger(__name__)

_AT_ONCE = 10
"""Sessions that are being placed together; fewer where there is less room."""
_MOST_ATTEMPTS = 8
"""Jobs in vain after which a session is left to the poll."""
_CONNECTIONS = 2
_CONNECT_SECONDS = 10
_LAST_SECONDS = 5.0
_STALLED_SECONDS = 60.0
_SWEEP_SECONDS = 60.0
_WELL_SECONDS = 60.0


class ProcrastinateEngine:
    """One a worker: from `open` to `close` it has a pool of two connections, and one that listens."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._placing = HeldTasks()
        self._in_trouble = False

    async def open(self, claimer: Claimer) -> None:
        self._task = spawn(self._supervise(claimer), name="procrastinate")

    async def close(self) -> None:
        """Fetch no more jobs, and let those that are under way end."""
        task, self._task = self._task, None
        if task is None:
            return
        # Asked the first time, Procrastinate ends in order; a connection that nobody answers may keep it from that.
        for _ in range(2):
            task.cancel()
            await asyncio.wait({task}, timeout=_LAST_SECONDS)
            if task.done():
                return
        logger.warning("Procrastinate's worker did not end in %g s and is left behind", 2 * _LAST_SECONDS)

    # Running Procrastinate

    async def _supervise(self, claimer: Claimer) -> None:
        """Run Procrastinate's worker again and again, whatever ends it."""
        attempt = 0
        while True:
            began = time.monotonic()
            try:
                await self._run(claimer)
                self._troubled("it stopped")
            except (ConnectorException, psycopg.Error, psycopg_pool.PoolTimeout, TimeoutError, OSError) as error:
                self._troubled(cause_of(error))
            except Exception:
                logger.exception("Procrastinate's worker failed; sessions are found by polling until it runs again")
                self._in_trouble = True
            attempt = 0 if time.monotonic() - began > _WELL_SECONDS else attempt + 1
            await asyncio.sleep(pause(attempt))

    async def _run(self, claimer: Claimer) -> None:
        defaults = getattr(settings, "PROCRASTINATE_WORKER_DEFAULTS", None) or {}
        parameters = {
            "connect_timeout": _CONNECT_SECONDS,
            "tcp_user_timeout": 1000 * _CONNECT_SECONDS,
            "application_name": "visionagents-procrastinate",
            **connector_params(sessions_database()),
        }
        # A pool without a server would try, and tell of it, again and again.
        await (await psycopg.AsyncConnection.connect(**parameters)).close()
        connector = PsycopgConnector(kwargs=parameters, min_size=1, max_size=_CONNECTIONS, timeout=_CONNECT_SECONDS)
        manager = RoomJobManager(
            connector, claimer, listen=defaults.get("listen_notify", True), on_answer=self._answered
        )
        app = self._app(manager, claimer)
        undo = claimer.on_room_change(manager.room_changed)
        try:
            async with app.open_async(), _while_open(self._sweep(manager)):
                await app.run_worker_async(
                    queues=[queue_name(agent) for agent in claimer.agents],
                    name="agents",
                    concurrency=_AT_ONCE,
                    fetch_job_polling_interval=(
                        defaults.get("fetch_job_polling_interval") or get_settings().POLL_INTERVAL
                    ),
                    abort_job_polling_interval=3600.0,
                    shutdown_graceful_timeout=_LAST_SECONDS,
                    delete_jobs="always",
                    install_signal_handlers=False,
                )
        finally:
            undo()

    def _app(self, manager: RoomJobManager, claimer: Claimer) -> App:
        """Return an app of its own: neither the project's tasks nor its periodic ones are this worker's."""
        app = App(connector=manager.connector)
        app.job_manager = manager

        @app.task(name=TASK)
        async def place(session: str, attempt: int = 0) -> str:
            return await self._place(claimer, app, uuid.UUID(session), attempt)

        return app

    def _troubled(self, why: str) -> None:
        if not self._in_trouble:
            self._in_trouble = True
            logger.warning("Procrastinate's worker is away; sessions are found by polling until it is back (%s)", why)

    def _answered(self) -> None:
        if self._in_trouble:
            self._in_trouble = False
            logger.info("Procrastinate's worker is back")

    async def _sweep(self, manager: RoomJobManager) -> None:
        """Delete the jobs, and the registrations, of workers that were killed. The sessions are found without."""
        while True:
            try:
                for job in await manager.get_stalled_jobs(task_name=TASK, seconds_since_heartbeat=_STALLED_SECONDS):
                    assert job.id is not None
                    with suppress(ConnectorException):  # another worker was faster
                        await manager.finish_job_by_id_async(job.id, Status.ABORTED, delete_job=True)
                await manager.prune_stalled_workers(_STALLED_SECONDS)
            except ConnectorException:
                pass
            except AppNotOpen:
                return  # a database that did not answer kept it from ending with its app
            await asyncio.sleep(_SWEEP_SECONDS)

    # A job

    async def _place(self, claimer: Claimer, app: App, key: uuid.UUID, attempt: int) -> str:
        """Start a session here, or see to it that the next attempt is made when that makes sense."""
        # A claim that is cut off would leave open whose the session is.
        placing = self._placing.spawn(claimer.place(key), name=f"place-{key}")
        try:
            placed = await asyncio.shield(placing)
        except errors.DATABASE_ERRORS as error:
            logger.warning("Session %s could not be placed: the database does not answer: %s", key, cause_of(error))
            return "error"
        except Exception:
            logger.exception("Session %s could not be placed", key)
            return "error"
        if placed in {Placed.STARTED, Placed.GONE}:
            return str(placed.value)
        row = await session_rows.get_session(key)
        if row is not None and row.status == "queued":
            await self._try_again(app, row, attempt if placed is Placed.POSTPONED else attempt + 1)
        return str(placed.value)

    async def _try_again(self, app: App, row: AgentSession, attempt: int) -> None:
        """Queue another job: unlike a retry, that notifies others. The first comes at once."""
        if attempt > _MOST_ATTEMPTS:
            return
        at = row.due_at or timezone.now()
        if attempt > 1:
            at = max(at, timezone.now() + timedelta(seconds=pause(attempt - 2)))
        job = app.configure_task(TASK, queue=queue_name(row.agent), priority=row.priority, schedule_at=at)
        await job.defer_async(session=str(row.pk), attempt=attempt)


@asynccontextmanager
async def _while_open(work: Any) -> AsyncIterator[None]:
    task = spawn(work, name="procrastinate-sweep")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=_LAST_SECONDS)
