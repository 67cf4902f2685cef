"""The WebSockets: of a call (signalling, what happens there, audio where WebRTC finds no way), and the live feeds.

`routing` says under which paths. Whoever asks is let in by the handshake and judged by what they say first, so that a
page can tell people what is missing: a browser learns nothing of a handshake that was refused.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from channels.consumer import AsyncConsumer  # type: ignore[import-untyped]
from django.core.exceptions import DisallowedHost

from ..auth.permissions import likely_identity
from ..exceptions import RunnerConfigurationError, TooMany
from ..registry import get_runner
from . import protocol
from .calls.client import CallClient
from .feeds.list_viewer import ListViewer
from .feeds.session_viewer import UNACKED, SessionViewer
from .handshake import HandshakeRequest
from .paths import call_of, feed_of
from .protocol import Code, Fatal
from .share import SocketShare, refuse
from .socket import CallSocket, Handler, Receive, Send

if TYPE_CHECKING:
    from ..registry import AgentRegistry

logger = logging.getLogger(__name__)


class Client(Handler, Protocol):
    """Who is at the other end of a socket."""

    async def leave(self) -> None: ...


class _Consumer(AsyncConsumer, ABC):  # type: ignore[misc]
    """Serves one WebSocket.

    It reads the socket itself: Channels' own loop hops to a thread for every message, and polls the channel layer
    besides, which is too much for fifty frames of audio a second.
    """

    _unacked: int | None = None
    _is_feed = False
    _going_away = "The server is going away: connect again in a moment"

    def __init__(self, runner: AgentRegistry | None = None) -> None:
        self._runner = runner

    @abstractmethod
    def _target(self, scope: Mapping[str, Any]) -> Any:
        """Return what the path names; None for nothing."""

    @abstractmethod
    def _client(self, socket: CallSocket, scope: Mapping[str, Any], runner: AgentRegistry, target: Any) -> Client:
        """Return who is at the other end."""

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        message = await receive()
        if message["type"] != "websocket.connect":
            return
        target = self._target(scope)
        if target is None or not _host_is_allowed(scope):
            await send({"type": "websocket.close", "code": protocol.NO_SUCH_PATH})
            return
        try:
            identity = likely_identity(HandshakeRequest(scope))
            share = SocketShare(scope, identity=identity, is_feed=self._is_feed)
        except TooMany as error:
            await refuse(scope, send, error)
            return
        try:
            await send({"type": "websocket.accept"})
            socket = CallSocket(receive, send, unacked=self._unacked, share=share)
            share.open(socket)
            await self._serve(socket, scope, target)
        finally:
            share.close()

    async def _serve(self, socket: CallSocket, scope: Mapping[str, Any], target: Any) -> None:
        try:
            client = self._client(socket, scope, self._runner or get_runner(), target)
        except RunnerConfigurationError as error:
            logger.error("%s", error)
            await socket.close(Fatal(Code.SERVER_ERROR, "The runner of this server is not configured rightly"))
            return
        problem: Fatal | None = None
        try:
            await socket.serve(client)
        except Fatal as error:
            problem = error
        except TooMany as error:
            problem = Fatal(Code.TOO_MANY, str(error))
        except asyncio.CancelledError:
            # Plain daphne cancels at the beginning of its shutdown, our own server at its end.
            problem = Fatal(Code.GOING_AWAY, self._going_away)
            raise
        except Exception:
            logger.exception("The WebSocket %r failed", scope["path"])
            problem = Fatal(Code.SERVER_ERROR, "Something went wrong; the server's log says what")
        finally:
            # First of all: from here on nobody is there for the others on the call.
            await client.leave()
            await socket.close(problem)


class CallConsumer(_Consumer):
    """Serves one client of one call."""

    _going_away = "The server is going away: join again in a moment"

    def _target(self, scope: Mapping[str, Any]) -> tuple[str, str] | None:
        return call_of(scope)

    def _client(self, socket: CallSocket, scope: Mapping[str, Any], runner: AgentRegistry, target: Any) -> Client:
        return CallClient(socket, scope, runner, target)


class FeedConsumer(_Consumer):
    """Serves one viewer of a session's events, or of the list of sessions."""

    _unacked = UNACKED
    _is_feed = True

    def _target(self, scope: Mapping[str, Any]) -> str | None:
        return feed_of(scope)

    def _client(self, socket: CallSocket, scope: Mapping[str, Any], runner: AgentRegistry, target: Any) -> Client:
        return SessionViewer(socket, scope, runner, target) if target else ListViewer(socket, scope, runner)


def _host_is_allowed(scope: Mapping[str, Any]) -> bool:
    try:
        HandshakeRequest(scope).get_host()
    except DisallowedHost as error:
        logger.warning("%s", error)
        return False
    return True
