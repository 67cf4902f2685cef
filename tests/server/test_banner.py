"""What the commands print at their start."""

from __future__ import annotations

import io
from typing import Any

import pytest

from tests.agents import create_agent, join_call
from visionagents_runner import AgentLauncher, Runner, ServeOptions, demo
from visionagents_runner.auth import local_processes
from visionagents_runner.auth.local_requests import warn_of_local_requests
from visionagents_runner.auth.local_token import local_token, token_file
from visionagents_runner.server.banner import print_ready, print_report, report_lines


def runner(**options: Any) -> Runner:
    def launcher(**limits: Any) -> AgentLauncher:
        return AgentLauncher(create_agent, join_call, **limits)  # type: ignore[arg-type]

    return Runner(
        launchers={"default": launcher(max_concurrent_sessions=10), "coach": launcher()},
        serve_options=ServeOptions(**options),
    )


def lines(runner: Runner, url: str | None = "http://127.0.0.1:8000/") -> dict[str, str]:
    return dict(report_lines(runner, url=url))


def test_it_names_the_agents_with_their_limits_and_where_to_look() -> None:
    told = lines(runner())
    assert told["agents"] == "default (max 10), coach"
    assert told["open"] == "http://127.0.0.1:8000/   call page /call/ · admin /admin/ · API docs /docs"


def test_where_the_root_is_nothing_the_call_page_is_where_to_begin(settings: Any) -> None:
    settings.ROOT_URLCONF = "tests.server.urls_without_root"
    told = lines(runner())
    assert told["open"] == "http://127.0.0.1:8000/agents/call/   call page /agents/call/ · API docs /agents/docs"


def test_it_tells_of_the_voice_where_the_agents_are_the_demos() -> None:
    assert "voice" not in lines(runner())
    demos = Runner(AgentLauncher(demo.create_agent, demo.join_call))
    assert lines(demos)["voice"] == "on this machine, in English"  # the tests install it


def test_it_says_what_is_open_to_whom(settings: Any) -> None:
    assert lines(runner())["API"].startswith("signed-in users with permission")
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "ALLOW_LOCAL": True}
    assert lines(runner())["API"].startswith("requests from this machine, signed-in users")
    assert "decides who may start" in lines(runner(can_start_session=lambda request: True))["API"]


def local(settings: Any, **values: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "ALLOW_LOCAL": True, **values}


def test_it_says_for_whom_local_requests_count_and_where_the_token_of_others_is(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "local" not in lines(runner())
    local(settings)
    token = local_token()
    assert token is not None
    told = lines(runner())["local"]
    assert token not in told
    assert told.endswith(str(token_file()))
    told = dict(report_lines(runner(), url="http://127.0.0.1:8000/", secrets=True))["local"]
    assert told.startswith("programs and browsers of this user need no sign-in")
    assert told.endswith(f"http://127.0.0.1:8000/local-access#{token}")
    monkeypatch.setattr(local_processes, "can_tell", lambda: False)
    told = dict(report_lines(runner(), url="http://127.0.0.1:8000/", secrets=True))["local"]
    assert told == f"in a browser open http://127.0.0.1:8000/local-access#{token}"
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    assert "cannot be written" in lines(runner())["local"]


@pytest.mark.parametrize(
    ("allow", "debug", "address", "words"),
    [
        (True, False, "127.0.0.1", "because ALLOW_LOCAL is True:"),
        (None, True, "127.0.0.1", None),
        (None, True, "::1", None),
        (None, True, "0.0.0.0", "because DEBUG is True, and it listens on 0.0.0.0:"),
        (None, True, None, "because DEBUG is True, and others may reach this server:"),
        (None, False, "0.0.0.0", None),
        (False, True, "0.0.0.0", None),
    ],
)
def test_the_log_warns_where_local_requests_count_and_others_may_come(
    settings: Any,
    caplog: pytest.LogCaptureFixture,
    allow: bool | None,
    debug: bool,
    address: str | None,
    words: str | None,
) -> None:
    settings.DEBUG = debug
    local(settings, ALLOW_LOCAL=allow)
    warn_of_local_requests(runner(), address)
    token = local_token()
    assert token is not None
    assert token not in caplog.text
    assert (words in caplog.text) if words else not caplog.text


def test_it_says_what_is_missing_for_more_than_one_process() -> None:
    assert "REDIS_URL" in lines(runner())["storage"]


@pytest.mark.parametrize("layers", [None, {}, {"default": None}, {"default": {}}])
def test_it_says_where_there_is_no_channel_layer(settings: Any, layers: Any) -> None:
    settings.CHANNEL_LAYERS = layers
    assert lines(runner())["storage"].endswith("no channel layer")


def test_of_several_workers_it_says_how_many_and_that_limits_are_each_ones() -> None:
    told = dict(report_lines(runner(), url="http://127.0.0.1:8000/", workers=4))
    assert told["workers"] == "4 processes on one port"
    assert told["agents"] == "default (max 10 a worker), coach"
    assert told["storage"].endswith("channel layer in memory")  # what that means is in a warning of its own


def test_without_a_server_it_says_nothing_of_the_network() -> None:
    assert set(lines(runner(), url=None)) == {"agents", "storage"}


def test_it_is_plain_text_where_there_is_no_terminal(settings: Any) -> None:
    stream = io.StringIO()
    print_report(runner(), url="http://127.0.0.1:8000/", stream=stream)
    print_ready(1.94, stream)
    shown = stream.getvalue()
    assert "\x1b" not in shown
    assert shown.splitlines()[0].startswith("visionagents_runner 0.1.0 · vision-agents 0.6")
    assert shown.splitlines()[-1] == "  ready in 1.9 s   Ctrl-C closes calls in order, SIGTERM drains for 30 s"
