"""How the supervisor answers workers that die, with workers that only a clock moves."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from uvicorn.supervisors.multiprocess import SIGNALS as HANDLED

from visionagents_runner import supervisor
from visionagents_runner.supervised import Order
from visionagents_runner.supervisor import Supervisor


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Mortal:
    """Has of a worker process what the supervisor touches."""

    pid = 4711
    failure = ""
    how_it_ended = "SIGSEGV"
    orderly = True
    alive = serving = ready = begun = True
    told_ready = leaving = False

    def __init__(self, listener: Any, order: Order, *, late: bool) -> None:
        self.connection = self
        self.late = late
        self.began = supervisor.time.monotonic()
        self.told: list[Any] = []

    def close(self) -> None: ...
    def hear(self) -> None: ...
    def dismiss(self) -> None: ...
    def tell_if_disorderly(self) -> None: ...

    def tell(self, *message: Any) -> None:
        self.told.append(message)

    def silent_for(self, elapsed: float) -> float:
        return 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(supervisor, "time", clock)
    monkeypatch.setattr(supervisor, "WorkerProcess", Mortal)
    return clock


@pytest.fixture
def two(clock: Clock) -> Iterator[Supervisor]:
    """A supervisor whose two workers are ready."""
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    with socket.socket() as listener:
        two = Supervisor(listener, Order(), workers=2, began=clock.now)
        two.init_processes()
        two.keep_subprocess_alive()
        yield two
    for number, handler in handlers.items():
        signal.signal(number, handler)


def kill(worker: Any) -> None:
    worker.alive = worker.ready = False


def test_workers_that_die_at_once_are_started_ever_more_slowly_and_then_no_more(two: Any, clock: Clock) -> None:
    began = clock.now
    starts = []
    while not two.should_exit.is_set():
        assert clock.now < began + 300
        for worker in two._crew:
            if worker.began == clock.now:
                starts.append(clock.now - began)
            kill(worker)
        clock.now += 0.5
        two.keep_subprocess_alive()
    assert 4 < len(starts) <= 8
    assert "again and again soon after their start; the last one died (SIGSEGV)" in two.failure


def test_one_that_dies_again_and_again_does_not_end_the_others(two: Any, clock: Clock) -> None:
    began = clock.now
    deaths = 0
    while clock.now < began + 600:
        if len(two._crew) == 2:
            kill(two._crew[-1])
            deaths += 1
        clock.now += 0.5
        two.keep_subprocess_alive()
    assert not two.should_exit.is_set()
    assert 5 < deaths < 30
    assert two._crew[0].ready


def test_one_that_lived_long_is_replaced_at_once(two: Any, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        clock.now += 3600
        kill(two._crew[0])
        with caplog.at_level(logging.ERROR):
            two.keep_subprocess_alive()
        assert len(two._crew) == 2
        assert two._crew[-1].late
    assert caplog.messages[-1].endswith("Starting another")


def test_a_new_worker_that_cannot_start_ends_the_replacing_and_nothing_else(two: Any, clock: Clock) -> None:
    old = list(two._crew)
    two.handle_hup()
    two.keep_subprocess_alive()
    assert len(two._crew) == 3
    kill(two._crew[-1])
    for _ in range(3):
        clock.now += 0.5
        two.keep_subprocess_alive()
    assert two._crew == old
    assert not any(worker.told for worker in old)


def test_one_that_hangs_longer_than_its_sessions_count_is_killed(
    two: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Process:
        killed = False

        def kill(self) -> None:
            self.killed = True

        def join(self, timeout: float) -> None: ...

    hung = two._crew[0]
    hung.process = Process()
    hung.silent_for = lambda elapsed: 90.5  # WORKER_TTL and WORKER_GRACE are 90 together
    two.keep_subprocess_alive()
    assert hung.process.killed
