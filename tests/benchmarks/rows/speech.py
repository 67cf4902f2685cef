"""From the end of what a person says to the first sound of the demo agent's answer, all on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from statistics import median
from typing import Any

from ..bench import Bench
from ..processes import ROOT, die_with_parent, environment
from ..results import Result

NAME = "speech"
_MOST_MS = 1000.0
_PARTS = {
    "end_of_turn_ms": "silence until the turn is over",
    "recognition_ms": "recognition beyond that",
    "model_ms": "model",
    "voice_ms": "voice",
}


def run(bench: Bench) -> list[Result]:
    rounds = bench.choose(quick=1, full=2)
    bench.say("answers to recordings of people, in real time")
    figures = _round(bench, rounds)
    answers = figures["answers"]
    waits = [answer["ms"] for answer in answers if answer["ms"] is not None]
    turns = [turn for answer in answers for turn in answer["turn"] if turn["how"] == "speech"]
    parts = "; ".join(f"{words} {_median(turn[key] for turn in turns):.0f}" for key, words in _PARTS.items())
    note = (
        f"{len(answers)} utterances, {len(answers) - len(waits)} without an answer; slowest {max(waits)} ms; medians "
        f"of the parts that the observer tells, in ms: {parts}"
    )
    wait = median(waits)
    listening = figures["listening"]
    costs = "of the loop and the worker thread, without an edge"
    return [
        Result(
            row=NAME,
            what="user silent to answer heard, median",
            ours=wait,
            unit="ms",
            requirement=f"< {_MOST_MS:g}",
            met=wait < _MOST_MS and len(waits) == len(answers),
            note=note,
        ),
        Result(row=NAME, what="CPU of listening to silence", ours=listening["silence"], unit="ms/s", note=costs),
        Result(row=NAME, what="CPU of listening to noise", ours=listening["noise"], unit="ms/s", note=costs),
        Result(row=NAME, what="CPU while somebody speaks", ours=listening["speech"], unit="ms/s", note=costs),
    ]


def _median(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return median(known) if known else float("nan")


def _round(bench: Bench, rounds: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.speaking", str(rounds)],
        cwd=ROOT,
        env=environment(DATABASE_URL=bench.database.fresh()),
        capture_output=True,
        text=True,
        timeout=600,
        preexec_fn=die_with_parent,
    )
    if done.returncode:
        raise RuntimeError(f"Measuring speech failed: {done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures
