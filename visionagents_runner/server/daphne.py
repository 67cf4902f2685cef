"""`OrderedDaphne`: a daphne whose end is decided by whoever embeds it, and whose connections are watched.

Importing this installs Twisted's reactor: not before it is wanted.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from daphne.http_protocol import WebRequest
from daphne.server import Server
from daphne.ws_protocol import WebSocketProtocol
from twisted.web.http import HTTPChannel

from ..asgi.application import AgentsApplication
from ..asgi.body_limit import limit_of, refusal, small_limit
from ..conf.settings import get_settings
from ..exceptions import RunnerConfigurationError
from ..worker.process import sweep
from .connections import BODY_READ_BYTES, READ_BYTES, BoundedListener, Phase, Watch
from .lifecycle import Life

if TYPE_CHECKING:
    from ..asgi.application import AgentsApplication

_CHUNK_BYTES = 65536


class OrderedDaphne(Server):  # type: ignore[misc]  # daphne is not typed
    """``application`` answers; ``options`` are daphne's. Call ``watch.start(loop)`` when the loop runs."""

    def __init__(self, application: AgentsApplication, *, ready_callable: Callable[[], None], **options: Any) -> None:
        super().__init__(self._begin, ready_callable=self._ready, **options)
        self.watch = Watch()
        self.agents_application = application
        self._then = ready_callable
        self._beginning: Any = None

    def _ready(self) -> None:
        """Set up the factories, which ``run`` has made by now; no connection has been taken yet."""
        limit = get_settings().MAX_MESSAGE_BYTES
        self.http_factory.protocol = lambda: _Channel(self)
        self.http_factory.timeOut = None  # the watch knows better
        self.ws_factory.protocol = _WebSocket
        # failByDrop would end it without a close code.
        self.ws_factory.setProtocolOptions(
            maxMessagePayloadSize=limit, maxFramePayloadSize=limit, failByDrop=False, perMessageCompressionAccept=_no
        )
        self._then()

    def listen_success(self, port: Any) -> None:
        super().listen_success(port)
        bounded = BoundedListener(port.socket, self.watch)
        port.stopReading()
        port.socket.close()
        port.socket, port.fileno = bounded, bounded.fileno
        port.startReading()

    def kill_all_applications(self) -> Any:
        # Daphne's own raises KeyError for a client that had sent only half of its headers.
        for details in self.connections.values():
            details.setdefault("application_instance", _done_future())
        return super().kill_all_applications()

    def create_application(self, protocol: Any, scope: Any) -> Any:
        self._beginning = protocol
        return super().create_application(protocol, scope)

    def _begin(self, scope: Any, receive: Any, send: Any) -> Any:
        """Call the application, of which daphne expects the coroutine."""
        protocol, self._beginning = self._beginning, None
        if isinstance(protocol, _Request) and protocol.body is not None:
            receive = _Stream(protocol, receive).receive
        return self.agents_application(scope, receive, send)

    async def handle_reply(self, protocol: Any, message: Any) -> None:
        await super().handle_reply(protocol, message)
        # Daphne itself keeps what a client does not take, however much it is.
        channel = getattr(protocol, "channel", None) or getattr(protocol, "http_channel", None)
        if isinstance(channel, _Channel) and not channel.writable.is_set():
            await channel.writable.wait()
        elif self.connections.get(protocol, {}).get("disconnected"):
            await asyncio.sleep(0)  # an application that sends on and on would hold the loop until it is killed


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A connection, as the watch wants to see it."""

    requestFactory = property(lambda self: _Request, lambda self, value: None)
    """Whatever daphne's factory sets."""

    def __init__(self, server: OrderedDaphne) -> None:
        super().__init__()
        self.writable = asyncio.Event()
        self.writable.set()
        self.websocket: Any = None
        self._server = server

    def connectionMade(self) -> None:
        self.transport.bufferSize = READ_BYTES
        self.watched = self._server.watch.add(self)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        self.watched.heard(len(data))
        if self.watched.phase is Phase.ENDING:
            return
        super().dataReceived(data)
        if self.websocket is None and self.watched.is_excessive():
            self.watched.end("too_large")

    def allHeadersReceived(self) -> None:
        if self.length != 0:
            self.watched.enter(Phase.BODY)
        super().allHeadersReceived()

    def allContentReceived(self) -> None:
        if self.watched.phase is Phase.ENDING:
            return
        self.transport.bufferSize = READ_BYTES
        self.watched.enter(Phase.ANSWER)
        super().allContentReceived()

    def requestDone(self, request: Any) -> None:
        self.watched.enter(Phase.IDLE)
        super().requestDone(request)

    def connectionLost(self, reason: Any) -> None:
        self.gone()
        super().connectionLost(reason)

    def gone(self) -> None:
        self.watched.gone()
        self.writable.set()

    def pauseProducing(self) -> None:
        self.writable.clear()
        self.watched.stall()
        super().pauseProducing()
        if self.websocket is not None:
            self._networkProducer.pauseProducing()  # or answers to pings go on to pile up

    def resumeProducing(self) -> None:
        self.writable.set()
        self.watched.flow()
        super().resumeProducing()
        if self.websocket is not None:
            self._networkProducer.resumeProducing()

    def loseConnection(self) -> None:
        self.watched.enter(Phase.ENDING)
        super().loseConnection()

    def _send100Continue(self) -> None:
        if self.watched.phase is not Phase.ENDING:  # else the body is refused
            super()._send100Continue()

    # What the watch calls

    def unsent(self) -> int:
        transport = self.transport
        return int(len(transport.dataBuffer) - transport.offset + transport._tempDataLen)

    def reads(self) -> bool:
        return True

    def fragments(self) -> int:
        return len(getattr(self.websocket, "message_data", None) or ())

    def refuse(self, words: bytes) -> None:
        if self.websocket is not None or any(request._response_started for request in self.requests):
            self.drop()
            return
        self.watched.enter(Phase.ENDING)
        self._networkProducer.unregisterProducer()
        self.transport.write(words)
        # Closed with bytes unread it would be reset, and its client would not see the answer.
        self.transport.loseWriteConnection()

    def drop(self) -> None:
        self.watched.enter(Phase.ENDING)
        self.transport.abortConnection()


class _Request(WebRequest):  # type: ignore[misc]  # daphne is not typed
    """A request whose body is refused while it streams in, if it is too large, and otherwise read as it is wanted."""

    body: Any = None
    """The file of a large body."""
    content: Any
    _received = 0
    _limit: int | None = None
    _looked = False
    _parsePOSTFormSubmission = property(lambda self: False, lambda self, value: None)
    """Twisted would parse forms, which holds the loop for 0.2 s at 1 MiB. Whose form it is parses it."""

    def gotLength(self, length: int | None) -> None:
        self._limit = small_limit()
        if length is not None:
            self.channel.transport.bufferSize = BODY_READ_BYTES
            if self._is_too_large(length):
                length = 0  # make no room for what will not be read
        super().gotLength(length)

    def handleContentChunk(self, data: bytes) -> None:
        if self.channel.watched.phase is Phase.ENDING:
            return
        self._received += len(data)
        if not self._is_too_large(self._received):
            super().handleContentChunk(data)

    def process(self) -> Any:
        if self._received > _CHUNK_BYTES:
            # Daphne would read all of it into memory, and hold the loop meanwhile.
            self.body, self.content = self.content, _Empty(self.content)
            self.body.seek(0)
        return super().process()

    def _is_too_large(self, size: int) -> bool:
        if self._limit is not None and size > self._limit and not self._looked:
            self._looked = True
            self._limit = limit_of(self.channel._path, only_django=self.channel._server.agents_application.only_django)
        if self._limit is None or size <= self._limit:
            return False
        self.channel.refuse(refusal(self._limit))
        return True


class _Empty:
    """A body's file for daphne, which finds nothing in it."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        return b""


class _Stream:
    """A large body, handed on a piece at a time."""

    def __init__(self, request: _Request, receive: Any) -> None:
        self._request = request
        self._receive = receive
        self._over = False

    async def receive(self) -> Any:
        if not self._over:
            await asyncio.sleep(0)  # what reads all of it lets others have a turn
            file = self._request.body
            if not file.closed and (chunk := file.read(_CHUNK_BYTES)):
                return {"type": "http.request", "body": chunk, "more_body": True}
            self._over = True
            if file.closed:
                await self._receive()  # daphne's empty last piece: this was not all
        return await self._receive()


class _WebSocket(WebSocketProtocol):  # type: ignore[misc]  # daphne is not typed
    """A WebSocket, which has taken over the transport of its HTTP connection, but not its place as producer."""

    http_channel: _Channel | None = None
    maxMessagePayloadSize: int

    def makeConnection(self, transport: Any) -> None:
        channel = transport.producer
        if isinstance(channel, _Channel):
            self.http_channel = channel
            channel.websocket = self
            channel.watched.enter(Phase.HANDSHAKE)
        super().makeConnection(transport)

    def onOpen(self) -> None:
        if self.http_channel is not None:
            self.http_channel.watched.enter(Phase.WEBSOCKET)
        super().onOpen()

    def sendMessage(self, *args: Any, **options: Any) -> None:
        limit, self.maxMessagePayloadSize = self.maxMessagePayloadSize, 0  # it is for what comes in
        try:
            super().sendMessage(*args, **options)
        finally:
            self.maxMessagePayloadSize = limit

    def connectionLost(self, reason: Any) -> None:
        if self.http_channel is not None:
            self.http_channel.gone()
        super().connectionLost(reason)


def _no(offers: Any) -> None:
    """Accept no compression."""


def _done_future() -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_event_loop().create_future()
    future.set_result(None)
    return future


def serve_daphne(application: AgentsApplication, listener: socket.socket, life: Life, *, debug: bool) -> None:
    from twisted.internet import reactor as _reactor

    reactor: Any = _reactor

    def begin() -> None:
        server.watch.start(reactor._asyncioEventloop)
        life.begin(stop)

    def stop() -> None:
        reactor.callLater(0, reactor.stop)

    def after_applications() -> Any:
        from twisted.internet.defer import Deferred

        return Deferred.fromFuture(asyncio.ensure_future(sweep(), loop=reactor._asyncioEventloop))

    def ready() -> None:
        # The loop does not run yet: a task made now would have no running loop.
        reactor.callLater(0, begin)
        reactor.addSystemEventTrigger("before", "shutdown", after_applications)

    server = OrderedDaphne(
        application,
        endpoints=[_endpoint(listener)],
        signal_handlers=False,
        action_logger=_log_daphne_action,
        ready_callable=ready,
        verbosity=3 if debug else 1,
    )
    server.run()
    if server.abort_start and life.failure is None:
        raise RunnerConfigurationError("daphne could not listen on the address: see the log")


def _endpoint(listener: socket.socket) -> str:
    """Return Twisted's description of the bound socket."""
    domain = "" if listener.family == socket.AF_INET else f":domain={int(listener.family)}"
    if domain:
        # The fd: parser takes its domain as text and fails on it; a tcp: endpoint has to bind anew.
        host, port = listener.getsockname()[:2]
        listener.close()
        return f"tcp:port={port}:interface={host}".replace(host, host.replace(":", r"\:"))
    return f"fd:fileno={listener.detach()}"  # Twisted makes a copy of it and closes it


def _log_daphne_action(protocol: str, action: str, details: dict[str, Any]) -> None:
    if protocol == "http" and action == "complete":
        level = logging.ERROR if details["status"] == 500 else logging.INFO
        logging.getLogger("daphne.access").log(
            level,
            "%s %s %s in %.0f ms",
            details["method"],
            details["path"],
            details["status"],
            details["time_taken"] * 1000,
            extra={"client": details["client"]},
        )
