"""`AgentWorker`: the process that hosts sessions. Heartbeat, reaping, time limits, close requests, drain."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import chain, count
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError

from .. import __version__
from ..conf.settings import get_settings
from ..conf.webhooks import refuse_unsound_endpoints
from ..exceptions import NotReady
from ..messaging import layer, notifications
from ..models import EndReason, SessionStatus, Worker
from ..observe import load_redact
from ..sessions.recorder import Recorder
from ..sessions.session import LiveSession, tell_ended
from ..store import errors, session_rows, worker_rows
from ..store.census import Cluster
from ..telemetry.instruments import Instruments
from ..telemetry.looplag import LoopLag
from ..utils.loops import call_from_thread
from ..utils.process import identify
from ..utils.tasks import HeldTasks, spawn
from ..webhooks.sender import WebhookSender
from .control import SessionControl
from .current import current_worker, set_current_worker
from .lease import Lease, boot_time
from .services import Services

if TYPE_CHECKING:
    from ..conf.prices import Cost
    from .launcher import AgentLauncher

logger = logging.getLogger(__name__)

_WARM_UP_RETRY_SECONDS = (5.0, 15.0, 60.0)
_LAST_SECONDS = 5.0
_CODE_SECONDS = 1.0
"""What sessions get to close in order when somebody waits for a newer version of the code."""
_RELAYED_SECONDS = 0.25
_NO_LEASE = "The worker could not reach the database, and stopped it before others would start it again."
_NOBODY = "Its worker does not run it: an answer of the database was lost while it started."
_TASK_NAME = "agent-worker"


class AgentWorker:
    """Hosts the sessions of some launchers on the event loop that it is started on. One a process."""

    def __init__(self, launchers: Mapping[str, AgentLauncher], *, runner: str = "", serves: bool = False) -> None:
        """``serves``: it takes queued sessions, whoever asked for them, besides those that its own process starts."""
        self.launchers = dict(launchers)
        self.serves = serves
        self.id = uuid.uuid4()
        self.draining = False
        self.cordoned = False
        """An operator asked it to take no new sessions. It goes on with those that it has, and does not end."""
        self.closing_reason = EndReason.DRAINED
        self.closing_by = "drain"
        self.code_changes = False
        """Whether it stops because a newer version of the code takes its place: who is on a call comes again."""
        self.warm_up_error = ""
        self.lease = Lease(self._stop_what_may_go_on_elsewhere)
        self.control = SessionControl(self)
        self.recorder = Recorder()
        self.webhooks = WebhookSender()
        settings = get_settings()
        self.lag = LoopLag(
            warning=settings.LOOP_LAG_WARNING, limit=settings.LOOP_LAG_LIMIT, counts=lambda: self.warmed_up
        )

        self.instruments = Instruments()
        self.cluster = Cluster(self.track)
        self.services = Services(self)

        self._runner = runner
        self._running = False
        self._identity = identify()
        self._row = self._new_row()
        self._tasks = HeldTasks()
        self._warming: list[asyncio.Task[Any]] = []
        self._saved: dict[uuid.UUID, dict[str, Any]] = {}
        self._unknown: set[uuid.UUID] = set()
        self._hurry = asyncio.Event()
        self._idle = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None
        self._telling = HeldTasks()
        self._limits: dict[str, asyncio.Task[Any]] = {}
        self._stop_hearing: Callable[[], None] = lambda: None

    # State

    @property
    def running(self) -> bool:
        return self._running

    @property
    def warmed_up(self) -> bool:
        return all(launcher.warmed_up for launcher in self.launchers.values())

    @property
    def ready(self) -> bool:
        """Whether it takes new sessions."""
        return self.not_ready_reason() is None

    @property
    def live_sessions(self) -> Iterable[LiveSession]:
        return chain.from_iterable(launcher.sessions.values() for launcher in self.launchers.values())

    @property
    def total_started(self) -> int:
        return sum(launcher.total_started for launcher in self.launchers.values())

    @property
    def capacity(self) -> int | None:
        """The sum of its launchers' limits; None if one has none."""
        total = 0
        for launcher in self.launchers.values():
            if launcher.max_concurrent_sessions is None:
                return None
            total += launcher.max_concurrent_sessions
        return total

    def get_session(self, session_id: str) -> LiveSession | None:
        """Return a session that this process runs, whatever its launcher."""
        for launcher in self.launchers.values():
            if (session := launcher.get_session(session_id)) is not None:
                return session
        return None

    def not_taking(self) -> NotReady | None:
        """Return why it takes no new sessions at all, warm or not; None if it does."""
        if not self._running:
            return NotReady("The worker is not running", retry_after=5)
        if self.draining or self.cordoned:
            return NotReady("The worker is draining", retry_after=max(1, round(get_settings().DRAIN_TIMEOUT)))
        return None

    def not_starting(self) -> NotReady | None:
        """Return why a session cannot be started here now, by whomever; None if it can."""
        if (reason := self.not_taking()) is not None:
            return reason
        if self.lease.runs_out:
            return NotReady("The worker has not reached the database for long: others may take it for dead")
        if self.lag.overloaded:
            return NotReady("The worker is overloaded: its event loop does not keep up", retry_after=10)
        return None

    def not_ready_reason(self) -> NotReady | None:
        """Return why a client should not start a session here now; None if it should."""
        if (reason := self.not_starting()) is not None:
            return reason
        if not self.warmed_up:
            return NotReady("The worker is warming up" + self.warm_up_error, retry_after=5)
        return None

    @property
    def only_overloaded(self) -> bool:
        """Whether it would take sessions, were its event loop not behind: another worker may."""
        return self.not_taking() is None and self.warmed_up and self.lag.overloaded

    # Life

    async def start(self, *, warm_up: bool = True) -> None:
        """Register in the database and begin. Warming up goes on in the background, if at all.

        Raises:
            RunnerConfigurationError: the database has no tables for it, ``REDACT`` names nothing that can be called, or
                ``WEBHOOKS`` has an entry that is wrong.
        """
        if self._running:
            raise RuntimeError("The worker is already running")
        if current_worker() is not None:
            raise RuntimeError("This process has a worker already: stop it first")
        set_current_worker(self)
        try:
            for launcher in self.launchers.values():
                launcher.attach(self)
            refuse_unsound_endpoints()
            load_redact()  # what cannot be redacted is not shown: found out now rather than in a call
            self._row.capacity, self._row.agents = self.capacity, self._agents()
            registered_at = boot_time()
            await self._register(self._row)
        except BaseException:
            self._forget()
            raise
        self._running = True
        self.lease.renew(registered_at)
        self.recorder.start()
        self.webhooks.start()
        self.lag.start()
        self._idle.set()
        self.control.open()
        self._hear_of_ends()
        settings = get_settings()
        self._every(settings.HEARTBEAT_INTERVAL, self._beat, name="heartbeat")
        self._every(settings.POLL_INTERVAL, self._poll, name="poll")
        self._every(settings.METRICS_INTERVAL, self._save_metrics, name="metrics")
        # On its own: looking after others may take long, and a heartbeat must not.
        self._every(settings.HEARTBEAT_INTERVAL, self._look_after_sessions, name="reap", at_once=True)
        for launcher in self.launchers.values():
            self._look_after(launcher)
            if warm_up:
                self._warming.append(self._spawn(self._warm_up(launcher), name=f"warm-up-{launcher.name}"))
        self._every(self.lease.check_seconds, _awaitable(self.lease.check), name="lease")
        try:
            await self.services.open()
        except BaseException:
            await self.stop()  # half a worker would go on taking sessions
            raise

    def add(self, launcher: AgentLauncher) -> None:
        """Host one more launcher, on the event loop on which this worker runs."""
        name, number = launcher.name, 1
        while name in self.launchers:
            number += 1
            name = f"{launcher.name}-{number}"
        launcher.name = name
        launcher.attach(self)
        self.launchers[name] = launcher
        self._look_after(launcher)

    async def remove(self, launcher: AgentLauncher) -> None:
        """Close the sessions of a launcher and host it no longer."""
        await self.close_sessions(launcher.sessions.values(), reason=self.closing_reason)
        if (task := self._limits.pop(launcher.name, None)) is not None:
            task.cancel()
        self.launchers.pop(launcher.name, None)
        launcher.detach()

    def _look_after(self, launcher: AgentLauncher) -> None:
        work = _awaitable(launcher.check_limits)
        self._limits[launcher.name] = self._every(launcher.maintenance_interval, work, name=f"limits-{launcher.name}")

    async def drain(self, timeout: float | None = None) -> None:
        """Take no new sessions, let calls go on for ``timeout`` seconds (DRAIN_TIMEOUT), then close the rest; stop.

        Asked again while it drains, it closes the rest at once. It goes on if its caller is cancelled.
        """
        if not self._running:
            return
        if self._draining is None:
            self.draining = True
            timeout = get_settings().DRAIN_TIMEOUT if timeout is None else timeout
            self._draining = spawn(self._drain(timeout), name=f"{_TASK_NAME}-drain")
        else:
            self.hurry()
        await asyncio.shield(self._draining)

    async def _drain(self, timeout: float) -> None:
        try:
            count = sum(1 for _ in self.live_sessions)
            if count and timeout > 0:
                logger.info("Draining: %d live sessions may go on for %g s", count, timeout)
            self._spawn(self._mark_draining(), name="mark-draining")
            await self.services.drain()
            deadline = time.monotonic() + timeout
            while (left := deadline - time.monotonic()) > 0 and not self._hurry.is_set() and self._in_use:
                # Who is relayed leaves without a word to this worker's sessions: so look again now and then.
                await self._wait_idle_or_hurry(left if any(self.live_sessions) else min(left, _RELAYED_SECONDS))
            await self._stop()
        except Exception:
            logger.exception("The worker did not stop in order; the next one declares what it left as lost")
        finally:
            self._forget()

    @property
    def _in_use(self) -> bool:
        """Whether calls go on here, or through here to agents of other workers."""
        return any(self.live_sessions) or self.services.in_use

    def hurry(self) -> None:
        """Have a drain that is under way close the rest at once."""
        self._hurry.set()

    async def stop(self) -> None:
        """Close every session in order and stop."""
        await self.drain(timeout=0)

    async def stop_for_code(self, *, by: str = "reload") -> None:
        """Stop for a newer version of the code, for which somebody waits.

        Agents that take long to close are left behind. The sessions end as `cancelled`; ``by`` is what their histories
        say of who closed them.
        """
        self.code_changes, self.closing_reason, self.closing_by = True, EndReason.CANCELLED, by
        stopping = spawn(self.stop(), name=f"{_TASK_NAME}-stop")
        await asyncio.wait({stopping}, timeout=_CODE_SECONDS)
        for session in list(self.live_sessions):
            session.request_close(force=True, by=by, reason=self.closing_reason)
        await stopping

    async def close_sessions(self, sessions: Iterable[LiveSession], *, reason: EndReason = EndReason.DRAINED) -> None:
        """Close sessions and wait until their rows have ended, at most as long as their teardown may take."""
        closing = list(sessions)
        for session in closing:
            session.request_close(by=self.closing_by, reason=reason)
        if not closing:
            return
        ends = {spawn(session.wait_ended(), name=f"wait-{session.id}") for session in closing}
        # A session may use its close timeout twice: for join_call to end, and for the agent to close.
        patience = 2 * max(launcher.close_timeout for launcher in self.launchers.values()) + _LAST_SECONDS
        _, pending = await asyncio.wait(ends, timeout=patience)
        for end in ends:
            end.cancel()
        if pending:
            logger.error("%d sessions did not end within %g s and are abandoned", len(pending), patience)
            for session in closing:
                if not session.finished:
                    session.abandon()

    def session_ended(self, session: LiveSession) -> None:
        """Called by a launcher when a session has ended."""
        self.webhooks.wake()
        self.services.session_ended(session.row)
        self.services.room_changed()
        if not any(self.live_sessions):
            self._idle.set()

    async def _stop(self) -> None:
        await self.close_sessions(self.live_sessions, reason=self.closing_reason)
        self.control.close()
        self._stop_hearing()
        await self._end_tasks()
        await self.recorder.close(_LAST_SECONDS)
        await self.services.close()
        await layer.settle()
        try:
            async with asyncio.timeout(_LAST_SECONDS):
                left = await worker_rows.stop(self._row)
            self._announce(left, EndReason.DRAINED)
        except (TimeoutError, *errors.DATABASE_ERRORS) as error:
            logger.error("The worker could not say goodbye to the database: %r; others will reap it", error)
        # What is not sent now is sent by other workers, or by the next one.
        await self.webhooks.close(_LAST_SECONDS)
        if self._telling:
            await asyncio.wait(self._telling, timeout=_LAST_SECONDS)

    async def _end_tasks(self) -> None:
        ending = set(self._tasks)
        for task in ending:
            task.cancel()
        if not ending:
            return
        _, pending = await asyncio.wait(ending, timeout=_LAST_SECONDS)
        if pending:
            names = ", ".join(sorted(task.get_name() for task in pending))
            logger.error("Tasks of the worker did not end in %g s and are left behind: %s", _LAST_SECONDS, names)

    def _forget(self) -> None:
        """This process has no worker any more."""
        self._running = False
        self.services.abandon()
        self.control.close()
        self._stop_hearing()
        self.recorder.abandon()
        self.webhooks.cancel()
        self.lag.stop()
        for task in self._tasks | self._telling:
            task.cancel()
        for launcher in self.launchers.values():
            launcher.detach()
        if current_worker() is self:
            set_current_worker(None)

    # Pieces

    def _new_row(self) -> Worker:
        identity = self._identity
        return Worker(
            id=self.id,
            hostname=identity.hostname,
            pid=identity.pid,
            boot_id=identity.boot_id,
            pid_namespace=identity.pid_namespace,
            process_started=identity.started,
            runner=self._runner[:255],
            version=__version__,
        )

    def _agents(self) -> dict[str, int | None]:
        """What the row says of the agents that others may have started here."""
        if not self.serves:
            return {}
        return {name: launcher.max_concurrent_sessions for name, launcher in self.launchers.items()}

    async def _register(self, row: Worker) -> None:
        try:
            await worker_rows.register(row)
        except DatabaseError as error:
            raise errors.unusable(error) from error

    def _spawn(self, coroutine: Any, *, name: str) -> asyncio.Task[Any]:
        return self._tasks.spawn(coroutine, name=f"{_TASK_NAME}-{name}")

    def _every(
        self, seconds: float, work: Callable[[], Awaitable[Any]], *, name: str, at_once: bool = False
    ) -> asyncio.Task[Any]:
        async def loop() -> None:
            task = asyncio.current_task()
            assert task is not None
            if not at_once:
                await asyncio.sleep(seconds)
            while not task.cancelling():
                try:
                    await work()
                except errors.DATABASE_ERRORS as error:
                    logger.warning("The worker's %s: the database does not answer: %s", name, errors.first_line(error))
                except asyncio.CancelledError:
                    if task.cancelling():
                        raise
                    logger.error("The worker's %s was cancelled from inside; it goes on", name)
                except Exception:
                    logger.exception("The worker's %s failed", name)
                await asyncio.sleep(seconds)

        return self._spawn(loop(), name=name)

    def track(self, task: asyncio.Task[Any]) -> None:
        """Hold a task that tells receivers of something, and give it a moment before this worker stops."""
        self._telling.hold(task)

    async def _warm_up(self, launcher: AgentLauncher) -> None:
        for attempt in count():
            try:
                await launcher.warmup()
            except Exception as error:
                delay = _WARM_UP_RETRY_SECONDS[min(attempt, len(_WARM_UP_RETRY_SECONDS) - 1)]
                self.warm_up_error = f"; it failed and is tried again ({type(error).__name__}: see the log)"
                logger.exception("create_agent of %r failed at warm-up; trying again in %g s", launcher.name, delay)
                await asyncio.sleep(delay)
            else:
                self.warm_up_error = ""
                self.services.room_changed()
                return

    async def wait_warm(self) -> None:
        """Wait until every launcher is warm, or the worker stops."""
        await asyncio.gather(*self._warming, return_exceptions=True)

    async def _mark_draining(self) -> None:
        await worker_rows.set_draining(self._row)

    async def _wait_idle_or_hurry(self, timeout: float) -> None:
        self._idle.clear()
        if not self._in_use:
            return
        waits = {spawn(self._hurry.wait(), name="drain-hurry"), spawn(self._idle.wait(), name="drain-idle")}
        try:
            await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _beat(self) -> None:
        sent_at = boot_time()
        try:
            alive = await worker_rows.beat(
                self._row,
                within=get_settings().WORKER_TTL / 3,
                draining=self.draining or self.cordoned,
                loop_lag=dict(self.lag.summary()),
                capacity=self.capacity,
                agents=self._agents(),
            )
        except TimeoutError:
            logger.warning("A heartbeat did not reach the database in time")
            return
        self.lease.renew(sent_at)
        if not alive:
            logger.error("This worker was silent for so long that others declared its sessions lost")

    def _stop_what_may_go_on_elsewhere(self, *, force: bool) -> None:
        """The database has not heard of this worker for long: others are about to start some of its sessions again."""
        for session in list(self.live_sessions):
            if session.row.restartable and not session.finished and (force or not session.closing):
                if not session.closing:
                    logger.error("Session %s is stopped: it may be started again elsewhere soon", session.id)
                session.request_close(by="lease", reason=EndReason.WORKER_LOST, error=_NO_LEASE, force=force)

    async def _look_after_sessions(self) -> None:
        """Close sessions of ours that others declared lost, and declare lost those of workers that died."""
        await self._close_what_was_declared_lost()
        await self._end_what_nobody_runs()
        # The half: whoever asks next after an interval shall find that it is time.
        every = get_settings().HEARTBEAT_INTERVAL / 2
        reaped = await worker_rows.reap(self._row, self._identity, may_judge=lambda: self.lease.may_judge, every=every)
        self.instruments.declared_lost(len(reaped.lost))
        self._announce(reaped.lost, EndReason.WORKER_LOST)
        self._announce(reaped.expired, EndReason.EXPIRED)

    def _hear_of_ends(self) -> None:
        """Tell of sessions that this process ends without their having run here: those that waited, say."""
        loop = asyncio.get_running_loop()

        def listener(keys: Sequence[uuid.UUID], reason: EndReason) -> None:
            call_from_thread(loop, self._announce, keys, reason)

        self._stop_hearing = notifications.on_end(listener)

    def _announce(self, ids: Iterable[uuid.UUID], reason: EndReason) -> None:
        for pk in ids:
            self.webhooks.wake()
            self.track(spawn(tell_ended(str(pk), reason), name=f"told-{pk}"))

    async def _poll(self) -> None:
        asked = await worker_rows.drain_requested(self._row)
        if asked != self.cordoned:
            await self._cordon(asked)
        if any(self.live_sessions):
            await self.control.look()

    async def _cordon(self, asked: bool) -> None:
        """Take no new sessions while an operator wants it so."""
        self.cordoned = asked
        logger.warning(
            "Asked to drain: no new sessions here, those that are live go on"
            if asked
            else "The request to drain was taken back"
        )
        self.services.room_changed()
        if not self.draining:
            await worker_rows.set_draining(self._row, asked)

    async def _close_what_was_declared_lost(self) -> None:
        mine = {session.uuid: session for session in self.live_sessions}
        if not mine:
            return
        for pk in await session_rows.ended_among(list(mine)):
            session = mine[pk]
            if not session.finished and session.status is not SessionStatus.CLOSING:
                logger.error("Session %s was declared lost while it ran here; closing it", session.id)
                session.request_close(by="declared lost", reason=EndReason.WORKER_LOST)

    async def _end_what_nobody_runs(self) -> None:
        """End sessions that the database has as this worker's, and it has not: an answer of the database was lost.

        Only those that it has not known for two looks: one may be written and not yet begun.
        """
        theirs = set(await session_rows.live_sessions_of(self._row))
        known = {session.uuid for session in self.live_sessions}
        for launcher in self.launchers.values():
            known |= launcher.admitting | launcher.giving_back
        unknown = theirs - known
        for pk in unknown & self._unknown:
            logger.error("Session %s is this worker's by its row, and does not run here: ending it", pk)
        # Whoever asked was told that it did not start: so it is not one to start again elsewhere.
        ended = await session_rows.end_not_begun(self._row, list(unknown & self._unknown), _NOBODY)
        self._announce(ended, EndReason.CREATE_FAILED)
        self._unknown = unknown

    async def _save_metrics(self) -> None:
        snapshots: dict[uuid.UUID, dict[str, Any]] = {}
        costs: dict[uuid.UUID, Cost] = {}
        for session in list(self.live_sessions):
            if session.status is not SessionStatus.ACTIVE or not session.has_agent:
                continue
            try:
                metrics = session.metrics()
            except Exception:
                logger.exception("Reading the metrics of session %s failed", session.id)
                continue
            if metrics and metrics != self._saved.get(session.uuid):
                snapshots[session.uuid] = metrics
                if (cost := session.cost(metrics)) is not None:
                    costs[session.uuid] = cost
        if snapshots:
            await session_rows.save_metrics(snapshots, costs)
        live = {session.uuid for session in self.live_sessions}
        self._saved = {pk: value for pk, value in {**self._saved, **snapshots}.items() if pk in live}


def _awaitable(work: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        work()

    return run
