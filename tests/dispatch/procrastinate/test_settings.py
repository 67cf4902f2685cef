"""Which engine a project gets, and that what needs PostgreSQL and Procrastinate is tested whatever this run is on."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from django.apps import apps

from tests.processes import ROOT
from visionagents_runner.checks.dispatch import check_dispatch_engine
from visionagents_runner.dispatch.procrastinate import choice, install, load_engine
from visionagents_runner.messaging import notifications

from .conftest import WITH_PROCRASTINATE

pytestmark = pytest.mark.slow


@pytest.fixture
def engine(settings: Any) -> Any:
    def choose(name: str) -> None:
        settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "DISPATCH_ENGINE": name}

    return choose


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apps, "is_installed", lambda name: True)


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda name: None)


def found() -> list[tuple[str, str, str]]:
    return [(str(each.id).split(".")[-1], each.msg, str(each.hint)) for each in check_dispatch_engine(None)]


@pytest.mark.skipif(WITH_PROCRASTINATE, reason="this run has Procrastinate itself")
@pytest.mark.requires("postgresql")
@pytest.mark.timeout(600)
def test_the_engine_on_postgresql() -> None:
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--ds=tests.dispatch.procrastinate.settings",
            "tests/dispatch/procrastinate",
        ],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2_000:]


@pytest.mark.skipif(WITH_PROCRASTINATE, reason="this run has Procrastinate itself")
@pytest.mark.parametrize("name", ["auto", "poll", "procrastinate"])
def test_without_procrastinates_app_the_poll_does_it(engine: Any, name: str) -> None:
    engine(name)
    install()
    assert not notifications.has_engine()
    assert load_engine() is None


@pytest.mark.skipif(not WITH_PROCRASTINATE, reason="needs Procrastinate's app and PostgreSQL")
def test_the_poll_does_it_where_it_shall(engine: Any) -> None:
    assert load_engine() is not None
    engine("poll")
    assert load_engine() is None


def test_the_shipped_settings_are_silent() -> None:
    assert found() == []


@pytest.mark.skipif(WITH_PROCRASTINATE, reason="this run has Procrastinate itself")
def test_asking_for_procrastinate_without_its_app_is_an_error(engine: Any) -> None:
    engine("procrastinate")
    ((number, message, hint),) = found()
    assert number == "E017"
    assert '"procrastinate.contrib.django" is not in INSTALLED_APPS' in message
    assert "manage.py migrate" in hint


def test_asking_for_procrastinate_without_the_package_is_an_error(engine: Any, missing: None) -> None:
    engine("procrastinate")
    ((number, message, hint),) = found()
    assert number == "E017"
    assert "not installed" in message
    assert "visionagents-runner[cluster]" in hint


@pytest.mark.skipif(WITH_PROCRASTINATE, reason="needs another database than PostgreSQL")
def test_its_app_on_another_database_is_a_warning_and_an_error_if_it_is_asked_for(engine: Any, installed: None) -> None:
    if choice.connections["default"].vendor == "postgresql":
        pytest.skip("this run is on PostgreSQL")
    ((number, message, _),) = found()
    assert number == "W017"
    assert "PostgreSQL only" in message
    engine("procrastinate")
    assert found()[0][0] == "E017"
    engine("poll")
    assert found() == []


@pytest.mark.skipif(not WITH_PROCRASTINATE, reason="needs Procrastinate's app and PostgreSQL")
def test_jobs_in_another_database_than_the_sessions_are_a_warning(settings: Any) -> None:
    settings.PROCRASTINATE_DATABASE_ALIAS = "jobs"
    ((number, _, hint),) = found()
    assert number == "W017"
    assert "PROCRASTINATE_DATABASE_ALIAS = 'default'" in hint
    assert load_engine() is None
