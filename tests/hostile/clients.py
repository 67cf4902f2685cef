"""Clients that send whatever they are told to, byte by byte if need be."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import struct
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple, Self

from tests.edge.browser import Browser

HOST = "127.0.0.1"
_SECONDS = 20.0


class Answer(NamedTuple):
    status: int
    """0 if the server closed without an answer, -1 if none came in time."""
    body: bytes = b""


NO_ANSWER, TOO_LATE = Answer(0), Answer(-1)


@asynccontextmanager
async def connected(port: int, source: str = "") -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection, from any loopback address."""
    local = (source, 0) if source else None
    reader, writer = await asyncio.open_connection(HOST, port, local_addr=local, limit=2**24)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def request(
    port: int,
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    source: str = "",
    seconds: float = _SECONDS,
) -> Answer:
    """Send a request as it is written, with a Host and a Content-Length, and read the answer."""
    pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    names = {name.lower() for name, _ in pairs}
    head = [f"{method} {target} HTTP/1.1"]
    if "host" not in names:
        head.append(f"Host: {HOST}:{port}")
    if body and not names & {"content-length", "transfer-encoding"}:
        head.append(f"Content-Length: {len(body)}")
    head += [f"{name}: {value}" for name, value in pairs]
    raw = "\r\n".join([*head, "Connection: close", "", ""]).encode("utf-8", "surrogatepass") + body
    return await exchange(port, raw, source=source, seconds=seconds)


async def exchange(port: int, raw: bytes, *, source: str = "", seconds: float = _SECONDS) -> Answer:
    """Send bytes, and read one answer to them."""
    try:
        async with asyncio.timeout(seconds), connected(port, source) as (reader, writer):
            sending = asyncio.create_task(_send(writer, raw))
            try:
                return await read_answer(reader)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
    except TimeoutError:
        return TOO_LATE
    except (OSError, asyncio.IncompleteReadError, ValueError):
        return NO_ANSWER


async def _send(writer: asyncio.StreamWriter, raw: bytes) -> None:
    with suppress(OSError):
        for start in range(0, len(raw), 65536):
            writer.write(raw[start : start + 65536])
            await writer.drain()


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin1").split("\r\n")
    status = int(lines[0].split()[1])
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    if "content-length" in headers:
        return Answer(status, await reader.readexactly(int(headers["content-length"])))
    with suppress(asyncio.IncompleteReadError, OSError):
        return Answer(status, await reader.read(2**24))
    return Answer(status)


# WebSockets


class Closed(Exception):
    """The server closed the WebSocket, or refused it."""

    def __init__(self, code: int, words: str = "") -> None:
        super().__init__(f"{code} {words}")
        self.code = code
        self.words = words


