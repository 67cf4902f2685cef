"""``python agent.py run`` and ``python agent.py serve`` in an empty folder, with no project at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ROOT
from tests.server.test_signals import Server, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "tests" / "cli" / "standalone" / "agent.py", tmp_path)
    return tmp_path


@pytest.fixture
def mistaken(tmp_path: Path) -> Path:
    """A folder whose script never gets to its agent: so it need not load vision-agents."""
    (tmp_path / "agent.py").write_text(
        "from tests.agents import runner\n\nif __name__ == '__main__':\n    runner.cli()\n"
    )
    return tmp_path


def run(folder: Path, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "agent.py", *arguments],
        cwd=folder,
        env=clean_environment(),
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
    )


def clean_environment() -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DJANGO_")}
    return {**environment, "PYTHONPATH": str(ROOT)}


def sessions(folder: Path) -> list[tuple[str, ...]]:
    with sqlite3.connect(folder / "visionagents.sqlite3") as connection:
        query = "SELECT call_id, status, end_reason FROM visionagents_runner_agentsession ORDER BY created_at"
        rows = connection.execute(query).fetchall()
    connection.close()
    return rows


def test_run_answers_what_is_piped_in_and_records_the_session(folder: Path) -> None:
    done = run(folder, "run", "--call-id", "first", text="Good evening\n")
    assert done.returncode == 0, done.stderr
    assert "You said: Good evening" in done.stdout
    assert "Traceback" not in done.stderr
    assert sessions(folder) == [("first", "closed", "finished")]
    made = {each.name: stat.S_IMODE(each.stat().st_mode) for each in folder.glob("*visionagents*")}
    assert {".visionagents_secret_key", "visionagents.sqlite3"} <= set(made)
    assert set(made.values()) == {0o600}


def test_serve_starts_and_closes_sessions_for_the_documented_curl(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "agent.py", "serve", "--port", str(port)],
        cwd=folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        server = Server(process, port)
        wait_for(lambda: process.poll() is not None or server.call("GET", "/ready")[0] == 200)
        status, answer = server.call("POST", "/sessions", {"call_id": "my-call-123", "call_type": "default"})
        assert status == 201, answer
        assert server.call("GET", f"/sessions/{answer['session_id']}")[1]["status"] == "active"
        assert server.call("DELETE", f"/sessions/{answer['session_id']}") == (200, {"success": True})
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=40)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, output
    assert "Traceback" not in output, output
    assert sessions(folder) == [("my-call-123", "closed", "requested")]


def test_two_first_starts_at_once_share_one_database(folder: Path) -> None:
    command = [sys.executable, "agent.py", "run", "--call-id", "x"]
    options: dict[str, Any] = {"cwd": folder, "env": clean_environment(), "text": True}
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
        for _ in range(2)
    ]
    outputs = [process.communicate("hello\n", timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert [row[1:] for row in sessions(folder)] == [("closed", "finished")] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--video-track-override", "nowhere.mp4"], "--video-track-override"),
        (["run", "--log-level", "loud"], "choose from DEBUG"),
        (["run", "--call-id", ""], "call_id: must not be empty"),
        (["serve", "--port", "70000"], "choose one from 0 to 65535"),
    ],
)
def test_a_mistake_is_one_line_that_says_the_fix(mistaken: Path, arguments: list[str], message: str) -> None:
    done = run(mistaken, *arguments)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_written_is_one_line(mistaken: Path) -> None:
    (mistaken / ".visionagents_secret_key").mkdir()
    done = run(mistaken, "run")
    assert done.returncode == 1
    assert "change to a directory of yours" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_secret_that_others_can_read_is_one_line_that_says_the_fix(mistaken: Path) -> None:
    (mistaken / ".visionagents_secret_key").write_text("x" * 50)
    (mistaken / ".visionagents_secret_key").chmod(0o644)
    done = run(mistaken, "run")
    assert done.returncode == 1
    assert "chmod 600" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_an_agent_that_cannot_be_built_fails_with_code_1_and_a_row(folder: Path) -> None:
    script = folder / "agent.py"
    script.write_text(
        script.read_text().replace("    agent = Agent(", "    raise RuntimeError('no key')\n    agent = Agent(")
    )
    done = run(folder, "run", "--call-id", "x")
    assert done.returncode == 1
    assert sessions(folder) == [("x", "failed", "create_failed")]


def test_a_join_call_that_fails_gives_code_1(folder: Path) -> None:
    script = folder / "agent.py"
    script.write_text(
        script.read_text().replace("    call = await", "    raise RuntimeError('no call')\n    call = await")
    )
    done = run(folder, "run", "--call-id", "x")
    assert done.returncode == 1
    assert "RuntimeError: no call" in done.stderr
    assert sessions(folder) == [("x", "failed", "join_failed")]


def test_with_a_settings_module_the_project_is_used(folder: Path) -> None:
    database = folder / "project.sqlite3"
    more = {"DJANGO_SETTINGS_MODULE": "project.settings", "DATABASE_URL": f"sqlite:///{database}"}
    done = subprocess.run(
        [sys.executable, "agent.py", "run"],
        cwd=folder,
        env={**clean_environment(), **more},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert done.returncode == 1
    assert "run `python manage.py migrate`" in done.stderr
    assert not (folder / "visionagents.sqlite3").exists()


def test_json_of_the_state_is_what_the_contract_says(folder: Path) -> None:
    """The answers of /health and /metrics, from the script too."""
    program = (
        "import asyncio, json\n"
        "from agent import *\n"
        "from starlette.testclient import TestClient\n"
        "runner = Runner(AgentLauncher(create_agent, join_call))\n"
        "from visionagents_runner.cli.standalone import configure_if_needed\n"
        "configure_if_needed(runner, migrate=True)\n"
        "from visionagents_runner.auth.local_token import local_token\n"
        "headers = {'Authorization': f'Bearer {local_token()}'}\n"
        "with TestClient(runner.asgi, base_url='http://localhost', headers=headers) as client:\n"
        "    print(json.dumps([client.get('/health').json(), client.get('/metrics').json()]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=clean_environment(), capture_output=True, text=True, timeout=60
    )
    health, metrics = json.loads(done.stdout)
    assert set(health) >= {"status", "warmed_up", "running"}, done.stderr
    assert set(metrics) >= {"active_sessions", "total_sessions_started", "warmed_up", "running"}
