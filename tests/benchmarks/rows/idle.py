"""What a host does for 100 sessions in which nothing happens."""

from __future__ import annotations

import asyncio
import time
from statistics import median

from ..bench import Bench
from ..client import start_all
from ..processes import Host
from ..results import Result

NAME = "idle"
_SESSIONS = 100
_SETTLE_SECONDS = 6.0
"""Longer than a maintenance interval, after which what follows a start (the join, noticed) is over."""


def run(bench: Bench) -> list[Result]:
    rounds = bench.choose(quick=1, full=2)
    seconds = bench.choose(quick=2.0, full=10.0)
    empty: dict[str, list[float]] = {host.name: [] for host in bench.hosts}
    full: dict[str, list[float]] = {host.name: [] for host in bench.hosts}
    for number in range(rounds):
        for host in bench.hosts:
            bench.say(f"CPU of {_SESSIONS} idle sessions, {host.name}, round {number + 1}")
            without, with_sessions = _round(bench, host, seconds)
            empty[host.name].append(without)
            full[host.name].append(with_sessions)
    note = f"median of {rounds} rounds of {seconds:g} s; stub agents; "
    return [
        Result(
            row=NAME,
            what=f"CPU of {_SESSIONS} idle sessions, ms a second",
            host=host.name,
            ours=median(full[host.name]),
            theirs=median(full["theirs"]),
            unit="ms/s",
            note=f"{note}without sessions {median(empty[host.name]):.2f} (theirs {median(empty['theirs']):.2f}); "
            "ours writes heartbeats and reads close requests",
        )
        for host in bench.hosts
        if host.ours
    ]


def _round(bench: Bench, host: Host, seconds: float) -> tuple[float, float]:
    with bench.serve(host) as server:

        def sample(seconds: float) -> float:
            began_cpu, began = server.cpu_seconds(), time.monotonic()
            time.sleep(seconds)
            return (server.cpu_seconds() - began_cpu) / (time.monotonic() - began) * 1000

        without = sample(seconds / 2)
        asyncio.run(start_all(server, _SESSIONS))
        time.sleep(bench.choose(quick=1.0, full=_SETTLE_SECONDS))
        return without, sample(seconds)
