"""The call page that ``runagent`` serves: in another process, as a person and a browser meet it."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

import tests.agents
from tests.processes import ROOT, environment
from visionagents_runner.auth.local_token import local_token
from visionagents_runner.cli.page import CallPage
from visionagents_runner.models import AgentSession
from visionagents_runner.server.sockets import url_of

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

RUNNER = "tests.cli.agents.runner"
_ADDRESS = re.compile(r"open\s+(http://\S+)")


class RunAgent:
    """``runagent``, and what it printed so far."""

    def __init__(self, *arguments: str, runner: str = RUNNER, stdin: int = subprocess.DEVNULL, **more: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "django", "runagent", "--no-splash", "--call-id", "call", *arguments],
            cwd=ROOT,
            env=environment(TEST_RUNNER=runner, NO_COLOR="1", PYTHONUNBUFFERED="1", **more),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.errors: list[str] = []
        self._told = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._told:
                self.errors.append(line)
                self._told.notify_all()

    @property
    def said(self) -> str:
        return "".join(self.errors)

    def until(self, pattern: str) -> re.Match[str]:
        deadline = time.monotonic() + 60
        with self._told:
            while (found := re.search(pattern, self.said)) is None:
                assert self._told.wait(deadline - time.monotonic()), self.said
        return found

    @property
    def address(self) -> str:
        return self.until(_ADDRESS.pattern)[1]

    def end(self) -> int:
        code = self.process.wait(30)
        self._reader.join()
        return code

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.end()


@contextmanager
def runagent(*arguments: str, **more: Any) -> Iterator[RunAgent]:
    running = RunAgent(*arguments, **more)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()
        running._reader.join()
        for stream in (running.process.stdout, running.process.stderr, running.process.stdin):
            if stream is not None:
                stream.close()


def fetch(address: str, path: str = "") -> tuple[int, str]:
    parts = urlsplit(address)
    url = f"{parts.scheme}://{parts.netloc}{path or parts.path}"
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.status, answer.read().decode()


def join(address: str, token: str | None) -> ClientConnection:
    parts = urlsplit(address)
    path = parts.path.replace("/call/", "/ws/calls/", 1)
    connection = connect(f"ws://{parts.netloc}{path}", origin=f"http://{parts.netloc}")  # type: ignore[arg-type]
    connection.send(json.dumps({"type": "hello", "v": 1, **({"token": token} if token else {})}))
    return connection


def hear(connection: ClientConnection, kind: str) -> dict[str, Any]:
    while True:
        message: dict[str, Any] = json.loads(connection.recv(timeout=20))
        if message["type"] == kind:
            return message


def test_with_debug_off_whoever_has_the_printed_address_talks_to_the_agent() -> None:
    with runagent("--call-id", "a/b c") as running:
        address, _, token = running.address.partition("#token=")
        assert address.endswith("/call/default/a%2Fb%20c/")
        status, page = fetch(address)
        assert (status, "<!doctype html>" in page.lower()) == (200, True)
        files = re.findall(r'(?:src|href)="(/static/[^"]+)"', page)
        assert files
        for file in files:
            assert fetch(address, file)[0] == 200
        with join(address, token) as guest:
            session = hear(guest, "welcome")["sessions"][0]
            assert session["session_id"] == str(AgentSession.objects.get().pk)
            guest.send(json.dumps({"type": "say", "id": 1, "text": "hello"}))
            while hear(guest, "words")["role"] != "assistant":
                pass
            running.process.send_signal(signal.SIGINT)
            assert hear(guest, "session")["end_reason"] == "requested"
            with pytest.raises(ConnectionClosed):
                hear(guest, "never")
        began = time.monotonic()
        assert running.end() == 0, running.said
        assert time.monotonic() - began < 15
    assert "Traceback" not in running.said


def test_without_the_token_nobody_gets_in_and_files_outside_are_not_served() -> None:
    with runagent() as running:
        address = running.address.partition("#")[0]
        with join(address, None) as stranger:
            assert hear(stranger, "error")["code"] == "sign_in"
        with pytest.raises(urllib.error.HTTPError) as missing:
            fetch(address, "/static/../manage.py")
        missing.value.close()
        assert missing.value.code == 404
        assert running.interrupt() == 0


def until_ready(address: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(urllib.error.HTTPError):
            if fetch(address, "/ready")[0] == 200:
                return
        time.sleep(0.1)
    raise AssertionError("it is not ready")


def test_where_local_requests_count_the_address_needs_no_token_and_other_agents_can_be_started() -> None:
    with runagent(TEST_RUNNER_SETTINGS=json.dumps({"ALLOW_LOCAL": True})) as running:
        assert "#" not in running.address
        with join(running.address, None) as person:
            assert hear(person, "welcome")["role"] == "speaker"
            until_ready(running.address)
            start = urllib.request.Request(
                f"http://{urlsplit(running.address).netloc}/sessions",
                json.dumps({"call_id": "call", "agent": "other"}).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(start, timeout=20) as answer:
                assert answer.status == 201
        assert running.interrupt() == 0, running.said
    assert not AgentSession.objects.live().exists()
    assert AgentSession.objects.count() == 2
    assert "Traceback" not in running.said


def test_on_a_terminal_the_address_makes_a_browser_known(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "ALLOW_LOCAL": True}
    page = CallPage(tests.agents.runner, 0)
    session: Any = SimpleNamespace(call_type="default", call_id="a b")
    try:
        root = url_of(page._listener)
        monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: False))
        assert page._address(session) == f"{root}call/default/a%20b/"
        monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: True))
        then = "%2Fcall%2Fdefault%2Fa%2520b%2F"
        assert page._address(session) == f"{root}local-access?next={then}#{local_token()}"
    finally:
        page.close()


def test_a_page_that_stays_open_does_not_keep_it_from_ending() -> None:
    with runagent() as running:
        address, _, token = running.address.partition("#token=")
        with join(address, token) as guest, socket.create_connection(urlsplit(address).netloc.split(":")) as half:  # type: ignore[arg-type]
            half.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            hear(guest, "welcome")
            began = time.monotonic()
            assert running.interrupt() == 0, running.said
            assert time.monotonic() - began < 15
    assert "Traceback" not in running.said


def test_a_taken_port_that_was_asked_for_is_an_error_and_another_is_taken_if_none_was() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with runagent("--port", port) as running:
            assert running.end() == 1
            assert f"Port {port} on 127.0.0.1 is in use" in running.said
            assert "Traceback" not in running.said
    with runagent() as first, runagent() as second:
        assert urlsplit(first.address).port != urlsplit(second.address).port
        assert (first.interrupt(), second.interrupt()) == (0, 0)


def test_who_pipes_lines_gets_answers_and_no_page() -> None:
    with runagent(stdin=subprocess.PIPE) as running:
        assert running.process.stdin is not None
        assert running.process.stdout is not None
        running.process.stdin.write("hello\n")
        running.process.stdin.close()
        output = running.process.stdout.read()
        assert running.end() == 0
        assert "agent> You said: hello" in output
        assert not _ADDRESS.search(running.said)


def test_no_demo_serves_nothing() -> None:
    with runagent("--no-demo") as running:
        running.until("Session .* on default/call")
        running.until("joined call")
        assert running.interrupt() == 0
        assert not _ADDRESS.search(running.said)


def test_a_project_without_our_urls_is_told_what_to_add() -> None:
    with runagent(DJANGO_SETTINGS_MODULE="tests.cli.settings_without_urls") as running:
        running.until(r"There is no call page: .* add path\(")
        assert running.interrupt() == 0


def test_a_build_that_never_returns_does_not_keep_the_process() -> None:
    with runagent(runner="tests.cli.agents.held") as running:
        running.until("building")
        assert running.interrupt() == 0, running.said
        assert "Left behind: the thread visionagents-build-default" in running.said
        assert "Traceback" not in running.said
