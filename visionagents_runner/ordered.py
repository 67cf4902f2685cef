"""`OrderedServer`: a uvicorn whose end is decided by whoever embeds it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn


class OrderedServer(uvicorn.Server):
    """``on_startup`` is called when it listens."""

    def __init__(self, config: uvicorn.Config, *, on_startup: Callable[[], None]) -> None:
        super().__init__(config)
        config.app = _Application(config.app, self)
        self._on_startup = on_startup
        self.listens = True
        """Whether it takes connections, once it has started."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are the worker's: it drains first

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if not self.listens:
            self.stop_listening()
        self._on_startup()

    def leave(self) -> None:
        self.should_exit = True

    def stop_listening(self) -> None:
        """Take no more connections; those there are go on until their next answer."""
        self.listens = False
        for server in getattr(self, "servers", ()):  # uvicorn makes the list when it starts
            server.close()

    def hang_up(self) -> None:
        """End each connection: now, or with the answer to the request that is under way. WebSockets go on."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, self.config.http_protocol_class):
                connection.shutdown()


class _Application:
    """The application, whose answers end their connections once the server takes no more of them.

    They say so, which `OrderedServer.hang_up` cannot: a client whose next request crosses that would see it fail.
    """

    def __init__(self, application: Any, server: OrderedServer) -> None:
        self._application = application
        self._server = server

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_perhaps_the_last(message: Any) -> None:
            if message["type"] == "http.response.start" and not self._server.listens:
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await self._application(scope, receive, send_perhaps_the_last if scope["type"] == "http" else send)
