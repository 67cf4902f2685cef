"""Resident memory: of an empty host, and of a session with a real Agent in it."""

from __future__ import annotations

import asyncio
import time
from statistics import median

from ..bench import Bench
from ..client import start_all
from ..processes import Host
from ..results import Result

NAME = "memory"
_FIRST = 10
"""Sessions before the first look: what they load stays, and is no session's."""
_SETTLE_SECONDS = 0.5


def run(bench: Bench) -> list[Result]:
    sessions = bench.choose(quick=20, full=100)
    rounds = bench.choose(quick=1, full=3)
    base: dict[str, list[float]] = {host.name: [] for host in bench.hosts}
    each: dict[str, list[float]] = {host.name: [] for host in bench.hosts}
    for number in range(rounds):
        for host in bench.hosts:
            bench.say(f"memory of a session, {host.name}, round {number + 1}")
            empty, one = _round(bench, host, sessions)
            base[host.name].append(empty / 2**20)
            each[host.name].append(one / 2**10)
    results = []
    for host in bench.hosts:
        if not host.ours:
            continue
        results += [
            Result(
                row=NAME,
                what="memory of one session, a real Agent on stub edge and LLM",
                host=host.name,
                ours=median(each[host.name]),
                theirs=median(each["theirs"]),
                unit="KiB",
                note=f"resident, growth over {sessions} sessions; median of {rounds} rounds",
            ),
            Result(
                row=NAME,
                what="memory of a host without sessions",
                host=host.name,
                ours=median(base[host.name]),
                theirs=median(base["theirs"]),
                unit="MiB",
                note=f"resident, warmed up; ours has Django and its API besides; median of {rounds} rounds",
            ),
        ]
    return results


def _round(bench: Bench, host: Host, sessions: int) -> tuple[int, float]:
    """Return bytes of the empty server, and of one session."""
    with bench.serve(host, BENCHMARK_AGENT="real") as server:
        empty = server.rss_bytes()
        asyncio.run(start_all(server, _FIRST))
        time.sleep(_SETTLE_SECONDS)
        before = server.rss_bytes()
        asyncio.run(start_all(server, sessions, prefix="more"))
        time.sleep(_SETTLE_SECONDS)
        return empty, (server.rss_bytes() - before) / sessions
