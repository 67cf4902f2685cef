"""`LiveSession`: one agent from join to teardown; the only place where an agent is cancelled or closed."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import logging
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from django.dispatch import Signal

from ..conf.prices import Cost, cost_of
from ..conf.settings import get_settings
from ..exceptions import StartDrained, StartFailed, StartTimeout
from ..models import AgentSession, EndReason, SessionStatus
from ..observe import Observed, observe
from ..observe.redaction import redacted_error
from ..signals import session_ended, session_started
from ..store import database, session_rows
from ..telemetry.correlation import correlate
from ..telemetry.tracing import SessionTrace
from ..utils.credentials import error_text
from ..utils.tasks import HeldTasks, spawn, wait_for_any
from .video import play_to

if TYPE_CHECKING:
    from vision_agents.core import Agent

    from ..observe import Observer
    from .host import Host

logger = logging.getLogger(__name__)

T = TypeVar("T")

START_TIMEOUT = "start_timeout"
"""``cause`` in the data of an end: the agent took too long to be built."""

_SETTLE_STEP_SECONDS = 0.02
_LAST_WRITE_SECONDS = 5.0
_RECEIVERS_SECONDS = 30.0


class LiveSession:
    """One agent on one call, while this process runs it.

    Its supervisor task builds the agent, joins the call, waits, and tears down; whatever happens on the way, the row
    reaches one end state. The supervisor is independent of who asked for the session: a client that vanishes cancels
    its request and nothing else.
    """

    def __init__(
        self,
        row: AgentSession,
        host: Host,
        *,
        video_track_override_path: str | None = None,
        on_end: Callable[[LiveSession], None] = lambda session: None,
        trace: SessionTrace | None = None,
    ) -> None:
        self.row = row
        self.uuid: uuid.UUID = row.pk
        self.id = str(row.pk)
        self.agent_name = row.agent
        self.call_type = row.call_type
        self.call_id = row.call_id
        self.metadata: dict[str, Any] = row.metadata
        self.started_by_id: Any = row.started_by_id
        self.source = row.source
        self.created_at: datetime = row.created_at
        self.status: SessionStatus = SessionStatus.STARTING
        self.end_reason: EndReason | None = None
        self.error = ""
        self.joined_at: datetime | None = None
        self.ended_at: datetime | None = None
        self.had_participant = False
        self.task: asyncio.Task[Any] | None = None
        """The task that runs ``join_call``; None until the agent is built."""

        self._host = host
        self._video_track_override_path = video_track_override_path
        self._on_end = on_end
        self._agent: Agent | None = None
        self._started_at: datetime | None = None
        self._join_began: float | None = None
        self._joined = asyncio.Event()
        self._close_reason: EndReason | None = None
        self._cause_of_end = ""
        self._close_error = ""
        self._close_by = ""
        self._close_event = asyncio.Event()
        self._force_event = asyncio.Event()
        self._last_write: asyncio.Task[Any] | None = None
        self._stage: asyncio.Task[Any] | None = None
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._supervisor: asyncio.Task[Any] | None = None
        self._leftovers = HeldTasks()
        self._was_occupied = False
        self._asked_in_vain = False
        self._joined_at_monotonic: float | None = None
        self._gave_up = asyncio.Event()
        self._observer: Observer | None = None
        self._recorder = host.recorder
        self._trace = trace or trace_of(row)
        self._context = contextvars.Context()
        self._context.run(correlate, session=self.id, call=f"{self.call_type}/{self.call_id}")
        self._context.run(self._trace.enter)
        self._instruments = host.instruments

    def __repr__(self) -> str:
        return f"<LiveSession {self.id} {self.agent_name} on {self.call_type}/{self.call_id}: {self.status.value}>"

    # What callers see

    @property
    def agent(self) -> Agent:
        """The vision-agents Agent.

        Raises:
            RuntimeError: it is not built yet.
        """
        if self._agent is None:
            raise RuntimeError(f"The agent of session {self.id} is not built yet")
        return self._agent

    @property
    def has_agent(self) -> bool:
        return self._agent is not None

    @property
    def started_at(self) -> datetime:
        """When the agent was built and began to join; until then, when the session was asked for."""
        return self._started_at or self.created_at

    @property
    def finished(self) -> bool:
        """Whether the session has reached its end state."""
        return self._ended.done()

    @property
    def closing(self) -> bool:
        return self._close_reason is not None

    async def wait(self) -> None:
        """Wait until the session has reached its end state.

        Raises:
            Exception: what ``join_call`` raised, if that is what ended it. A session that was closed just returns.
        """
        await asyncio.shield(self._ended)
        if self._close_reason is None and self.task is not None and self.task.done() and not self.task.cancelled():
            error = self.task.exception()
            if error is not None:
                raise error

    async def wait_ended(self) -> None:
        """Like `wait`, but never raises."""
        await asyncio.shield(self._ended)

    async def wait_started(self) -> None:
        """Wait until the agent is built and joins.

        Raises:
            StartFailed, StartTimeout: it never was.
        """
        await asyncio.shield(self._started)

    def on_call_for(self) -> float:
        """Seconds since the agent joined the call; 0.0 before."""
        return self._agent.on_call_for() if self._agent is not None else 0.0

    def idle_for(self) -> float:
        """Seconds since everybody but the agent left; 0.0 while somebody is there, and before anybody came."""
        return self._agent.idle_for() if self._agent is not None else 0.0

    def metrics(self) -> dict[str, int | float | None]:
        """The agent's metrics by name; empty before it is built."""
        if self._agent is None:
            return {}
        metrics: Any = self._agent.metrics
        if dataclasses.is_dataclass(metrics):
            # Not to_dict(): it copies each of the metrics first, 150 us a session on the event loop.
            values = {field.name: getattr(metrics, field.name).value() for field in dataclasses.fields(metrics)}
        else:
            values = metrics.to_dict()
        return {name: _number(value) for name, value in values.items()}

    def cost(self, metrics: Mapping[str, Any]) -> Cost | None:
        """What it has cost with these metrics, by ``PRICES``; None where that cannot be told."""
        if self._agent is None or self.task is None:
            return None
        seconds = ((self.ended_at or datetime.now(UTC)) - self.started_at).total_seconds()
        try:
            return cost_of(self._agent, metrics, seconds)
        except Exception:
            logger.exception("The cost of session %s cannot be told", self.id, extra=self._extra())
            return None

    def request_close(
        self,
        *,
        by: str = "",
        force: bool = False,
        reason: EndReason = EndReason.REQUESTED,
        error: str = "",
    ) -> None:
        """Begin to close this session, now; call it on the session's event loop. Who asks first gives the reason.

        Asking again with ``force`` stops waiting for an agent that takes its time to close.
        """
        if self.finished:
            return
        first = self._close_reason is None
        # What is closed because its worker may be lost is started again elsewhere, unless somebody wants it closed.
        unwanted = self._close_reason is EndReason.WORKER_LOST and reason is EndReason.REQUESTED
        if first or unwanted:
            self._close_reason, self._close_by, self._close_error = reason, by or reason.value, error
            if reason is not EndReason.WORKER_LOST:  # nobody asked for that
                self._write(self.row.mark_closing, by=self._close_by, force=force)
        if first:
            self._close_event.set()
            self.status = SessionStatus.CLOSING
            logger.info("Closing session %s: %s", self.id, by or reason.value, extra=self._extra())
            if self._stage is not None:
                self._stage.cancel()
        if force:
            self._force_event.set()

    def note(self, kind: str, data: dict[str, Any]) -> None:
        """Add an event to the session's history, as far as ``REDACT`` lets it. Nobody on the call is told."""
        if self._observer is not None and self._recorder is not None:
            shown = self._observer.redacted(kind, data)
            if shown is not None:
                self._recorder.record(self.uuid, Observed(kind, shown, time.time()))

    def hold(self, task: asyncio.Task[Any]) -> None:
        """Keep a task that the session's agent works on, and take note if it fails with nobody waiting."""
        self._keep(task)

    # The host's side

    def begin(self) -> None:
        """Start the supervisor. The row exists."""
        self._supervisor = self._spawn(self._supervise(), name=f"agent-session-{self.id}")

    def abandon(self) -> None:
        """Wait for nothing any more, not even for the database; for a process that has to end."""
        self.request_close(force=True, reason=self._close_reason or EndReason.REQUESTED)
        self._gave_up.set()

    def check_limits(self) -> None:
        """Close the session if one of its host's time limits is over."""
        host = self._host
        if self.closing or self._join_began is None:
            return
        on_call_for = self._asked(self.on_call_for)
        if on_call_for is not None and on_call_for > 0:
            self._note_joined()
        if self._joined_at_monotonic is None:
            if 0 < host.join_timeout <= time.monotonic() - self._join_began:
                self.request_close(
                    by="join_timeout",
                    reason=EndReason.JOIN_FAILED,
                    error=f"join_call had not joined the call within {host.join_timeout:g} s (join_timeout).",
                )
            return
        if on_call_for is None:
            on_call_for = time.monotonic() - self._joined_at_monotonic
        limit = host.max_session_duration_seconds
        if limit is not None and on_call_for >= limit:
            self.request_close(by="max_session_duration_seconds", reason=EndReason.MAX_DURATION)
            return
        idle_for = self._asked(self.idle_for) or 0.0
        if idle_for <= 0:
            self._was_occupied = on_call_for > 0
        elif self._was_occupied:
            # The edge told of an empty call only now, so somebody had been there, whether it told of them or not.
            self.had_participant = True
        if self.had_participant:
            if 0 < host.agent_idle_timeout <= idle_for:
                self.request_close(by="agent_idle_timeout", reason=EndReason.IDLE)
        elif 0 < host.no_participant_timeout <= on_call_for:
            self.request_close(by="no_participant_timeout", reason=EndReason.IDLE)

    def _asked(self, question: Callable[[], float]) -> float | None:
        """Return what the agent says, or None if it raises: that must not take its other limits away."""
        try:
            return question()
        except Exception:
            if not self._asked_in_vain:
                self._asked_in_vain = True
                logger.exception("An agent cannot tell its times, in session %s", self.id, extra=self._extra())
            return None

    # The supervisor

    def _spawn(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Run a task whose log records and spans are known as this session's."""
        return spawn(coroutine, name=name, context=self._context.copy())

    async def _traced(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        with self._trace.span(name):
            return await work()

    async def _supervise(self) -> None:
        try:
            reason, error = await self._uncancelled(self._live(), (EndReason.CANCELLED, ""))
        except Exception as failure:
            # It should not raise. If it does, the agent must still be closed and the row must still end, and say so.
            logger.exception("Supervising session %s failed", self.id, extra=self._extra())
            reason, error = EndReason.ERROR, self._text_of(failure)
            if self._stage is not None:
                self._stage.cancel()
        try:
            problem = await self._uncancelled(self._close_agent(), "")
        except Exception as failure:
            logger.exception("Closing the agent of session %s failed", self.id, extra=self._extra())
            problem = self._text_of(failure)
        if reason is EndReason.WORKER_LOST and self._close_reason is EndReason.REQUESTED:
            reason, error = self._close_reason, self._close_error  # somebody wanted it closed while it was closing
        error = "\n".join(filter(None, (error, problem)))
        await self._uncancelled(self._finish(reason, error), None)

    async def _uncancelled(self, work: Coroutine[Any, Any, T], cancelled: T) -> T:
        """Await ``work`` to its end. If this supervisor is cancelled (the loop is going away), hurry, but finish.

        Returns ``cancelled`` if ``work`` itself was cancelled.
        """
        task: asyncio.Task[T] = self._spawn(work, name=f"agent-session-step-{self.id}")
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                if not self.closing:
                    self.request_close(reason=EndReason.CANCELLED, by="cancelled")
                else:
                    self.request_close(force=True)
                # The loop waits for this task; it must not wait for a database that is away for ever.
                patience = 2 * self._host.close_timeout + _LAST_WRITE_SECONDS
                asyncio.get_running_loop().call_later(patience, self._gave_up.set)
        try:
            return task.result()
        except asyncio.CancelledError:
            # The loop cancels every task when it ends: the step itself was among them.
            return cancelled

    async def _live(self) -> tuple[EndReason, str]:
        """Build the agent, join the call and stay until either ends. Returns the reason and the error, "" for none."""
        failure = await self._build()
        if failure is not None:
            return failure
        joining = await self._begin_join()
        await wait_for_any(joining, self._joined, self._close_event)
        if self._joined.is_set():
            self.joined_at = datetime.now(UTC)
            self._write(self.row.mark_joined, at=self.joined_at)
        await self._until_stopped(joining)
        return self._outcome_of_join()

    async def _build(self) -> tuple[EndReason, str] | None:
        """Build the agent; None if that worked, else the reason and error to end with."""
        limit = get_settings().START_TIMEOUT
        self._stage = build = self._spawn(
            self._traced("build", partial(self._host.build_agent, self)), name=f"agent-session-build-{self.id}"
        )
        if self.closing:
            build.cancel()
        await wait_for_any(build, self._close_event, timeout=limit)
        if self._close_reason is not None:
            await self._bounded(build, "create_agent did not end", then=self._close_late_agent)
            if build.done() and not build.cancelled() and build.exception() is None:
                self._agent = build.result()
            return self._stopped_while_starting(self._close_reason)
        if not build.done():
            build.cancel()
            self._keep(build, then=self._close_late_agent)
            error = f"create_agent took longer than {limit:g} s (START_TIMEOUT) and was cancelled."
            self._cause_of_end = START_TIMEOUT
            self._fail_start(StartTimeout(error, session_id=self.id))
            return EndReason.CREATE_FAILED, error
        if build.cancelled():
            error = "create_agent was cancelled from inside."
        elif (failure := build.exception()) is not None:
            error = self._text_of(failure)
            logger.error("create_agent failed for session %s", self.id, exc_info=failure, extra=self._extra())
        else:
            self._agent = build.result()
            return None
        self._fail_start(StartFailed("Failed to start agent", session_id=self.id))
        return EndReason.CREATE_FAILED, error

    def _stopped_while_starting(self, reason: EndReason) -> tuple[EndReason, str]:
        if reason is EndReason.DRAINED:
            text = "The worker began to drain while the agent was being built"
            self._fail_start(StartDrained(text, session_id=self.id, closed=True))
        else:
            text = "The session was closed while its agent was being built"
            self._fail_start(StartFailed(text, session_id=self.id, closed=True))
        return reason, self._close_error

    async def _begin_join(self) -> asyncio.Task[None]:
        agent = self.agent
        if self._video_track_override_path:
            play_to(agent, self._video_track_override_path)
        self._observe(agent)
        self._started_at = datetime.now(UTC)
        self._join_began = time.monotonic()
        self._trace.begin_join()
        joining = self._spawn(self._host.join_call(agent, self.call_type, self.call_id), name=f"agent-{self.id}")
        self._stage = self.task = joining
        self.status = SessionStatus.ACTIVE
        agent_id = str(getattr(agent, "id", ""))[:255]
        written = self._write(self.row.mark_active, agent_id=agent_id, at=self._started_at)
        # Whoever asked for the session should find it; but an agent is not left waiting for a database that is away.
        await wait_for_any(written, self._close_event, timeout=get_settings().START_TIMEOUT)
        if self.closing:
            self.status = SessionStatus.CLOSING
            joining.cancel()
        if not self._started.done():
            self._started.set_result(None)
        logger.info("Session %s started", self.id, extra=self._extra())
        # On its own: a receiver that hangs must not keep the session from being watched.
        self._host.track(self._spawn(_send(session_started, session_id=self.id, session=self), name=f"told-{self.id}"))
        return joining

    def _observe(self, agent: Agent) -> None:
        """Learn what the agent does, and have it recorded."""
        try:
            observer = observe(agent)
        except Exception:
            # Its limits hold all the same: when it joined, and who is there, can be asked of it too.
            logger.exception("The agent of session %s cannot be observed", self.id, extra=self._extra())
            return
        self._observer = observer
        observer.session_id = self.id
        observer.when("agent_joined", self._note_joined)
        observer.when("participant_joined", self._note_participant)
        if (recorder := self._recorder) is not None:
            observer.add_listener(lambda event: recorder.record(self.uuid, event))
        if (instruments := self._instruments) is not None:
            observer.add_listener(lambda event: instruments.happened(self.agent_name, event))

    def _note_participant(self) -> None:
        self.had_participant = True

    def _note_joined(self) -> None:
        if self._joined_at_monotonic is None:
            self._joined_at_monotonic = time.monotonic()
            self._joined.set()
            self._trace.end_join()
            if self._instruments is not None and self._join_began is not None:
                self._instruments.joined(self.agent_name, self._joined_at_monotonic - self._join_began)

    async def _until_stopped(self, task: asyncio.Task[Any]) -> None:
        """Wait for ``task`` to end; once closing began, no longer than the close timeout, and with force not at all."""
        await wait_for_any(task, self._close_event)
        await self._bounded(task, "join_call did not end")

    async def _bounded(
        self, task: asyncio.Task[Any], what: str, then: Callable[[asyncio.Task[Any]], None] | None = None
    ) -> str:
        """Give ``task`` the close timeout; then leave it behind. Returns what went wrong, "" if nothing."""
        timeout = self._host.close_timeout
        await wait_for_any(task, self._force_event, timeout=timeout)
        if task.done():
            return ""
        task.cancel()
        self._keep(task, then)
        forced = self._force_event.is_set()
        problem = f"{what} before the close was forced" if forced else f"{what} within {timeout:g} s (close_timeout)"
        logger.warning("Session %s: %s; it is left behind", self.id, problem, extra=self._extra())
        return f"{problem}; it was left behind."

    def _outcome_of_join(self) -> tuple[EndReason, str]:
        task = self.task
        assert task is not None
        failure = None if not task.done() or task.cancelled() else task.exception()
        trace = "" if failure is None else self._text_of(failure)
        if failure is not None:
            self._trace.failed(failure)
        if self._close_reason is not None:
            problem = "" if task.done() else "join_call did not end when it was cancelled; it was left behind."
            return self._close_reason, "\n".join(filter(None, (self._close_error, problem, trace)))
        if task.cancelled():
            return EndReason.CANCELLED, ""
        if failure is None:
            return EndReason.FINISHED, ""
        logger.error("join_call failed in session %s", self.id, exc_info=failure, extra=self._extra())
        return EndReason.ERROR if self._joined.is_set() else EndReason.JOIN_FAILED, trace

    # Teardown

    async def _close_agent(self) -> str:
        """Close the agent within the close timeout. Returns what went wrong, "" if nothing."""
        agent = self._agent
        if agent is None:
            return ""
        self.status = SessionStatus.CLOSING
        task = self._spawn(self._traced("close", partial(close_agent, agent)), name=f"agent-close-{self.id}")
        problem = await self._bounded(task, "agent.close() did not end")
        if problem or task.cancelled():
            return problem
        failure = task.exception()
        if failure is None:
            return ""
        logger.error("agent.close() failed in session %s", self.id, exc_info=failure, extra=self._extra())
        return f"agent.close() failed:\n{self._text_of(failure)}"

    def _close_late_agent(self, build: asyncio.Task[Any]) -> None:
        """An agent that was finished after nobody wanted it any more still has to be closed."""
        if build.cancelled() or build.exception() is not None:
            return
        logger.warning("Session %s: its agent was built too late; closing it", self.id, extra=self._extra())
        self._keep(self._spawn(close_agent(build.result()), name=f"agent-close-{self.id}"))

    def _keep(self, task: asyncio.Task[Any], then: Callable[[asyncio.Task[Any]], None] | None = None) -> None:
        """Hold a reference to a task that is left to itself, and take note of its exception."""

        def done(task: asyncio.Task[Any]) -> None:
            if not task.cancelled() and (failure := task.exception()) is not None:
                logger.warning("A task left behind by session %s failed: %r", self.id, failure, extra=self._extra())
            elif then is not None:
                then(task)

        self._leftovers.hold(task).add_done_callback(done)

    async def _finish(self, reason: EndReason, error: str) -> None:
        if not self._started.done():
            self._fail_start(StartFailed("Failed to start agent", session_id=self.id))
        self.ended_at = datetime.now(UTC)
        mine = False
        try:
            await self._end_history()
            mine = await self._write_end(reason, error)
            if not mine:
                reason = await self._reason_of_others(reason)
        except Exception:
            logger.exception("The end of session %s could not be written", self.id, extra=self._extra())
        finally:
            self.end_reason, self.error, self.status = reason, error, reason.status
            logger.info("Session %s ended: %s", self.id, reason.value, extra=self._extra())
            self._trace.end(reason.value, failed=reason.status is SessionStatus.FAILED)
            if self._instruments is not None:
                self._instruments.ended(self.agent_name, reason.value)
            if mine:  # who ended the row tells of it
                told = _send(session_ended, session_id=self.id, status=reason.status.value, end_reason=reason.value)
                self._host.track(self._spawn(told, name=f"told-{self.id}"))
            self._on_end(self)
            if not self._ended.done():
                self._ended.set_result(None)

    async def _end_history(self) -> None:
        """Have all that the agent did written, so that the end is the last line of the session's history."""
        if self._observer is not None:
            self._observer.close()
        if self._recorder is not None:
            settling = self._spawn(self._recorder.settle(self.uuid), name=f"agent-session-settle-{self.id}")
            await wait_for_any(settling, self._gave_up)
            settling.cancel()

    async def _write_end(self, reason: EndReason, error: str) -> bool:
        """Give the row its end state. False if it had one, or if nobody can wait for the database any longer."""
        data = {"cause": self._cause_of_end} if self._cause_of_end else None
        for text, metrics in ((error, self._last_metrics()), ("The end could not be written whole: see the log.", {})):
            cost = self.cost(metrics) if metrics else None
            writing = self._write(
                self.row.finish, reason, error=text, at=self.ended_at, data=data, metrics=metrics, cost=cost
            )
            await wait_for_any(writing, self._gave_up)
            if not writing.done():
                writing.cancel()
                logger.error("Session %s ended, which no database could be told; its row is left to others", self.id)
                return False
            if writing.cancelled():
                return False
            if (failure := writing.exception()) is None:
                return bool(writing.result())
            logger.error("The end of session %s could not be written", self.id, exc_info=failure, extra=self._extra())
        return False

    async def _reason_of_others(self, reason: EndReason) -> EndReason:
        """Return why the row says that the session ended: somebody else ended it first, and that is final."""
        if self._gave_up.is_set():
            return reason
        row = await session_rows.get_session(self.uuid)
        return EndReason(row.end_reason) if row is not None and row.end_reason else reason

    def _write(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> asyncio.Task[T]:
        """Write to the row, after all that was asked for before, however long the database is away.

        Only who needs it awaits it: an agent is closed in time also when that cannot be written down yet.
        """
        previous = self._last_write

        async def write() -> T:
            if previous is not None:
                await asyncio.wait({previous})
            return await database.persist(fn, *args, **kwargs)

        task = self._spawn(write(), name=f"agent-session-write-{self.id}")
        task.add_done_callback(self._note_failed_write)
        self._last_write = task
        return task

    def _note_failed_write(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (failure := task.exception()) is not None:
            logger.error("A write for session %s failed: %r", self.id, failure, extra=self._extra())

    def _last_metrics(self) -> dict[str, Any]:
        try:
            return self.metrics()
        except Exception:
            logger.exception("Reading the metrics of session %s failed", self.id, extra=self._extra())
            return {}

    def _fail_start(self, error: StartFailed) -> None:
        if not self._started.done():
            self._started.set_exception(error)
            self._started.exception()  # nobody may be waiting any more: that is no "exception never retrieved"

    def _text_of(self, failure: BaseException) -> str:
        """The traceback that the row keeps, as far as ``REDACT`` lets it."""
        return redacted_error(self.id, error_text(failure))

    def _extra(self) -> dict[str, Any]:
        return {"session": self.id, "call": f"{self.call_type}/{self.call_id}"}


def trace_of(row: AgentSession) -> SessionTrace:
    """Begin the trace of a session."""
    return SessionTrace(session_id=str(row.pk), agent=row.agent, call_type=row.call_type, call_id=row.call_id)


def _number(value: Any) -> int | float | None:
    """Return a metric as JSON and every database take it: None for what is no finite number."""
    if value is None or isinstance(value, int):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


async def close_agent(agent: Agent) -> None:
    """Close an agent and wait until it has closed. It may take for ever: bound it.

    ``Agent.close()`` returns early when another close is under way. When the call ended from the other side, that
    other close runs inside an event handler for which it then waits itself; cancelling the handler once more lets it
    come to its end (vision-agents 0.6.9, ``EventManager.shutdown``).
    """
    try:
        await agent.close()
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"agent.close() raised {error!r}") from error  # it would end the loop, and all sessions
    while not getattr(agent, "closed", True):
        events = getattr(agent, "events", None)
        if getattr(events, "_closed", False):
            for handler in list(getattr(events, "_handler_tasks", ())):
                handler.cancel()
        await asyncio.sleep(_SETTLE_STEP_SECONDS)


async def _send(signal: Signal, **arguments: Any) -> None:
    """Send a signal to all its receivers. What they do wrong is logged: it must harm neither session nor worker."""
    try:
        async with asyncio.timeout(_RECEIVERS_SECONDS):
            results = await signal.asend_robust(AgentSession, **arguments)
    except TimeoutError:
        logger.error("Receivers of a signal took longer than %g s and were cancelled", _RECEIVERS_SECONDS)
        return
    except (SystemExit, KeyboardInterrupt) as error:
        logger.error("A signal receiver raised %r", error)
        return
    for receiver, result in results:
        if isinstance(result, Exception):
            logger.error("A signal receiver failed: %r", receiver, exc_info=result)


async def tell_ended(session_id: str, reason: EndReason) -> None:
    """Send `session_ended` for a session that ended elsewhere, or without its supervisor."""
    await _send(session_ended, session_id=session_id, status=reason.status.value, end_reason=reason.value)
