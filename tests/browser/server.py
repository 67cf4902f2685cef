"""The server of the tests: `serveagents` in a process of its own, on a database of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.processes import ROOT

ELSEWHERE = "agents.example"
"""A name by which the browser reaches the server, and that is not the machine's own: there nobody is local, and a page
under http:// is not secure."""

_SETTINGS = {"MAX_PEOPLE_PER_CALL": 2}


class Server:
    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path, visitor: str) -> None:
        self.process = process
        self.port = port
        self.log = log
        self.visitor = visitor
        """The session key of somebody who is signed in and may do nothing."""

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def url_from_elsewhere(self) -> str:
        return f"http://{ELSEWHERE}:{self.port}"

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask the REST API as somebody on this machine."""
        request = urllib.request.Request(f"{self.url}{path}", method=method)
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, data, timeout=30) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    def start_agent(self, call_id: str, agent: str = "text", **more: Any) -> str:
        """Start an agent on a call; returns the session's id."""
        status, answer = self.request("POST", "/sessions", {"call_id": call_id, "agent": agent, **more})
        assert status == 201, answer
        return str(answer["session_id"])


def server_environment(folder: Path) -> dict[str, str]:
    """The environment of whatever works on the database in ``folder``."""
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.browser.settings",
        "BROWSER_TESTS_DATABASE": str(folder / "db.sqlite3"),
        "TEST_RUNNER_SETTINGS": json.dumps(_SETTINGS),
        "PYTHONPATH": str(ROOT),
        "PYTHONASYNCIODEBUG": "",
        "NO_COLOR": "1",
    }


@contextmanager
def running_server(folder: Path, *options: str, **more: str) -> Iterator[Server]:
    """Run a server on the database in ``folder``, which may have others; ``more`` is its environment besides."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    env = {**server_environment(folder), **more}
    prepared = subprocess.run(
        [sys.executable, "-m", "tests.browser.prepare"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    assert prepared.returncode == 0, prepared.stderr
    log = folder / f"log-{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "django", "serveagents", "--port", str(port), "--no-splash", *options],
            cwd=ROOT,
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, port, log, prepared.stdout.strip())
    try:
        _wait_until_ready(server)
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            if server.request("GET", "/ready")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"the server did not become ready:\n{server.log.read_text()}")
