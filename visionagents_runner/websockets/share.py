"""`SocketShare`: a WebSocket's place among those of this worker, from its handshake to its end, whatever it is for."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ..exceptions import TooMany
from ..quotas import address_of, hold, spend
from ..quotas.bucket import Bucket
from ..quotas.limits import get_limits
from ..quotas.refusals import note
from . import protocol
from .protocol import Code, Fatal

if TYPE_CHECKING:
    from .socket import CallSocket

_TOLD_A_SECOND, _TOLD_BURST = 20.0, 40
"""Refusals that are told in words, over a connection that is accepted for that; others are refused at the handshake."""
_told = Bucket(_TOLD_A_SECOND, _TOLD_BURST)

_silent: dict[SocketShare, CallSocket] = {}
"""Those that have not said hello, the one that came first before the others."""


class SocketShare:
    """Counts a WebSocket by its address at once, and by who came as soon as that is known."""

    def __init__(self, scope: Mapping[str, Any], *, identity: str | None = None, is_feed: bool = False) -> None:
        """``identity`` is who it is in all likelihood, so that who has too many is refused before anything is asked.

        Raises:
            TooMany: they have as many as they may.
        """
        self._held = ExitStack()
        self._whats = ("sockets", "feeds") if is_feed else ("sockets",)
        self._identity = identity
        address = address_of(scope)
        spend("openings", identity=identity, address=address)
        with ExitStack() as held:
            for what in self._whats:
                held.callback(hold(what, identity=identity, address=address))
            self._greeting = hold("silent", address=address, of_worker=False)
            held.callback(self._greeting)
            self._held = held.pop_all()

    def open(self, socket: CallSocket) -> None:
        """It is accepted, and has to say hello. If too many have not, the one that has been silent longest is closed.

        So whoever says hello at once gets in, however many come who never do.
        """
        _silent[self] = socket
        limit = get_limits().silent_per_worker
        while limit and len(_silent) > limit:
            oldest = _silent.pop(next(iter(_silent)))
            note("silent", "worker", "all")
            oldest.fail(Fatal(Code.TOO_MANY, "Say hello at once: others wait to be let in"))

    def greet(self) -> None:
        """It has said hello."""
        _silent.pop(self, None)
        self._greeting()

    def identify(self, identity: str | None) -> None:
        """Now it is known who came.

        Raises:
            TooMany: they have as many as they may.
        """
        if identity is not None and identity != self._identity:
            self._identity = identity
            for what in self._whats:
                self._held.callback(hold(what, identity=identity, of_worker=False))

    def close(self) -> None:
        """It is over. Closing twice does nothing."""
        self.greet()
        self._held.close()


async def refuse(scope: Mapping[str, Any], send: Callable[[dict[str, Any]], Awaitable[None]], error: TooMany) -> None:
    """Close a WebSocket that waits for its handshake, and say why; if that happens all the time, for little work."""
    if _told.take():
        told = protocol.error(Fatal(Code.TOO_MANY, str(error)))
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": protocol.encode(told)})
        await send({"type": "websocket.close", "code": Code.TOO_MANY.close})
    elif "websocket.http.response" in (scope.get("extensions") or {}):
        headers = [(b"content-type", b"text/plain"), (b"retry-after", str(math.ceil(error.retry_after)).encode())]
        await send({"type": "websocket.http.response.start", "status": 429, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": str(error).encode()})
    else:
        await send({"type": "websocket.close", "code": Code.TOO_MANY.close})
