"""`CallSocket`: one WebSocket with its limits, whatever is said over it.

No server keeps what it sends to a stalled client within bounds (daphne takes 188 MB in a tenth of a second), so the
client counts what it received and says so, and no more than a few hundred messages are ever under way.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextlib import suppress
from typing import Any, Protocol, TypeAlias

from ..quotas.bucket import Bucket
from ..utils.tasks import spawn
from . import protocol
from .protocol import Code, Fatal
from .share import SocketShare

Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]

logger = logging.getLogger(__name__)

_TICK_SECONDS = 1.0
_LAST_SECONDS = 2.0


class _Gone(Exception):
    """The server cannot send any more: there is nobody."""


class Handler(Protocol):
    """What is behind the socket. Its methods must return at once: while one runs, nothing is read."""

    @property
    def greeted(self) -> bool:
        """Whether the client has said who it is."""

    def on_message(self, kind: str, message: dict[str, Any]) -> None: ...

    def on_frame(self, frame: bytes) -> None: ...


class CallSocket:
    """An accepted WebSocket. `post` queues messages; `serve` runs it."""

    def __init__(
        self, receive: Receive, send: Send, *, unacked: int | None = None, share: SocketShare | None = None
    ) -> None:
        """``unacked`` is how many text messages may be under way, if not as many as of a call."""
        self._share = share
        self._receive = receive
        self._send = send
        self._unacked_limit = unacked
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._opened_at = time.monotonic()

        self._outbox: dict[Hashable, dict[str, Any]] = {}
        self._numbers = itertools.count()
        self._sent = 0
        self._acked = 0
        self._unacked: deque[tuple[bool, float]] = deque()
        """Of each message under way, oldest first: whether it is a frame, and when it was sent."""
        self._frames_unacked = 0
        self._may_write = asyncio.Event()
        self._may_send_frame = asyncio.Event()
        self._was_written = asyncio.Event()
        self._is_writing = False

        self._messages = Bucket(protocol.MESSAGES_A_SECOND, protocol.MESSAGE_BURST)
        self._frames = Bucket(protocol.FRAMES_A_SECOND, protocol.FRAME_BURST)
        self._flood = Bucket(protocol.FLOOD_A_SECOND, protocol.FLOOD_BURST)
        self._pinged_at = self._opened_at
        self._pings: dict[int, float] = {}
        """When each ping without a pong was sent, by its ``t``."""
        self._rtt_ms: int | None = None

    # For the handler

    def post(self, message: dict[str, Any], *, key: Hashable | None = None) -> None:
        """Queue a message. It takes the place of one with the same ``key`` that has not been sent yet.

        So a client that is behind gets the newest state instead of everything that led to it.
        """
        key = next(self._numbers) if key is None else ("key", key)
        if key not in self._outbox and len(self._outbox) >= protocol.OUTBOX_SIZE:
            self.fail(Fatal(Code.SILENT, "The connection is too slow for this call"))
            return
        self._outbox[key] = message
        self._may_write.set()

    @property
    def waiting(self) -> int:
        """How many messages wait here, not yet sent."""
        return len(self._outbox)

    async def room(self, size: int) -> None:
        """Return when fewer than ``size`` messages wait: for who has more to tell than may wait here."""
        while len(self._outbox) >= size:
            self._was_written.clear()
            await self._was_written.wait()

    async def emptied(self) -> None:
        """Return when the server was given all that was posted."""
        while self._outbox or self._is_writing:
            self._was_written.clear()
            await self._was_written.wait()

    async def send_frame(self, frame: bytes) -> None:
        """Send audio as soon as the client has room for it."""
        while self._frames_unacked >= protocol.UNACKED_FRAMES:
            self._may_send_frame.clear()
            await self._may_send_frame.wait()
        await self._transmit({"type": "websocket.send", "bytes": frame}, is_frame=True)

    def identify(self, identity: str | None) -> None:
        """Count the connection as one of somebody's, see `quotas`.

        Raises:
            TooMany: they have as many as they may.
        """
        if self._share is not None:
            self._share.identify(identity)

    def fail(self, error: BaseException) -> None:
        """End the connection with ``error``; the first one counts."""
        if not self._over.done():
            self._over.set_exception(error)

    def finish(self) -> None:
        """End the connection, in order."""
        if not self._over.done():
            self._over.set_result(None)

    # For who runs it

    async def serve(self, handler: Handler) -> None:
        """Return when the client has left or `finish` was called.

        Raises:
            Fatal: it has to be closed; `close` tells the client why.
        """
        tasks = [
            spawn(self._read(handler), name="call-socket-read"),
            spawn(self._write(), name="call-socket-write"),
            spawn(self._watch(handler), name="call-socket-watch"),
        ]
        try:
            await asyncio.wait([*tasks, self._over], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        if self._over.done():
            self._over.result()
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, _Gone):
                raise outcome

    async def close(self, error: Fatal | None = None) -> None:
        """Send what may still be sent, then why, and close. It takes no more than a moment, and raises nothing."""
        with suppress(Exception):
            async with asyncio.timeout(_LAST_SECONDS):
                if error is None or error.code is not Code.SILENT:
                    await self._flush()
                if error is not None:
                    await self._transmit({"type": "websocket.send", "text": protocol.encode(protocol.error(error))})
        with suppress(Exception):
            async with asyncio.timeout(_LAST_SECONDS):
                code = protocol.LEFT if error is None else error.code.close
                await self._send({"type": "websocket.close", "code": code})

    # Reading

    async def _read(self, handler: Handler) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            if text is None:
                self._on_frame(handler, message.get("bytes") or b"")
            else:
                self._on_text(handler, text)
                await asyncio.sleep(0)  # they may come in a lump, which is there without waiting

    def _on_text(self, handler: Handler, text: str) -> None:
        if not self._messages.take():
            raise Fatal(Code.TOO_FAST, f"Send no more than {protocol.MESSAGES_A_SECOND:g} messages a second")
        kind, message = protocol.parse(text)
        if kind == "ack":
            self._on_ack(message.get("n"))
        elif kind == "pong":
            self._on_pong(message.get("t"))
        else:
            handler.on_message(kind, message)
            if self._share is not None and handler.greeted:
                self._share.greet()

    def _on_frame(self, handler: Handler, frame: bytes) -> None:
        if len(frame) != protocol.FRAME_BYTES:
            code = Code.TOO_LARGE if len(frame) > protocol.MESSAGE_BYTES else Code.BAD_MESSAGE
            raise Fatal(code, f"A binary message must be {protocol.FRAME_BYTES} bytes: 20 ms of audio")
        if not self._flood.take():
            raise Fatal(Code.TOO_FAST, "Send 50 frames of audio a second")
        if self._frames.take():
            handler.on_frame(frame)

    def _on_ack(self, count: Any) -> None:
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= self._sent:
            raise Fatal(Code.BAD_MESSAGE, "An ack must say how many messages were received")
        if count > self._acked:
            self._messages.give_back()  # there are no more of these than the server sends messages
        while self._acked < count:
            is_frame, _ = self._unacked.popleft()
            self._acked += 1
            if is_frame:
                self._frames_unacked -= 1
        self._may_write.set()
        self._may_send_frame.set()

    def _on_pong(self, t: Any) -> None:
        sent_at = self._pings.get(t) if isinstance(t, int) else None
        if sent_at is not None:
            self._rtt_ms = round((time.monotonic() - sent_at) * 1000)
            self._pings.clear()  # an older one cannot be answered any more

    # Writing

    async def _write(self) -> None:
        while True:
            while not self._can_write:
                self._may_write.clear()
                await self._may_write.wait()
            await self._write_one()

    @property
    def _can_write(self) -> bool:
        limit = protocol.UNACKED_MESSAGES if self._unacked_limit is None else self._unacked_limit
        return bool(self._outbox) and len(self._unacked) - self._frames_unacked < limit

    async def _write_one(self) -> None:
        message = self._outbox.pop(next(iter(self._outbox)))
        self._is_writing = True
        if message["type"] == "ping":
            self._pings[message["t"]] = time.monotonic()
        try:
            await self._transmit({"type": "websocket.send", "text": protocol.encode(message)})
        finally:
            self._is_writing = False
            self._was_written.set()

    async def _flush(self) -> None:
        while self._can_write:
            await self._write_one()

    async def _transmit(self, event: dict[str, Any], *, is_frame: bool = False) -> None:
        self._sent += 1
        self._unacked.append((is_frame, time.monotonic()))
        self._frames_unacked += is_frame
        try:
            await self._send(event)
        except Exception as error:  # servers differ in what they raise for a client that has gone
            logger.debug("A message to a call's client could not be sent: %r", error)
            self.finish()
            raise _Gone from error

    # Watching

    async def _watch(self, handler: Handler) -> None:
        """Notice a client that says nothing, and measure how far away one is."""
        while True:
            await asyncio.sleep(
                min(_TICK_SECONDS, protocol.HELLO_SECONDS, protocol.PING_SECONDS, protocol.SILENCE_SECONDS)
            )
            now = time.monotonic()
            if not handler.greeted:
                if now - self._opened_at > protocol.HELLO_SECONDS:
                    raise Fatal(Code.SILENT, f"Say hello within {protocol.HELLO_SECONDS:g} s")
                continue
            oldest = min(
                self._unacked[0][1] if self._unacked else now, next(iter(self._pings.values())) if self._pings else now
            )
            if now - oldest > protocol.SILENCE_SECONDS:
                raise Fatal(Code.SILENT, f"Nothing was acknowledged for {protocol.SILENCE_SECONDS:g} s")
            if now - self._pinged_at >= protocol.PING_SECONDS:
                self._pinged_at = now
                self.post({"type": "ping", "t": round(now * 1000), "rtt_ms": self._rtt_ms}, key="ping")
