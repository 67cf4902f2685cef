"""Loop CPU of a GET, in process."""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median

from ..bench import Bench
from ..processes import ROOT, die_with_parent, environment
from ..results import Result

NAME = "cpu"
_VARIANTS = ("lean", "theirs", "include")
_WORDS = {
    "loop_us": ("loop CPU of GET {route}, in process", "the loop's thread alone"),
    "process_us": ("all CPU of GET {route}, in process", "with the threads that the request hops to"),
}


def run(bench: Bench) -> list[Result]:
    rounds = bench.choose(quick=1, full=3)
    calls = bench.choose(quick=1000, full=5000)
    found: dict[str, list[dict[str, float]]] = {which: [] for which in _VARIANTS}
    for number in range(rounds):
        for which in _VARIANTS:
            bench.say(f"loop CPU of a GET, {which}, round {number + 1}")
            found[which].append(_round(bench, which, calls))
    results = []
    for which, host in (("lean", "lean mount"), ("include", "include(), Django's middleware")):
        for key, (words, how) in _WORDS.items():
            for prefix, route in (("", "/calls/{id}/sessions/{id}"), ("sessions_", "/sessions/{id}")):
                if prefix and key != "loop_us":
                    continue
                ours = median(each[prefix + key] for each in found[which])
                theirs = median(each[key] for each in found["theirs"])
                required = which == "lean"
                results.append(
                    Result(
                        row=NAME,
                        what=words.format(route=route),
                        host=host,
                        ours=ours,
                        theirs=theirs,
                        unit="us",
                        requirement="at most half of theirs" if required else "",
                        met=ours <= theirs / 2 if required else None,
                        note=f"{how}; median of {rounds} rounds of {calls} calls",
                    )
                )
    return results


def _round(bench: Bench, which: str, calls: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.inprocess", which, str(calls)],
        cwd=ROOT,
        env=environment(DATABASE_URL=bench.database.fresh()),
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=die_with_parent,
    )
    if done.returncode:
        raise RuntimeError(f"Measuring {which} in process failed: {done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures
