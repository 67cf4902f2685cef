"""A small HTTP client for many requests at once, without the weight of a real one."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

from .processes import Server

_SECONDS = 120.0


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    sent_at: float
    """``time.time()`` when the request was sent, the connection being open."""
    answered_at: float

    def json(self) -> Any:
        return json.loads(self.body)


async def request(server: Server, method: str, path: str, data: Any = None) -> Answer:
    """Send one request over a connection of its own."""
    async with asyncio.timeout(_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            body = b"" if data is None else json.dumps(data).encode()
            head = (
                f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            sent_at = time.time()
            writer.write(head.encode() + body)
            status = int((await reader.readline()).split()[1])
            _, _, content = (await reader.read()).partition(b"\r\n\r\n")
            return Answer(status, content, sent_at, time.time())
        finally:
            writer.close()


async def start(server: Server, call_id: str) -> Answer:
    """Start a session, on the route that both hosts have."""
    return await request(server, "POST", f"/calls/{call_id}/sessions", {"call_type": "default"})


async def start_many(server: Server, call_ids: list[str]) -> list[Answer]:
    return await asyncio.gather(*(start(server, call_id) for call_id in call_ids))


async def start_all(server: Server, count: int, *, prefix: str = "call", at_once: int = 10) -> list[tuple[str, str]]:
    """Start sessions, each on a call of its own, of which none may fail. Returns the ids of calls and sessions."""
    made = []
    for first in range(0, count, at_once):
        numbers = range(first, min(first + at_once, count))
        answers = await start_many(server, [f"{prefix}-{number}" for number in numbers])
        for answer in answers:
            if answer.status != 201:
                raise RuntimeError(f"A start was answered with {answer.status}: {answer.body!r}")
            made.append((answer.json()["call_id"], answer.json()["session_id"]))
    return made


def path_of(call_id: str, session_id: str) -> str:
    return f"/calls/{call_id}/sessions/{session_id}"
