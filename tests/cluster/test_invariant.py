"""The judge is judged: what it must find, it finds."""

from __future__ import annotations

from pathlib import Path

from .invariant import _left_running, _twice, peak_of
from .trace import read_runs


class _Fleet:
    living = ()
    workers = ()


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
    assert [each for each in _twice(rows, runs) if "still ran for 0.10 s" in each]


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
    assert [each for each in _twice(rows, runs) if "still ran for 0.05 s" in each]


def test_an_agent_of_a_process_that_ended_in_order_must_have_stopped(tmp_path: Path) -> None:
    runs = read_runs(traces(tmp_path, pid1="start 1.0 a default c\ntick 1.5"))
    assert list(_left_running(_Fleet(), [row("a")], runs))  # type: ignore[arg-type]


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
