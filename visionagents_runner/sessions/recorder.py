"""`Recorder`: what the agents of this process do becomes their sessions' history, and reaches live viewers.

Listeners only put events into a queue; one task writes them in batches, on the thread that also writes the sessions'
own lines. While the database is away, events wait. When too many do, the least valuable go first, and each session's
history says how many of which kind it lacks.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING

from ..conf.settings import get_settings
from ..models import EventLine
from ..store import errors, session_rows
from ..telemetry.tracing import span
from ..utils.bounded import Seldom
from ..utils.loops import wait_for_event
from ..utils.tasks import spawn

if TYPE_CHECKING:
    from ..observe import Listener, Observed

logger = logging.getLogger(__name__)

LIVE_ONLY = "partial"
OVERLOAD = "overload"

_VALUE = (
    {"custom"},
    {"agent_turn_started", "agent_turn_ended", "user_turn_started", "user_turn_ended"},
    {"tool_started", "connection"},
    {"participant_joined", "participant_left"},
    {"turn", "tool_ended"},
    {"error"},
    {"message", "asked", "agent_joined", "agent_left"},
)
"""Kinds of events, the least valuable first. One that is not listed is worth as much as the first."""

_RANK = {kind: rank for rank, kinds in enumerate(_VALUE) for kind in kinds}
_BATCH = 500
_DROPS_SECONDS = 10.0
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 0.1, 5.0


class Recorder:
    """One a process. Everything but `settle` and `close` is synchronous, for the event loop, and never blocks."""

    def __init__(self) -> None:
        self.written = 0
        """How many events reached the database."""
        self.dropped = 0
        """How many did not, and never will."""

        self.size = get_settings().EVENT_QUEUE_SIZE
        """How many may wait to be written."""

        self._lines: OrderedDict[int, EventLine] = OrderedDict()
        self._ranks: tuple[deque[int], ...] = tuple(deque() for _ in _VALUE)
        self._counter = 0
        self._writing: Sequence[int] = ()
        self._last: dict[uuid.UUID, int] = {}
        self._seq: dict[uuid.UUID, int] = {}
        self._drops: dict[uuid.UUID, Counter[tuple[str, str]]] = {}
        self._may_tell_drops = Seldom(_DROPS_SECONDS)
        self._viewers: dict[uuid.UUID, list[Listener]] = {}
        self._settling: list[tuple[int, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._hurry = asyncio.Event()
        self._may_complain = Seldom(_DROPS_SECONDS)

    @property
    def waiting(self) -> int:
        """How many events wait to be written, those of the batch that is being written included."""
        return len(self._lines) + len(self._writing)

    def start(self) -> None:
        self._task = spawn(self._run(), name="agent-recorder")

    # What happens

    def record(self, session_id: uuid.UUID, event: Observed) -> None:
        """Show an event of a session to its live viewers, and keep it, unless it is only worth having live."""
        for viewer in tuple(self._viewers.get(session_id, ())):
            try:
                viewer(event)
            except Exception:
                logger.exception("A live viewer of session %s failed", session_id)
        if event.kind == "dropped":
            for kind, count in event.data["kinds"].items():
                self._note_drop(session_id, kind, str(event.data.get("reason", "")), count)
        elif event.kind != LIVE_ONLY:
            self._put(EventLine(session_id, event.kind, datetime.fromtimestamp(event.at, UTC), event.data))

    def subscribe(self, session_id: uuid.UUID, listener: Listener) -> Callable[[], None]:
        """Have ``listener`` told of each event of a session as it happens, before it is written. Returns the undo."""
        self._viewers.setdefault(session_id, []).append(listener)

        def undo() -> None:
            viewers = self._viewers.get(session_id, [])
            if listener in viewers:
                viewers.remove(listener)
            if not viewers:
                self._viewers.pop(session_id, None)

        return undo

    # The end

    async def settle(self, session_id: uuid.UUID) -> None:
        """Return once all of the session's events so far are written: nothing more of it will come.

        That takes as long as the database is away. Cancelling it loses nothing that waits.
        """
        self._tell_drops(session_id)
        if self._task is not None and not self._task.done():
            await self._until_written(self._last.get(session_id, 0))
        for known in (self._last, self._seq, self._viewers):
            known.pop(session_id, None)

    async def close(self, timeout: float) -> None:
        """Write what waits, at most for ``timeout`` seconds, and stop. What is lost then is counted in the log."""
        if self._task is None:
            return
        for session_id in list(self._drops):
            self._tell_drops(session_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._until_written(self._counter)
        lost = self.waiting
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        if lost:
            self.dropped += lost
            logger.error("%d events of sessions could not be written before this process stopped: they are lost", lost)
        for _, future in self._settling:
            future.cancel()

    def abandon(self) -> None:
        """Stop at once, whatever waits."""
        if self._task is not None:
            self._task.cancel()

    # The queue

    def _put(self, line: EventLine) -> None:
        rank = _RANK.get(line.kind, 0)
        if len(self._lines) >= self.size and not self._make_room(rank):
            self._drop(line)
            return
        self._append(line, rank)

    def _append(self, line: EventLine, rank: int) -> None:
        self._counter += 1
        self._lines[self._counter] = line
        self._ranks[rank].append(self._counter)
        self._last[line.session_id] = self._counter
        self._news.set()

    def _make_room(self, rank: int) -> bool:
        """Drop the oldest of the least valuable that wait. False if they are all worth more than ``rank``."""
        for numbers in self._ranks[: rank + 1]:
            while numbers:
                line = self._lines.pop(numbers.popleft(), None)
                if line is not None:
                    self._drop(line)
                    return True
        return False

    def _drop(self, line: EventLine) -> None:
        self._note_drop(line.session_id, line.kind, OVERLOAD, 1)
        if self._may_complain():
            logger.error(
                "More than %d events wait for the database (EVENT_QUEUE_SIZE): the least valuable are dropped, %d so "
                "far. Each session's history says which",
                self.size,
                self.dropped,
            )

    def _note_drop(self, session_id: uuid.UUID, kind: str, reason: str, count: int) -> None:
        self.dropped += count
        self._drops.setdefault(session_id, Counter())[kind, reason] += count

    def _tell_drops(self, session_id: uuid.UUID) -> None:
        """Put down what the session's history lacks. These lines are few, and have a place however full it is."""
        drops = self._drops.pop(session_id, Counter())
        for reason in sorted({reason for _, reason in drops}):
            kinds = {kind: count for (kind, because), count in sorted(drops.items()) if because == reason}
            data = {"kinds": kinds, "reason": reason}
            self._append(EventLine(session_id, "dropped", datetime.now(UTC), data), len(_VALUE) - 1)

    # The writer

    async def _run(self) -> None:
        while True:
            await self._news.wait()
            await wait_for_event(self._hurry, get_settings().FLUSH_INTERVAL)
            self._hurry.clear()
            try:
                await self._write_what_waits()
            except Exception:
                logger.exception("The recorder failed; it goes on")
            if not self._lines:
                self._news.clear()

    async def _write_what_waits(self) -> None:
        if self._drops and len(self._lines) < self.size and self._may_tell_drops():
            for session_id in list(self._drops):
                self._tell_drops(session_id)
        upto = self._counter  # what comes meanwhile waits for the next time, or a flood would never let it end
        while self._lines and next(iter(self._lines)) <= upto:
            numbers = list(islice(self._lines, _BATCH))
            batch = [self._lines.pop(number) for number in numbers]
            self._writing = numbers
            try:
                await self._write(batch)
            finally:
                self._writing = ()
            for waiting in self._ranks:
                while waiting and waiting[0] <= numbers[-1]:
                    waiting.popleft()
            self._wake()

    async def _write(self, batch: list[EventLine]) -> None:
        """Write a batch, however long the database is away."""
        delay, away_since = _FIRST_RETRY_SECONDS, 0.0
        after: dict[uuid.UUID, int] | None = None
        while True:
            try:
                with span("agent_recorder.flush", **{"visionagents.events": len(batch)}):
                    last = await session_rows.record(batch, after=after)
            except errors.DATABASE_ERRORS as error:
                if not away_since:
                    away_since = time.monotonic()
                    logger.warning("Events wait: the database does not answer (%s)", errors.first_line(error))
                after = {line.session_id: self._seq.get(line.session_id, 0) for line in batch}
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LAST_RETRY_SECONDS)
            except Exception as error:
                await self._write_in_parts(batch, error)
                return
            else:
                break
        if away_since:
            logger.info("The database answers again; events waited for %.0f s", time.monotonic() - away_since)
        self.written += len(batch)
        for session_id, seq in last.items():
            if session_id in self._last:  # else it has settled meanwhile
                self._seq[session_id] = seq

    async def _write_in_parts(self, batch: list[EventLine], error: Exception) -> None:
        """A line that the database refuses must not keep the others from being written."""
        if len(batch) == 1:
            line = batch[0]
            logger.error("A %r event of session %s is refused", line.kind, line.session_id, exc_info=error)
            if line.kind != "dropped":
                self._note_drop(line.session_id, line.kind, "refused by the database", 1)
            return
        middle = len(batch) // 2
        await self._write(batch[:middle])
        await self._write(batch[middle:])

    # Who waits for it

    async def _until_written(self, number: int) -> None:
        if number < self._oldest():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._settling.append((number, future))
        self._hurry.set()
        try:
            await future
        finally:
            self._settling = [entry for entry in self._settling if entry[1] is not future]

    def _oldest(self) -> int:
        """The number of the oldest event that is not written yet."""
        return next(iter(self._writing or self._lines), self._counter + 1)

    def _wake(self) -> None:
        oldest = self._oldest()
        for number, future in self._settling:
            if number < oldest and not future.done():
                future.set_result(None)
        if any(not future.done() for _, future in self._settling):
            self._hurry.set()
