"""From DELETE to an agent that has closed, on the process that runs it."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from statistics import median

from ..bench import Bench
from ..client import path_of, request, start_all
from ..processes import Host
from ..results import Result

NAME = "close"
_LIMIT_MS = 50.0
_PATIENCE_SECONDS = 15.0


def run(bench: Bench) -> list[Result]:
    count = bench.choose(quick=5, full=20)
    # Over one maintenance interval of theirs, so that their wait is fairly sampled.
    spread = bench.choose(quick=1.0, full=5.0)
    took: dict[str, list[float]] = {}
    cancelled: dict[str, list[float]] = {}
    for host in bench.hosts:
        bench.say(f"DELETE to agent closed, {host.name}")
        cancelled[host.name], took[host.name] = _round(bench, host, count, spread)
    results = []
    for host in bench.hosts:
        if not host.ours:
            continue
        for word, figure in (("median", median), ("slowest", max)):
            results.append(
                Result(
                    row=NAME,
                    what=f"DELETE to agent.close() returned, {word} of {count}",
                    host=host.name,
                    ours=figure(took[host.name]),
                    theirs=figure(took["theirs"]),
                    unit="ms",
                    requirement=f"under {_LIMIT_MS:g} ms",
                    met=figure(took[host.name]) < _LIMIT_MS,
                    note=f"1 round, spread over {spread:g} s, 30 sessions live; "
                    f"join_call cancelled after {figure(cancelled[host.name]):.1f} ms",
                )
            )
    return results


def _round(bench: Bench, host: Host, count: int, spread: float) -> tuple[list[float], list[float]]:
    """Return milliseconds from sending DELETE until join_call was cancelled, and until close() returned."""
    log = bench.folder / f"closed-{host.name}.jsonl"
    log.unlink(missing_ok=True)
    with bench.serve(host, BENCHMARK_LOG=str(log)) as server:

        async def go() -> dict[str, float]:
            made = await start_all(server, 30)
            sent = {}
            for call_id, session_id in made[:count]:
                answer = await request(server, "DELETE", path_of(call_id, session_id))
                if answer.status != 202:
                    raise RuntimeError(f"DELETE was answered with {answer.status}: {answer.body!r}")
                sent[call_id] = answer.sent_at
                await asyncio.sleep(spread / count)
            return sent

        sent = asyncio.run(go())
        closed = _wait_closed(log, count)
    return (
        [(closed[call_id]["cancelled_at"] - at) * 1000 for call_id, at in sent.items()],
        [(closed[call_id]["closed_at"] - at) * 1000 for call_id, at in sent.items()],
    )


def _wait_closed(log: Path, count: int) -> dict[str, dict[str, float]]:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        lines = log.read_text().splitlines() if log.exists() else []
        if len(lines) >= count:
            return {line["call_id"]: line for line in map(json.loads, lines)}
        if time.monotonic() > deadline:
            raise RuntimeError(f"Only {len(lines)} of {count} agents closed")
        time.sleep(0.05)