class Wire:
    """A WebSocket whose frames are made by hand. ``async with Wire.open(...) as wire``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.count = 0
        """Data messages received."""
        self.words = ""
        """Of the last error that the server told."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, port: int, path: str, *, headers: Mapping[str, str] | None = None, source: str = ""
    ) -> AsyncIterator[Self]:
        """Raises: Closed: the handshake was refused; its code is HTTP's."""
        async with connected(port, source) as (reader, writer):
            lines = {
                "Host": f"{HOST}:{port}",
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
                "Sec-WebSocket-Version": "13",
                **(headers or {}),
            }
            head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
            writer.write(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
            async with asyncio.timeout(_SECONDS):
                try:
                    answer = await reader.readuntil(b"\r\n\r\n")
                except asyncio.IncompleteReadError:
                    raise Closed(0) from None
            status = int(answer.split()[1])
            if status != 101:
                raise Closed(status)
            yield cls(reader, writer)

    async def frame(
        self, opcode: int, payload: bytes, *, final: bool = True, reserved: int = 0, masked: bool = True
    ) -> None:
        first = (0x80 if final else 0) | reserved << 4 | opcode
        size = len(payload)
        mark = 0x80 if masked else 0
        head = bytes([first])
        if size < 126:
            head += bytes([mark | size])
        elif size < 65536:
            head += struct.pack("!BH", mark | 126, size)
        else:
            head += struct.pack("!BQ", mark | 127, size)
        # A mask of zeros is one, too.
        await self.raw(head + (bytes(4) if masked else b"") + payload)

    async def raw(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError:
            raise Closed(1006) from None

    async def text(self, text: str) -> None:
        await self.frame(1, text.encode("utf-8", "surrogatepass"))

    async def send(self, kind: str, **message: Any) -> None:
        await self.text(json.dumps({"type": kind, **message}))

    async def receive(self, seconds: float = _SECONDS) -> Any:
        """The next message: parsed, or bytes. Acknowledges as the page does.

        Raises:
            Closed: there is none any more.
            TimeoutError: none came in time.
        """
        async with asyncio.timeout(seconds):
            while True:
                opcode, payload = await self._read()
                if opcode == 8:
                    code = struct.unpack("!H", payload[:2])[0] if len(payload) >= 2 else 1005
                    raise Closed(code, self.words)
                if opcode == 9:
                    await self.frame(10, payload)
                if opcode not in {1, 2}:
                    continue
                self.count += 1
                if opcode == 2:
                    return payload
                try:
                    message = json.loads(payload)
                except ValueError:  # deflated: nobody here reads it
                    return payload
                if message["type"] == "ping":
                    await self.send("pong", t=message["t"])
                    await self.send("ack", n=self.count)
                elif self.count % 25 == 0:
                    await self.send("ack", n=self.count)
                if message["type"] == "error":
                    self.words = message["code"]
                return message

    async def _read(self) -> tuple[int, bytes]:
        try:
            first, second = await self._reader.readexactly(2)
            size = second & 0x7F
            if size == 126:
                size = struct.unpack("!H", await self._reader.readexactly(2))[0]
            elif size == 127:
                size = struct.unpack("!Q", await self._reader.readexactly(8))[0]
            return first & 15, await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError):
            raise Closed(1006, self.words) from None

    async def hear(self, kind: str, seconds: float = _SECONDS, **fields: Any) -> dict[str, Any]:
        """The next message of that type with these fields; others are read and forgotten."""
        async with asyncio.timeout(seconds):
            while True:
                message = await self.receive()
                if not isinstance(message, dict) or message["type"] != kind:
                    continue
                if all(message.get(name) == value for name, value in fields.items()):
                    return message

    async def hello(self, **more: Any) -> dict[str, Any]:
        await self.send("hello", v=1, **more)
        return await self.hear("welcome")

    async def end(self, seconds: float = 3.0) -> int:
        """Read on; returns the close code, or 0 if the server is patient."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    await self.receive()
        except Closed as closed:
            return closed.code
        except TimeoutError:
            return 0


class Seat:
    """Somebody on a call, whose WebSocket is read in the background: in the place of a `Person` for `Browser`."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.closed: Closed | None = None
        self._answers: dict[Any, asyncio.Future[dict[str, Any]]] = {}
        self._number = 0
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while True:
                with suppress(TimeoutError):
                    message = await self.wire.receive(60)
                    if isinstance(message, dict) and (waiting := self._answers.pop(message.get("id"), None)):
                        waiting.set_result(message)
        except Closed as closed:
            self.closed = closed
            for waiting in self._answers.values():
                waiting.set_exception(closed)
                waiting.exception()

    async def ask(self, kind: str, seconds: float = _SECONDS, **message: Any) -> dict[str, Any]:
        """Send a message that is answered; returns the answer, which may be an error.

        Raises:
            Closed, TimeoutError: there is none.
        """
        if self.closed is not None:
            raise self.closed
        self._number += 1
        waiting = self._answers[self._number] = asyncio.get_running_loop().create_future()
        await self.wire.send(kind, id=self._number, **message)
        async with asyncio.timeout(seconds):
            return await waiting

    async def negotiate(self, sdp: str) -> str:
        answer = await self.ask("offer", sdp=sdp)
        if answer["type"] != "answer":
            raise Closed(0, answer.get("code", ""))
        return str(answer["sdp"])

    async def close(self) -> None:
        with suppress(Closed):
            await self.wire.send("leave")
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


def call_path(call_id: str) -> str:
    return f"/ws/calls/default/{call_id}/"


@asynccontextmanager
async def seated(port: int, call_id: str, token: str, *, source: str = "") -> AsyncIterator[Seat]:
    """Join a call by an invitation."""
    async with Wire.open(port, call_path(call_id), source=source) as wire:
        await wire.hello(token=token)
        seat = Seat(wire)
        try:
            yield seat
        finally:
            await seat.close()


class Page(Browser):
    """A `Browser` on a call of another process."""

    def __init__(self, seat: Seat, **options: Any) -> None:
        super().__init__(seat, **options)  # type: ignore[arg-type]

    @property
    def transport(self) -> Any:
        """The DTLS transport, over which everything goes."""
        return self.pc.getTransceivers()[0].receiver.transport

    async def until_connected(self, seconds: float = 15.0) -> None:
        async with asyncio.timeout(seconds):
            while self.pc.connectionState != "connected":
                if self.pc.connectionState in {"failed", "closed"}:
                    raise ConnectionError("The connection for media failed")
                await asyncio.sleep(0.02)

    @property
    def connected(self) -> bool:
        return self.pc.connectionState == "connected"
