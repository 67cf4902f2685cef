"""`LoopLag`: how long the event loop keeps things waiting, and which line of code holds it.

The loop carries the audio of every call of the process: what holds it for 50 ms is heard. A timer of the loop measures
how late it is called. A thread looks, when the timer is late, at what the loop's thread is executing.
"""

from __future__ import annotations

import asyncio
import linecache
import logging
import os
import sys
import sysconfig
import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypedDict

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.05
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram, in seconds."""

_WATCH_SECONDS = 0.1
_KEPT = round(60 / TICK_SECONDS)
_RECENT = round(10 / TICK_SECONDS)
_SUSTAINED = _RECENT // 5
_PAUSES, _PAUSES_SECONDS = 3, 30.0
_STOOD_STILL_SECONDS = 1.0
_STILL_BLOCKED_SECONDS = 5.0
_QUIET_SECONDS = 10.0
_WARMING_UP_SECONDS = 1.0
"""Importing takes its time, and there is no call yet whose audio it could hold up: only what is longer is told."""

_LIBRARIES = (
    *{sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")},
    str(Path(__file__).parent) + os.sep,
    "<frozen",
)


class LagSummary(TypedDict):
    """Milliseconds, over the last minute; ``overloaded``: it takes no new sessions for that."""

    p50_ms: float
    p99_ms: float
    max_ms: float
    overloaded: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where the loop's thread was. ``caller`` is the innermost line of the project, where that is not this line."""

    line: str
    caller: str = ""
    task: str = ""

    def __str__(self) -> str:
        text = f"in {self.line}"
        if self.caller:
            text += f", called from {self.caller}"
        return f"{text}, in the task {self.task}" if self.task else text


