"""The WebSocket of calls: hellos, every message with other fields, frames of all sorts, floods."""

from __future__ import annotations

import asyncio
import zlib
from contextlib import AsyncExitStack, suppress
from random import Random
from typing import Any

from ..clients import Closed, Wire, call_path
from . import Attacker, junk, source

_MESSAGES: tuple[dict[str, Any], ...] = (
    {"type": "hello", "v": 1, "name": "x"},
    {"type": "say", "id": 1, "text": "hello"},
    {"type": "offer", "id": 1, "sdp": "v=0"},
    {"type": "pcm", "on": True},
    {"type": "pcm", "on": False},
    {"type": "mute", "muted": True},
    {"type": "custom", "data": {"a": 1}},
    {"type": "ack", "n": 1},
    {"type": "pong", "t": 1},
    {"type": "leave"},
    {"type": "nothing"},
)


async def _join(attacker: Attacker, rng: Random, stack: AsyncExitStack, *, role: str = "") -> Wire:
    """Somebody on the attacked call."""
    role = role or rng.choice(("speaker", "listener"))
    path = call_path(attacker.target.CALL)
    wire = await stack.enter_async_context(Wire.open(attacker.target.port, path, source=source(rng)))
    await wire.hello(token=attacker.target.tokens[role], name=junk.text(rng))
    return wire


def _came(attacker: Attacker, code: int) -> None:
    attacker.tally.came(f"closed {code}" if code else "stayed")


async def hellos(attacker: Attacker, rng: Random) -> None:
    """From whoever has no invitation, or one that is not one."""
    target = attacker.target
    for _ in range(4):
        headers: dict[str, str] = {}
        if rng.random() < 0.4:
            cookie = rng.choice((target.starter, target.nobody, "x" * 3000))
            headers = {
                "Cookie": f"sessionid={cookie}",
                "Origin": rng.choice((f"http://127.0.0.1:{target.port}", "null", "http://evil.example")),
            }
        token = rng.choice(
            (
                target.tokens["speaker"],
                "x",
                junk.text(rng),
                target.tokens["listener"][:-3] + "abc",
                "a" * 60_000,
                "." * 60_000,
                None,
            )
        )
        call = rng.choice((target.CALL, target.MUSIC_CALL, "empty", "a%2Fb", "%00", "a" * 300))
        attacker.tally.sent()
        try:
            async with Wire.open(target.port, call_path(call), headers=headers, source=source(rng)) as wire:
                hello = {"type": "hello", "v": 1, "token": token, "name": junk.text(rng), "moves": True}
                await wire.text(junk.dump(junk.mutated(rng, hello) if rng.random() < 0.6 else hello))
                try:
                    await wire.hear("welcome", 1.0)
                    attacker.tally.came("welcome")
                except TimeoutError:
                    _came(attacker, 0)
        except Closed as closed:
            _came(attacker, closed.code)


async def fields_that_are_wrong(attacker: Attacker, rng: Random) -> None:
    async with AsyncExitStack() as stack:
        with suppress(TimeoutError):
            try:
                wire = await _join(attacker, rng, stack)
                for _ in range(25):
                    attacker.tally.sent()
                    message = rng.choice(_MESSAGES[1:])
                    if rng.random() < 0.7:
                        message = {"type": message["type"], **junk.mutated(rng, message)}
                    await wire.text(junk.dump(message)[:65_000])
                _came(attacker, await wire.end(0.5))
            except Closed as closed:
                _came(attacker, closed.code)


async def texts_that_are_work(attacker: Attacker, rng: Random) -> None:
    """As large as may be, or larger."""
    async with AsyncExitStack() as stack:
        with suppress(TimeoutError):
            try:
                wire = await _join(attacker, rng, stack, role="speaker")
                for _ in range(20):
                    attacker.tally.sent()
                    size = rng.choice((5_000, 60_000, 65_000))
                    inner = rng.choice(junk.BODIES)(size).decode()
                    kind = rng.choice(("custom", "say", "offer", "ack", "x"))
                    field = {"custom": "data", "say": "text", "offer": "sdp", "ack": "n"}.get(kind, "x")
                    await wire.text(f'{{"type":"{kind}","{field}":{inner}}}')
                _came(attacker, await wire.end(0.5))
            except Closed as closed:
                _came(attacker, closed.code)


async def too_large(attacker: Attacker, rng: Random) -> None:
    async with AsyncExitStack() as stack:
        with suppress(TimeoutError):
            try:
                wire = await _join(attacker, rng, stack)
                attacker.tally.sent()
                size = rng.choice((70_000, 900_000, 1_100_000, 8_000_000))
                if rng.random() < 0.5:
                    await wire.frame(rng.choice((1, 2)), bytes(size))
                else:  # in fragments, which end or do not
                    await wire.frame(rng.choice((1, 2)), b"x", final=False)
                    for _ in range(size // 20_000):
                        await wire.frame(0, b"x" * 20_000, final=False)
                    await wire.frame(0, b"x", final=rng.random() < 0.5)
                _came(attacker, await wire.end(2))
            except Closed as closed:
                _came(attacker, closed.code)


async def many_small_fragments(attacker: Attacker, rng: Random) -> None:
    async with AsyncExitStack() as stack:
        with suppress(TimeoutError):
            try:
                wire = await _join(attacker, rng, stack)
                attacker.tally.sent()
                await wire.frame(1, b"{", final=False)
                one = bytes([0, 0x81, 0, 0, 0, 0, 32])
                for _ in range(20):
                    await wire.raw(one * rng.choice((100, 2000)))
                    await wire.frame(9, b"ping")
                _came(attacker, await wire.end(1))
            except Closed as closed:
                _came(attacker, closed.code)


async def frames_that_are_wrong(attacker: Attacker, rng: Random) -> None:
    for _ in range(3):
        async with AsyncExitStack() as stack:
            with suppress(TimeoutError):
                try:
                    wire = await _join(attacker, rng, stack)
                    attacker.tally.sent()
                    kind = rng.randrange(8)
                    if kind == 0:
                        await wire.frame(rng.choice((3, 7, 11, 15)), b"x")
                    elif kind == 1:
                        await wire.frame(1, b"\xff\xfe\xc0", final=True)
                    elif kind == 2:
                        await wire.frame(1, b"{}", masked=False)
                    elif kind == 3:
                        await wire.frame(1, zlib.compress(bytes(2**20))[2:-4], reserved=4)
                    elif kind == 4:
                        await wire.frame(9, bytes(rng.choice((125, 126, 70_000))))
                    elif kind == 5:
                        await wire.frame(8, rng.choice((b"", b"\x03", b"\x03\xe8" + b"\xff" * 20, b"\xff\xff")))
                    elif kind == 6:
                        await wire.raw(b"\x81\xff" + rng.choice((b"\x7f" + b"\xff" * 7, b"\x80" + bytes(7))) + bytes(4))
                    else:
                        await wire.raw(rng.randbytes(rng.randrange(2, 3000)))
                    _came(attacker, await wire.end(0.5))
                except Closed as closed:
                    _came(attacker, closed.code)


async def bombs(attacker: Attacker, rng: Random) -> None:
    """Messages that are deflated, small on the wire and large in memory."""
    path = call_path(attacker.target.CALL)
    headers = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
    with suppress(TimeoutError):
        try:
            async with Wire.open(attacker.target.port, path, headers=headers, source=source(rng)) as wire:
                deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
                size = rng.choice((10**6, 5 * 10**7))
                piece = deflate.compress(b"[" * size) + deflate.flush(zlib.Z_SYNC_FLUSH)
                for _ in range(3):
                    attacker.tally.sent()
                    await wire.frame(1, piece[:-4], reserved=4)
                _came(attacker, await wire.end(2))
        except Closed as closed:
            _came(attacker, closed.code)


async def audio(attacker: Attacker, rng: Random) -> None:
    """Frames of sound: too many, of the wrong size, before or after their time."""
    async with AsyncExitStack() as stack:
        with suppress(TimeoutError):
            try:
                wire = await _join(attacker, rng, stack)
                if rng.random() < 0.8:
                    await wire.send("pcm", on=True)
                number = rng.choice((50, 400, 3000))
                for index in range(number):
                    attacker.tally.sent()
                    size = 1920 if rng.random() < 0.999 else rng.choice((0, 1, 1919, 1921, 70_000))
                    await wire.frame(2, rng.randbytes(size) if index % 10 == 0 else bytes(size))
                    if rng.random() < 0.005:
                        await wire.send("pcm", on=rng.random() < 0.5)
                _came(attacker, await wire.end(0.3))
            except Closed as closed:
                _came(attacker, closed.code)


async def floods(attacker: Attacker, rng: Random) -> None:
    """As quick as may be, and quicker."""
    async with AsyncExitStack() as stack:
        with suppress(TimeoutError):
            try:
                wire = await _join(attacker, rng, stack)
                message = junk.dump(rng.choice(_MESSAGES[1:9]))
                pause = rng.choice((0, 0, 0.05))
                for _ in range(400 if not pause else 40):
                    attacker.tally.sent()
                    await wire.text(message)
                    await asyncio.sleep(pause)
                _came(attacker, await wire.end(0.5))
            except Closed as closed:
                _came(attacker, closed.code)


async def acks_and_pongs(attacker: Attacker, rng: Random) -> None:
    async with AsyncExitStack() as stack:
        with suppress(TimeoutError):
            try:
                wire = await _join(attacker, rng, stack)
                for _ in range(30):
                    attacker.tally.sent()
                    kind, field = rng.choice((("ack", "n"), ("pong", "t")))
                    await wire.text(junk.dump({"type": kind, field: rng.choice((*junk.NUMBERS, None, [], {}))}))
                _came(attacker, await wire.end(0.3))
            except Closed as closed:
                _came(attacker, closed.code)


async def typed(attacker: Attacker, rng: Random) -> None:
    """What is typed reaches the agent's model, and comes back in pieces."""
    async with AsyncExitStack() as stack:
        with suppress(TimeoutError):
            try:
                wire = await _join(attacker, rng, stack, role="speaker")
                for number in range(6):
                    attacker.tally.sent()
                    text = rng.choice((" a" * 2000, "\u0130 " * 1000, "x" * 4000, junk.text(rng), "\n " * 1900 + "x"))
                    await wire.send("say", id=number, text=text)
                _came(attacker, await wire.end(1.5))
            except Closed as closed:
                _came(attacker, closed.code)


async def crowds(attacker: Attacker, rng: Random) -> None:
    """Many who come at once, and leave at once; each tells all others."""
    async with AsyncExitStack() as stack:

        async def come() -> None:
            attacker.tally.sent()
            try:
                await _join(attacker, rng, stack)
                attacker.tally.came("welcome")
            except Closed as closed:
                _came(attacker, closed.code)
            except TimeoutError:
                attacker.tally.came("no answer")

        await asyncio.gather(*(come() for _ in range(30)))
        await asyncio.sleep(0.2)


async def handshakes(attacker: Attacker, rng: Random) -> None:
    for _ in range(6):
        attacker.tally.sent()
        path = rng.choice(
            (
                "/ws/",
                "/ws/calls/",
                "/ws/calls/default/",
                "/ws/sessions/x/",
                "/sessions",
                "/ws/" + "a/" * 500,
                call_path("x") + "?" + "a" * 4000,
            )
        )
        headers = rng.choice(
            (
                {"Sec-WebSocket-Version": "99"},
                {"Sec-WebSocket-Key": "x"},
                {"Sec-WebSocket-Protocol": ", ".join(f"p{each}" for each in range(500))},
                {"Sec-WebSocket-Extensions": "permessage-deflate; x=" + "1" * 5000},
                {"Origin": "a" * 5000},
                {"Cookie": "a=b; " * 1000},
                {},
            )
        )
        with suppress(TimeoutError):
            try:
                async with Wire.open(attacker.target.port, path, headers=headers, source=source(rng)) as wire:
                    _came(attacker, await wire.end(0.3))
            except Closed as closed:
                _came(attacker, closed.code)


ATTACKS = (
    hellos,
    fields_that_are_wrong,
    fields_that_are_wrong,
    texts_that_are_work,
    too_large,
    many_small_fragments,
    frames_that_are_wrong,
    bombs,
    audio,
    floods,
    acks_and_pongs,
    typed,
    crowds,
    handshakes,
)
