"""Code that changes while a call is open: the session closes at once, and the new code is served."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ROOT
from tests.server.test_signals import Server, assert_all_ended, running, wait_for
from visionagents_runner.exceptions import RunnerConfigurationError
from visionagents_runner.models import AgentSession
from visionagents_runner.server.main import choose_server

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

SETTINGS = """
from tests.child_settings import *

DEBUG = True
"""


def agents(name: str) -> str:
    return f"""
from tests.agents import create_agent, join_call
from visionagents_runner import AgentLauncher, Runner

runner = Runner(launchers={{{name!r}: AgentLauncher(create_agent, join_call)}})
"""


class Project:
    """A project with one agent, whose name is the only thing that its versions differ in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.save(agents("first"))
        (folder / "changing_settings.py").write_text(SETTINGS)
        self.env = {"DJANGO_SETTINGS_MODULE": "changing_settings", "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}

    def save(self, code: str) -> None:
        (self.folder / "changing_agents.py").write_text(code)

    def running(self, *command: str) -> Any:
        def at(port: int) -> list[str]:
            return ["-m", *(each.replace("PORT", str(port)) for each in command)]

        return running(at, env=self.env, RUNNER="changing_agents.runner", DRAIN_TIMEOUT=3600)

    def save_until(self, code: str, seen: Callable[[], bool]) -> None:
        """Save again and again: a file that the reloader has not looked at yet has not changed for it."""

        def saved() -> bool:
            if not seen():
                self.save(code)
                return False
            return True

        wait_for(saved)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def serves(server: Server, agent: str) -> bool:
    return server.call("POST", "/sessions", {"call_id": agent, "agent": agent})[0] == 201


def first_has_ended() -> bool:
    return not AgentSession.objects.live().filter(agent="first").exists()


def read_until(server: Server, text: str) -> str:
    """Return what it has said up to the line with that text."""
    assert server.process.stdout is not None
    lines: list[str] = []
    while not lines or text not in lines[-1]:
        lines.append(server.process.stdout.readline())
        assert lines[-1], lines  # it ended
    return "".join(lines)


RELOADING = {
    "serveagents": ("django", "serveagents", "--port", "PORT", "--reload", "--no-splash"),
    "runserver": ("django", "runserver", "PORT"),
    "uvicorn": ("uvicorn", "--port", "PORT", "--reload", "project.asgi:application"),
}


@pytest.mark.smoke
@pytest.mark.parametrize("command", RELOADING.values(), ids=RELOADING)
def test_a_change_of_the_code_closes_the_sessions_and_has_the_new_code_served(
    project: Project, command: tuple[str, ...]
) -> None:
    if "uvicorn" in command:
        command = (*command, "--reload-dir", str(project.folder))
    with project.running(*command) as server:
        server.start()
        project.save_until(agents("second"), first_has_ended)
        wait_for(lambda: serves(server, "second"))
        os.killpg(server.process.pid, signal.SIGINT)  # as Ctrl-C does: to the reloader and to its child
        _, output = server.end()
    assert "Traceback" not in output, output
    first, second = AgentSession.objects.order_by("created_at")
    assert (first.end_reason, second.is_live) == ("cancelled", False)


def test_code_that_cannot_be_loaded_is_told_and_tried_again_when_it_changes(project: Project) -> None:
    with project.running(*RELOADING["serveagents"]) as server:
        server.start()
        project.save_until(agents("second"), first_has_ended)
        wait_for(lambda: serves(server, "second"))
        project.save_until("runner = Runner(", lambda: not AgentSession.objects.live().exists())
        said = read_until(server, "tried again when the code changes")
        project.save(agents("third"))
        wait_for(lambda: serves(server, "third"))
        server.send(signal.SIGTERM)
        AgentSession.objects.request_close()
        code, output = server.end()
    assert (code, "changing_agents.py has changed: reloading" in said) == (0, True), output
    assert "SyntaxError: '(' was never closed (changing_agents.py, line 1)" in said, said
    assert_all_ended("cancelled", "cancelled", "requested")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_waits_for_better_code_leaves_nothing_behind(project: Project, number: signal.Signals) -> None:
    with project.running(*RELOADING["serveagents"]) as server:
        server.start()
        project.save_until("raise SystemExit(7)", first_has_ended)
        assert "ended the process with 7" in read_until(server, "tried again")
        server.send(number)
        code, rest = server.end()  # the end of its output: nobody is left who could write
    assert code == (-number if number == signal.SIGKILL else 0), rest
    assert "Traceback" not in rest, rest


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"server": "daphne", "workers": None}, "--server"),
        ({"server": None, "workers": 2}, "--workers"),
    ],
)
def test_what_cannot_reload_is_refused_in_one_line(options: dict[str, Any], what: str) -> None:
    with pytest.raises(RunnerConfigurationError, match=f"{what} out"):
        choose_server(**options, reload=True)


def test_one_worker_reloads_whatever_the_machine_says_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    assert choose_server(None, None, reload=True) == ("uvicorn", 1)
