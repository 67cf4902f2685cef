"""What the app adds to the start of every management command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from statistics import median

from ..bench import Bench
from ..processes import ROOT, die_with_parent, environment
from ..results import Result

NAME = "startup"
_CHECK = ("manage.py", "check")
_VARIANTS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "with": (_CHECK, {}),
    "without": (_CHECK, {"BENCHMARK_WITHOUT_APP": "1"}),
    "import": (("-c", "import vision_agents.core"), {}),
}


def run(bench: Bench) -> list[Result]:
    rounds = bench.choose(quick=1, full=5)
    wall: dict[str, list[float]] = {name: [] for name in _VARIANTS}
    cpu: dict[str, list[float]] = {name: [] for name in _VARIANTS}
    url = bench.database.fresh()
    first = bench.choose(quick=1, full=0)
    for number in range(first, rounds + 1):
        for name, (arguments, env) in _VARIANTS.items():
            bench.say(f"start-up, {name}, round {number}")
            seconds, cpu_seconds = _round(arguments, environment(DATABASE_URL=url, **env))
            if number:  # the first one compiles, and fills the disk cache
                wall[name].append(seconds)
                cpu[name].append(cpu_seconds)
    note = f"median of {rounds} interleaved rounds; "
    checks = {name: median(values) for name, values in wall.items()}
    spent = {name: median(values) for name, values in cpu.items()}
    return [
        Result(
            row=NAME,
            what="manage.py check with the app / without it",
            ours=checks["with"],
            theirs=checks["without"],
            unit="s",
            note=f"{note}CPU {spent['with']:.2f} s / {spent['without']:.2f} s; `theirs` is the project without the app",
        ),
        Result(
            row=NAME,
            what="manage.py check with the app / import vision_agents.core",
            ours=checks["with"],
            theirs=checks["import"],
            unit="s",
            note=f"{note}for interest: what every command would pay if the app imported it; "
            f"CPU {spent['with']:.2f} s / {spent['import']:.2f} s",
        ),
    ]


def _round(arguments: tuple[str, ...], env: dict[str, str]) -> tuple[float, float]:
    """Return wall and CPU seconds of one process."""
    began, before = time.perf_counter(), os.times()
    subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=60,
        preexec_fn=die_with_parent,
    )
    took, after = time.perf_counter() - began, os.times()
    return took, after.children_user - before.children_user + after.children_system - before.children_system
