"""Real servers, real sockets: every server that hosts agents, clients that freeze or break off, and each way to end."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.server.test_signals import EMBEDDED, FOREIGN, Command, Server, running
from visionagents_runner.auth.tokens import make_join_token
from visionagents_runner.websockets import protocol

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

RUNNER = "tests.websockets.calls.agents.runner"
PATH = "/ws/calls/default/call/"
ALL: dict[str, Command] = {**EMBEDDED, **FOREIGN}


class Client:
    """Acknowledges what it receives, as the page does."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.count = 0

    def send(self, kind: str, **message: Any) -> None:
        self.connection.send(json.dumps({"type": kind, **message}))

    def hear(self, kind: str, **fields: Any) -> dict[str, Any]:
        while True:
            data = self.connection.recv(timeout=20)
            self.count += 1
            if self.count % 25 == 0:
                self.send("ack", n=self.count)
            if isinstance(data, bytes):
                continue
            message: dict[str, Any] = json.loads(data)
            if message["type"] == kind and all(message.get(name) == value for name, value in fields.items()):
                return message
            if message["type"] == "ping":
                self.send("pong", t=message["t"])
                self.send("ack", n=self.count)

    def hello(self, **more: Any) -> dict[str, Any]:
        self.send("hello", v=1, **more)
        return self.hear("welcome")

    def end(self) -> tuple[str, int]:
        """Return the code of the fatal error, and the close code."""
        problem = self.hear("error", fatal=True)
        with pytest.raises(ConnectionClosed) as closed:
            self.connection.recv(timeout=20)
        assert closed.value.rcvd is not None
        return problem["code"], closed.value.rcvd.code


@contextmanager
def joined(server: Server, path: str = PATH, **options: Any) -> Iterator[Client]:
    with connect(f"ws://127.0.0.1:{server.port}{path}", **options) as connection:
        yield Client(connection)


@pytest.mark.parametrize(
    "command",
    [pytest.param(command, id=name, marks=[pytest.mark.smoke] * (name in EMBEDDED)) for name, command in ALL.items()],
)
def test_every_server_carries_a_call(command: Command) -> None:
    with running(command, RUNNER=RUNNER) as server:
        session = server.start("a/b")
        with joined(server, "/ws/calls/default/a%2Fb/", origin=f"http://127.0.0.1:{server.port}") as client:
            assert client.hello()["sessions"][0]["session_id"] == str(session.pk)
            client.hear("presence", is_agent=True)
            client.send("say", id=1, text="hello")
            assert client.hear("words", role="assistant", completed=True)["text"] == "You said: hello"
            client.send("pcm", on=True)
            client.hear("pcm", on=True)
            for _ in range(10):
                client.connection.send(bytes(protocol.FRAME_BYTES))
            server.call("DELETE", f"/sessions/{session.pk}")
            assert client.hear("session")["end_reason"] == "requested"
        with joined(server, origin="http://evil.example") as client:
            client.send("hello", v=1)
            assert client.end() == ("sign_in", 4401)
        with joined(server) as client:
            client.send("hello", v=1, token=make_join_token(session))
            assert client.end()[0] in {"not_allowed", "void_token"}
        with pytest.raises(InvalidStatus), joined(server, "/ws/calls/nowhere/"):
            pass


@pytest.mark.parametrize("command", EMBEDDED.values(), ids=EMBEDDED)
def test_a_call_goes_on_while_the_server_drains_and_ends_with_words(command: Command) -> None:
    with running(command, RUNNER=RUNNER, DRAIN_TIMEOUT=2.0) as server:
        server.start()
        with joined(server) as client:
            client.hello()
            server.send(signal.SIGTERM)
            server.until_draining()
            client.send("say", id=1, text="still there?")
            client.hear("words", role="assistant", completed=True)
            with joined(server) as late:
                assert not late.hello()["may_start"]
            ended = client.hear("session")
            assert (ended["end_reason"], "restarted" in ended["end_words"]) == ("drained", True)
            with pytest.raises(ConnectionClosed) as closed:
                client.hear("never")
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code in {4503, 1012}  # uvicorn is quicker than we are
        code, output = server.end()
    assert code == 0, output
    assert "Traceback" not in output, output


def test_plain_daphne_says_that_it_goes_away() -> None:
    with running(FOREIGN["plain daphne"], RUNNER=RUNNER, DRAIN_TIMEOUT=0.5) as server:
        server.start()
        with joined(server) as client:
            client.hello()
            server.send(signal.SIGTERM)
            assert client.end() == ("going_away", 4503)
        _, output = server.end()
    assert "Traceback" not in output, output


@pytest.mark.parametrize("command", EMBEDDED.values(), ids=EMBEDDED)
def test_a_frozen_client_costs_nothing_and_is_let_go(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_SILENCE_SECONDS", "4")
    limits = dict.fromkeys(("turns_per_person", "turns_per_identity", "turns_per_call"))
    with running(command, RUNNER=RUNNER, LIMITS=limits) as server:
        server.start()
        with joined(server) as client, connect(f"ws://127.0.0.1:{server.port}{PATH}", max_queue=1) as frozen:
            client.hello()
            frozen.send(json.dumps({"type": "hello", "v": 1, "name": "Frozen"}))
            client.hear("presence", name="Frozen", here=True)
            frozen.send(json.dumps({"type": "pcm", "on": True}))
            before = memory_kb(server.process.pid)
            stop = threading.Event()
            talking = threading.Thread(target=talk, args=(client, stop))
            talking.start()
            try:
                while True:
                    message = json.loads(client.connection.recv(timeout=20))
                    client.count += 1
                    if message.get("name") == "Frozen" and not message["here"]:
                        break
            finally:
                stop.set()
                talking.join()
            assert memory_kb(server.process.pid) - before < 20_000


def talk(client: Client, stop: threading.Event) -> None:
    number = 0
    while not stop.wait(0.1):
        number += 1
        # Long words: the echo of many would be more than the loop of a busy machine can tell.
        client.send("say", id=number, text=("x" * 19 + " ") * 190)
        client.send("ack", n=client.count)


def memory_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError(os.strerror(2))


@pytest.mark.parametrize("command", EMBEDDED.values(), ids=EMBEDDED)
def test_who_breaks_off_or_sends_far_too_much_is_gone_at_once_and_nobody_else(command: Command) -> None:
    with running(command, RUNNER=RUNNER) as server, joined(server) as client:
        client.hello()
        with joined(server) as other:
            other.hello(name="Broken")
            client.hear("presence", name="Broken", here=True)
            other.connection.socket.shutdown(socket.SHUT_RDWR)
            client.hear("presence", name="Broken", here=False)
        with joined(server) as other:
            other.hello(name="Large")
            with suppress(ConnectionClosed):  # it may be gone before all of it is sent
                other.connection.send("x" * 3_000_000)
            with pytest.raises(ConnectionClosed):
                other.hear("never")
        client.hear("presence", name="Large", here=False)
        client.send("say", id=1, text="hello")
        client.hear("said", id=1)
