"""The data channel: messages, other channels, and SCTP itself."""

from __future__ import annotations

import asyncio
import struct
from random import Random
from typing import Any

from . import Attacker, junk
from .rtp import Line, line


async def _opened(attacker: Attacker, rng: Random) -> tuple[Line, Any]:
    """A connection whose data channel is open, and the channel."""
    one = await line(attacker, rng)
    if one.page.channel.readyState == "closed" or one.page.pc.sctp.state != "connected":
        await attacker.close()
        one = await line(attacker, rng)
    async with asyncio.timeout(10):
        while one.page.channel.readyState != "open":
            if one.page.channel.readyState == "closed":
                raise ConnectionError("The data channel is closed")
            await asyncio.sleep(0.02)
    return one, one.page.channel


def _send_over(channel: Any, message: str | bytes) -> None:
    """
    Raises:
        ConnectionError: the other side has closed the channel.
    """
    if channel.readyState != "open":
        raise ConnectionError("The data channel is closed")
    channel.send(message)


async def messages(attacker: Attacker, rng: Random) -> None:
    _, channel = await _opened(attacker, rng)
    for _ in range(80):
        attacker.tally.sent()
        message: Any = junk.dump(junk.mutated(rng, {"type": "custom", "data": {"a": 1}}))
        kind = rng.randrange(6)
        if kind == 0:
            message = rng.randbytes(rng.choice((0, 1, 1000, 15_000)))
        elif kind == 1:
            message = f'{{"type":"custom","data":{rng.choice(junk.BODIES)(rng.choice((1000, 5000, 16_000))).decode()}}}'
        elif kind == 2:
            message = junk.mangled(rng, message.encode()).decode("utf-8", "replace")
        _send_over(channel, message if isinstance(message, bytes) else message.encode("utf-8", "replace").decode())
        await asyncio.sleep(0.005)


async def flood(attacker: Attacker, rng: Random) -> None:
    _, channel = await _opened(attacker, rng)
    message = rng.choice(
        ('{"type":"custom","data":{}}', "x", "[" * 15_000, '{"type":"custom","data":' + '{"a":' * 900 + "0" + "}" * 901)
    )
    for number in range(2000):
        attacker.tally.sent()
        _send_over(channel, message)
        if number % 50 == 0:
            await asyncio.sleep(0.01)


async def large(attacker: Attacker, rng: Random) -> None:
    _, channel = await _opened(attacker, rng)
    for _ in range(3):
        attacker.tally.sent()
        size = rng.choice((16_385, 65_536, 262_000, 1_000_000, 4_000_000))
        _send_over(channel, "x" * size if rng.random() < 0.5 else bytes(size))
        await asyncio.sleep(0.3)


async def channels(attacker: Attacker, rng: Random) -> None:
    """Many of them, with labels that are long, odd, or the one that counts."""
    one, _ = await _opened(attacker, rng)
    made = []
    for number in range(rng.choice((20, 300))):
        attacker.tally.sent()
        label = rng.choice(("events", "x", "y" * 60_000, "\0", "\U0001f600" * 1000))
        try:
            made.append(
                one.page.pc.createDataChannel(label, protocol=rng.choice(("", "p" * 1000)), ordered=rng.random() < 0.5)
            )
        except ValueError:
            attacker.tally.came("not sent")
        if number % 20 == 0:
            await asyncio.sleep(0.02)
    for channel in made:
        if channel.readyState == "open" and rng.random() < 0.5:
            channel.send("x")
            channel.close()
    await asyncio.sleep(0.3)


def _chunk(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("!BBH", kind, flags, 4 + len(body)) + body + bytes(-len(body) % 4)


async def _association(attacker: Attacker, rng: Random) -> tuple[Line, Any]:
    one, _ = await _opened(attacker, rng)
    return one, one.page.pc.sctp


async def _send(sctp: Any, chunks: bytes, *, tag: int | None = None) -> None:
    from google_crc32c import value as crc32c  # what aiortc itself makes them with

    head = struct.pack("!HHI", 5000, 5000, sctp._remote_verification_tag if tag is None else tag)
    packet = head + bytes(4) + chunks
    check = struct.pack("<I", crc32c(packet))
    await sctp.transport._send_data(head + check + chunks)


async def chunks(attacker: Attacker, rng: Random) -> None:
    """Chunks of SCTP that are odd, many, or out of order."""
    _, sctp = await _association(attacker, rng)
    for _ in range(150):
        attacker.tally.sent()
        kind = rng.choice((0, 0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 130, 192, 255))
        if kind in {6, 7, 14} and rng.random() < 0.95:
            kind = 0  # these end it
        body = rng.randbytes(rng.choice((0, 1, 4, 12, 16, 100, 1000)))
        if kind == 0:
            numbers = struct.pack(
                "!IHHI",
                (sctp._local_tsn + rng.choice((0, 1, 5, 2**31, -5, 60_000))) % 2**32,
                rng.randrange(65536),
                rng.randrange(65536),
                rng.choice((50, 51, 53, 56, 57, 0)),
            )
            body = numbers + rng.randbytes(rng.randrange(0, 900))
        elif kind == 3:  # acknowledges what was never sent, with gaps
            gaps = rng.choice((0, 3, 250))
            body = struct.pack(
                "!IIHH",
                rng.choice((sctp._last_received_tsn or 0, rng.randrange(2**32))),
                rng.choice((0, 2**32 - 1)),
                gaps,
                0,
            )
            body += b"".join(struct.pack("!HH", each * 3 + 2, each * 3 + 3) for each in range(gaps))
        packet = _chunk(kind, rng.randrange(8), body)
        if rng.random() < 0.2:
            packet = _chunk(kind, 0, b"") * rng.choice((2, 200))
        await _send(sctp, packet[:60_000], tag=None if rng.random() < 0.95 else rng.randrange(2**32))
        await asyncio.sleep(0.003)


async def holes(attacker: Attacker, rng: Random) -> None:
    """Fragments whose beginning never comes: the other side has to keep them."""
    _, sctp = await _association(attacker, rng)
    start = sctp._local_tsn
    for number in range(rng.choice((500, 2500))):
        attacker.tally.sent()
        body = struct.pack("!IHHI", (start + 2 + number * rng.choice((1, 2))) % 2**32, 0, number & 0xFFFF, 51) + bytes(
            900
        )
        await _send(sctp, _chunk(0, 0, body))
        if number % 25 == 0:
            await asyncio.sleep(0.005)


async def gaps(attacker: Attacker, rng: Random) -> None:
    """Every second one: the longest list of gaps that an answer can have, with every packet."""
    _, sctp = await _association(attacker, rng)
    start = sctp._local_tsn
    for number in range(1500):
        attacker.tally.sent()
        body = struct.pack("!IHHI", (start + 2 + number * 2) % 2**32, 0, 0, 51) + b"x"
        await _send(sctp, _chunk(0, 3, body))
        if number % 50 == 0:
            await asyncio.sleep(0.01)


ATTACKS = (messages, messages, flood, large, channels, chunks, holes, gaps)
