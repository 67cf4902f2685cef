"""The one thread of this process that recognises and speaks, and the order in which it does."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Generic, TypeVar

from ...utils.loops import call_from_thread

T = TypeVar("T")

MAX_WAITING = 64
_END_SECONDS = 10.0


class Priority(IntEnum):
    """What is done first, when several wait."""

    FINAL = 0
    """Somebody has ended their turn and waits for an answer."""
    VOICE = 1
    """An answer is to be spoken."""
    SPECULATIVE = 2
    """Somebody may have ended their turn."""
    PARTIAL = 3
    """Somebody is speaking; words to show meanwhile. Given up as soon as anything else waits."""


class EngineBusy(RuntimeError):
    """Too much waits already."""


class Job(Generic[T]):
    """Work for the engine. Await ``done`` on the loop that submitted it; it is cancelled if the work was given up."""

    def __init__(self, engine: Engine, priority: Priority, work: Callable[[Job[T]], T]) -> None:
        self.priority = priority
        self.done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.cancelled = False
        self._engine = engine
        self._work = work

    def cancel(self) -> None:
        """Give it up. What runs in the thread goes on to its next stop; its result is dropped."""
        self.cancelled = True
        self._engine.forget(self)
        if not self.done.done():
            self.done.cancel()

    def promote(self, priority: Priority) -> None:
        """Do it sooner."""
        self._engine.promote(self, priority)

    @property
    def unwanted(self) -> bool:
        """Whether to stop now; work asks between its steps."""
        return self.cancelled or (self.priority is Priority.PARTIAL and self._engine.waiting > 0)

    # The thread's side

    def run(self) -> None:
        try:
            result: Any = self._work(self)
        except BaseException as error:  # the thread must go on, and whoever waits must know
            self._deliver(error=error)
        else:
            self._deliver(result=result)

    def _deliver(self, *, result: Any = None, error: BaseException | None = None) -> None:
        def set_it() -> None:
            if self.done.done():
                return
            if isinstance(error, GaveUp):
                self.done.cancel()
            elif error is not None:
                self.done.set_exception(
                    error if isinstance(error, Exception) else RuntimeError(f"Speech was ended by {error!r}")
                )
            else:
                self.done.set_result(result)

        call_from_thread(self.done.get_loop(), set_it)


class GaveUp(Exception):
    """Raised by work that found itself unwanted."""


class Engine:
    """A thread that works off a bounded queue by priority. It starts with the first job and ends with the process."""

    def __init__(self) -> None:
        self._queues: dict[Priority, deque[Job[Any]]] = {priority: deque() for priority in Priority}
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None
        self._running: Job[Any] | None = None
        self._ended = False

    @property
    def waiting(self) -> int:
        return sum(map(len, self._queues.values()))

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return self._running is None and not self.waiting

    def submit(self, priority: Priority, work: Callable[[Job[T]], T]) -> Job[T]:
        """Have the thread do ``work``. Called on an event loop, which is told the result.

        Raises:
            EngineBusy: too much waits that is at least as urgent. What is less urgent is given up for it.
        """
        job = Job(self, priority, work)
        with self._change:
            if self._ended:
                raise EngineBusy("The process is ending")
            if self.waiting >= MAX_WAITING:
                self._make_room(priority)
            self._queues[priority].append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="speech", daemon=True)
                self._thread.start()
            self._change.notify()
        return job

    def promote(self, job: Job[Any], priority: Priority) -> None:
        with self._change:
            if priority >= job.priority:
                return
            if job in self._queues[job.priority]:
                self._queues[job.priority].remove(job)
                self._queues[priority].append(job)
            job.priority = priority

    def forget(self, job: Job[Any]) -> None:
        with self._change:
            if job in self._queues[job.priority]:
                self._queues[job.priority].remove(job)

    def end(self) -> None:
        """Take no more work, and wait for what runs, but not long."""
        with self._change:
            self._ended = True
            for queue in self._queues.values():
                queue.clear()
            self._change.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_END_SECONDS)

    def _make_room(self, priority: Priority) -> None:
        for other in reversed(Priority):
            if other > priority and self._queues[other]:
                dropped = self._queues[other].popleft()
                dropped._deliver(error=GaveUp())
                return
        raise EngineBusy(f"{MAX_WAITING} pieces of speech wait already: this machine is too slow for so many speakers")

    def _next(self) -> Job[Any] | None:
        with self._change:
            self._running = None
            while not self._ended:
                for priority in Priority:
                    if self._queues[priority]:
                        self._running = self._queues[priority].popleft()
                        return self._running
                self._change.wait()
            return None

    def _work(self) -> None:
        while (job := self._next()) is not None:
            job.run()


_engine: Engine | None = None
_making = threading.Lock()


def speech_engine() -> Engine:
    """The engine of this process."""
    global _engine
    with _making:
        if _engine is None:
            _engine = Engine()
            # A daemon thread that is inside native code when the interpreter goes away can abort the process. A
            # thread that is none would be waited for without a limit, and before this.
            atexit.register(_engine.end)
        return _engine


def _after_fork() -> None:
    global _engine, _making
    _engine, _making = None, threading.Lock()  # the child has neither the thread nor its locks


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
