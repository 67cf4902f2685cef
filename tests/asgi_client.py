"""A client that speaks ASGI, so that paths, hosts and peers reach the application exactly as they are written here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

LOOPBACK = ("127.0.0.1", 50000)
REMOTE = ("203.0.113.7", 50000)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """By lower-case name; the last of several."""
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> Any:
        return self.json()["detail"]


class Client:
    def __init__(
        self,
        app: Any,
        *,
        peer: tuple[str, int] | None = LOOPBACK,
        host: str = "localhost:8000",
        headers: Mapping[str, str] | None = None,
        scheme: str = "http",
    ) -> None:
        self.app = app
        self.peer = peer
        self.host = host
        self.headers = dict(headers or {})
        self.scheme = scheme

    def like(self, **changes: Any) -> Client:
        """Return a client of the same application that differs in ``changes``."""
        now = {"peer": self.peer, "host": self.host, "headers": self.headers, "scheme": self.scheme}
        return Client(self.app, **{**now, **changes})

    def scope(self, method: str, target: str, headers: Iterable[tuple[bytes, bytes]], **extra: Any) -> dict[str, Any]:
        raw, _, query = target.partition("?")
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": self.scheme,
            "path": unquote(raw),
            "raw_path": raw.encode("latin1"),
            "query_string": query.encode("latin1"),
            "root_path": "",
            "headers": list(headers),
            "client": self.peer,
            "server": ("127.0.0.1", 8000),
            **extra,
        }

    async def request(
        self,
        method: str,
        target: str,
        *,
        data: Any = None,
        body: bytes | AsyncIterable[bytes] = b"",
        headers: Mapping[str, str] | None = None,
        leave: asyncio.Event | None = None,
        **scope: Any,
    ) -> Answer:
        """Send a request; ``target`` goes out as it is, percent-encoded. ``data`` is sent as JSON.

        Once ``leave`` is set, the client has gone away; the answer then has status 0 if there was none.
        """
        if data is not None:
            body = json.dumps(data).encode()
        sent = {"host": self.host, **self.headers, **(headers or {})}
        if isinstance(body, bytes) and body:
            sent.setdefault("content-length", str(len(body)))
        pairs = [(name.lower().encode(), value.encode("latin1")) for name, value in sent.items()]
        chunks = aiter(body) if not isinstance(body, bytes) else None
        finished = False

        async def receive() -> dict[str, Any]:
            nonlocal finished
            if chunks is not None and not finished:
                async for chunk in chunks:
                    return {"type": "http.request", "body": chunk, "more_body": True}
            if finished:
                await (leave or asyncio.Event()).wait()
                return {"type": "http.disconnect"}
            finished = True
            return {"type": "http.request", "body": b"" if chunks is not None else body, "more_body": False}

        messages: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            messages.append(message)

        await self.app(self.scope(method, target, pairs, **scope), receive, send)
        if not messages:
            return Answer(0, {}, b"")
        start = messages[0]
        return Answer(
            start["status"],
            {name.decode().lower(): value.decode("latin1") for name, value in start["headers"]},
            b"".join(message.get("body", b"") for message in messages[1:]),
        )

    async def get(self, target: str, **options: Any) -> Answer:
        return await self.request("GET", target, **options)

    async def post(self, target: str, data: Any = None, **options: Any) -> Answer:
        return await self.request("POST", target, data=data, **options)

    async def delete(self, target: str, **options: Any) -> Answer:
        return await self.request("DELETE", target, **options)
