"""What becomes of a server's connections when other workers take its place."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from websockets.asyncio.client import connect

from visionagents_runner.server.sockets import listen
from visionagents_runner.server.uvicorn import OrderedServer, uvicorn_server


@dataclass
class Site:
    """An application of which one path takes its time, and which echoes over WebSockets; and its server."""

    held: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    server: OrderedServer = field(init=False)
    listener: socket.socket = field(default_factory=lambda: listen("127.0.0.1", 0))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": message["text"]})
            return
        if scope["path"] == "/held":
            self.held.set()
            await self.released.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def client(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port))

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def ask(self, path: str) -> None:
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    async def answer(self) -> str:
        return (await self.reader.readuntil(b"\r\n\r\nok")).decode().lower()

    async def hears_the_end(self) -> bool:
        return await self.reader.read() == b""

    def close(self) -> None:
        self.writer.close()


@asynccontextmanager
async def serving() -> AsyncIterator[Site]:
    site, started = Site(), asyncio.Event()
    site.server = uvicorn_server(site, on_startup=started.set)
    running = asyncio.create_task(site.server.serve(sockets=[site.listener]))
    await started.wait()
    try:
        async with asyncio.timeout(20):
            yield site
    finally:
        site.released.set()
        site.server.leave()
        await running


async def test_a_server_that_listens_no_more_ends_a_connection_with_its_next_answer() -> None:
    async with serving() as site:
        client = await site.client()
        client.ask("/")
        assert "connection: close" not in await client.answer()
        site.server.stop_listening()
        client.ask("/")
        assert "connection: close" in await client.answer()
        assert await client.hears_the_end()
        client.close()


async def test_hanging_up_ends_what_is_idle_and_nothing_else() -> None:
    async with serving() as site, connect(f"ws://127.0.0.1:{site.port}/") as websocket:
        busy, idle, fresh = [await site.client() for _ in range(3)]
        idle.ask("/")
        await idle.answer()
        busy.ask("/held")
        await site.held.wait()
        while len(site.server.server_state.connections) < 4:  # noqa: ASYNC110 - clients know of theirs earlier
            await asyncio.sleep(0)
        site.server.stop_listening()
        site.server.hang_up()
        assert await idle.hears_the_end()
        assert await fresh.hears_the_end()
        await websocket.send("still there?")
        assert await websocket.recv() == "still there?"
        site.released.set()
        answer = await busy.answer()
        assert answer.startswith("http/1.1 200")
        assert "connection: close" in answer
        assert await busy.hears_the_end()
        for client in (busy, idle, fresh):
            client.close()


@pytest.mark.parametrize("concurrency", ["", "many"])
def test_a_number_of_workers_for_other_servers_is_not_this_ones_business(
    concurrency: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", concurrency)
    assert uvicorn_server(Site).config.workers == 1
