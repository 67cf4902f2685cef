"""GET of a live session: requests a second through a real server."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from statistics import median
from typing import Any

from ..bench import Bench
from ..client import path_of, start_all
from ..processes import ROOT, THEIRS, UVICORN, Host, Server, die_with_parent, environment
from ..results import Result

NAME = "get"
_CONNECTIONS = 16


def run(bench: Bench) -> list[Result]:
    rounds = bench.choose(quick=1, full=3)
    seconds = bench.choose(quick=1.5, full=4.0)
    variants: list[tuple[str, Host, str, dict[str, str]]] = [(host.name, host, "WARNING", {}) for host in bench.hosts]
    if not bench.quick:
        variants.append(("uvicorn, include()", UVICORN, "WARNING", {"BENCHMARK_LEAN": "0"}))
        variants.append(("uvicorn, access log", UVICORN, "INFO", {}))
        variants.append(("theirs, access log", THEIRS, "INFO", {}))
    found: dict[str, list[dict[str, float]]] = {name: [] for name, *_ in variants}
    for number in range(rounds):
        for name, host, level, env in variants:
            bench.say(f"GET of a live session, {name}, round {number + 1}")
            with bench.serve(host, log_level=level, **env) as server:
                found[name].append(_round(server, seconds))
    results = []
    for name, host, *_ in variants:
        if not host.ours:
            continue
        baseline = "theirs, access log" if name.endswith("access log") else "theirs"
        ours, theirs = found[name], found[baseline]
        busy = max(each["busy"] for each in ours)
        how = f"median of {rounds} rounds of {seconds:g} s"
        results += [
            Result(
                row=NAME,
                what=f"GET a second, {_CONNECTIONS} keep-alive connections",
                host=name,
                ours=_median(ours, "per_second"),
                theirs=_median(theirs, "per_second"),
                unit="/s",
                better="higher",
                note=f"{how}; load generator (plain sockets, own process) took {busy:.0%} of a core; "
                f"p99 {_median(ours, 'p99_ms'):.1f} ms (theirs {_median(theirs, 'p99_ms'):.1f})",
            ),
            Result(
                row=NAME,
                what="CPU of one GET, server included",
                host=name,
                ours=_median(ours, "cpu_us"),
                theirs=_median(theirs, "cpu_us"),
                unit="us",
                note=f"{how}; the server's process",
            ),
        ]
    return results


def _round(server: Server, seconds: float) -> dict[str, float]:
    [(call_id, session_id)] = asyncio.run(start_all(server, 1))
    began = server.cpu_seconds()
    figures = load(server.port, path_of(call_id, session_id), seconds)
    # The generator's warm-up is counted in the CPU, and in the requests.
    figures["cpu_us"] = (server.cpu_seconds() - began) / figures["all_requests"] * 1e6
    return figures


def load(port: int, path: str, seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.load", str(port), path, str(_CONNECTIONS), str(seconds)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=seconds + 30,
        preexec_fn=die_with_parent,
    )
    if done.returncode:
        raise RuntimeError(f"The load generator failed: {done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def _median(figures: list[dict[str, float]], key: str) -> float:
    return median(each[key] for each in figures)
