"""What the recorder takes: 200 sessions with 10 events a second each, and the same with the database gone meanwhile."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ..bench import Bench
from ..processes import ROOT, die_with_parent, environment
from ..results import Result
from ..severed import Proxy

NAME = "recorder"
_SESSIONS = 200
_RATE = 10
_MOST_LAG_MS = 5.0
_MOST_GROWTH_MB = 40.0


def run(bench: Bench) -> list[Result]:
    seconds = bench.choose(quick=5.0, full=60.0)
    away = bench.choose(quick=2.0, full=20.0)
    what = f"{_SESSIONS} sessions x {_RATE} events a second for {seconds:g} s"
    bench.say(f"recorder, {what}")
    plain = _round(bench, seconds, 0.0)
    bench.say(f"recorder, the database gone for {away:g} s in the middle")
    severed = _round(bench, seconds, away)
    note = (
        f"loop lag p50 {plain['lag_p50_ms']:.2f}, max {plain['lag_max_ms']:.1f} ms; p99 without events "
        f"{plain['baseline_p99_ms']:.2f} ms; at most {plain['most_waiting']} waited; loop CPU "
        f"{plain['loop_cpu'] * 100:.0f} %; all histories ended {plain['ending_seconds']:.2f} s after the last event"
    )
    gone = f"at most {severed['most_waiting']} waited; {severed['dropped']} dropped, and told in the histories"
    return [
        _result(f"{what}: events lost", plain["told"] - plain["found"], "", "none", plain["told"] == plain["found"]),
        _result("sessions whose history has a gap or a wrong order", plain["broken_sessions"], "", "none", None, note),
        _result(
            "loop lag p99", plain["lag_p99_ms"], "ms", f"< {_MOST_LAG_MS:g}", plain["lag_p99_ms"] < _MOST_LAG_MS, note
        ),
        _result(
            "memory grown", plain["grown_mb"], "MB", f"< {_MOST_GROWTH_MB:g}", plain["grown_mb"] < _MOST_GROWTH_MB, note
        ),
        _result(
            f"database gone for {away:g} s: events lost and not told",
            severed["told"] - severed["found"] - severed["found_dropped"],
            "",
            "none",
            severed["told"] == severed["found"] + severed["found_dropped"] and not severed["broken_sessions"],
            gone,
        ),
        _result("the same: loop lag p99", severed["lag_p99_ms"], "ms", "", None, gone),
    ]


def _result(what: str, value: float, unit: str, requirement: str, met: bool | None, note: str = "") -> Result:
    return Result(row=NAME, what=what, ours=value, unit=unit, requirement=requirement, met=met, note=note)


def _round(bench: Bench, seconds: float, away: float) -> dict[str, Any]:
    url = bench.database.fresh()
    with _reached(url) as (reached, sever):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.recording", str(_SESSIONS), str(_RATE), str(seconds)],
            cwd=ROOT,
            env=environment(DATABASE_URL=reached),
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent,
        )
        if away:
            # After the start of the process, its baseline, and a third of the events.
            timer = threading.Timer(8.0 + seconds / 3, sever, [away])
            timer.start()
        try:
            output, _ = process.communicate(timeout=120 + seconds + away)
        finally:
            process.kill()
            if away:
                timer.cancel()
                timer.join()
    if process.returncode:
        raise RuntimeError(f"The recorder's process ended with {process.returncode}")
    values: dict[str, Any] = json.loads(output)
    return values


@contextmanager
def _reached(url: str) -> Iterator[tuple[str, Any]]:
    """The URL by which the process reaches the database, and what takes it away for some seconds."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":

        def lock(seconds: float) -> None:
            with closing(sqlite3.connect(parts.path, timeout=20, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                time.sleep(seconds)
                connection.execute("ROLLBACK")

        yield url, lock
        return
    with Proxy(parts.hostname or "127.0.0.1", parts.port or (3306 if parts.scheme == "mysql" else 5432)) as proxy:
        user = f"{parts.username}@" if parts.username else ""
        yield urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{proxy.port}")), proxy.sever
