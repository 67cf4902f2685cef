"""How the supervisor answers workers that die, with workers that only a clock moves."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from uvicorn.supervisors.multiprocess import SIGNALS as HANDLED

from visionagents_runner.server import supervisor
from visionagents_runner.server.subprocess import Order
from visionagents_runner.server.supervisor import Supervisor


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Mortal:
    """Has of a worker process what the supervisor touches."""

    pid = 4711
    failure = changed = ""
    how_it_ended = "SIGSEGV"
    orderly = True
    alive = serving = ready = begun = True
    told_ready = told_slow = told_failure = leaving = False

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


@contextmanager
def supervising(clock: Clock, workers: int) -> Iterator[Supervisor]:
    """A supervisor whose workers are ready."""
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    try:
        with socket.socket() as listener:
            supervisor = Supervisor(listener, Order(), workers=workers, began=clock.now)
            supervisor.init_processes()
            supervisor.keep_subprocess_alive()
            yield supervisor
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.fixture
def two(clock: Clock) -> Iterator[Supervisor]:
    with supervising(clock, 2) as two:
        yield two


def kill(worker: Any) -> None:
    worker.alive = worker.ready = False


def test_workers_that_die_at_once_are_started_ever_more_slowly_and_then_no_more(two: Any, clock: Clock) -> None:
    began = clock.now
    starts = set()
    while not two.should_exit.is_set():
        assert clock.now < began + 300
        for worker in two._crew:
            if worker.began == clock.now:
                starts.add(clock.now - began)
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


def test_many_that_die_together_once_are_replaced_at_once(clock: Clock) -> None:
    with supervising(clock, 8) as eight:
        clock.now += 3
        for worker in list(eight._crew):
            kill(worker)
        eight.keep_subprocess_alive()
        assert not eight.should_exit.is_set()
        assert [worker.began for worker in eight._crew] == [clock.now] * 8


def test_many_that_die_one_after_the_other_again_and_again_are_started_ever_more_slowly(clock: Clock) -> None:
    with supervising(clock, 8) as eight:
        starts = 0
        began = clock.now
        while clock.now < began + 600 and not eight.should_exit.is_set():
            clock.now += 0.5
            if eight._crew:
                kill(eight._crew[0])  # the oldest
            before = set(eight._crew)
            eight.keep_subprocess_alive()
            starts += len(set(eight._crew) - before)
        assert eight._quick_deaths >= 5
        assert starts < 300  # one for each death would be 1200


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


def test_a_replacing_that_the_system_has_no_room_for_is_tried_again_only_later(
    two: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def fail(*args: Any, **kwargs: Any) -> None:
        tries.append(clock.now)
        raise OSError("no memory")

    monkeypatch.setattr(supervisor, "WorkerProcess", fail)
    began = clock.now
    two.handle_hup()
    while clock.now < began + 60:
        two.keep_subprocess_alive()
        clock.now += 0.5
    assert tries == [began, began + 30]


def test_a_replacing_that_waits_for_long_says_once_for_which_worker(
    two: Any, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    two.handle_hup()
    two.keep_subprocess_alive()
    new = two._crew[-1]
    new.ready, new.pid = False, 4712
    began = clock.now
    with caplog.at_level(logging.WARNING):
        while clock.now < began + 59:
            clock.now += 0.5
            two.keep_subprocess_alive()
        assert "4712" not in caplog.text
        while clock.now < began + 600:
            clock.now += 0.5
            two.keep_subprocess_alive()
    assert caplog.text.count("Worker 4712 is not ready") == 1
    assert not two._leaving


@pytest.mark.parametrize("leaving", [False, True], ids=["one of the crew", "one that drains"])
def test_one_that_hangs_longer_than_its_sessions_count_is_killed(two: Any, clock: Clock, leaving: bool) -> None:
    class Process:
        killed = False

        def kill(self) -> None:
            self.killed = True

        def join(self, timeout: float) -> None: ...

    hung = two._crew[0]
    hung.process = Process()
    if leaving:
        hung.leaving = True
        two.keep_subprocess_alive()
        assert hung in two._leaving
    hung.silent_for = lambda elapsed: 90.5  # WORKER_TTL and WORKER_GRACE are 90 together
    two.keep_subprocess_alive()
    assert hung.process.killed


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL], ids=["nohup", "no nohup"])
def test_a_hangup_that_was_ignored_before_is_ignored(clock: Clock, handler: signal.Handlers) -> None:
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with supervising(clock, 1):
            assert (signal.getsignal(signal.SIGHUP) is signal.SIG_IGN) == (handler is signal.SIG_IGN)
    finally:
        signal.signal(signal.SIGHUP, before)
