"""Moments are written in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from visionagents_runner.utils.timestamps import iso


def test_a_moment_is_in_utc_whatever_its_zone() -> None:
    assert iso(datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=2)))) == "2026-01-02T01:04:05.000006Z"
    assert iso(datetime(2026, 1, 2, tzinfo=UTC)) == "2026-01-02T00:00:00Z"
    assert iso(None) is None
