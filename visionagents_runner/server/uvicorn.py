"""`OrderedServer`: a uvicorn whose end is decided by whoever embeds it, and whose connections are watched."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Unpack

import uvicorn

from ..asgi.application import AgentsApplication
from ..conf.settings import get_settings
from ..exceptions import RunnerConfigurationError
from ..utils.http_answer import answer
from ..worker.process import sweep
from .connections import BODY_READ_BYTES, MOST_HEAD_BYTES, READ_BYTES, BoundedListener, Phase, Watch, read_at_once
from .forced_exit import leave_if_held
from .lifecycle import LAST_REQUESTS_SECONDS, Life, prepared_application
from .options import ProcessOptions, configure_process
from .reload import watch
from .subprocess import STARTUP_FAILURE, Supervised

if TYPE_CHECKING:
    from ..registry import AgentRegistry

_NO_KEEP_ALIVE_TIMEOUT = 3600


class OrderedServer(uvicorn.Server):
    """``on_startup`` is called when it listens."""

    def __init__(self, config: uvicorn.Config, *, on_startup: Callable[[], None]) -> None:
        super().__init__(config)
        config.app = _Application(config.app, self)
        self.watch = Watch()
        self._on_startup = on_startup
        self._listeners: list[socket.socket] = []
        self.listens = True
        """Whether it takes connections, once it has started."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are the worker's: it drains first

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        _watch_connections(self.config, self.watch)
        self._listeners = sockets or []
        await super().startup(sockets=[BoundedListener(listener, self.watch) for listener in self._listeners])
        self.watch.start(asyncio.get_running_loop())
        if not self.listens:
            self.stop_listening()
        self._on_startup()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets=sockets)
        self.watch.stop()

    def leave(self) -> None:
        self.should_exit = True

    def stop_listening(self) -> None:
        """Take no more connections; those there are go on until their next answer."""
        self.listens = False
        for server in getattr(self, "servers", ()):  # uvicorn makes the list when it starts
            server.close()
        for listener in self._listeners:
            listener.close()

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


def _watch_connections(config: uvicorn.Config, watch: Watch) -> None:
    """Have uvicorn make connections that ``watch`` knows of, whichever of its implementations it has chosen."""
    if not config.loaded:
        config.load()
    chosen: Any = config.http_protocol_class
    bases = (_WatchedHTTP, chosen) if not hasattr(chosen, "on_header") else (_BoundedHeaders, _WatchedHTTP, chosen)
    config.http_protocol_class = type(chosen.__name__, bases, {"watch": watch})
    if (for_websockets := config.ws_protocol_class) is not None:
        config.ws_protocol_class = type("WebSocketProtocol", (_WatchedWebSocket, for_websockets), {})


class _Wire:
    """A transport that its protocol sees, and the watch; it lingers where a client still sends what nobody reads."""

    def __init__(self, transport: Any, protocol: Any, watch: Watch) -> None:
        self._transport = transport
        self._protocol = protocol
        self.websocket: Any = None
        self.watched = watch.add(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    # What uvicorn calls

    def close(self) -> None:
        if self.watched.phase is Phase.ENDING:
            return
        cycle = self._protocol.cycle
        lingers = self.websocket is None and cycle is not None and cycle.more_body and not self._transport.is_closing()
        self.watched.enter(Phase.ENDING)
        if lingers:
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    def is_closing(self) -> bool:
        return self.watched.phase is Phase.ENDING or bool(self._transport.is_closing())

    # What the watch calls

    def unsent(self) -> int:
        return int(self._transport.get_write_buffer_size())

    def reads(self) -> bool:
        return bool(self._transport.is_reading())

    def fragments(self) -> int:
        return len(getattr(self.websocket, "frames", ()))

    def refuse(self, words: bytes) -> None:
        cycle = self._protocol.cycle
        busy = cycle is not None and not cycle.response_complete
        if self.websocket is not None or self.is_closing() or (busy and cycle.response_started):
            self.drop()
            return
        self._transport.write(words)
        if busy:
            cycle.disconnected = True
            cycle.message_event.set()
        self.watched.enter(Phase.ENDING)
        self._transport.write_eof()
        self._transport.resume_reading()

    def drop(self) -> None:
        self.watched.enter(Phase.ENDING)
        self._transport.abort()


class _WatchedHTTP:
    """uvicorn's connection, as the watch wants to see it. What it waits for is read off its ``cycle``."""

    watch: Watch
    cycle: Any
    transport: Any
    _cycle: Any = None

    def connection_made(self, transport: Any) -> None:
        read_at_once(transport, READ_BYTES)
        super().connection_made(_Wire(transport, self, self.watch))  # type: ignore[misc]

    def connection_lost(self, error: Exception | None) -> None:
        self.transport.watched.gone()
        super().connection_lost(error)  # type: ignore[misc]

    def data_received(self, data: bytes) -> None:
        watched = self.transport.watched
        watched.heard(len(data))
        if watched.phase is Phase.ENDING:
            return
        super().data_received(data)  # type: ignore[misc]
        self._look()
        if watched.is_excessive():
            if watched.phase is Phase.HEAD:
                watched.end(
                    "too_large", 431, f"The request line and the headers are larger than {MOST_HEAD_BYTES} bytes"
                )
            else:
                watched.end("too_large")

    def on_response_complete(self) -> None:
        super().on_response_complete()  # type: ignore[misc]
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()  # type: ignore[misc]
        self.transport.watched.stall()

    def resume_writing(self) -> None:
        super().resume_writing()  # type: ignore[misc]
        self.transport.watched.flow()

    def _look(self) -> None:
        """Say what the connection waits for now."""
        watched, cycle = self.transport.watched, self.cycle
        if cycle is None or self.transport.websocket is not None:
            return
        if cycle is not self._cycle:
            self._cycle = cycle
            watched.enter(Phase.BODY if cycle.more_body else Phase.ANSWER)
            headers = {name for name, _ in cycle.scope["headers"]}
            if {b"content-length", b"transfer-encoding"} <= headers:  # a proxy before us may have gone by the other
                self.transport.refuse(answer(400, "Content-Length and Transfer-Encoding exclude each other"))
                return
            known = b"content-length" in headers
            read_at_once(self.transport._transport, BODY_READ_BYTES if cycle.more_body and known else READ_BYTES)
        if cycle.response_complete:
            if not cycle.more_body and watched.phase in (Phase.BODY, Phase.ANSWER):
                watched.enter(Phase.IDLE)
            elif cycle.more_body and watched.phase is Phase.BODY:
                watched.enter(Phase.REST)
        elif not cycle.more_body and watched.phase is Phase.BODY:
            watched.enter(Phase.ANSWER)
            read_at_once(self.transport._transport, READ_BYTES)


class _BoundedHeaders:
    """httptools takes as many headers as come, before a body and after it."""

    _header_bytes = 0

    def on_message_begin(self) -> None:
        self._header_bytes = 0
        super().on_message_begin()  # type: ignore[misc]

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MOST_HEAD_BYTES:
            raise ValueError("too many headers")  # which the parser tells uvicorn, and uvicorn the client
        super().on_header(name, value)  # type: ignore[misc]


class _WatchedWebSocket:
    _wire: _Wire

    def connection_made(self, transport: Any) -> None:
        self._wire = transport
        transport.websocket = self
        transport.watched.enter(Phase.HANDSHAKE)
        super().connection_made(transport)  # type: ignore[misc]

    def connection_lost(self, error: Exception | None) -> None:
        self._wire.watched.gone()
        super().connection_lost(error)  # type: ignore[misc]

    async def send(self, message: Any) -> None:
        if message["type"] == "websocket.accept":
            self._wire.watched.enter(Phase.WEBSOCKET)
        await super().send(message)  # type: ignore[misc]

    def pause_writing(self) -> None:
        super().pause_writing()  # type: ignore[misc]
        self._wire.watched.stall()
        self._wire.pause_reading()  # or answers to pings go on to pile up

    def resume_writing(self) -> None:
        super().resume_writing()  # type: ignore[misc]
        self._wire.watched.flow()
        self._wire.resume_reading()


def serve_uvicorn(
    application: AgentsApplication, listener: socket.socket, life: Life, *, debug: bool, late: bool = False
) -> None:
    """``late``: take connections only once the worker is warm."""
    server = uvicorn_server(application, on_startup=lambda: None if late else begin())

    server.config.load()  # what it imports would hold the loop later

    def begin() -> None:
        life.begin(server.leave, server.stop_listening, server.hang_up)

    async def main() -> None:
        if late:
            begin()
            await life.settled.wait()
        if not server.should_exit:
            await server.serve(sockets=[listener])
        await sweep()

    asyncio.run(main(), debug=debug)


def uvicorn_server(
    application: Any,
    *,
    on_startup: Callable[[], None] = lambda: None,
    patience: int = LAST_REQUESTS_SECONDS,
) -> OrderedServer:
    """Return a uvicorn that leaves signals and lifespan to its caller: ``await server.serve(sockets=[...])``.

    ``on_startup`` is called when it listens. ``patience``: seconds that requests may take when it stops.
    """
    limits = get_settings()
    config = uvicorn.Config(
        application,
        lifespan="off",
        workers=1,  # else uvicorn reads WEB_CONCURRENCY, whatever that is
        log_config=None,
        access_log=True,
        ws="websockets-sansio",
        ws_max_size=limits.MAX_MESSAGE_BYTES,
        # Audio does not get smaller, and a kilobyte that unpacks to a megabyte does not come.
        ws_per_message_deflate=False,
        timeout_keep_alive=limits.KEEP_ALIVE_TIMEOUT or _NO_KEEP_ALIVE_TIMEOUT,  # type: ignore[arg-type]  # takes a float
        # The calls have ended by then. Without it, a client that has sent half a body keeps the server for ever.
        timeout_graceful_shutdown=patience,
    )
    return OrderedServer(config, on_startup=on_startup)


def serve_supervised(runner: AgentRegistry, supervised: Supervised, **options: Unpack[ProcessOptions]) -> None:
    """Serve as one of several workers; what keeps it from starting is the supervisor's to tell."""
    configure_process(**options)
    life = Life(runner, time.monotonic(), supervised)
    try:
        application = prepared_application(runner)
        application.prepare()
        if supervised.reload:
            watch(lambda path: supervised.tell("changed", str(path)), supervised.began)
        serve_uvicorn(application, supervised.listener, life, debug=options["debug"], late=supervised.late)
        if life.failure is not None:
            raise life.failure
    except RunnerConfigurationError as error:
        supervised.tell("failed", str(error))
        if not supervised.reload:
            leave_if_held(STARTUP_FAILURE)
        raise SystemExit(STARTUP_FAILURE) from (error if supervised.reload else None)
    leave_if_held(0)
