"""How long the event loop keeps things waiting, and which line holds it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import until
from tests.processes import ROOT
from visionagents_runner.telemetry.looplag import BUCKETS, LoopLag

pytestmark = pytest.mark.slow

LOGGER = "visionagents_runner.telemetry.looplag"


@pytest.fixture
async def lag() -> AsyncIterator[LoopLag]:
    lag = LoopLag(warning=0.2, limit=0.5)
    lag.start()
    yield lag
    lag.stop()


def hold(seconds: float) -> None:
    time.sleep(seconds)


def compute(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


async def warnings(caplog: pytest.LogCaptureFixture, count: int = 1) -> list[str]:
    def said() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == LOGGER]

    await until(lambda: len(said()) >= count)
    return said()


async def test_an_idle_loop_has_hardly_any_lag(lag: LoopLag) -> None:
    await until(lambda: sum(lag.buckets) >= 4)
    assert lag.summary()["p50_ms"] < 50
    assert not lag.overloaded


@pytest.mark.parametrize("block", [hold, compute])
async def test_the_line_that_holds_the_loop_is_named(
    lag: LoopLag, caplog: pytest.LogCaptureFixture, block: object
) -> None:
    block(0.5)  # type: ignore[operator]
    (said,) = await warnings(caplog)
    assert "The event loop stood still for 0." in said
    assert f"{__file__}:" in said
    assert f"{block.__name__}()" in said  # type: ignore[attr-defined]


async def test_a_library_that_holds_the_loop_is_named_with_the_line_of_the_project_that_called_it(
    lag: LoopLag, caplog: pytest.LogCaptureFixture
) -> None:
    event = threading.Event()
    event.wait(0.5)
    (said,) = await warnings(caplog)
    assert "threading.py:" in said
    assert f"called from {__file__}:" in said
    assert "`event.wait(0.5)`" in said


async def test_the_task_that_holds_the_loop_is_named(lag: LoopLag, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        hold(0.5)

    await asyncio.create_task(work(), name="agent-1234")
    (said,) = await warnings(caplog)
    assert "in the task agent-1234" in said


async def test_many_pauses_make_one_line(lag: LoopLag, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        hold(0.3)
        before = sum(lag.buckets)
        await until(lambda: sum(lag.buckets) > before)  # noqa: B023
    await warnings(caplog)
    await until(lambda: lag._unsaid == 2)
    assert len(await warnings(caplog)) == 1


async def test_whatever_wanted_to_run_during_a_pause_counts(lag: LoopLag) -> None:
    await until(lambda: sum(lag.buckets) >= 4)
    hold(0.55)
    await until(lambda: lag.summary()["max_ms"] > 450)
    over = sum(lag.buckets[BUCKETS.index(0.1) + 1 :])
    assert 6 <= over <= 12  # one of 0.5 s, and those that would have come 0.05 s later each


async def test_a_loop_that_does_not_keep_up_is_overloaded_until_it_has_recovered(
    lag: LoopLag, caplog: pytest.LogCaptureFixture
) -> None:
    for waited in (0.5, 0.7, 0.9, 1.1):  # as measured: the test need not take that long
        lag._note(waited)
    assert not lag.overloaded
    for _ in range(8):
        lag._note(0.9)
    assert lag.overloaded
    for _ in range(200):
        lag._note(0.0)
    assert not lag.overloaded
    said = [record.getMessage() for record in caplog.records if "overloaded" in record.getMessage()]
    assert len(said) == 1
    assert "LOOP_LAG_LIMIT" in said[0]


async def test_one_pause_is_no_overload_however_long(lag: LoopLag) -> None:
    lag._note(60.0)
    assert not lag.overloaded
    lag._note(3.0)
    assert not lag.overloaded
    lag._note(3.0)
    assert lag.overloaded


async def test_pauses_that_are_far_between_are_no_overload(lag: LoopLag, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    for minute in range(10):
        monkeypatch.setattr("visionagents_runner.telemetry.looplag.time.monotonic", lambda: now + minute * 60)  # noqa: B023
        lag._note(3.0)
    monkeypatch.undo()
    assert not lag.overloaded


async def test_pauses_while_it_warms_up_do_not_count() -> None:
    lag = LoopLag(counts=lambda: False)
    for _ in range(10):
        lag._note(10.0)
    assert not lag.overloaded
    assert lag.summary()["max_ms"] == 10_000


@pytest.mark.parametrize(("seconds", "told"), [(0.5, 0), (1.5, 1)])
async def test_only_a_long_pause_is_worth_a_warning_while_it_warms_up(seconds: float, told: int) -> None:
    lag = LoopLag(counts=lambda: False)
    lag._note(seconds)
    assert len(lag._long) == told


async def test_zero_turns_it_off(caplog: pytest.LogCaptureFixture) -> None:
    lag = LoopLag(warning=0, limit=0)
    lag.start()
    for _ in range(10):
        lag._note(30.0)
    assert not lag.overloaded
    assert not [thread for thread in threading.enumerate() if thread.name == "agent-loop-lag"]
    lag.stop()


async def test_stopping_ends_the_thread(lag: LoopLag) -> None:
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "agent-loop-lag"]
    lag.stop()
    lag.stop()
    await until(lambda: not thread.is_alive())


async def test_it_costs_next_to_nothing() -> None:
    lag = LoopLag()
    began = time.perf_counter()
    for _ in range(20_000):
        lag._note(0.0001)
    assert (time.perf_counter() - began) / 20_000 < 50e-6


SUSPENDED = """
    import asyncio, logging, sys
    from visionagents_runner.telemetry.looplag import LoopLag

    logging.basicConfig(stream=sys.stdout, format="%(message)s")

    async def main():
        lag = LoopLag(warning=0.2, limit=0.5)
        lag.start()
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        await asyncio.sleep(0.5)
        print(f"max {lag.summary()['max_ms']:.0f}", flush=True)
        lag.stop()

    asyncio.run(main())
"""


async def test_a_process_that_was_stopped_and_continued_raises_no_alarm(tmp_path: Path) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(SUSPENDED),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": ""},
        cwd=ROOT,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert await child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGSTOP)
        await asyncio.sleep(3)  # as long as a process must be away for it to look like an overload
        child.send_signal(signal.SIGCONT)
        child.stdin.write(b"\n")
        said = (await child.communicate())[0].decode().splitlines()
    finally:
        if child.returncode is None:
            child.kill()
    assert len(said) == 1, said
    assert float(said[0].removeprefix("max ")) < 1000