class LoopLag:
    """Watches the event loop on which it is started.

    Args:
        warning: Seconds above which what held the loop is named in the log; 0 for never.
        limit: Seconds. The loop is `overloaded` when things had to wait longer than that for a fifth of the last ten
            seconds, in several pauses: one long pause, an import say, is no reason to expect another. 0 for never.
        counts: Whether a pause may count for `overloaded` now, and be worth a warning if it is shorter than a second.
            A worker that is warming up blocks, and takes nothing.
    """

    def __init__(self, *, warning: float = 0.2, limit: float = 0.5, counts: Callable[[], bool] = lambda: True) -> None:
        self.overloaded = False
        self.buckets = [0] * (len(BUCKETS) + 1)
        """How many moments so far had to wait up to each of BUCKETS, and longer than the last."""
        self.sum = 0.0
        """Seconds that all those moments had to wait, together."""

        self._warning = warning
        self._limit = limit
        self._counts = counts
        self._kept: deque[float] = deque(maxlen=_KEPT)
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._pauses: deque[float] = deque(maxlen=_PAUSES)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._cpu = 0.0
        self._long: deque[float] = deque(maxlen=64)
        self._thread_id = 0
        self._stopping = threading.Event()
        self._wakes = self._wakes_at_tick = 0
        self._warned_at = float("-inf")
        self._unsaid = 0

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._stopping = threading.Event()
        self._schedule(time.monotonic(), time.process_time())
        if self._warning > 0 or self._limit > 0:
            threading.Thread(target=self._watch, args=(self._stopping,), name="agent-loop-lag", daemon=True).start()

    def stop(self) -> None:
        """Stop watching; what was measured stays. May be called twice."""
        self._stopping.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def summary(self) -> LagSummary:
        lags = sorted(self._kept) or [0.0]
        p50, p99, most = (round(lags[int(share * (len(lags) - 1))] * 1000, 1) for share in (0.5, 0.99, 1))
        return {"p50_ms": p50, "p99_ms": p99, "max_ms": most, "overloaded": self.overloaded}

    # On the loop

    def _schedule(self, now: float, cpu: float) -> None:
        self._due, self._cpu, self._wakes_at_tick = now + TICK_SECONDS, cpu, self._wakes
        self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        now, cpu = time.monotonic(), time.process_time()
        lag = max(0.0, now - self._due)
        if lag < _STOOD_STILL_SECONDS or not self._process_stood_still(lag, cpu - self._cpu):
            self._note(lag)
        self._schedule(now, cpu)

    def _process_stood_still(self, lag: float, cpu: float) -> bool:
        """Whether the whole process did not run (SIGSTOP, a suspended machine), rather than its loop.

        What holds the loop either computes, or lets the watching thread run as usual.
        """
        wakes = self._wakes - self._wakes_at_tick
        return cpu < lag / 4 and wakes * _WATCH_SECONDS < lag / 4

    def _note(self, lag: float) -> None:
        counts = self._counts()
        if self._warning and lag > (self._warning if counts else max(self._warning, _WARMING_UP_SECONDS)):
            self._long.append(lag)
        # Whatever wanted to run while the loop was held waited for what was left of that: were this one moment among
        # many, a loop that is held for a second every two would look as if it was nearly always in time.
        waited = lag
        for _ in range(_KEPT):
            self._kept.append(waited)
            self.buckets[bisect_left(BUCKETS, waited)] += 1
            self.sum += waited
            if counts:
                self._recent.append(waited)
            waited -= TICK_SECONDS
            if waited <= 0:
                break
        if not self._limit:
            return
        if counts and lag > self._limit:
            self._pauses.append(time.monotonic())
            self._judge()
        elif self.overloaded:
            self._judge()

    def _judge(self) -> None:
        late = sum(waited > self._limit for waited in self._recent)
        pauses = len(self._pauses) == _PAUSES and time.monotonic() - self._pauses[0] < _PAUSES_SECONDS
        if not self.overloaded and pauses and late >= _SUSTAINED:
            self.overloaded = True
            logger.error(
                "The event loop is overloaded: for a fifth of the last 10 s, what wanted to run had to wait longer "
                "than %g s (LOOP_LAG_LIMIT). This worker takes no new sessions until that is over",
                self._limit,
            )
        elif self.overloaded and late < _SUSTAINED // 2:
            self.overloaded = False
            logger.warning("The event loop has recovered: this worker takes new sessions again")

    # In the thread

    def _watch(self, stopping: threading.Event) -> None:
        seen: Counter[Place] = Counter()
        told = False
        before, cpu_before = time.monotonic(), time.process_time()
        while not stopping.wait(_WATCH_SECONDS):
            if self._loop is None or self._loop.is_closed():
                return
            self._wakes += 1
            now, cpu = time.monotonic(), time.process_time()
            away, worked = now - before - _WATCH_SECONDS, cpu - cpu_before
            before, cpu_before = now, cpu
            while self._long:
                self._report(self._long.popleft(), seen)
                seen, told = Counter(), False
            held = now - self._due
            if held <= self._warning or not self._warning:
                seen.clear()
            elif away < self._warning or worked > away / 2:  # else nothing of this process ran, the loop neither
                try:
                    place = locate(self._thread_id, self._loop)
                except Exception:
                    # A running thread is looked at from outside: whatever is odd there, the next look comes soon.
                    place = None
                if place is not None:
                    seen[place] += 1
                if held > _STILL_BLOCKED_SECONDS and not told and seen:
                    told = True
                    self._warn("has stood still for %.1f s now", held, seen)

    def _report(self, seconds: float, seen: Counter[Place]) -> None:
        if time.monotonic() - self._warned_at < _QUIET_SECONDS and seconds < _STILL_BLOCKED_SECONDS:
            self._unsaid += 1
            return
        self._warn("stood still for %.2f s", seconds, seen)

    def _warn(self, what: str, seconds: float, seen: Counter[Place]) -> None:
        unsaid, self._unsaid = self._unsaid, 0
        self._warned_at = time.monotonic()
        # A pause that no thread could look into: C code that keeps the interpreter to itself, or a busy machine.
        where = f"{seen.most_common(1)[0][0]}" if seen else "in code that let no other thread run, or for want of CPU"
        logger.warning(
            "The event loop " + what + ", and with it the audio of every call: %s. Await what waits; what computes "
            "belongs in a thread (asyncio.to_thread)%s",
            seconds,
            where,
            f". {unsaid} shorter pauses since the last such line" if unsaid else "",
        )


def locate(thread_id: int, loop: asyncio.AbstractEventLoop | None = None) -> Place | None:
    """Return what a thread that runs an event loop is executing; None if it only waits for something to do."""
    frame = sys._current_frames().get(thread_id)
    if frame is None or (frame.f_code.co_name == "select" and frame.f_code.co_filename.endswith("selectors.py")):
        return None
    line, caller = frame, None
    while frame is not None and not _is_loop(frame):
        if not _is_library(frame):
            caller = frame
            break
        frame = frame.f_back
    task = None
    with suppress(RuntimeError):
        task = asyncio.current_task(loop) if loop is not None else None
    return Place(
        line=_describe(line),
        caller="" if caller is None or caller is line else _describe(caller),
        task="" if task is None else task.get_name(),
    )


def _is_loop(frame: FrameType) -> bool:
    return frame.f_code.co_name == "_run" and frame.f_code.co_filename.endswith("events.py")


def _is_library(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_LIBRARIES)


def _describe(frame: FrameType) -> str:
    # A frame between two lines has no number.
    path, number = frame.f_code.co_filename, frame.f_lineno or frame.f_code.co_firstlineno
    source = linecache.getline(path, number).strip()
    return f"{path}:{number}, {frame.f_code.co_name}()" + (f": `{source[:120]}`" if source else "")
