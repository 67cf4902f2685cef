"""`OrderedServer`: a uvicorn whose end is decided by whoever embeds it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn


class OrderedServer(uvicorn.Server):
    """``on_startup`` is called when it listens."""

    def __init__(self, config: uvicorn.Config, *, on_startup: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_startup = on_startup
        self._listens = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are the worker's: it drains first

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if not self._listens:
            self.stop_listening()
        self._on_startup()

    def leave(self) -> None:
        self.should_exit = True

    def stop_listening(self) -> None:
        """Take no more connections; those there are go on."""
        self._listens = False
        for server in getattr(self, "servers", ()):  # uvicorn makes the list when it starts
            server.close()
