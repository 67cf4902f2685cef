"""Clients that are slow, greedy or silent, at each server; and what others get meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from tests.processes import ROOT
from tests.settings import DATABASES
from visionagents_runner.server.connections import READ_BYTES
from visionagents_runner.server.sockets import listen
from visionagents_runner.server.uvicorn import uvicorn_server

pytestmark = pytest.mark.slow

SERVERS = ("daphne", "h11", "httptools")
LIMITS = {
    "ALLOW_LOCAL": True,
    "HEAD_TIMEOUT": 0.5,
    "BODY_TIMEOUT": 0.5,
    "SEND_TIMEOUT": 0.5,
    "KEEP_ALIVE_TIMEOUT": 0.8,
    "MAX_BODY_BYTES": 2**16,
    "MAX_PROJECT_BODY_BYTES": 2**18,
    "MAX_MESSAGE_BYTES": 2**16,
}
GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST %s HTTP/1.1\r\nHost: localhost\r\n"


@dataclass
class Lone:
    """A server in another process: see `tests.server.lone`."""

    process: subprocess.Popen[str]
    port: int

    def client(self) -> Any:
        return _client(self.port)

    def websocket(self, path: str = "/") -> Any:
        return connect(f"ws://127.0.0.1:{self.port}{path}", proxy=None)

    async def refused(self) -> dict[str, int]:
        async with self.client() as client:
            client.send(GET % b"/refused")
            found: dict[str, int] = json.loads((await client.answer()).partition(b"\r\n\r\n")[2])
            return found

    async def has_refused(self, reason: str, before: int) -> None:
        """Wait until it has refused more than ``before`` for ``reason``."""
        async with asyncio.timeout(15):
            while (await self.refused())[reason] <= before:  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.1)

    def log(self) -> str:
        """End it, and return what it has logged."""
        self.process.terminate()
        return self.process.communicate(timeout=20)[1]


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def rest(self) -> bytes:
        """Return all that comes until the server closes the connection."""
        data = b""
        with suppress(ConnectionError):
            while part := await self.reader.read(2**16):
                data += part
        return data

    async def answer(self) -> bytes:
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length:"))
        return head + await self.reader.readexactly(int(length.split(b":")[1]))

    async def drip(self, data: bytes = b"x") -> None:
        """Send on and on, a little at a time, until the server has had enough."""
        with suppress(ConnectionError):
            while not self.reader.at_eof():
                self.send(data)
                await self.writer.drain()
                await asyncio.sleep(0.02)


@asynccontextmanager
async def _client(port: int) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    try:
        async with asyncio.timeout(30):
            yield client
    finally:
        client.writer.close()


@contextmanager
def lone(server: str, descriptors: int = 0, **more: Any) -> Iterator[Lone]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.server.lone", server, str(descriptors)],
        cwd=ROOT,
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("PYTHONASYNCIO")},
            "DJANGO_SETTINGS_MODULE": "tests.child_settings",
            "TEST_DATABASE": json.dumps(DATABASES["default"], default=str),
            "TEST_RUNNER_SETTINGS": json.dumps({**LIMITS, **more}),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield Lone(process, int(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[Lone]:
    with lone(request.param) as found:
        yield found


async def test_half_a_request_is_answered_in_time(server: Lone) -> None:
    async with server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost:")
        assert (await client.rest()).startswith(b"HTTP/1.1 408")
    assert (await server.refused())["head_timeout"] >= 1


async def test_a_head_that_drips_is_half_a_request(server: Lone) -> None:
    async with server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: ")
        dripping = asyncio.create_task(client.drip())
        assert (await client.rest()).startswith(b"HTTP/1.1 408")
        await dripping


async def test_a_connection_without_a_request_ends_without_a_word(server: Lone) -> None:
    async with server.client() as client:
        assert await client.rest() == b""


@pytest.mark.parametrize("drip", [False, True])
async def test_a_body_that_does_not_come_is_answered_in_time(server: Lone, drip: bool) -> None:
    async with server.client() as client:
        client.send(POST % b"/" + b"Content-Length: 1000\r\n\r\n{")
        dripping = asyncio.create_task(client.drip() if drip else asyncio.sleep(0))
        assert (await client.rest()).startswith(b"HTTP/1.1 408")
        await dripping
    assert (await server.refused())["body_timeout"] >= 1


async def test_the_rest_of_a_body_that_nobody_reads_is_not_waited_for(server: Lone) -> None:
    async with server.client() as client:
        client.send(POST % b"/unread" + b"Content-Length: 65536\r\n\r\n" + b"x" * 65536)
        assert (await client.answer()).startswith(b"HTTP/1.1 200")
        client.send(GET % b"/unread")
        assert (await client.answer()).startswith(b"HTTP/1.1 200")


async def test_a_connection_that_waits_for_its_next_request_ends(server: Lone) -> None:
    async with server.client() as client:
        for _ in range(3):
            client.send(GET % b"/")
            assert (await client.answer()).endswith(b"\r\n0")
            await asyncio.sleep(0.1)
        assert await client.rest() == b""


async def test_half_of_a_second_request_is_answered_in_time(server: Lone) -> None:
    async with server.client() as client:
        client.send(GET % b"/")
        await client.answer()
        client.send(b"GET / HT")
        assert (await client.rest()).startswith(b"HTTP/1.1 408")


async def test_an_answer_may_take_its_time(server: Lone) -> None:
    async with server.client() as client:
        client.send(GET % b"/held")
        assert (await client.answer()).startswith(b"HTTP/1.1 200")


async def test_an_answer_that_is_not_taken_ends(server: Lone) -> None:
    before = (await server.refused())["send_timeout"]
    async with server.client() as client:
        client.send(GET % b"/flood")
        await client.reader.readexactly(1)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await server.has_refused("send_timeout", before)


async def test_an_answer_that_is_taken_slowly_is_all_there(server: Lone) -> None:
    async with server.client() as client:
        client.send(GET % b"/flood")
        taken = 0
        while taken < 2**26:
            part = await client.reader.read(2**21)
            assert part
            taken += len(part)
            if taken < 2**24:
                await asyncio.sleep(0.02)


async def test_a_websocket_that_takes_nothing_ends(server: Lone) -> None:
    before = (await server.refused())["send_timeout"]
    async with server.websocket("/flood") as socket:
        socket.transport.pause_reading()
        await server.has_refused("send_timeout", before)
        socket.transport.resume_reading()


async def test_a_silent_websocket_goes_on(server: Lone) -> None:
    async with server.websocket() as socket:
        await asyncio.sleep(1.5)
        await socket.send("still")
        assert await socket.recv() == "5"


@pytest.mark.parametrize(("path", "limit"), [(b"/sessions", 2**16), (b"/upload", 2**18)])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_large_body_is_refused_while_it_streams_in(
    server: Lone, path: bytes, limit: int, chunked: bool
) -> None:
    async with server.client() as client:
        length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 300000000"
        client.send(POST % path + length + b"\r\n\r\n")
        sending = asyncio.create_task(client.drip(b"4000\r\n" + b"x" * 2**14 + b"\r\n" if chunked else b"x" * 2**14))
        answer = await client.answer()
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"larger than %d bytes" % limit in answer
        sending.cancel()


async def test_a_body_up_to_the_limit_arrives_whole(server: Lone) -> None:
    async with server.client() as client:
        client.send(POST % b"/upload" + b"Content-Length: 262144\r\n\r\n" + b"x" * 2**18)
        assert (await client.answer()).endswith(b"\r\n262144")
        client.send(POST % b"/upload" + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n")
        assert (await client.answer()).endswith(b"\r\n5000")


async def test_nobody_is_told_to_go_on_with_a_body_that_is_refused(server: Lone) -> None:
    async with server.client() as client:
        client.send(POST % b"/sessions" + b"Expect: 100-continue\r\nContent-Length: 300000000\r\n\r\n")
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"100" not in answer.partition(b"\r\n")[0]


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: " + b"9" * 5000,
        b"Content-Length: 10\r\nContent-Length: 20",
        b"Content-Length: 10\r\nTransfer-Encoding: chunked",
        b"Content-Length: -1",
        b"Content-Length: 1_0",
        b"Transfer-Encoding: chunked, gzip",
        b"X: " + b"x" * 300_000,
        b"\r\n".join(b"X%d: x" % number for number in range(20_000)),
    ],
    ids=["absurd", "conflict", "both", "negative", "underscore", "encoding", "long", "many"],
)
async def test_a_head_that_makes_no_sense_ends_the_connection(server: Lone, head: bytes) -> None:
    async with server.client() as client:
        client.send(POST % b"/upload" + head + b"\r\n\r\n0\r\n\r\n")
        answer = await client.rest()
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 501")) or not answer


@pytest.mark.parametrize("chunks", [b"1;" + b"e" * 2**16, b"1\r\nx\r\n0\r\n" + b"X: trailer\r\n" * 20_000])
async def test_what_stands_around_a_body_is_bounded_too(server: Lone, chunks: bytes) -> None:
    async with server.client() as client:
        client.send(POST % b"/upload" + b"Transfer-Encoding: chunked\r\n\r\n")
        dripping = asyncio.create_task(client.drip(chunks))
        await client.rest()
        dripping.cancel()


async def test_a_message_that_is_too_large_ends_its_websocket(server: Lone) -> None:
    async with server.websocket() as socket:
        await socket.send("x" * 2**16)
        assert await socket.recv() == "65536"
        with suppress(ConnectionClosed):
            await socket.send("x" * (2**16 + 1))
        assert await _closing(socket) == 1009


async def test_a_message_that_is_announced_as_too_large_is_not_waited_for(server: Lone) -> None:
    async with server.websocket() as socket:
        socket.transport.write(b"\x82\xff" + (600_000_000).to_bytes(8, "big") + b"mask")
        assert await _closing(socket) == 1009


async def test_a_message_that_never_ends_does_end(server: Lone) -> None:
    async with server.websocket() as socket:
        with suppress(ConnectionError):
            await _flood(socket, Frame(Opcode.TEXT, b"", fin=False), Frame(Opcode.CONT, b"", fin=False))
        await _closing(socket)


async def test_text_that_is_none_ends_its_websocket(server: Lone) -> None:
    async with server.websocket() as socket:
        socket.transport.write(Frame(Opcode.TEXT, b"\xff\xfe").serialize(mask=True))
        assert await _closing(socket) == 1007


async def test_a_flood_of_pings_without_reading_ends(server: Lone) -> None:
    async with server.websocket() as socket:
        socket.transport.pause_reading()
        ping = Frame(Opcode.PING, b"p" * 100)
        with suppress(ConnectionError, TimeoutError):
            await _flood(socket, ping, ping)
        socket.transport.resume_reading()
        await _closing(socket)


@pytest.mark.parametrize("kind", SERVERS)
async def test_sockets_that_ask_nothing_leave_descriptors_to_whoever_needs_them(kind: str) -> None:
    with lone(kind, 64, HEAD_TIMEOUT=30.0, BODY_TIMEOUT=30.0) as server:
        idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(60)]
        half = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(60)]
        for _, writer in half:
            writer.write(POST % b"/" + b"Content-Length: 10\r\n\r\n{")
        for _ in range(5):
            async with server.client() as client:
                client.send(GET % b"/descriptors")
                assert (await client.answer()).startswith(b"HTTP/1.1 200")
        assert (await server.refused())["made_room"] > 60
        for _, writer in (*idle, *half):
            writer.close()
        lines = [line for line in server.log().splitlines() if "descriptor" in line]
        assert 1 <= len(lines) <= 2, lines  # one for each reason
        assert "ulimit -n" in lines[0]


@pytest.mark.parametrize("kind", ["h11", "httptools"])
async def test_other_work_gets_its_turn_between_small_reads(kind: str) -> None:
    sizes: list[int] = []

    async def site(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    started = asyncio.Event()
    server = uvicorn_server(site, on_startup=started.set)
    server.config.http = kind  # type: ignore[assignment]
    listener = listen("127.0.0.1", 0)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    await started.wait()
    protocol: Any = server.config.http_protocol_class
    received = protocol.data_received
    protocol.data_received = lambda self, data: (sizes.append(len(data)), received(self, data))[1]
    async with _client(listener.getsockname()[1]) as client:
        client.send(POST % b"/" + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")
        await client.answer()
    server.leave()
    await running
    assert max(sizes) <= READ_BYTES


async def _flood(socket: ClientConnection, first: Frame, then: Frame) -> None:
    socket.transport.write(first.serialize(mask=True))
    many = then.serialize(mask=True) * 2000
    async with asyncio.timeout(15):
        while not socket.transport.is_closing():
            if socket.transport.get_write_buffer_size() < 2**20:
                socket.transport.write(many)
            await asyncio.sleep(0.01)


async def _closing(socket: ClientConnection) -> int | None:
    async with asyncio.timeout(15):
        await socket.wait_closed()
    return socket.close_code
