"""`AgentLauncher`: one kind of agent, with its recipe, its limits and its warmed state."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

from ..conf.settings import get_settings
from ..exceptions import MaxConcurrentSessionsExceeded, NotReady
from ..sessions.warmup import ResourceCache, warm_up
from ..telemetry.correlation import correlated_context
from ..utils.late_imports import import_ahead
from ..utils.tasks import HeldTasks, spawn
from ..utils.validation import clean_call_part, clean_metadata
from .current import current_worker

if TYPE_CHECKING:
    from vision_agents.core import Agent, SessionInfo

    from ..models import AgentSession
    from ..sessions.recorder import Recorder
    from ..sessions.session import LiveSession
    from ..store.calls import Visible
    from ..store.session_limits import Limits
    from ..telemetry.instruments import Instruments
    from ..telemetry.tracing import SessionTrace
    from .worker import AgentWorker

# What needs models is imported where it is used: a project's settings may import a launcher, before there are apps.

logger = logging.getLogger(__name__)

CreateAgent = Callable[..., "Agent | Awaitable[Agent]"]
JoinCall = Callable[["Agent", str, str], Coroutine[Any, Any, Any]]

DEFAULT_CONCURRENT_STARTS = 100
_SLOW_BUILD_SECONDS = 0.05
_CLOSE_SECONDS = 10.0
_ADMIT_SECONDS = 15.0
_ASKED_FOR = ("session", "call_id", "call_type", "metadata")


class AgentLauncher:
    """Builds, warms, starts and closes agents of one kind, within limits that hold across processes.

    Args:
        create_agent: Returns an Agent; sync or async. If it names them as parameters, it is given ``session`` (the
            `LiveSession`), ``call_id``, ``call_type`` and ``metadata``; each is None when it is called to warm up.
        join_call: Called as ``join_call(agent, call_type, call_id)``; the session lasts as long as it runs.
        agent_idle_timeout: Seconds after everybody left until the session is closed; 0 disables.
        max_concurrent_sessions: Most live sessions of this launcher on one worker.
        max_sessions_per_call: Most live sessions on one ``(call_type, call_id)``, over all workers.
        max_sessions: Most live sessions of this launcher, over all workers.
        max_session_duration_seconds: Seconds on the call after which the session is closed.
        maintenance_interval: Seconds between two looks at the time limits.
        join_timeout: Seconds that ``join_call`` may take to join; 0 disables.
        no_participant_timeout: Seconds on the call after which the session is closed if nobody ever came; 0 disables.
        max_concurrent_starts: Most calls of ``create_agent`` at one time.
        build_in_thread: Call a sync ``create_agent`` in a thread, for one that holds the event loop. Constructors
            that need the running loop fail there.
        close_timeout: Seconds that an agent may take to close before it is left behind.
        restart: ``"on-worker-loss"`` starts a session again on another worker, once, if its own is lost; its agent
            begins anew. None: it ends as ``lost``.

    Raises:
        ValueError: a limit that makes no sense.
        TypeError: ``registry=``, which vision-agents' launcher takes: here the database is the registry.
    """

    def __init__(
        self,
        create_agent: CreateAgent,
        join_call: JoinCall,
        agent_idle_timeout: float = 60.0,
        max_concurrent_sessions: int | None = None,
        max_sessions_per_call: int | None = None,
        max_session_duration_seconds: float | None = None,
        maintenance_interval: float = 5.0,
        registry: object = None,
        *,
        join_timeout: float = 60.0,
        no_participant_timeout: float = 300.0,
        max_concurrent_starts: int | None = None,
        build_in_thread: bool = False,
        close_timeout: float = _CLOSE_SECONDS,
        max_sessions: int | None = None,
        restart: Literal["on-worker-loss"] | None = None,
    ) -> None:
        if registry is not None:
            raise TypeError(
                "AgentLauncher(registry=...) is not taken: sessions are rows of the database that all workers share. "
                "Set DATABASES (and CHANNEL_LAYERS) instead"
            )
        for name, value in (
            ("max_concurrent_sessions", max_concurrent_sessions),
            ("max_sessions_per_call", max_sessions_per_call),
            ("max_sessions", max_sessions),
            ("max_session_duration_seconds", max_session_duration_seconds),
            ("max_concurrent_starts", max_concurrent_starts),
        ):
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be > 0 or None")
        for name, value in (
            ("agent_idle_timeout", agent_idle_timeout),
            ("join_timeout", join_timeout),
            ("no_participant_timeout", no_participant_timeout),
        ):
            if value < 0:
                raise ValueError(f"{name} must be >= 0")
        for name, value in (("maintenance_interval", maintenance_interval), ("close_timeout", close_timeout)):
            if value <= 0:
                raise ValueError(f"{name} must be > 0")
        if restart not in {None, "on-worker-loss"}:
            raise ValueError('restart must be "on-worker-loss" or None')
        if build_in_thread and inspect.iscoroutinefunction(create_agent):
            raise ValueError("build_in_thread=True needs a sync create_agent: an async one runs on the event loop")

        self.name = "default"
        """What clients call this agent; the `Runner` sets it."""
        self.agent_idle_timeout = agent_idle_timeout
        self.max_concurrent_sessions = max_concurrent_sessions
        self.max_sessions_per_call = max_sessions_per_call
        self.max_sessions = max_sessions
        self.max_session_duration_seconds = max_session_duration_seconds
        self.maintenance_interval = maintenance_interval
        self.join_timeout = join_timeout
        self.no_participant_timeout = no_participant_timeout
        self.max_concurrent_starts = max_concurrent_starts or DEFAULT_CONCURRENT_STARTS
        self.build_in_thread = build_in_thread
        self.close_timeout = close_timeout
        self.restart = restart
        self.total_started = 0

        self._create_agent = create_agent
        self._join_call = join_call
        self._arguments = _named_parameters(create_agent)
        self._worker: AgentWorker | None = None
        self._stopping = False
        self._sessions: dict[str, LiveSession] = {}
        self._admitting: set[uuid.UUID] = set()
        self._warmed_up = False
        self._named_as_slow = False
        self._unclaiming: set[uuid.UUID] = set()
        self._builders: ThreadPoolExecutor | None = None
        self._running = HeldTasks()
        self._reset()

    def _reset(self) -> None:
        """Make what belongs to one event loop."""
        self._cache = ResourceCache()
        self._warmup_lock = asyncio.Lock()
        self._build_slots = asyncio.Semaphore(self.max_concurrent_starts)

    @property
    def description(self) -> str:
        """The first line of ``create_agent``'s docstring, for people who choose an agent; "" without one."""
        if not inspect.isroutine(self._create_agent):
            return ""
        return (inspect.getdoc(self._create_agent) or "").partition("\n")[0]

    # Running

    async def start(self) -> None:
        """Warm up and take sessions. For code of your own: a `Runner` does this through its worker.

        Raises:
            RuntimeError: it is running already.
            Exception: what ``create_agent`` raised.
        """
        if self._worker is not None:
            raise RuntimeError("AgentLauncher is already running")
        from .worker import AgentWorker

        worker = current_worker()
        if worker is not None and worker.running:
            worker.add(self)
        else:
            await AgentWorker({self.name: self}).start(warm_up=False)
        try:
            await self.warmup()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close every session and stop. Their rows end as `drained`. The last launcher takes the worker along."""
        worker = self._worker
        if worker is None:
            return
        self._stopping = True
        if len(worker.launchers) > 1:
            await worker.remove(self)
        else:
            await worker.stop()

    def attach(self, worker: AgentWorker) -> None:
        """Belong to ``worker`` from now on. Called by the worker."""
        if self._worker is not None:
            raise RuntimeError(f"The launcher {self.name!r} runs already, in another worker of this process")
        self._worker = worker
        self._stopping = False
        self._sessions.clear()
        self._admitting.clear()
        self._warmed_up = False
        self._reset()

    def detach(self) -> None:
        self._worker = None
        if self._builders is not None:
            self._builders.shutdown(wait=False, cancel_futures=True)
            self._builders = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    @property
    def warmed_up(self) -> bool:
        return self._warmed_up

    @property
    def running(self) -> bool:
        return self._worker is not None and self._worker.running

    @property
    def ready(self) -> bool:
        """Whether it is warmed up and takes sessions."""
        return self.warmed_up and self._worker is not None and self._worker.not_starting() is None

    @property
    def recorder(self) -> Recorder | None:
        """Where its worker keeps what agents do; None without a worker."""
        return self._worker.recorder if self._worker is not None else None

    @property
    def instruments(self) -> Instruments | None:
        """Where its worker counts what agents do; None without a worker."""
        return self._worker.instruments if self._worker is not None else None

    @property
    def registry(self) -> NoReturn:
        raise AttributeError(
            "AgentLauncher.registry does not exist here: query AgentSession.objects, or get_session_info()"
        )

    @property
    def sessions(self) -> Mapping[str, LiveSession]:
        """The sessions that this process runs, by id."""
        return MappingProxyType(self._sessions)

    @property
    def headroom(self) -> int | None:
        """How many more sessions it takes on this worker; None if there is no limit."""
        if self.max_concurrent_sessions is None:
            return None
        return max(0, self.max_concurrent_sessions - len(self._sessions) - len(self._admitting))

    @property
    def admitting(self) -> AbstractSet[uuid.UUID]:
        """The sessions that are being admitted: their rows may exist already."""
        return self._admitting

    # Building agents

    async def warmup(self) -> None:
        """Build one agent on trial, load what its components share, and close it. Done once; safe to call again."""
        async with self._warmup_lock:
            if self._warmed_up:
                return
            await asyncio.to_thread(import_ahead, self._create_agent)
            agent = await self._create({})
            try:
                await warm_up(agent, self._cache)
            finally:
                await self._discard(agent)
            self._warmed_up = True

    async def launch(self, **kwargs: Any) -> Agent:
        """Build an agent and warm it up; ``kwargs`` go to ``create_agent``. The caller joins and closes it."""
        return await self._build(kwargs)

    async def build_agent(self, session: LiveSession) -> Agent:
        """Build the agent of ``session``, with bounded parallelism. Called by the session."""
        return await self._build(
            {name: session if name == "session" else getattr(session, name) for name in self._arguments}
        )

    async def join_call(self, agent: Agent, call_type: str, call_id: str) -> None:
        try:
            await self._join_call(agent, call_type, call_id)
        except (SystemExit, KeyboardInterrupt) as error:
            raise RuntimeError(f"join_call raised {error!r}") from error  # it would end the loop, and all sessions

    async def _build(self, arguments: Mapping[str, Any]) -> Agent:
        async with self._build_slots:
            agent = await self._create(arguments)
            try:
                await warm_up(agent, self._cache)
            except BaseException:
                # Upstream leaves the agent of a start that was cancelled here open for ever.
                await self._discard(agent)
                raise
            return agent

    async def _create(self, arguments: Mapping[str, Any]) -> Agent:
        given = {**dict.fromkeys(self._arguments), **arguments}
        try:
            if self.build_in_thread:
                built = await self._create_in_thread(given)
            else:
                began = time.perf_counter()
                built = self._create_agent(**given)
                self._warn_if_slow(time.perf_counter() - began)
            agent: Agent = await built if inspect.isawaitable(built) else built
        except (SystemExit, KeyboardInterrupt) as error:
            raise RuntimeError(f"create_agent raised {error!r}") from error  # it would end the loop, and all sessions
        if agent is None:
            raise TypeError("create_agent returned None: it must return an Agent")
        return agent

    async def _create_in_thread(self, arguments: Mapping[str, Any]) -> Any:
        """Build in a thread of this launcher: the loop's own few are for others, and a slow build would hold them."""
        if self._builders is None:
            name = f"visionagents-build-{self.name}"
            threads = min(self.max_concurrent_starts, DEFAULT_CONCURRENT_STARTS)
            self._builders = ThreadPoolExecutor(threads, thread_name_prefix=name)
        work = self._builders.submit(partial(self._create_agent, **arguments))
        building = asyncio.wrap_future(work)
        try:
            return await asyncio.shield(building)
        except asyncio.CancelledError:
            if not work.cancel():
                # A thread cannot be cancelled: the agent that it still makes has to be closed.
                building.add_done_callback(self._discard_late)
            raise

    def _discard_late(self, building: asyncio.Future[Any]) -> None:
        if not building.cancelled() and building.exception() is None and building.result() is not None:
            self._running.spawn(self._discard(building.result()), name="agent-discard")

    def _warn_if_slow(self, seconds: float) -> None:
        if seconds >= _SLOW_BUILD_SECONDS and not self._named_as_slow:
            self._named_as_slow = True
            logger.warning(
                "create_agent %s held the event loop for %.0f ms, and with it the audio of every call: "
                "pass AgentLauncher(build_in_thread=True), or make it async",
                getattr(self._create_agent, "__qualname__", self._create_agent),
                seconds * 1000,
            )

    async def _discard(self, agent: Agent) -> None:
        from ..sessions.session import close_agent

        task = spawn(close_agent(agent), name="agent-close")
        done, _ = await asyncio.wait({task}, timeout=self.close_timeout)
        if not done:
            task.cancel()
            logger.warning("An agent did not close within %g s (close_timeout); left behind", self.close_timeout)
        elif not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("Closing an agent failed: %r", error)

    # Sessions

    async def start_session(
        self,
        call_id: str,
        call_type: str = "default",
        video_track_override_path: str | None = None,
        *,
        metadata: dict[str, Any] | None = None,
        started_by_id: Any = None,
        source: str = "code",
        visible: Visible | None = None,
    ) -> LiveSession:
        """Start an agent on a call, and return when it is built and its join has begun.

        The start does not depend on its caller: cancelling this coroutine leaves a session that can be found and
        closed. ``visible`` is what whoever asks may see, if not all.

        Raises:
            InvalidInput: ``call_id``, ``call_type`` or ``metadata`` is malformed; nothing was created.
            CallHidden: a session is live on the call which is not ``visible``; nothing was created.
            NotReady: the launcher is not running, the worker drains, or the database does not answer.
            SessionLimitExceeded: a limit is reached; nothing was created. `MaxConcurrentSessionsExceeded` is the one of
                this worker; others hold over all of them.
            StartTimeout: ``create_agent`` took too long.
            StartFailed: ``create_agent`` raised, or the session was closed before it returned.
        """
        row = self.new_row(call_id, call_type, metadata=metadata, started_by_id=started_by_id, source=source)

        starting = self._start(row, video_track_override_path, visible)
        # It goes on if whoever asked goes away.
        return await asyncio.shield(self._running.spawn(starting, name=f"start-{row.pk}", context=correlated_context()))

    def new_row(
        self,
        call_id: str,
        call_type: str = "default",
        *,
        metadata: dict[str, Any] | None = None,
        started_by_id: Any = None,
        source: str = "code",
    ) -> AgentSession:
        """Return the row of a session that is asked for now, not inserted yet.

        Raises:
            InvalidInput: ``call_id``, ``call_type`` or ``metadata`` is malformed.
        """
        from ..models import AgentSession

        return AgentSession(
            id=uuid.uuid4(),
            agent=self.name,
            call_id=clean_call_part("call_id", call_id),
            call_type=clean_call_part("call_type", call_type),
            metadata=clean_metadata(metadata),
            started_by_id=started_by_id,
            source=source,
            restartable=self.restart is not None and self._worker is not None and self._worker.serves,
            created_at=datetime.now(UTC),
        )

    @property
    def giving_back(self) -> AbstractSet[uuid.UUID]:
        """The sessions of which it is not known if this worker has taken them from the queue: not to be taken again."""
        return self._unclaiming

    async def start_queued(self, row: AgentSession) -> LiveSession | None:
        """Take a session from the queue and begin it, without waiting for its agent. None if it is not there any more.

        Raises:
            NotReady, SessionLimitExceeded: as `start_session`; it stays queued.
        """
        worker = self._worker
        if worker is None or self._stopping:
            raise NotReady("The agent launcher is not running")
        from ..sessions.session import trace_of

        trace = trace_of(row)
        with trace.start():
            return await self._begin_on(worker, row, trace, self._claim)

    async def _start(
        self, row: AgentSession, video_track_override_path: str | None, visible: Visible | None
    ) -> LiveSession:
        worker = self._worker
        if worker is None or self._stopping:
            raise NotReady("The agent launcher is not running: await launcher.start() first")
        from ..sessions.session import trace_of

        trace = trace_of(row)
        with worker.instruments.starting(self.name), trace.start():
            admit = partial(self._admit, visible=visible)
            session = await self._begin_on(worker, row, trace, admit, video_track_override_path)
            assert session is not None
            await session.wait_started()
            return session

    async def _begin_on(
        self,
        worker: AgentWorker,
        row: AgentSession,
        trace: SessionTrace,
        enter: Callable[[AgentSession], Awaitable[bool]],
        video_track_override_path: str | None = None,
    ) -> LiveSession | None:
        """Begin a session once ``enter(row)`` has made its row this worker's; None if that returns False."""
        from ..sessions.session import LiveSession

        row.worker_id = worker.id
        try:
            if (reason := worker.not_starting()) is not None:
                raise reason
            if self.headroom == 0:
                # The database would say so too; a flood of starts need not ask it.
                limit = self.max_concurrent_sessions
                raise MaxConcurrentSessionsExceeded(f"Reached maximum number of concurrent sessions ({limit})")
            self._admitting.add(row.pk)
            with trace.span("admit"):
                if not await enter(row):
                    trace.end("not_admitted", failed=False)
                    return None
            session = LiveSession(
                row, self, video_track_override_path=video_track_override_path, on_end=self._forget, trace=trace
            )
            self._sessions[session.id] = session
        except BaseException:
            trace.end("not_admitted", failed=True)
            raise
        finally:
            self._admitting.discard(row.pk)
        self.total_started += 1
        session.begin()
        if worker.not_taking() is not None:
            # The drain began while the row was being written: it counted the sessions without this one.
            session.request_close(by=worker.closing_by, reason=worker.closing_reason)
        return session

    @property
    def limits(self) -> Limits:
        """The limits in force for its sessions."""
        from ..store.session_limits import Limits

        settings = get_settings()
        return Limits(
            per_worker=self.max_concurrent_sessions,
            per_call=self.max_sessions_per_call,
            per_agent=self.max_sessions,
            per_user=settings.MAX_SESSIONS_PER_USER,
            in_all=settings.MAX_SESSIONS,
        )

    async def _admit(self, row: AgentSession, *, visible: Visible | None) -> bool:
        from ..models import EndReason
        from ..store import database, errors, session_limits

        try:
            async with asyncio.timeout(_ADMIT_SECONDS):
                await session_limits.admit(row, self.limits, visible)
        except errors.DATABASE_ERRORS as error:
            logger.error("A session could not be admitted: %s", errors.first_line(error))
            raise NotReady("The database does not answer") from error
        except TimeoutError as error:
            # The row may still land. Whatever it lands behind, this comes after it on the same thread.
            end = database.persist(row.finish, EndReason.CREATE_FAILED, error="The database answered too late.")
            self.track(spawn(end, name=f"too-late-{row.pk}"))
            raise NotReady("The database does not answer") from error
        return True

    async def _claim(self, row: AgentSession) -> bool:
        from ..store import errors, queued_rows

        worker = self._worker
        assert worker is not None
        try:
            async with asyncio.timeout(_ADMIT_SECONDS):
                claimed = await queued_rows.claim(row, self.limits, restartable=self.restart is not None)
        except (TimeoutError, *errors.DATABASE_ERRORS) as error:
            # It may be this worker's now, or become so. Whatever it is behind, this comes after it on the same thread.
            self._unclaiming.add(row.pk)
            giving_back = spawn(queued_rows.unclaim(row, worker.id), name=f"unclaim-{row.pk}")
            giving_back.add_done_callback(lambda task: self._unclaiming.discard(row.pk))
            self.track(giving_back)
            raise NotReady("The database does not answer") from error
        if claimed and (worker.not_taking() is not None or worker.lease.runs_out):
            # A drain began meanwhile, or this process was frozen, and nobody waits for this start here: another worker
            # is better.
            await queued_rows.unclaim(row, worker.id)
            return False
        row.restartable = self.restart is not None and row.restart_of_id is None
        return claimed

    def track(self, task: asyncio.Task[Any]) -> None:
        """Have a task that tells receivers of something finish before the worker stops."""
        if self._worker is not None:
            self._worker.track(task)

    def _forget(self, session: LiveSession) -> None:
        self._sessions.pop(session.id, None)
        if self._worker is not None:
            self._worker.session_ended(session)

    def get_session(self, session_id: str) -> LiveSession | None:
        """Return a session that this process runs."""
        return self._sessions.get(session_id)

    async def close_session(self, session_id: str, wait: bool = False) -> bool:
        """Close a session that this process runs. With ``wait``, return when its row has its end state.

        Returns False if this process runs no such session.
        """
        session = self._sessions.get(session_id)
        if session is None:
            return False
        session.request_close(by="close_session")
        if wait:
            await session.wait()
        return True

    async def request_close_session(self, call_id: str, session_id: str) -> None:
        """Ask whichever worker runs a session to close it. A session on another call is left alone."""
        from ..store import session_rows

        row = await session_rows.get_session(session_id)
        if row is not None and row.call_id == call_id and row.is_live:
            await session_rows.request_close(row.pk, by="request_close_session")

    async def get_session_info(self, call_id: str, session_id: str) -> SessionInfo | None:
        """Return what every worker can tell of a live session on a call; None if there is none."""
        from vision_agents.core import SessionInfo
        from vision_agents.core.observability.agent import AgentMetrics

        from ..store import session_rows

        row = await session_rows.get_session(session_id)
        if row is None or row.call_id != call_id or not row.is_live:
            return None
        live = self._sessions.get(session_id)
        started = row.started_at or row.created_at
        return SessionInfo(
            session_id=session_id,
            call_id=call_id,
            node_id=str(row.worker_id or ""),
            started_at=started.timestamp(),
            metrics_updated_at=(row.metrics_at or started).timestamp(),
            metrics=live.agent.metrics if live and live.has_agent else AgentMetrics.from_dict(row.metrics),
        )

    # Called by the worker

    def check_limits(self) -> None:
        """Close the sessions whose time is over. A session whose agent raises harms nobody else."""
        for session in list(self._sessions.values()):
            try:
                session.check_limits()
            except Exception:
                logger.exception("Checking the time limits of session %s failed", session.id)


def _named_parameters(create_agent: CreateAgent) -> tuple[str, ...]:
    """Return which of ours it names. A bare ``**kwargs`` gets nothing, as upstream's examples expect."""
    try:
        parameters = inspect.signature(create_agent).parameters
    except (TypeError, ValueError):
        return ()
    named = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    return tuple(name for name in _ASKED_FOR if name in parameters and parameters[name].kind in named)
