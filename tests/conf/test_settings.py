"""The settings dict: read lazily, typed, forgotten when it changes."""

from __future__ import annotations

from typing import Any

from visionagents_runner.conf.settings import get_settings, unknown_keys


def test_what_is_not_set_has_its_default(settings: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {"DRAIN_TIMEOUT": 5}
    assert (get_settings().DRAIN_TIMEOUT, get_settings().WORKER_TTL) == (5, 30.0)


def test_a_change_is_seen(settings: Any) -> None:
    before = get_settings().POLL_INTERVAL
    settings.VISIONAGENTS_RUNNER = {"POLL_INTERVAL": before + 1}
    assert before + 1 == get_settings().POLL_INTERVAL


def test_an_unknown_key_is_ignored_and_can_be_named(settings: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {"RUNER": "x", "DRAIN_TIMEOUT": 1}
    assert unknown_keys() == ["RUNER"]
    assert get_settings().RUNNER == ""


def test_lists_are_frozen(settings: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {"API_MIDDLEWARE": ["a.b"]}
    assert get_settings().API_MIDDLEWARE == ("a.b",)


def test_without_the_setting_all_is_default(settings: Any) -> None:
    del settings.VISIONAGENTS_RUNNER
    assert get_settings().RUNNER == ""
