"""The page's WebSocket in the hands of a test: a server that behaves badly, or more than what the real one says."""

from __future__ import annotations

import json
from typing import Any

from playwright.async_api import Page, WebSocketRoute

_ANY = "**/ws/calls/**"


async def refuse(page: Page, code: str, close: int, detail: str = "") -> None:
    """Let in nobody: say why, and close."""
    await page.route_web_socket(_ANY, lambda socket: _refuse(socket, code, close, detail))


def _refuse(socket: WebSocketRoute, code: str, close: int, detail: str = "") -> None:
    async def on_message(message: str | bytes) -> None:
        socket.send(json.dumps({"type": "error", "code": code, "detail": detail, "fatal": True}))
        await socket.close(code=close)

    socket.on_message(on_message)


async def hang_up(page: Page) -> None:
    """Be no server at all: what a proxy does that knows no WebSockets, or a server that is gone."""
    await page.route_web_socket(_ANY, lambda socket: socket.close())


class Between:
    """Stands between the page and the server; can add messages and break the connection."""

    def __init__(self, instead: dict[str, dict[str, Any]] | None = None) -> None:
        """``instead`` has answers by type of message: the server does not hear of those."""
        self._instead = instead or {}
        self._page: WebSocketRoute | None = None
        self._added = 0
        self.connections = 0
        self.refusals: list[str] = []
        """Codes with which the next connections are refused, each with one of them."""
        self.user_id = ""
        """Of whoever has the page, as the server welcomed them."""

    async def stand(self, page: Page) -> Between:
        await page.route_web_socket(_ANY, self._serve)
        return self

    def tell(self, message: dict[str, Any]) -> None:
        """Send the page a message as if it came from the server."""
        assert self._page is not None
        self._added += 1
        self._page.send(json.dumps(message))

    def happened(self, kind: str, agent_id: str, data: dict[str, Any]) -> None:
        self.tell({"type": "happening", "kind": kind, "data": data, "agent_id": agent_id})

    async def break_off(self) -> None:
        """End the page's connection as a network does, or a server that falls over."""
        assert self._page is not None
        await self._page.close(code=4999)

    def _serve(self, socket: WebSocketRoute) -> None:
        self.connections += 1
        if self.refusals:
            _refuse(socket, self.refusals.pop(0), 4429)
            return
        self._page, self._added = socket, 0
        server = socket.connect_to_server()

        def from_page(message: str | bytes) -> None:
            if isinstance(message, str):
                told = json.loads(message)
                if told["type"] in self._instead:
                    self.tell({"id": told.get("id"), **self._instead[told["type"]]})
                    return
                if told["type"] == "ack":
                    # The server knows nothing of what was added here.
                    message = json.dumps({**told, "n": max(0, told["n"] - self._added)})
            server.send(message)

        def from_server(message: str | bytes) -> None:
            if isinstance(message, str) and (told := json.loads(message))["type"] == "welcome":
                self.user_id = told["user_id"]
            socket.send(message)

        socket.on_message(from_page)
        server.on_message(from_server)
