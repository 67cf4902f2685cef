"""What is kept in memory has a bound, and what would be said too often is not."""

from __future__ import annotations

import time

import pytest

from visionagents_runner.utils.bounded import Seldom, keep


def test_the_oldest_goes_above_the_bound() -> None:
    entries = {"a": 1, "b": 2}
    keep(entries, "c", 3, most=2)
    assert entries == {"b": 2, "c": 3}


def test_an_entry_that_is_put_again_takes_nobodys_place_and_is_the_newest() -> None:
    entries = {"a": 1, "b": 2}
    keep(entries, "a", 3, most=2)
    assert list(entries.items()) == [("b", 2), ("a", 3)]


def test_the_first_time_is_never_too_soon_however_young_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    may_say = Seldom(60)
    assert may_say()
    now = 60.9
    assert not may_say()
    now = 61.0
    assert may_say()
