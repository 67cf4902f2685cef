"""Concurrent starts over REST, with a ``create_agent`` that takes 0.2 s."""

from __future__ import annotations

import asyncio
import time
from statistics import median

from ..bench import Bench
from ..client import start_many
from ..processes import Host
from ..results import Result

NAME = "starts"
CREATE_SECONDS = 0.2
_LIMIT_SECONDS = 1.0
_DEADLINE_SECONDS = 60.0


def run(bench: Bench) -> list[Result]:
    results = []
    for count, rounds, their_rounds in bench.choose(quick=((10, 1, 1),), full=((50, 3, 2), (100, 3, 1))):
        took: dict[str, list[float]] = {host.name: [] for host in bench.hosts}
        cpu: dict[str, list[float]] = {host.name: [] for host in bench.hosts}
        for number in range(rounds):
            for host in bench.hosts:
                if not host.ours and number >= their_rounds:
                    continue  # one after the other: a round of theirs takes 0.2 s a session
                bench.say(f"{count} concurrent starts, {host.name}, round {number + 1}")
                seconds, cpu_seconds = _round(bench, host, count)
                took[host.name].append(seconds)
                cpu[host.name].append(cpu_seconds / count * 1000)
        for host in bench.hosts:
            if host.ours:
                results += _lines(host, count, rounds, their_rounds, took, cpu)
    return results


def _round(bench: Bench, host: Host, count: int) -> tuple[float, float]:
    with bench.serve(host, BENCHMARK_CREATE_SECONDS=str(CREATE_SECONDS)) as server:

        async def go() -> float:
            began = time.perf_counter()
            answers = await start_many(server, [f"call-{number}" for number in range(count)])
            took = time.perf_counter() - began
            refused = [answer for answer in answers if answer.status != 201]
            if refused:
                raise RuntimeError(f"{len(refused)} starts failed, one with {refused[0].status}: {refused[0].body!r}")
            return took

        cpu_began = server.cpu_seconds()
        began = time.perf_counter()
        took = asyncio.run(go())
        cpu = server.cpu_seconds() - cpu_began
        if host.ours:
            # It answers after the row is active; if the database said otherwise, the time goes on.
            while (active := sum(bench.database.active_by_worker().values())) != count:
                took = time.perf_counter() - began
                if took > _DEADLINE_SECONDS:
                    raise RuntimeError(f"Only {active} of {count} rows became active")
        return took, cpu


def _lines(
    host: Host,
    count: int,
    rounds: int,
    their_rounds: int,
    took: dict[str, list[float]],
    cpu: dict[str, list[float]],
) -> list[Result]:
    ours, theirs = median(took[host.name]), median(took["theirs"])
    required = count == 100
    how = f"median of {rounds} rounds (theirs {their_rounds})"
    return [
        Result(
            row=NAME,
            what=f"{count} concurrent starts, create_agent 0.2 s: all active",
            host=host.name,
            ours=ours,
            theirs=theirs,
            unit="s",
            requirement=f"active within {_LIMIT_SECONDS:g} s, every round" if required else "",
            met=max(took[host.name]) <= _LIMIT_SECONDS if required else None,
            note=f"{how}; ours: POST answered and rows `active` in the database; worst {max(took[host.name]):.2f} s",
        ),
        Result(
            row=NAME,
            what=f"CPU of one of {count} concurrent starts",
            host=host.name,
            ours=median(cpu[host.name]),
            theirs=median(cpu["theirs"]),
            unit="ms",
            note=f"{how}; the server's process, database threads included; theirs keeps no record",
        ),
    ]
