"""`Watch`: in the server's process, how long each callback of its event loop takes, and which line takes it.

The loop runs one callback after the other: while one runs, no audio moves. A callback's time counts but for what the
kernel gave to other processes meanwhile (``run_delay`` of ``/proc/thread-self/schedstat``), so that a busy machine does
not look like a fault; what is left is work, or waiting: for a lock, a thread, or Python's interpreter lock.

It answers on a Unix socket, from a thread: one line that names a command, one line of JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

TICK_SECONDS = 0.005
NOTED_SECONDS = 0.02
"""Callbacks that take longer are kept with what they did."""
_LOOK_SECONDS = 0.01
_FRAMES = 5
_KEPT = 20


class Watch:
    def __init__(self) -> None:
        self._thread = 0
        self._schedstat = -1
        self._delay = self._delay_read = 0.0
        self._began = 0.0
        """Of the callback that runs; 0 while none does."""
        self._handle: asyncio.Handle | None = None
        self._loop: Any = None
        self._seen: Counter[str] = Counter()
        self._collecting = 0.0
        self._collected = 0.0
        self._due = 0.0
        self._busy_at_tick = self._delay_at_tick = 0.0
        self._busy = 0.0
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._most = self._late = self._elsewhere = self._longest_collection = 0.0
        self._lates: list[float] = []
        self._holds: list[dict[str, Any]] = []
        self._count = 0

    def install(self, address: str) -> None:
        """Watch the loop of the main thread, which need not run yet, and answer at ``address``."""
        original = asyncio.Handle._run  # type: ignore[attr-defined]
        main, ident = threading.main_thread().ident, threading.get_ident
        clock, cpu = time.perf_counter, time.thread_time

        def run(handle: asyncio.Handle) -> None:
            if ident() != main:
                original(handle)
                return
            began = clock()
            if self._loop is None:
                self._meet(handle)
            if began - self._delay_read > 0.001:
                self._read_delay(began)
            delay, used, self._collected = self._delay, cpu(), 0.0
            self._handle, self._began = handle, began
            try:
                original(handle)
            finally:
                self._began = 0.0
                wall = clock() - began
                self._busy += wall
                self._count += 1
                if wall > 0.005:
                    self._note(handle, wall, cpu() - used, delay)
                elif wall > self._most:
                    self._most = wall

        asyncio.Handle._run = run  # type: ignore[attr-defined]
        gc.callbacks.append(self._on_collection)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen()
        threading.Thread(target=self._serve, args=(listener,), name="hostile-watch", daemon=True).start()
        threading.Thread(target=self._look, name="hostile-look", daemon=True).start()

    def _meet(self, handle: asyncio.Handle) -> None:
        self._loop = handle._loop  # type: ignore[attr-defined]
        self._thread = threading.get_ident()
        self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        self._read_delay(time.perf_counter())
        self._schedule()

    def _read_delay(self, now: float) -> None:
        self._delay = int(os.pread(self._schedstat, 64, 0).split()[1]) / 1e9
        self._delay_read = now

    # On the loop

    def _schedule(self) -> None:
        self._due = self._loop.time() + TICK_SECONDS
        self._busy_at_tick, self._delay_at_tick = self._busy, self._delay
        self._loop.call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        late = self._loop.time() - self._due
        self._read_delay(time.perf_counter())
        late = max(0.0, late - (self._delay - self._delay_at_tick))
        self._lates.append(late)
        self._late = max(self._late, late)
        # What no callback of the loop did: another thread kept the interpreter lock.
        self._elsewhere = max(self._elsewhere, late - (self._busy - self._busy_at_tick))
        self._schedule()

    def _note(self, handle: asyncio.Handle, wall: float, used: float, delay: float) -> None:
        self._read_delay(time.perf_counter())
        held = max(used, wall - (self._delay - delay))
        self._most = max(self._most, held)
        seen, self._seen = self._seen, Counter()
        if held > NOTED_SECONDS:
            where = seen.most_common(1)[0][0] if seen else _name(handle)
            hold = {
                "held_ms": round(held * 1000, 1),
                "cpu_ms": round(used * 1000, 1),
                "wall_ms": round(wall * 1000, 1),
                "collecting_ms": round(self._collected * 1000, 1),
                "where": where,
            }
            with self._lock:
                self._holds.append(hold)
                self._holds.sort(key=lambda each: -each["held_ms"])
                del self._holds[_KEPT:]

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._collecting = now
        else:
            took = now - self._collecting
            self._collected += took
            self._longest_collection = max(self._longest_collection, took)

    # In threads

    def _look(self) -> None:
        """See what a callback does that takes its time."""
        looked_at = 0.0
        while True:
            time.sleep(_LOOK_SECONDS)
            began = self._began
            if not began or time.perf_counter() - began < NOTED_SECONDS:
                continue
            frame = sys._current_frames().get(self._thread)
            if began != looked_at:
                looked_at = began
                self._seen = Counter()
            if frame is not None and self._began == began:
                self._seen[_describe(frame)] += 1

    def _serve(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            with suppress(OSError), connection, connection.makefile("rwb") as stream:
                for line in stream:
                    stream.write(json.dumps(self._answer(line.decode().strip())).encode() + b"\n")
                    stream.flush()

    def _answer(self, command: str) -> dict[str, Any]:
        if command == "settle":
            # Not while anything is measured: this holds the interpreter lock.
            gc.collect()
            return {"tasks": len(asyncio.all_tasks(self._loop)), "threads": threading.active_count()}
        with self._lock:
            running = time.perf_counter() - began if (began := self._began) else 0.0
            lates = sorted(self._lates) or [0.0]
            found = {
                "held_ms": round(self._most * 1000, 1),
                "late_ms": round(self._late * 1000, 1),
                "late_p99_ms": round(lates[len(lates) * 99 // 100] * 1000, 1),
                "elsewhere_ms": round(self._elsewhere * 1000, 1),
                "collection_ms": round(self._longest_collection * 1000, 1),
                "running_ms": round(running * 1000, 1),
                "callbacks": self._count,
                "holds": self._holds,
            }
            self._forget()
        return found


def _describe(frame: FrameType | None) -> str:
    """The innermost lines, the innermost first, and the innermost of this project."""
    lines: list[str] = []
    if frame is not None and frame.f_code.co_name == "_on_collection":
        lines.append("garbage collection")
        frame = frame.f_back
    while frame is not None and frame.f_code.co_filename != __file__:
        path = frame.f_code.co_filename
        ours = "/visionagents_runner/" in path
        if len(lines) < _FRAMES or ours:
            short = "/".join(path.split("/")[-2:])
            lines.append(f"{short}:{frame.f_lineno} {frame.f_code.co_name}")
        if ours and len(lines) >= _FRAMES:
            break
        frame = frame.f_back
    return " < ".join(lines)


def _name(handle: asyncio.Handle) -> str:
    callback: Callable[..., Any] | None = getattr(handle, "_callback", None)
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task):
        return f"task {task.get_name()} {getattr(task.get_coro(), '__qualname__', '')}"
    return str(getattr(callback, "__qualname__", callback))
