from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from visionagents_runner.admin import display


@pytest.mark.parametrize(
    ("seconds", "two", "one"),
    [
        (-5, "0 s", "0 s"),
        (0, "0 s", "0 s"),
        (59.9, "59 s", "59 s"),
        (60, "1 min 00 s", "1 min"),
        (252, "4 min 12 s", "4 min"),
        (3600, "1 h 00 min", "1 h"),
        (86400 * 3 + 3600 * 4, "3 d 4 h", "3 d"),
    ],
)
def test_durations_have_their_largest_units(seconds: float, two: str, one: str) -> None:
    assert display.duration(timedelta(seconds=seconds)) == two
    assert display.units(timedelta(seconds=seconds)) == one


def test_short_durations_can_be_precise() -> None:
    assert display.duration(timedelta(seconds=0.4187), precise=True) == "0.42 s"
    assert display.duration(timedelta(seconds=1.94), precise=True) == "1.9 s"
    assert display.duration(timedelta(seconds=12.94), precise=True) == "12 s"


def test_numbers_are_grouped_and_rounded() -> None:
    assert display.number(12044) == "12,044"
    assert display.number(310.0) == "310"
    assert display.number(212.41870) == "212.419"
    assert display.number(None) == display.NOTHING
    assert display.number(True) == "True"
    assert display.number({"a": 1}) == '{"a": 1}'


def test_what_comes_from_outside_is_escaped() -> None:
    evil = "<b onclick=alert(1)>&"
    for html in (display.verbatim(evil), display.code(evil), display.block(evil), display.json_block({evil: evil})):
        assert "<b " not in html
    assert "<b " not in display.with_note(evil, evil)


def test_an_age_keeps_the_exact_time_at_hand() -> None:
    now = datetime(2026, 11, 22, 14, 0, tzinfo=UTC)
    html = display.age(now - timedelta(minutes=5, seconds=9), now)
    assert 'datetime="2026-11-22T13:54:51+00:00"' in html
    assert "13:54:51 UTC" in html
    assert ">5 min<" in html
