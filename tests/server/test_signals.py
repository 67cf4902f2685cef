"""Real servers in real processes, ended in every way; then what their rows say."""

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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.processes import ROOT, environment
from visionagents_runner.models import AgentSession, Worker, WorkerState

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

Command = Callable[[int], list[str]]


def serveagents(server: str) -> Command:
    return lambda port: [
        *("-m", "django", "serveagents", "--port", str(port), "--server", server, "--no-splash"),
    ]


EMBEDDED = {"daphne": serveagents("daphne"), "uvicorn": serveagents("uvicorn")}
FOREIGN: dict[str, Command] = {
    "plain daphne": lambda port: ["-m", "daphne", "-p", str(port), "project.asgi:application"],
    "plain uvicorn": lambda port: ["-m", "uvicorn", "--port", str(port), "project.asgi:application"],
    "runserver": lambda port: ["-m", "django", "runserver", "--noreload", str(port)],
}


class Server:
    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, data, timeout=20) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    def start(self, call_id: str = "call") -> AgentSession:
        status, answer = self.call("POST", "/sessions", {"call_id": call_id})
        assert status == 201, answer
        return AgentSession.objects.get(pk=answer["session_id"])

    def send(self, signal_number: signal.Signals) -> None:
        self.process.send_signal(signal_number)

    def end(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=40)
        return self.process.returncode, output

    def until_draining(self) -> None:
        wait_for(lambda: self.call("GET", "/ready")[0] == 503)


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def _hear_all_signals() -> None:
    """Undo what a shell ignores for what it runs in the background (SIGINT), and nohup (SIGHUP): Python leaves it so.

    Tests that run there would signal a server that cannot hear it.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def running(command: Command, *, env: Mapping[str, str] | None = None, **settings: Any) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    arguments = command(port)
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={
            **({} if "runserver" in arguments else {"TEST_WITHOUT_DAPHNE": "1"}),
            **environment(TEST_RUNNER_SETTINGS=json.dumps({"ALLOW_LOCAL": True, **settings})),
            "PYTHONASYNCIODEBUG": "",
            "NO_COLOR": "1",
            **(env or {}),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=_hear_all_signals,
    )
    server = Server(process, port)
    try:
        wait_for(lambda: process.poll() is not None or server.call("GET", "/ready")[0] == 200)
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def assert_all_ended(*reasons: str) -> None:
    assert sorted(AgentSession.objects.values_list("end_reason", flat=True)) == sorted(reasons)
    assert not AgentSession.objects.live().exists()
    assert set(Worker.objects.values_list("state", flat=True)) == {WorkerState.STOPPED}


@pytest.mark.smoke
@pytest.mark.parametrize("command", EMBEDDED.values(), ids=EMBEDDED)
def test_sigterm_lets_calls_go_on_and_then_drains_them(command: Command) -> None:
    with running(command, DRAIN_TIMEOUT=1.0) as server:
        session = server.start()
        server.send(signal.SIGTERM)
        server.until_draining()
        status, answer = server.call("POST", "/sessions", {"call_id": "late"})
        assert (status, "draining" in answer["detail"]) == (503, True)
        assert AgentSession.objects.get(pk=session.pk).is_live
        code, output = server.end()
    assert code == 0, output
    assert "Traceback" not in output, output
    assert_all_ended("drained")


@pytest.mark.parametrize("command", EMBEDDED.values(), ids=EMBEDDED)
def test_sigint_closes_in_order_at_once(command: Command) -> None:
    with running(command, DRAIN_TIMEOUT=3600) as server:
        server.start()
        server.start()
        server.send(signal.SIGINT)
        code, output = server.end()
    assert code == 0, output
    assert "Traceback" not in output, output
    assert_all_ended("drained", "drained")


@pytest.mark.parametrize("command", EMBEDDED.values(), ids=EMBEDDED)
def test_a_second_sigterm_closes_what_is_left(command: Command) -> None:
    with running(command, DRAIN_TIMEOUT=3600) as server:
        server.start()
        server.send(signal.SIGTERM)
        server.until_draining()
        server.send(signal.SIGTERM)
        code, output = server.end()
    assert code == 0, output
    assert_all_ended("drained")


def test_a_drain_ends_early_when_the_last_call_is_closed() -> None:
    with running(EMBEDDED["daphne"], DRAIN_TIMEOUT=3600) as server:
        session = server.start()
        server.send(signal.SIGTERM)
        server.until_draining()
        assert server.call("DELETE", f"/sessions/{session.pk}")[0] == 200
        assert server.end()[0] == 0
    assert_all_ended("requested")


@pytest.mark.parametrize("command", FOREIGN.values(), ids=FOREIGN)
def test_another_server_starts_and_drains_the_worker_too(command: Command) -> None:
    with running(command, DRAIN_TIMEOUT=0.2) as server:
        server.start()
        server.send(signal.SIGTERM)
        _, output = server.end()
    assert "Traceback" not in output, output
    assert_all_ended("drained")


def test_a_killed_server_leaves_rows_that_its_successor_declares_lost() -> None:
    with running(EMBEDDED["daphne"]) as server:
        server.start()
        server.send(signal.SIGKILL)
        server.end()
    assert AgentSession.objects.live().count() == 1
    with running(EMBEDDED["uvicorn"]) as server:
        wait_for(lambda: not AgentSession.objects.live().exists())
        server.send(signal.SIGTERM)
        server.end()
    assert_all_ended("worker_lost")


@pytest.mark.parametrize("command", EMBEDDED.values(), ids=EMBEDDED)
def test_a_port_in_use_is_one_line_that_says_the_fix(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, *command(port)], env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 1
    assert f"Port {port} on 127.0.0.1 is in use" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_client_that_sends_half_a_request_does_not_hold_up_the_end() -> None:
    with (
        running(EMBEDDED["daphne"], DRAIN_TIMEOUT=0.2) as server,
        socket.create_connection(("127.0.0.1", server.port)) as client,
    ):
        client.sendall(b"POST /sessions HTTP/1.1\r\nHost: localhost\r\nContent-Le")
        server.send(signal.SIGTERM)
        code, output = server.end()
    assert (code, "Traceback" in output) == (0, False), output


@pytest.mark.parametrize("command", EMBEDDED.values(), ids=EMBEDDED)
@pytest.mark.parametrize("header", [b"Content-Length: 10485760", b"Transfer-Encoding: chunked"])
def test_a_body_that_is_too_large_is_refused_while_it_streams_in(command: Command, header: bytes) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n" if b"chunked" in header else b" " * 0x10000
    with running(command) as server, socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(b"POST /sessions HTTP/1.1\r\nHost: localhost\r\n" + header + b"\r\n\r\n")
        sent = 0
        with suppress(ConnectionError):
            for _ in range(20):  # 1.25 MiB of the 10 MB that it announces, and no end
                client.sendall(chunk)
                sent += 1
        answer = b""
        with suppress(ConnectionError):
            answer = client.recv(4096)
        assert answer.startswith(b"HTTP/1.1 413") or (sent < 20 and not answer)
        assert server.call("GET", "/health")[0] == 200
    assert not AgentSession.objects.exists()


def test_a_client_that_sends_half_a_body_does_not_keep_uvicorn() -> None:
    with (
        running(EMBEDDED["uvicorn"], DRAIN_TIMEOUT=0.2) as server,
        socket.create_connection(("127.0.0.1", server.port)) as client,
    ):
        client.sendall(b"POST /sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        server.call("GET", "/health")
        server.send(signal.SIGTERM)
        code, output = server.end()
    assert code == 0, output


@pytest.mark.parametrize("command", EMBEDDED.values(), ids=EMBEDDED)
def test_threads_that_never_come_back_do_not_keep_the_process(command: Command) -> None:
    with (
        running(command, DRAIN_TIMEOUT=0.2, RUNNER="tests.server.held.runner") as server,
        socket.create_connection(("127.0.0.1", server.port)) as starting,
        socket.create_connection(("127.0.0.1", server.port)) as viewing,
    ):
        starting.sendall(
            b"POST /sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 19\r\n\r\n" + b'{"call_id": "held"}'
        )
        viewing.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: AgentSession.objects.live().exists())
        server.send(signal.SIGTERM)
        code, output = server.end()
    assert code == 0, output
    assert "Left behind: " in output
    assert_all_ended("drained")
