"""Signs of life that agents leave in files, a file a process: what a session really did, whatever its row says.

A line is ``KIND TIME WORDS...``; times are seconds since boot, which all processes of the machine share, and which go
on while a process is stopped. ``built`` is the end of a session's ``create_agent``, ``start`` and ``stop`` stand around
its ``join_call``, ``closed`` follows its agent's ``close()``, whether that came to its end or was cancelled. A ``tick``
says every 50 ms, while any runs or has not closed, that the event loop that they run on still does.
"""

from __future__ import annotations

import asyncio
import os
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

TICK_SECONDS = 0.05
FOLDER = "CLUSTER_TRACES"


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Tracer:
    """The side of the worker. It opens its file when it is first used, so that a process that forks has its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: tuple[int, int] | None = None
        self._running: set[str] = set()
        self._unclosed: set[str] = set()
        self._ticking: asyncio.Task[None] | None = None

    def built(self, session_id: str, agent: str) -> None:
        self.note("built", session_id, agent)
        self._unclosed.add(session_id)
        self._keep_ticking()

    def closed(self, session_id: str) -> None:
        self._unclosed.discard(session_id)
        self.note("closed", session_id)

    @contextmanager
    def run(self, session_id: str, agent: str, call_id: str) -> Iterator[None]:
        """Trace a ``join_call``, on its event loop."""
        self.note("start", session_id, agent, call_id)
        self._running.add(session_id)
        self._keep_ticking()
        try:
            yield
        finally:
            self._running.discard(session_id)
            self.note("stop", session_id)

    def note(self, kind: str, *words: str) -> None:
        if self._file is None or self._file[0] != os.getpid():
            path = self._folder / f"{os.getpid()}.trace"
            self._file = os.getpid(), os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(self._file[1], " ".join((kind, f"{now():.6f}", *words)).encode() + b"\n")

    def _keep_ticking(self) -> None:
        if self._ticking is None or self._ticking.done():
            self._ticking = asyncio.get_running_loop().create_task(self._tick(), name="trace-tick")

    async def _tick(self) -> None:
        while self._running or self._unclosed:
            self.note("tick")
            await asyncio.sleep(TICK_SECONDS)


@dataclass
class Run:
    """One time that a session's ``join_call`` ran."""

    session_id: str
    agent: str
    call_id: str
    pid: int
    began: float
    stopped: float | None = None
    closed: float | None = None
    last_sign: float = 0.0
    """When it certainly still ran: when its agent had closed, or when it stopped if that never did, or the last tick of
    a process that died, or runs on."""
    signs: list[float] = field(default_factory=list, repr=False)
    """All ticks of its process, those outside of this run too."""

    def alive_after(self, moment: float) -> float:
        """Return for how long it showed life after that moment; not what it slept through, stopped."""
        index = bisect_right(self.signs, moment)
        first = self.signs[index] if index < len(self.signs) else self.last_sign
        return max(0.0, self.last_sign - max(first, moment))


@dataclass
class Built:
    """An agent that ``create_agent`` returned, whether its session ever ran or not."""

    session_id: str
    agent: str
    pid: int
    closed: bool = False


def read_runs(folder: Path) -> list[Run]:
    """Return all that ran, in the order of their beginning."""
    runs: list[Run] = []
    for path in folder.glob("*.trace"):
        runs += _read(path)
    return sorted(runs, key=lambda run: run.began)


def read_built(folder: Path) -> list[Built]:
    """Return the agents that were built for sessions."""
    built: list[Built] = []
    for path in folder.glob("*.trace"):
        mine: dict[str, Built] = {}
        for line in path.read_text().splitlines():
            kind, _, *words = line.split()
            if kind == "built":
                mine[words[0]] = Built(words[0], words[1], int(path.stem))
                built.append(mine[words[0]])
            elif kind == "closed" and words[0] in mine:
                mine[words[0]].closed = True
    return built


def _read(path: Path) -> list[Run]:
    pid = int(path.stem)
    runs: list[Run] = []
    going: dict[str, Run] = {}
    ended: dict[str, Run] = {}
    ticks: list[float] = []
    for line in path.read_text().splitlines():
        kind, at, *words = line.split()
        if kind == "tick":
            ticks.append(float(at))
        elif kind == "start":
            run = Run(words[0], words[1], words[2], pid, float(at), last_sign=float(at), signs=ticks)
            runs.append(run)
            going[run.session_id] = run
        elif kind == "stop":
            run = going.pop(words[0])
            run.stopped = run.last_sign = float(at)
            ended[run.session_id] = run
        elif kind == "closed" and (closed := ended.get(words[0]) or going.get(words[0])) is not None:
            closed.closed = float(at)
            closed.last_sign = max(closed.last_sign, closed.closed)
    for run in going.values():
        run.last_sign = max(run.began, ticks[-1] if ticks else 0.0)
    return runs
