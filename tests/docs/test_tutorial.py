"""The tutorial, followed to the letter: its files, its commands, and what they answer."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ROOT

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "tutorial" / "index.md").read_text()
FILES = dict(re.findall(r"```python\n# ([\w/.]+)(?:, at the end)?\n(.*?)```", PAGE, re.DOTALL))
ASKED = re.findall(r"^curl (.*)$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shop")


def run(folder: Path, *command: str, **options: Any) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=90,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    return {**kept, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}


def test_the_agent_of_the_script_answers_what_is_typed(folder: Path) -> None:
    (folder / "agent.py").write_text(FILES["agent.py"])
    told = run(folder, "agent.py", "run", "--call-id", "hello", input="are you open on Saturday?\n")
    [shown] = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert shown in told


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    """The project of the tutorial, served; where its API is."""
    (folder / "agent.py").write_text(FILES["agent.py"])
    run(folder, "-m", "django", "startproject", "shop", ".")
    (folder / "shop" / "agents.py").write_text(FILES["agent.py"])
    (folder / "shop" / "urls.py").write_text(FILES["shop/urls.py"])
    (folder / "shop" / "asgi.py").write_text(FILES["shop/asgi.py"])
    with (folder / "shop" / "settings.py").open("a") as settings:
        settings.write(FILES["shop/settings.py"])
    run(folder, "manage.py", "migrate", "-v", "0")
    assert "no issues" in run(folder, "manage.py", "check", "--tag", "visionagents_runner")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "serveagents", "--port", str(port)],
            cwd=folder,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 60
        while "ready in" not in log.read_text() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert "ready in" in log.read_text(), log.read_text()
        yield f"http://localhost:{port}/agents"
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()


@pytest.mark.timeout(180)
@pytest.mark.requires("/proc", "curl")
def test_the_project_starts_a_session_that_can_be_joined_read_and_closed(folder: Path, server: str) -> None:
    told = iter(ASKED)
    session_id = "SESSION_ID"

    def answer() -> Any:
        """What the page's next command answers."""
        asked = next(told).replace("http://localhost:8000/agents", server).replace("SESSION_ID", session_id)
        return json.loads(curl(*shlex.split(asked)))

    started = answer()
    assert started["call_id"] == "counter"
    session_id = started["session_id"]
    assert "counter" in curl(f"{server}/call/default/counter/")
    [listed] = answer()["items"]
    assert (listed["session_id"], listed["status"]) == (session_id, "active")
    assert answer()["items"] == []
    assert answer() == {"success": True}
    assert next(told, None) is None


def curl(*arguments: str) -> str:
    done = subprocess.run(["curl", "-sf", "--noproxy", "*", *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout
