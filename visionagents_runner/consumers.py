"""The WebSocket of a call: signalling, what happens there, and audio where WebRTC finds no way.

`routing` says under which paths. Whoever asks is let in by the handshake and judged by what they say first, so that a
page can tell people what is missing: a browser learns nothing of a handshake that was refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from channels.consumer import AsyncConsumer  # type: ignore[import-untyped]
from django.core.exceptions import DisallowedHost

from .exceptions import RunnerConfigurationError
from .runner import get_runner
from .signalling import wire
from .signalling.access import HandshakeRequest
from .signalling.member import CallMember
from .signalling.socket import CallSocket, Receive, Send
from .signalling.wire import Code, Fatal

if TYPE_CHECKING:
    from .runner import Runner

logger = logging.getLogger(__name__)


class CallConsumer(AsyncConsumer):  # type: ignore[misc]
    """Serves one client of one call.

    It reads the socket itself: Channels' own loop hops to a thread for every message, and polls the channel layer
    besides, which is too much for fifty frames of audio a second.
    """

    def __init__(self, runner: Runner | None = None) -> None:
        self._runner = runner

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        from .routing import call_of

        message = await receive()
        if message["type"] != "websocket.connect":
            return
        call = call_of(scope)
        if call is None or not _host_is_allowed(scope):
            await send({"type": "websocket.close", "code": wire.NO_SUCH_PATH})
            return
        await send({"type": "websocket.accept"})
        socket = CallSocket(receive, send)
        try:
            member = CallMember(socket, scope, self._runner or get_runner(), call)
        except RunnerConfigurationError as error:
            logger.error("%s", error)
            await socket.close(Fatal(Code.SERVER_ERROR, "The runner of this server is not configured rightly"))
            return
        problem: Fatal | None = None
        try:
            await socket.serve(member)
        except Fatal as error:
            problem = error
        except asyncio.CancelledError:
            # Plain daphne cancels at the beginning of its shutdown, our own server at its end.
            problem = Fatal(Code.GOING_AWAY, "The server is going away: join again in a moment")
            raise
        except Exception:
            logger.exception("The WebSocket of call %s/%s failed", *call)
            problem = Fatal(Code.SERVER_ERROR, "Something went wrong; the server's log says what")
        finally:
            # First of all: from here on nobody is there for the others on the call.
            await member.leave()
            await socket.close(problem)


def _host_is_allowed(scope: Mapping[str, Any]) -> bool:
    try:
        HandshakeRequest(scope).get_host()
    except DisallowedHost as error:
        logger.warning("%s", error)
        return False
    return True
