"""The checks of the call page and its WebSocket."""

from __future__ import annotations

from typing import Any

import pytest

from tests.checks.test_checks import ids_with, runner_settings
from visionagents_runner.checks.calls import check_call_page, check_ice_servers, check_join_tokens
from visionagents_runner.checks.settings import check_settings

TURN = {"urls": ["turn:turn.example", "turns:turn.example"], "username": "u", "credential": "secret"}


@pytest.mark.parametrize("servers", [[], [{"urls": "stun:stun.example"}], [TURN], ({"urls": ["stun:a", "stun:b"]},)])
def test_ice_servers_as_browsers_take_them_are_fine(servers: Any) -> None:
    assert ids_with(check_ice_servers, **runner_settings(ICE_SERVERS=servers)) == []
    assert ids_with(check_settings, **runner_settings(ICE_SERVERS=servers)) == []


@pytest.mark.parametrize(
    "server",
    [
        "stun:stun.example",
        {},
        {"url": "stun:stun.example"},
        {"urls": []},
        {"urls": [1]},
        {"urls": "https://stun.example"},
        {"urls": "turn:turn.example"},
        {"urls": "turn:turn.example", "username": "u", "credential": 1},
    ],
)
def test_other_ice_servers_are_errors(server: Any) -> None:
    assert ids_with(check_ice_servers, **runner_settings(ICE_SERVERS=[server])) == ["E007"]


def test_what_is_no_list_of_servers_at_all_is_told_once(settings: Any) -> None:
    values = runner_settings(ICE_SERVERS="stun:stun.example")
    assert ids_with(check_ice_servers, **values) == []
    assert ids_with(check_settings, **values) == ["E004"]


def test_no_check_shows_a_secret(settings: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {"ICE_SERVERS": [{**TURN, "urls": "x"}]}
    [message] = check_ice_servers(None)
    assert "secret" not in f"{message.msg} {message.hint}"


@pytest.mark.parametrize(
    ("seconds", "expected"), [(1, []), (3600, []), (0, ["E008"]), (-1, ["E008"]), (10**7, ["E008"])]
)
def test_invitations_must_count_for_a_while_and_not_for_ever(seconds: int, expected: list[str]) -> None:
    assert ids_with(check_join_tokens, **runner_settings(JOIN_TOKEN_SECONDS=seconds)) == expected
    assert ids_with(check_join_tokens, **runner_settings()) == []


def test_a_project_that_can_show_the_page_is_told_nothing() -> None:
    assert ids_with(check_call_page) == []


def test_a_page_that_cannot_be_shown_is_told_of(settings: Any) -> None:
    apps = [app for app in settings.INSTALLED_APPS if app != "django.contrib.staticfiles"]
    assert ids_with(check_call_page, INSTALLED_APPS=apps) == ["W014"]
    assert ids_with(check_call_page, STATIC_URL=None) == ["W014"]
    engine = {"BACKEND": "django.template.backends.django.DjangoTemplates"}
    for templates in ([], [engine]):
        assert ids_with(check_call_page, TEMPLATES=templates) == ["W015"]
