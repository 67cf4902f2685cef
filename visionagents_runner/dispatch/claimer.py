"""`Claimer`: the worker's side of dispatch: it takes queued sessions while there is room, and starts them."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from ..conf.settings import get_settings
from ..exceptions import MaxConcurrentSessionsExceeded, NotReady, SessionLimitExceeded
from ..messaging import notifications
from ..messaging.layer import QUEUE_GROUP, Link, get_link
from ..models import AgentSession
from ..store import errors, queued_rows, session_rows
from ..utils.listeners import Listeners
from ..utils.loops import call_from_thread, wait_for_event
from ..utils.tasks import spawn
from ..worker.services import Service

if TYPE_CHECKING:
    from ..worker.worker import AgentWorker

logger = logging.getLogger(__name__)

_A_ROUND = 4
"""Sessions that are taken before others may take some: a burst is spread over the workers instead of filling one."""
_MOST_CALLS = 50
"""Calls that one query is about: databases take a limited number of parameters."""
_PAUSE_SECONDS = 0.005
_FULLER_SECONDS = 0.02
"""How much longer a worker that is almost full waits than an empty one."""
_OVERDUE_SECONDS = 5.0
"""How long a session may wait for an engine before whoever sees it takes it."""
_LAST_SECONDS = 5.0
_FIRST_BACKOFF_SECONDS = 0.5
_LAST_BACKOFF_SECONDS = 30.0

_random = random.Random()  # noqa: S311 - its own: whoever seeds that of the module does not mean this one


class Placed(Enum):
    """What became of the try to start a queued session here."""

    STARTED = "started"
    GONE = "gone"
    """It is not queued any more."""
    NOT_DUE = "not_due"
    NO_ROOM = "no_room"
    """Not on this worker, now; on others, perhaps."""
    POSTPONED = "postponed"
    """A limit over all workers is reached: ``due_at`` says when to try again."""


class Engine(Protocol):
    """What brings queued sessions to `Claimer.place` sooner than the poll, each to one worker."""

    async def open(self, claimer: Claimer) -> None: ...

    async def close(self) -> None: ...


class Claimer(Service):
    """Takes queued sessions for a worker, from `open` to `drain`."""

    def __init__(self, worker: AgentWorker, load_engine: Callable[[], Engine | None] = lambda: None) -> None:
        """``load_engine()`` returns the engine of this process, not opened yet; None where the poll does it."""
        super().__init__(worker)
        self._load_engine = load_engine
        self._engine: Engine | None = None
        self._link: Link | None = None
        self._hinted = asyncio.Event()
        self._room_listeners = Listeners[Callable[[], None]]()
        self._task: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._undo: list[Callable[[], None]] = []
        self._freed: list[AgentSession] = []
        """Sessions that have ended here, while limits may hold back others."""

    async def open(self) -> None:
        """Take queued sessions from now on, as soon as an agent is warm; if the worker does that at all."""
        if not self._worker.serves:
            return

        loop = asyncio.get_running_loop()

        def queued_here() -> None:
            call_from_thread(loop, self._queued_here)

        self._undo.append(notifications.on_queued(queued_here))
        self._link = get_link()
        if self._link is not None:
            self._undo.append(self._link.join(QUEUE_GROUP, lambda message: self.hint()))
        self._task = spawn(self._run(), name="agent-worker-claims")
        self._engine = self._load_engine()
        if self._engine is not None:
            await self._engine.open(self)

    async def drain(self) -> None:
        """Take no more. What is being taken is started, or given back."""
        engine, self._engine = self._engine, None
        for undo in self._undo:
            undo()
        self._undo.clear()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task}, timeout=_LAST_SECONDS)
        if self._looking is not None:
            await asyncio.wait({self._looking}, timeout=_LAST_SECONDS)
        if engine is not None:
            await engine.close()

    def abandon(self) -> None:
        """Stop at once; for a worker that could not end in order."""
        for undo in self._undo:
            undo()
        self._undo.clear()
        if self._task is not None:
            self._task.cancel()

    # Room

    @property
    def agents(self) -> list[str]:
        """The agents that this worker hosts, with room or without."""
        return list(self._worker.launchers)

    def room(self) -> dict[str, int | None]:
        """Return the agents that can be started here now, each with how many more; None for no limit."""
        worker = self._worker
        if self._task is None or worker.not_starting() is not None:
            return {}
        free = {name: launcher.headroom for name, launcher in worker.launchers.items() if launcher.warmed_up}
        return {name: headroom for name, headroom in free.items() if headroom != 0}

    def on_room_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have ``listener()`` called, on the loop, when there may be more room, or less. Returns what ends that."""
        return self._room_listeners.add(listener)

    def room_changed(self) -> None:
        """A session began or ended here, an agent became warm, or the worker takes sessions again, or no more."""
        for listener in self._room_listeners:
            listener()
        self.hint()

    def hint(self) -> None:
        """There may be something to take."""
        self._hinted.set()

    def session_ended(self, session: AgentSession) -> None:
        """A place under limits that may hold back others is free.

        Those are tried again at once, the most urgent first: left to their own time, all that comes meanwhile would
        be before them.
        """
        launcher = self._worker.launchers.get(session.agent)
        if self._task is not None and launcher is not None and launcher.limits.over_all:
            self._freed.append(session)
            self.hint()

    def _queued_here(self) -> None:
        """This process queued something."""
        if self._engine is not None:
            return
        self.hint()
        self._tell_others()

    def _tell_others(self) -> None:
        if self._link is not None:
            self._link.send(QUEUE_GROUP, {"type": "queue.news"})

    # Taking

    async def place(self, key: uuid.UUID) -> Placed:
        """Start a queued session here, if it may start now and there is room."""
        row = await session_rows.get_session(key)
        if row is None or row.status != "queued":
            return Placed.GONE
        if row.agent not in self.room():
            return Placed.NO_ROOM
        placed = await self._take(row)
        if placed is Placed.GONE:
            row = await session_rows.get_session(key)
            if row is not None and row.status == "queued":
                return Placed.NOT_DUE
        return placed

    async def _run(self) -> None:
        polled_at = -float("inf")
        while True:
            interval = get_settings().POLL_INTERVAL
            await wait_for_event(self._hinted, max(0.0, polled_at + interval - time.monotonic()))
            self._hinted.clear()
            polled_at = time.monotonic()
            try:
                # The task that is cancelled in the middle of a claim would leave open whose the session is.
                self._looking = spawn(self._look(), name="agent-worker-claim")
                await asyncio.shield(self._looking)
            except errors.DATABASE_ERRORS as error:
                logger.warning("The queue cannot be read: the database does not answer: %s", errors.first_line(error))
                await asyncio.sleep(interval)
            except Exception:
                logger.exception("Taking sessions from the queue failed")
                await asyncio.sleep(interval)

    async def _look(self) -> None:
        if self._freed:
            await self._take_held_back()
        while room := self.room():
            overdue = _OVERDUE_SECONDS if self._engine is not None else 0.0
            await asyncio.sleep(self.deference())
            rows = await queued_rows.due(list(room), _A_ROUND, overdue=overdue)
            outcomes = [await self._take(row) for row in rows if row.agent in self.room()]
            if not {Placed.STARTED, Placed.POSTPONED, Placed.GONE} & set(outcomes):
                return

    async def _take_held_back(self) -> None:
        freed, self._freed = self._freed, []
        agents = {row.agent for row in freed}
        if get_settings().MAX_SESSIONS is not None:
            agents.update(self.agents)
        rows = await queued_rows.hurry(
            max(_A_ROUND, len(freed)),
            agents=agents,
            calls={(row.call_type, row.call_id) for row in freed[:_MOST_CALLS]},
            users={row.started_by_id for row in freed if row.started_by_id is not None},
        )
        for row in rows:
            if row.agent in self.room():
                await self._take(row)
        if rows:
            self._tell_others()

    def deference(self) -> float:
        """Return how long to let others go first, in seconds: the fuller, the longer."""
        capacity = self._worker.capacity
        live = sum(1 for _ in self._worker.live_sessions)
        fullness = live / capacity if capacity else live / (live + 10)
        return _PAUSE_SECONDS * _random.random() + _FULLER_SECONDS * fullness

    async def _take(self, row: AgentSession) -> Placed:
        launcher = self._worker.launchers.get(row.agent)
        if launcher is None or row.pk in launcher.giving_back:
            return Placed.NO_ROOM
        try:
            session = await launcher.start_queued(row)
        except MaxConcurrentSessionsExceeded:
            return Placed.NO_ROOM
        except SessionLimitExceeded as limit:
            await queued_rows.postpone(row.pk, backoff(row.attempts), because=limit)
            return Placed.POSTPONED
        except NotReady:
            return Placed.NO_ROOM
        if session is None:
            return Placed.GONE
        self.room_changed()
        return Placed.STARTED


def backoff(attempts: int) -> float:
    """Return how long to wait, in seconds, after so many tries before this one."""
    longest = min(_LAST_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2.0 ** min(attempts, 16))
    return longest * _random.uniform(0.75, 1.0)
