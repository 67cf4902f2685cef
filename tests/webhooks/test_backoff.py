"""When a delivery is tried again."""

from __future__ import annotations

from itertools import pairwise

from visionagents_runner.webhooks.backoff import MAX_ATTEMPTS, MAX_RETRY_AFTER, seconds_before_next

HOUR = 3600.0


def waits() -> list[float]:
    seconds = [seconds_before_next(attempts) for attempts in range(1, MAX_ATTEMPTS)]
    assert None not in seconds
    return [each for each in seconds if each is not None]


def test_waits_grow_to_hours_and_cover_about_a_day() -> None:
    for _ in range(50):
        seconds = waits()
        assert 4 <= seconds[0] <= 8
        assert all(later > earlier for earlier, later in pairwise(seconds[:7]))
        assert max(seconds) <= 6 * HOUR
        assert 16 * HOUR < sum(seconds) < 34 * HOUR


def test_waits_differ_so_that_deliveries_do_not_come_back_together() -> None:
    assert len({seconds_before_next(5) for _ in range(20)}) > 15


def test_the_last_attempt_has_no_next() -> None:
    assert seconds_before_next(MAX_ATTEMPTS) is None
    assert seconds_before_next(MAX_ATTEMPTS + 1, 10) is None


def test_a_receiver_may_ask_for_more_time_but_not_for_ever() -> None:
    assert seconds_before_next(1, 600) == 600
    assert seconds_before_next(1, 1e12) == MAX_RETRY_AFTER
    longer = seconds_before_next(6, 1)
    assert longer is not None
    assert longer > 1000
