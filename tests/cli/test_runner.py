"""`Runner`: what it takes, and how a project's one is found."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from typing import Any

import pytest
from ninja import NinjaAPI
from vision_agents.core import AgentLauncher as UpstreamLauncher

from tests.agents import create_agent, join_call
from tests.agents import runner as project_runner
from tests.processes import ROOT, environment
from visionagents_runner import AgentLauncher, AgentNotFound, Runner, ServeOptions
from visionagents_runner.exceptions import RunnerConfigurationError
from visionagents_runner.registry import get_runner


def launcher() -> AgentLauncher:
    return AgentLauncher(create_agent, join_call)  # type: ignore[arg-type]


def test_the_settings_name_the_projects_runner() -> None:
    assert get_runner() is project_runner


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "No runner is configured"),
        ("nowhere.runner", "cannot be imported"),
        ("tests.agents.nothing", "cannot be imported"),
        ("tests.agents.StubAgent", "not a visionagents_runner.Runner"),
    ],
)
def test_a_runner_that_cannot_be_had_is_a_sentence(settings: Any, path: str, message: str) -> None:
    settings.VISIONAGENTS_RUNNER = {"RUNNER": path}
    with pytest.raises(RunnerConfigurationError, match=message):
        get_runner()


def test_what_upstreams_runner_has_and_ours_has_not_names_the_replacement() -> None:
    with pytest.raises(AttributeError, match=r"Runner\.asgi"):
        Runner(launcher()).fast_api  # noqa: B018


def test_one_launcher_is_the_default_agent() -> None:
    runner = Runner(launcher())
    assert runner.default_agent == "default"
    assert runner.launcher() is runner.launcher("default")


def test_several_are_picked_by_name_and_the_first_is_the_default() -> None:
    runner = Runner(launchers={"coach": launcher(), "judge": launcher()})
    assert runner.launcher().name == "coach"
    assert runner.launcher("judge").name == "judge"
    with pytest.raises(AgentNotFound, match="there are: coach, judge"):
        runner.launcher("cook")


def test_nonsense_is_refused() -> None:
    one = launcher()
    with pytest.raises(TypeError, match="launcher="):
        Runner()
    with pytest.raises(TypeError, match="launcher="):
        Runner(one, launchers={"a": one})
    with pytest.raises(ValueError, match="no name for an agent"):
        Runner(launchers={"a b": one})
    with pytest.raises(ValueError, match="twice"):
        Runner(launchers={"a": one, "b": one})
    with pytest.raises(ValueError, match="at least one"):
        Runner(launchers={})


def test_the_launcher_of_vision_agents_is_refused_with_the_fix() -> None:
    with pytest.raises(TypeError, match="change the import"):
        Runner(UpstreamLauncher(create_agent, join_call))  # type: ignore[arg-type]


def test_an_api_of_ones_own_replaces_the_default() -> None:
    api = NinjaAPI(urls_namespace="own")
    assert Runner(launcher(), ServeOptions(api=api)).api is api


def test_serve_options_refuse_what_would_be_open_or_meaningless() -> None:
    with pytest.raises(ValueError, match="name the origins"):
        ServeOptions(cors_allow_origins={"*"}, cors_allow_credentials=True)
    with pytest.raises(TypeError, match="pass api="):
        ServeOptions(fast_api=object())
    with pytest.raises(TypeError, match="collection"):
        ServeOptions(cors_allow_origins="https://a.example")
    with pytest.raises(TypeError, match="callable"):
        ServeOptions(can_start_session="yes")  # type: ignore[arg-type]
    assert ServeOptions().cors_allow_origins == ()


def test_importing_the_package_or_building_a_runner_configures_nothing_and_imports_no_vision_agents() -> None:
    program = (
        "import sys; from visionagents_runner import AgentLauncher, Runner, ServeOptions;"
        "from django.conf import settings;"
        "Runner(AgentLauncher(print, print), ServeOptions());"
        "assert not settings.configured; assert 'vision_agents' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.smoke
@pytest.mark.parametrize("command", [["check"], ["makemigrations", "--check", "--dry-run"]])
def test_ordinary_commands_do_not_pay_for_vision_agents(command: list[str]) -> None:
    program = (
        "import sys; from django.core.management import execute_from_command_line as run;"
        f"run(['manage.py', *{command!r}]);"
        "loaded = [name for name in sys.modules if name.split('.')[0] == 'vision_agents'];"
        "assert not loaded, loaded[:5]"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**environment(), "DJANGO_SETTINGS_MODULE": "project.settings", "DATABASE_URL": "sqlite:///:memory:"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_runner_that_nobody_has_any_more_goes_with_its_api_and_its_application() -> None:
    runner = Runner(AgentLauncher(create_agent, join_call))  # type: ignore[arg-type]
    assert runner.api is runner.api
    assert runner.asgi is runner.asgi
    gone = weakref.ref(runner)
    del runner
    gc.collect()
    assert gone() is None
