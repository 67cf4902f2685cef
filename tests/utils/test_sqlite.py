"""The files of a SQLite database: their owner's alone, whatever the umask."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from project import settings as project_settings
from visionagents_runner.utils.sqlite import keep_private


@pytest.fixture(autouse=True)
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {each.name: stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()}


def test_a_new_database_and_what_belongs_to_it_are_for_their_owner(tmp_path: Path) -> None:
    keep_private(tmp_path / "a.sqlite3")
    with closing(sqlite3.connect(tmp_path / "a.sqlite3")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (x)")
        assert modes(tmp_path) == dict.fromkeys(("a.sqlite3", "a.sqlite3-wal", "a.sqlite3-shm"), 0o600)


def test_those_that_are_open_to_others_are_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite3"
    with closing(sqlite3.connect(path)) as before:
        before.execute("PRAGMA journal_mode=WAL")
        before.execute("CREATE TABLE t (x)")
        assert set(modes(tmp_path).values()) == {0o644}
        keep_private(path)
        assert set(modes(tmp_path).values()) == {0o600}
        before.execute("INSERT INTO t VALUES (1)")


def test_a_database_in_memory_or_by_uri_makes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (":memory:", "file:x?mode=memory", "file:y.sqlite3", ""):
        keep_private(name)
    assert not modes(tmp_path)


def test_where_none_can_be_made_sqlite_says_so(tmp_path: Path) -> None:
    keep_private(tmp_path / "nowhere" / "a.sqlite3")
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        sqlite3.connect(tmp_path / "nowhere" / "a.sqlite3")


@pytest.mark.requires("root")
def test_one_of_somebody_else_is_warned_of_and_left(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite3"
    path.touch(0o644)
    os.chown(path, 4711, -1)
    with pytest.warns(RuntimeWarning, match="chmod 600"):
        keep_private(str(path))
    assert modes(tmp_path) == {"a.sqlite3": 0o644}


def test_the_shipped_settings_keep_theirs(tmp_path: Path) -> None:
    project_settings._database(f"sqlite:///{tmp_path}/b.sqlite3")
    assert modes(tmp_path) == {"b.sqlite3": 0o600}
