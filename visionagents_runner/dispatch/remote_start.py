"""Having another worker start a session, and waiting for it: for a worker that is full, and for WSGI, which hosts none.

It is dispatched like any other, ahead of those for which nobody waits. If no worker takes it in time it is withdrawn,
as if nobody had asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..conf.settings import get_settings
from ..exceptions import (
    MaxConcurrentSessionsExceeded,
    MaxSessionsExceeded,
    MaxSessionsPerCallExceeded,
    NoWorker,
    RunnerError,
    SessionLimitExceeded,
    StartDrained,
    StartFailed,
    StartTimeout,
)
from ..messaging.layer import LIST_GROUP, get_link
from ..models import AgentSession, EndReason, SessionEvent, SessionStatus
from ..models.session import PRIORITIES
from ..models.worker import in_seconds
from ..sessions.session import START_TIMEOUT
from ..store import calls, database, errors, queued_rows, session_limits, session_rows
from ..utils.loops import wait_for_event
from ..utils.tasks import HeldTasks
from ..worker.current import current_worker

if TYPE_CHECKING:
    from ..worker.launcher import AgentLauncher

_POLL_SECONDS = 0.1
"""Between two looks at the row, at first; later they are rarer."""
_SLOWEST_POLL_SECONDS = 0.5
_HEADROOM_SECONDS = 1.0
"""How often it is looked whether some worker still has headroom."""
_CLAIMED_SECONDS = 30.0
"""What a worker may take for a session besides building its agent."""
_LONGER_SECONDS = 60.0
"""For how long whoever waits may be unable to withdraw it, before it expires by itself."""
_GIVE_UP_SECONDS = 2.0
_FULL_SECONDS = 0.2

logger = logging.getLogger(__name__)

_running = HeldTasks()
_full_until: dict[str, float] = {}
"""Until when each agent's workers count as full without another look."""

_UNCODED_TIMEOUT = "create_agent took longer than"
_UNCODED_LIMIT = "Reached maximum number of sessions for this call"
"""How workers told it before events had codes; such a worker may stand beside this one during a deploy, and reads only
these sentences. They may be reworded, and this reading dropped, in the second release that has the codes."""


async def place(
    launcher: AgentLauncher,
    call_id: str,
    call_type: str = "default",
    *,
    exclude: uuid.UUID | None = None,
    refused: RunnerError | None = None,
    visible: calls.Visible | None = None,
    **values: Any,
) -> AgentSession:
    """Have another worker than ``exclude`` start a session, and return its row when its agent is built and joins.

    The start does not depend on its caller: cancelling this leaves a session that can be found and closed.

    Args:
        refused: What to raise where no worker has headroom; None for the limit's own error.
        visible: What whoever asks may see, if not all.
        values: As for `AgentLauncher.start_session`.

    Raises:
        InvalidInput: nothing was created.
        CallHidden: a session is live on the call which is not ``visible``; nothing was created.
        NoWorker: no worker that hosts the agent takes sessions, and ``refused`` is None.
        SessionLimitExceeded: no worker has headroom, or a limit over all workers is reached; nothing is left of it.
        StartFailed, StartTimeout: the agent could not be built.
    """
    row = launcher.new_row(call_id, call_type, **values)
    row.status = SessionStatus.QUEUED
    row.priority = PRIORITIES[-1]
    placement = _Placement(row, exclude, refused, visible)
    await placement.check_headroom()
    return await asyncio.shield(_running.spawn(placement.run(), name=f"place-{row.pk}"))


