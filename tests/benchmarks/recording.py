"""The recorder in a process of its own: ``python -m tests.benchmarks.recording SESSIONS RATE SECONDS``.

Each of SESSIONS sessions has RATE events a second for SECONDS, spread evenly, then all end at once. Prints one JSON
line: what was written, whether it is whole and in order, how late the event loop was, and how much memory grew.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_PROBE_SECONDS = 0.005
_STEP_SECONDS = 0.01
_BASELINE_SECONDS = 3.0
_KINDS = ("user_turn_started", "message", "user_turn_ended", "agent_turn_started", "tool_started", "tool_ended")
_KINDS += ("message", "agent_turn_ended", "turn", "custom")


def _data(kind: str, number: int) -> dict[str, Any]:
    text = f"This is what somebody said in event {number} of a session, which is a sentence of the usual length."
    common: dict[str, dict[str, Any]] = {
        "message": {"message_id": f"message-{number}", "role": "user", "user_id": "caller", "completed": True},
        "tool_started": {"tool_call_id": f"call-{number}", "name": "look_up", "arguments": {"thing": text}},
        "tool_ended": {"tool_call_id": f"call-{number}", "ok": True, "ms": 12.5, "result": {"found": [text, number]}},
        "turn": {"participant_id": "caller-1", "how": "speech", "end_of_turn_ms": 500, "total_ms": 900},
    }
    return {"number": number, "text": text, **common.get(kind, {})}


class Lag:
    """How late the event loop wakes who sleeps."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def watch(self) -> None:
        while True:
            due = time.perf_counter() + _PROBE_SECONDS
            await asyncio.sleep(_PROBE_SECONDS)
            self.seconds.append(time.perf_counter() - due)

    def percentile_ms(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _measure_lag(seconds: float) -> Lag:
    lag = Lag()
    watching = asyncio.create_task(lag.watch())
    await asyncio.sleep(seconds)
    watching.cancel()
    return lag


async def measure(sessions: int, rate: float, seconds: float) -> dict[str, Any]:
    from visionagents_runner.models import AgentSession, EndReason
    from visionagents_runner.observe import observe
    from visionagents_runner.sessions.recorder import Recorder
    from visionagents_runner.store import database

    rows = [AgentSession(call_id=f"call-{number}") for number in range(sessions)]
    await database.write(lambda: [row.insert() for row in rows])
    recorder = Recorder()
    recorder.start()
    observers = []
    for row in rows:
        observer = observe(SimpleNamespace())  # type: ignore[arg-type]
        observer.add_listener(lambda event, key=row.pk: recorder.record(key, event))  # type: ignore[misc]
        observers.append(observer)
    gc.collect()
    baseline = await _measure_lag(_BASELINE_SECONDS)

    lag = Lag()
    watching = asyncio.create_task(lag.watch())
    numbers: list[Iterator[int]] = [itertools.count() for _ in rows]
    turn = itertools.cycle(range(sessions))
    told, most_waiting, memory = 0, 0, 0
    total = int(sessions * rate * seconds)
    cpu, began = time.thread_time(), time.perf_counter()
    while told < total:
        passed = time.perf_counter() - began
        for _ in range(min(total, int(passed * sessions * rate)) - told):
            which = next(turn)
            number = next(numbers[which])
            kind = _KINDS[number % len(_KINDS)]
            observers[which].tell(kind, _data(kind, number))
            told += 1
        most_waiting = max(most_waiting, recorder.waiting)
        if not memory and passed > seconds / 4:
            memory = _rss_bytes()
        await asyncio.sleep(_STEP_SECONDS)
    cpu = time.thread_time() - cpu
    took = time.perf_counter() - began
    watching.cancel()

    async def end(row: AgentSession) -> None:
        await recorder.settle(row.pk)
        await database.write(row.finish, EndReason.FINISHED)

    began_end = time.perf_counter()
    await asyncio.gather(*(end(row) for row in rows))
    ending = time.perf_counter() - began_end
    grown = _rss_bytes() - memory
    await recorder.close(10)
    found = await database.read(_look, [row.pk for row in rows])
    database.close()
    return {
        "told": told,
        "seconds": took,
        "rate": told / took,
        "written": recorder.written,
        "dropped": recorder.dropped,
        "most_waiting": most_waiting,
        "baseline_p99_ms": baseline.percentile_ms(0.99),
        "lag_p50_ms": lag.percentile_ms(0.5),
        "lag_p99_ms": lag.percentile_ms(0.99),
        "lag_max_ms": lag.percentile_ms(1.0),
        "loop_cpu": cpu / took,
        "grown_mb": grown / 1e6,
        "ending_seconds": ending,
        **found,
    }


def _look(keys: list[Any]) -> dict[str, Any]:
    """What the database holds in the end."""
    from visionagents_runner.models import SessionEvent

    events, dropped, broken = 0, 0, 0
    for key in keys:
        lines = list(SessionEvent.objects.filter(session_id=key).order_by("seq").values_list("seq", "kind", "data"))
        numbers = [data["number"] for _, _, data in lines if "number" in data]
        missing: Counter[str] = Counter()
        for _, kind, data in lines:
            if kind == "dropped":
                missing.update(data["kinds"])
        events += len(numbers)
        dropped += missing.total()
        whole = [seq for seq, _, _ in lines] == list(range(1, len(lines) + 1))
        broken += not (whole and numbers == sorted(set(numbers)) and lines[-1][1] == "ended")
    return {"found": events, "found_dropped": dropped, "broken_sessions": broken}


if __name__ == "__main__":
    import django

    django.setup()
    print(json.dumps(asyncio.run(measure(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))))
