"""The judge is judged: what it must find, it finds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from . import invariant
from .fleet import Fleet
from .invariant import _left_running, _not_closed, _twice, peak_of
from .trace import read_built, read_runs


class _Fleet:
    living = ()
    workers = ()


class _FleetWithQueue:
    """What waits in its queue is what it is made with, one list a look."""

    workers = (SimpleNamespace(answers=True),)
    poll = 0.0

    def __init__(self, *looks: list[dict[str, object]]) -> None:
        self._looks = list(looks)

    async def waiting(self) -> list[dict[str, object]]:
        return self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]


def traces(folder: Path, **files: str) -> Path:
    for pid, text in files.items():
        lines = [line.strip() for line in text.strip().splitlines()]
        (folder / f"{pid.removeprefix('pid')}.trace").write_text("\n".join(lines) + "\n")
    return folder


def row(key: str, restart_of: str = "") -> dict[str, object]:
    return {"id": key, "restart_of_id": restart_of or None, "started_at": "2026-01-01"}


def test_a_session_that_ran_in_two_processes_is_found(tmp_path: Path) -> None:
    runs = read_runs(traces(tmp_path, pid1="start 1.0 a default c", pid2="start 5.0 a default c"))
    assert [each for each in _twice([row("a")], runs) if "ran 2 times" in each]


def test_a_successor_that_begins_while_its_predecessor_still_shows_life_is_found(tmp_path: Path) -> None:
    runs = read_runs(
        traces(
            tmp_path,
            pid1="""start 1.0 a restarted c
                    tick 2.0
                    tick 2.5
                    stop 2.6 a""",
            pid2="start 2.2 b restarted c",
        )
    )
    rows = [row("a"), row("b", restart_of="a")]
    assert [each for each in _twice(rows, runs) if "for 0.10 s" in each]


def test_a_successor_that_begins_while_the_agent_of_its_predecessor_closes_is_found(tmp_path: Path) -> None:
    runs = read_runs(
        traces(
            tmp_path,
            pid1="""start 1.0 a restarted c
                    stop 2.1 a
                    tick 2.2
                    tick 2.3
                    closed 3.0 a""",
            pid2="start 2.2 b restarted c",
        )
    )
    rows = [row("a"), row("b", restart_of="a")]
    assert [each for each in _twice(rows, runs) if "for 0.70 s" in each]


def test_the_time_that_a_process_was_stopped_does_not_count(tmp_path: Path) -> None:
    """It showed life until 2.0, and from 9.0 to 9.05, when it went on."""
    runs = read_runs(
        traces(
            tmp_path,
            pid1="""start 1.0 a restarted c
                    tick 2.0
                    tick 9.0
                    stop 9.05 a""",
            pid2="start 5.0 b restarted c",
        )
    )
    rows = [row("a"), row("b", restart_of="a")]
    assert not list(_twice(rows, runs, {1}))
    assert [each for each in _twice(rows, runs) if "for 0.05 s" in each]


def test_an_agent_of_a_process_that_ended_in_order_must_have_stopped(tmp_path: Path) -> None:
    runs = read_runs(traces(tmp_path, pid1="start 1.0 a default c\ntick 1.5"))
    assert list(_left_running(_Fleet(), [row("a")], runs))  # type: ignore[arg-type]


def test_an_agent_that_was_built_must_have_closed_whether_it_ran_or_not(tmp_path: Path) -> None:
    built = read_built(
        traces(
            tmp_path,
            pid1="""built 1.0 a default
                    built 1.0 b talker
                    built 1.0 c default
                    start 1.1 a default c
                    stop 2.0 a
                    closed 2.1 a
                    closed 2.1 c""",
        )
    )
    assert [each for each in _not_closed(_Fleet(), built) if "agent of b" in each]  # type: ignore[arg-type]
    assert len(list(_not_closed(_Fleet(), built))) == 1  # type: ignore[arg-type]
    killed = SimpleNamespace(workers=[SimpleNamespace(pid=1, killed=True)])
    assert not list(_not_closed(killed, built))  # type: ignore[arg-type]


async def test_what_nobody_takes_from_the_queue_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invariant, "_OVERDUE_SECONDS", 0.0)
    monkeypatch.setattr(invariant, "_MARGIN", 0.0)
    forgotten = {"id": "a", "due_at": 1, "attempts": 0}
    with pytest.raises(AssertionError, match="Nobody takes"):
        await invariant._until_queue_is_taken(_FleetWithQueue([forgotten]))  # type: ignore[arg-type]
    # It is tried again and again: each time has it due later.
    held_back = ([{"id": "a", "due_at": number, "attempts": number}] for number in range(1, 100))
    await invariant._until_queue_is_taken(_FleetWithQueue(*held_back))  # type: ignore[arg-type]
    await invariant._until_queue_is_taken(_FleetWithQueue([forgotten], []))  # type: ignore[arg-type]


def test_only_the_task_of_channels_redis_itself_may_be_forgotten(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    fleet = SimpleNamespace(workers=[SimpleNamespace(log=log)])
    message = "Task exception was never retrieved\nfuture: <Task finished name='Task-9' coro=<{}() done, defined at x>"
    log.write_text(message.format("RedisChannelLayer._clean_receive_backup"))
    assert not Fleet.complaints(fleet)  # type: ignore[arg-type]
    with log.open("a") as file:
        file.write(message.format("AgentWorker._poll"))
    assert len(Fleet.complaints(fleet)) == 1  # type: ignore[arg-type]


def test_the_peak_counts_what_ran_at_one_moment(tmp_path: Path) -> None:
    runs = read_runs(
        traces(
            tmp_path,
            pid1="""start 1.0 a few c
                    start 2.0 b few c
                    stop 3.0 a
                    start 3.5 d few c
                    stop 4.0 b
                    stop 5.0 d""",
        )
    )
    assert peak_of(runs) == 2