class _Placement:
    def __init__(
        self, row: AgentSession, exclude: uuid.UUID | None, refused: RunnerError | None, visible: calls.Visible | None
    ) -> None:
        self._row = row
        self._visible = visible
        self._exclude = exclude
        self._no_worker = refused
        self._full = refused or MaxConcurrentSessionsExceeded("Reached maximum number of concurrent sessions")
        self._news = asyncio.Event()
        self._headroom_at = time.monotonic()

    async def check_headroom(self) -> None:
        """Raise what tells that no worker has headroom, if that is so."""
        agent = self._row.agent
        if time.monotonic() < _full_until.get(agent, 0.0):
            raise self._full  # a flood of starts need not ask the database each time
        try:
            headroom = await queued_rows.headroom_elsewhere(agent, exclude=self._exclude)
        except NoWorker as error:
            raise self._no_worker or error from None
        if headroom == 0:
            _full_until[agent] = time.monotonic() + _FULL_SECONDS
            raise self._full

    async def run(self) -> AgentSession:
        timeout = get_settings().PLACE_TIMEOUT
        # Whoever waits here withdraws it; should this process end first, it is not started for nobody much later.
        self._row.expires_at = in_seconds(timeout + _LONGER_SECONDS)
        undo = self._listen()
        try:
            try:
                await session_limits.enqueue(self._row, self._visible)
                await self._until_claimed(time.monotonic() + timeout)
            except errors.DATABASE_ERRORS:
                # It may be queued, or even taken by now, and nobody is told of it.
                giving_up = _running.spawn(self._give_up(), name=f"place-give-up-{self._row.pk}")
                await asyncio.wait({giving_up}, timeout=_GIVE_UP_SECONDS)
                raise
            return await self._until_started()
        finally:
            undo()

    async def _give_up(self) -> None:
        key = self._row.pk
        if not await database.persist(AgentSession.objects.withdraw, key):
            await database.persist(session_rows.request_close_sync, [key], by="place")

    def _listen(self) -> Callable[[], None]:
        """Be told by whichever worker takes it, where a channel layer reaches this process."""
        # A loop that lasts for one request, as under WSGI, has no use for a link.
        link = get_link() if current_worker() is not None else None
        if link is None:
            return lambda: None
        mine = str(self._row.pk)

        def handler(message: dict[str, Any]) -> None:
            if mine in message.get("sessions", ()):
                self._news.set()

        return link.join(LIST_GROUP, handler)

    async def _until_claimed(self, deadline: float) -> None:
        """Return when a worker has taken it.

        Raises:
            RunnerError: none did in time, or none can; it is withdrawn.
        """
        delay = _POLL_SECONDS
        while True:
            await self._wait(delay)
            delay = min(delay * 1.5, _SLOWEST_POLL_SECONDS)
            try:
                row = await self._read()
                if row.status != SessionStatus.QUEUED:
                    return
                problem = await self._hopeless(row, deadline)
                if problem is not None and await database.write(AgentSession.objects.withdraw, row.pk):
                    raise problem
            except errors.DATABASE_ERRORS:
                if time.monotonic() >= deadline:
                    raise

    async def _hopeless(self, row: AgentSession, deadline: float) -> RunnerError | None:
        """Return why it is not worth waiting for a worker any longer; None while it is."""
        if row.attempts:
            return await _limit_that_postponed(row)
        if time.monotonic() >= deadline:
            return self._full
        if time.monotonic() - self._headroom_at >= _HEADROOM_SECONDS:
            self._headroom_at = time.monotonic()
            try:
                await self.check_headroom()
            except RunnerError as problem:
                return problem
        return None

    async def _until_started(self) -> AgentSession:
        patience = get_settings().START_TIMEOUT + _CLAIMED_SECONDS
        deadline = time.monotonic() + patience
        delay = _POLL_SECONDS
        while True:
            try:
                row = await self._read()
                if row.end_reason == EndReason.WORKER_LOST and (successor := await self._successor()) is not None:
                    self._row = row = successor  # the worker died over it, and another one starts it again
            except errors.DATABASE_ERRORS as error:
                logger.warning(
                    "Whether session %s has started is not known: %s", self._row.pk, errors.first_line(error)
                )
                row = self._row
            if row.started_at is not None:
                return row
            if not row.is_live:
                raise await self._failure(row)
            if time.monotonic() >= deadline:
                raise StartTimeout(f"The session did not start within {patience:g} s", session_id=str(row.pk))
            await self._wait(delay)
            delay = min(delay * 1.5, _SLOWEST_POLL_SECONDS)

    async def _failure(self, row: AgentSession) -> RunnerError:
        key = str(row.pk)
        if row.end_reason == EndReason.EXPIRED:
            return self._full
        if row.end_reason == EndReason.CREATE_FAILED and (
            row.error.startswith(_UNCODED_TIMEOUT) or (await _last_told(row, "ended")).get("cause") == START_TIMEOUT
        ):
            return StartTimeout("The agent took too long to start", session_id=key)
        if row.end_reason == EndReason.DRAINED:
            return StartDrained(
                "The worker began to drain while the agent was being built", session_id=key, closed=True
            )
        if row.end_reason == EndReason.REQUESTED:
            return StartFailed("The session was closed before its agent was built", session_id=key, closed=True)
        return StartFailed("Failed to start agent", session_id=key)

    async def _wait(self, seconds: float) -> None:
        await wait_for_event(self._news, seconds)
        self._news.clear()

    async def _successor(self) -> AgentSession | None:
        return await database.read(AgentSession.objects.filter(restart_of=self._row.pk).first)

    async def _read(self) -> AgentSession:
        row = await session_rows.get_session(self._row.pk)
        if row is None:
            raise StartFailed("The session was deleted while it waited", session_id=str(self._row.pk), closed=True)
        return row


async def _limit_that_postponed(row: AgentSession) -> SessionLimitExceeded:
    told = await _last_told(row, "postponed")
    reason = str(told.get("reason") or "Reached maximum number of sessions")
    limit = told.get("limit")
    if limit == MaxSessionsPerCallExceeded.limit or (not limit and reason.startswith(_UNCODED_LIMIT)):
        return MaxSessionsPerCallExceeded(reason)
    return MaxSessionsExceeded(reason)


async def _last_told(row: AgentSession, kind: str) -> dict[str, Any]:
    """Return the data of the last event of that kind in a session's history; empty if there is none."""
    last = SessionEvent.objects.filter(session_id=row.pk, kind=kind).order_by("-seq")
    event = await database.read(last.first)
    return event.data if event is not None else {}
