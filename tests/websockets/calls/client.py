"""A client that speaks ASGI's WebSocket side, so that paths, headers and peers arrive exactly as written here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, Self
from urllib.parse import unquote

from tests.asgi_client import LOOPBACK

PATH = "/ws/calls/default/my-call/"


class Socket:
    """Use as ``async with Socket(app, ...) as socket``; it disconnects at the end, and the application must end."""

    def __init__(
        self,
        app: Any,
        target: str = PATH,
        *,
        peer: tuple[str, int] | None = LOOPBACK,
        host: str = "localhost:8000",
        headers: Mapping[str, str] | None = None,
        scheme: str | None = "ws",
        **scope: Any,
    ) -> None:
        raw, _, query = target.partition("?")
        sent = {"host": host, **(headers or {})}
        self.scope: dict[str, Any] = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "path": unquote(raw),
            "raw_path": raw.encode("latin1"),
            "query_string": query.encode("latin1"),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode("latin1")) for name, value in sent.items()],
            "client": peer,
            "server": ("127.0.0.1", 8000),
            "subprotocols": [],
            **({} if scheme is None else {"scheme": scheme}),
            **scope,
        }
        self.app = app
        self.closed: int | None = None
        self.received: list[Any] = []
        """Every message, text ones parsed."""
        self.count = 0
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._news = asyncio.Event()
        self._accepted = False

    async def __aenter__(self) -> Self:
        self._to_app.put_nowait({"type": "websocket.connect"})
        self.task = asyncio.create_task(self.app(self.scope, self._to_app.get, self._send))
        await self._until(lambda: self._accepted or self.closed is not None)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.vanish()
        async with asyncio.timeout(10):
            await asyncio.gather(self.task, return_exceptions=exc_info[0] is not None)

    @property
    def accepted(self) -> bool:
        return self._accepted

    def vanish(self) -> None:
        self._to_app.put_nowait({"type": "websocket.disconnect", "code": 1006})

    def send(self, kind: str, **message: Any) -> None:
        self.send_text(json.dumps({"type": kind, **message}))

    def send_text(self, text: str) -> None:
        self._to_app.put_nowait({"type": "websocket.receive", "text": text})

    def send_bytes(self, data: bytes) -> None:
        self._to_app.put_nowait({"type": "websocket.receive", "bytes": data})

    def ack(self) -> None:
        self.send("ack", n=self.count)

    async def hello(self, **more: Any) -> dict[str, Any]:
        """Say hello and return the welcome."""
        self.send("hello", **{"v": 1, **more})
        return await self.hear("welcome")

    async def refused(self, **hello: Any) -> tuple[str, int]:
        """Say hello; return the error's code and the connection's close code."""
        self.send("hello", **{"v": 1, **hello})
        return await self.end()

    async def end(self) -> tuple[str, int]:
        """Return the code of the fatal error, and the close code."""
        await self._until(lambda: self.closed is not None)
        assert self.closed is not None
        fatal = [each for each in self.received if isinstance(each, dict) and each.get("fatal")]
        return (fatal[-1]["code"] if fatal else "", self.closed)

    async def hear(self, kind: str, /, **fields: Any) -> dict[str, Any]:
        """Return the first message of that type with these fields, and forget it and what came before."""

        def wanted(message: Any) -> bool:
            return (
                isinstance(message, dict)
                and message["type"] == kind
                and all(message.get(name) == value for name, value in fields.items())
            )

        await self._until(lambda: any(map(wanted, self.received)) or self.closed is not None)
        for index, message in enumerate(self.received):
            if wanted(message):
                del self.received[: index + 1]
                return message  # type: ignore[no-any-return]
        raise AssertionError(f"closed with {self.closed} before {kind} {fields}: {self.received}")

    async def hear_frame(self) -> bytes:
        await self._until(lambda: any(isinstance(each, bytes) for each in self.received))
        index = next(index for index, each in enumerate(self.received) if isinstance(each, bytes))
        frame: bytes = self.received.pop(index)
        return frame

    async def _send(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "websocket.accept":
                self._accepted = True
            case "websocket.close":
                self.closed = event.get("code", 1000)
            case "websocket.send":
                self.count += 1
                text = event.get("text")
                self.received.append(event["bytes"] if text is None else json.loads(text))
        self._news.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self._news.clear()
                await self._news.wait()
