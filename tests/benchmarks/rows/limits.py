"""Whether limits hold exactly when two processes take starts at once."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack

from ..bench import Bench
from ..client import start_many
from ..processes import DAPHNE, THEIRS, Host
from ..results import Result

NAME = "limits"
_STARTS = 100


def run(bench: Bench) -> list[Result]:
    rounds = bench.choose(quick=1, full=3)
    results = []
    for limit, value, expected, on_one_call, what in (
        ("max_concurrent_sessions", 10, [10, 10], False, "max_concurrent_sessions=10: let in by each process"),
        ("max_sessions_per_call", 3, [3], True, "max_sessions_per_call=3: let in over both processes"),
    ):
        ours = []
        for number in range(rounds):
            bench.say(f"{limit}, two processes, round {number + 1}")
            ours.append(_round(bench, DAPHNE, {limit: value}, on_one_call=on_one_call))
        theirs = None
        if not bench.quick:
            bench.say(f"{limit}, two processes, theirs")
            theirs = _text(_round(bench, THEIRS, {limit: value}, on_one_call=on_one_call))
        worst = next((each for each in ours if each != expected), expected)
        results.append(
            Result(
                row=NAME,
                what=f"{what} of {_STARTS} concurrent starts at each of two processes",
                host="daphne",
                ours=_text(worst),
                theirs=theirs,
                better="exact",
                requirement=f"exactly {_text(expected)}",
                met=all(each == expected for each in ours),
                note=f"{rounds} rounds (theirs 1, with its registry in memory); answers 201 and rows agree",
            )
        )
    return results


def _round(bench: Bench, host: Host, limits: dict[str, int], *, on_one_call: bool) -> list[int]:
    """Return how many each process let in; in one sum if the limit is on the call."""
    env = {"BENCHMARK_CREATE_SECONDS": "0.05", "BENCHMARK_LIMITS": json.dumps(limits)}
    with ExitStack() as stack:
        servers = [stack.enter_context(bench.serve(host, fresh=number == 0, **env)) for number in range(2)]
        names = [["the-call" if on_one_call else f"call-{n}-{i}" for i in range(_STARTS)] for n in range(2)]

        async def go() -> list[int]:
            both = await asyncio.gather(
                *(start_many(server, each) for server, each in zip(servers, names, strict=True))
            )
            for answer in (answer for answers in both for answer in answers):
                if answer.status not in {201, 429}:
                    raise RuntimeError(f"A start was answered with {answer.status}: {answer.body!r}")
            return [sum(answer.status == 201 for answer in answers) for answers in both]

        let_in = asyncio.run(go())
        if host.ours:
            rows = sorted(bench.database.active_by_worker().values())
            if rows != sorted(count for count in let_in if count):
                raise RuntimeError(f"{let_in} starts were answered with 201, but the rows are {rows}")
    return [sum(let_in)] if on_one_call else let_in


def _text(counts: list[int]) -> str:
    return " + ".join(map(str, counts))
