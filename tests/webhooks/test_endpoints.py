"""The setting WEBHOOKS: what is wrong with it is said, without its secrets."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from django.core.checks import run_checks

from tests.webhooks.receiver import SECRET
from visionagents_runner.conf.webhooks import endpoints, refuse_unsound_endpoints
from visionagents_runner.exceptions import RunnerConfigurationError

URL = "https://hooks.example/agents?token=t0ken"


def found() -> list[str]:
    return [str(message.msg) for message in run_checks() if message.id == "visionagents_runner.E012"]


@pytest.mark.parametrize(
    "entry",
    [
        {"URL": URL, "SECRET": SECRET},
        {"URL": URL, "SECRET": SECRET.removeprefix("whsec_"), "NAME": "crm"},
        {"URL": URL, "SECRET": [SECRET, SECRET]},
        {"URL": "http://127.0.0.1:8001/", "SECRET": SECRET, "ALLOW_PRIVATE": True},
        {"URL": "http://[::1]:8001/", "SECRET": SECRET, "ALLOW_PRIVATE": True},
        {"URL": "https://hooks.internal/", "SECRET": SECRET, "ALLOW_PRIVATE": True},
    ],
)
def test_a_sound_entry_passes(configure: Any, entry: dict[str, Any]) -> None:
    configure(entry)
    assert found() == []
    assert len(endpoints()) == 1
    refuse_unsound_endpoints()


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (URL, "must be a dict"),
        ({"SECRET": SECRET}, "must be one like"),
        ({"URL": "hooks.example", "SECRET": SECRET}, "must be one like"),
        ({"URL": "ftp://hooks.example/", "SECRET": SECRET}, "must be one like"),
        ({"URL": "https://", "SECRET": SECRET}, "must be one like"),
        ({"URL": "https://hooks.example:99999/", "SECRET": SECRET}, "must be one like"),
        ({"URL": "https://[::/", "SECRET": SECRET}, "must be one like"),
        ({"URL": 7, "SECRET": SECRET}, "must be one like"),
        ({"URL": "https://höoks.example/", "SECRET": SECRET}, "ASCII"),
        ({"URL": "https://hooks.example/a b", "SECRET": SECRET}, "ASCII"),
        ({"URL": "https://user:pass@hooks.example/", "SECRET": SECRET}, "no user name"),
        ({"URL": "https://hooks.example/#part", "SECRET": SECRET}, "no fragment"),
        ({"URL": "http://hooks.example/", "SECRET": SECRET}, "must begin with https://"),
        ({"URL": "https://127.0.0.1/", "SECRET": SECRET}, "a loopback address"),
        ({"URL": "https://[::ffff:10.0.0.1]/", "SECRET": SECRET}, "a private address"),
        ({"URL": "https://169.254.169.254/", "SECRET": SECRET}, "a link-local address"),
        ({"URL": "https://localhost./", "SECRET": SECRET}, "a private name"),
        ({"URL": "https://db.internal/", "SECRET": SECRET}, "a private name"),
        ({"URL": URL}, "has no SECRET"),
        ({"URL": URL, "SECRET": []}, "has no SECRET"),
        ({"URL": URL, "SECRET": 7}, "must be a string"),
        ({"URL": URL, "SECRET": "whsec_!t0ken!"}, "must be base64"),
        ({"URL": URL, "SECRET": base64.b64encode(b"t0ken").decode()}, "has 5 bytes"),
        ({"URL": URL, "SECRET": SECRET, "NAME": "x" * 101}, "at most 100"),
        ({"URL": URL, "SECRET": SECRET, "NAME": "a\nb"}, "printable"),
        ({"URL": URL, "SECRET": SECRET, "ALLOW_PRIVATE": "no"}, "True or False"),
        ({"URL": URL, "SECRET": SECRET, "URI": ""}, "did you mean 'URL'"),
    ],
)
def test_a_wrong_entry_is_named_and_keeps_the_worker_from_starting(configure: Any, entry: Any, why: str) -> None:
    configure({"URL": URL, "SECRET": SECRET, "NAME": "sound"}, entry)
    [message] = found()
    assert why in message
    assert "['WEBHOOKS'][1]" in message
    assert SECRET not in message
    assert "t0ken" not in message
    assert "pass@" not in message
    assert [endpoint.name for endpoint in endpoints()] == ["sound"]
    with pytest.raises(RunnerConfigurationError, match="WEBHOOKS"):
        refuse_unsound_endpoints()


def test_two_of_one_name_are_told_apart(configure: Any) -> None:
    configure({"URL": URL, "SECRET": SECRET}, {"URL": URL + "&b", "SECRET": SECRET})
    assert "'hooks.example' is the name of another one already" in found()[0]


@pytest.mark.parametrize("value", [{"URL": URL, "SECRET": SECRET}, URL, 7])
def test_what_is_no_list_is_refused_without_being_shown(settings: Any, value: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "WEBHOOKS": value}
    messages = [message for message in run_checks() if message.id == "visionagents_runner.E004"]
    assert ["WEBHOOKS" in str(message.msg) for message in messages] == [True]
    assert SECRET not in str(messages)
    assert "t0ken" not in str(messages)
    assert endpoints() == ()
    with pytest.raises(RunnerConfigurationError, match="must be a list"):
        refuse_unsound_endpoints()


def test_an_endpoint_hides_its_url_and_secrets(configure: Any) -> None:
    configure({"URL": URL, "SECRET": SECRET})
    assert repr(endpoints()[0]) == "Endpoint(name='hooks.example', allow_private=False)"
