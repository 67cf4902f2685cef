"""RTP and RTCP over an established connection: decoders, streams, retransmissions, reports, floods."""

from __future__ import annotations

import asyncio
import struct
from contextlib import AsyncExitStack, suppress
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
import pylibsrtp
from aiortc.codecs.vpx import VpxPayloadDescriptor
from aiortc.mediastreams import VideoStreamTrack
from av import CodecContext, VideoFrame

from ..clients import Page, Seat, Wire, call_path
from . import Attacker, junk, source

OPUS, VP8 = 96, 97
"""As aiortc numbers them in its offers; the real ones are read from the connection."""
_MTU = 1200


class _Nothing(VideoStreamTrack):
    """A camera that never has a picture: what is sent is made by hand."""

    async def recv(self) -> VideoFrame:
        await asyncio.Event().wait()
        raise AssertionError


class Line:
    """Somebody's connection for media, over which packets go that are made by hand."""

    def __init__(self, page: Page, rng: Random) -> None:
        self.page = page
        self._rng = rng
        audio, video = page.pc.getTransceivers()[:2]
        self.audio_type, self.video_type = (each._codecs[0].payloadType for each in (audio, video))
        self.rtx_type = next((codec.payloadType for codec in video._codecs if codec.name == "rtx"), 98)
        self.video_ssrc, self.rtx_ssrc = video.sender._ssrc, video.sender._rtx_ssrc
        self.agents_ssrc = next(iter(page.transport._rtp_router.ssrc_table), 1)
        self.audio_ssrc = rng.randrange(1, 2**32)
        self.sequence = rng.randrange(0x4000)
        self.ticks = rng.randrange(2**31)

    async def rtp(
        self, payload: bytes, kind: int, ssrc: int, *, marker: bool = True, ticks: int | None = None,
        sequence: int | None = None, first: int = 0x80,
    ) -> None:  # fmt: skip
        if sequence is None:
            self.sequence = sequence = (self.sequence + 1) & 0xFFFF
        head = struct.pack(
            "!BBHII",
            first,
            (0x80 if marker else 0) | kind,
            sequence & 0xFFFF,
            (self.ticks if ticks is None else ticks) & 0xFFFFFFFF,
            ssrc,
        )
        await self.send(head + payload)

    async def send(self, packet: bytes) -> None:
        with suppress(ValueError, pylibsrtp.Error):  # what libsrtp does not take, nobody can send
            await self.page.transport._send_rtp(packet)

    async def picture(self, data: bytes) -> None:
        """One frame of VP8, in as many packets as it takes."""
        self.ticks += 6000
        pieces = [data[start : start + _MTU] for start in range(0, len(data), _MTU)] or [b""]
        for number, piece in enumerate(pieces):
            descriptor = bytes(VpxPayloadDescriptor(partition_start=int(number == 0), partition_id=0))
            await self.rtp(descriptor + piece, self.video_type, self.video_ssrc, marker=number == len(pieces) - 1)

    async def sound(self, payload: bytes) -> None:
        self.ticks += 960
        await self.rtp(payload, self.audio_type, self.audio_ssrc, marker=False)


async def line(attacker: Attacker, rng: Random, *, role: str = "speaker") -> Line:
    """Somebody on the attacked call with a connection; the one of before if it still stands."""
    found: Line | None = attacker.kept.get("line")
    if found is not None and found.page.connected and attacker.kept["role"] == role:
        return found
    await attacker.close()
    found = await connect(attacker, rng, attacker.stack, role=role)
    attacker.kept.update(line=found, role=role)
    return found


async def connect(attacker: Attacker, rng: Random, stack: AsyncExitStack, *, role: str = "speaker") -> Line:
    path = call_path(attacker.target.CALL)
    wire = await stack.enter_async_context(Wire.open(attacker.target.port, path, source=source(rng)))
    await wire.hello(token=attacker.target.tokens[role])
    seat = Seat(wire)
    stack.push_async_callback(seat.close)
    page = Page(seat, hertz=None, camera=_Nothing())  # type: ignore[arg-type]
    page.pc.getTransceivers()[0].direction = "sendrecv"
    stack.push_async_callback(page.close)
    await page.connect()
    await page.until_connected()
    attacker.tally.came("connected")
    return Line(page, rng)


def key_frame(
    width: int, height: int, size: int = 200, *, first_partition: int | None = None, fill: bytes = b""
) -> bytes:
    """A VP8 key frame that declares a size, with next to nothing in it."""
    part = size // 2 if first_partition is None else first_partition
    tag = (1 << 4) | (part << 5)
    head = struct.pack("<I", tag)[:3] + b"\x9d\x01\x2a" + struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    return head + (fill * size)[:size].ljust(size, b"\0")


def pictures(number: int = 12, width: int = 320, height: int = 240) -> list[bytes]:
    """Real ones."""
    encoder: Any = CodecContext.create("libvpx", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.options = {"deadline": "realtime", "cpu-used": "8"}
    encoder.time_base = Fraction(1, 30)
    found: list[bytes] = []
    for count in range(number):
        frame = VideoFrame.from_ndarray(
            np.full((height * 3 // 2, width), count * 20 % 255, dtype=np.uint8), format="yuv420p"
        )
        frame.pts = count
        found += [bytes(packet) for packet in encoder.encode(frame)]
    found += [bytes(packet) for packet in encoder.encode(None)]
    return found


async def pictures_of_great_size(attacker: Attacker, rng: Random) -> None:
    """Small frames that declare large pictures; then their sender leaves."""
    one = await line(attacker, rng)
    for _ in range(rng.choice((3, 20, 60))):
        attacker.tally.sent()
        width, height = rng.choice(
            (
                (16383, 16383),
                (16383, 16),
                (8000, 8000),
                (4096, 2160),
                (1, 1),
                (0, 0),
                (0xFFFF, 0xFFFF),
                (1921, 1081),
                (1280, 720),
            )
        )
        await one.picture(
            key_frame(width, height, rng.choice((20, 200, 3000)), fill=rng.choice((b"", b"\xff", b"\x55\xaa")))
        )
        await asyncio.sleep(rng.choice((0, 0.01)))
    if rng.random() < 0.6:
        await attacker.close()
        attacker.tally.came("left")


async def pictures_that_change(attacker: Attacker, rng: Random) -> None:
    """Real pictures whose size changes with each one, and ones with flipped bits, cut or without a beginning."""
    one = await line(attacker, rng)
    for _ in range(4):
        width, height = rng.choice(((320, 240), (640, 480), (16, 16), (1280, 720)))
        for data in await asyncio.to_thread(pictures, 4, width, height):
            for _ in range(3):
                attacker.tally.sent()
                kind = rng.randrange(5)
                changed = (
                    data if kind == 0 else junk.mangled(rng, data) if kind < 3 else data[: rng.randrange(len(data))]
                )
                await one.picture(changed[:30_000])
            await asyncio.sleep(0.01)


async def payloads_of_anything(attacker: Attacker, rng: Random) -> None:
    one = await line(attacker, rng)
    for _ in range(300):
        attacker.tally.sent()
        kind = rng.choice((one.video_type, one.video_type, one.audio_type, one.rtx_type, rng.randrange(128)))
        if 64 <= kind < 96:
            continue
        ssrc = rng.choice((one.video_ssrc, one.rtx_ssrc, one.audio_ssrc))
        payload = rng.randbytes(rng.choice((0, 1, 2, 3, 10, 100, 1000)))
        await one.rtp(payload, kind, ssrc, marker=rng.random() < 0.5, ticks=one.ticks + rng.randrange(-9000, 9000))
        await asyncio.sleep(0.001)


async def descriptors(attacker: Attacker, rng: Random) -> None:
    """VP8's payload descriptor in every form, whole and cut."""
    one = await line(attacker, rng)
    for first in range(256):
        attacker.tally.sent()
        await one.rtp(bytes([first]) + rng.randbytes(rng.randrange(6)), one.video_type, one.video_ssrc)
        if first % 32 == 0:
            await asyncio.sleep(0.005)


async def opus_of_all_sorts(attacker: Attacker, rng: Random) -> None:
    """Long frames, many in one packet, none, padding, garbage."""
    one = await line(attacker, rng)
    for _ in range(200):
        attacker.tally.sent()
        toc = rng.randrange(256)
        kind = rng.randrange(6)
        if kind == 0:
            payload = bytes([toc | 3, rng.randrange(256)]) + rng.randbytes(rng.randrange(40))
        elif kind == 1:
            payload = bytes([toc | 3, 0x41 + rng.randrange(48)]) + b"\xff" * rng.randrange(1200)
        elif kind == 2:
            payload = rng.randbytes(rng.randrange(1, 1275))
        elif kind == 3:
            payload = bytes([0x1B, 48]) + bytes(48)  # as many frames as there may be
        elif kind == 4:
            payload = bytes([toc])
        else:
            payload = b"\xf8\xff\xfe" + rng.randbytes(rng.choice((0, 1000, 1900)))
        await one.sound(payload)
        await asyncio.sleep(0.002)


async def streams(attacker: Attacker, rng: Random) -> None:
    """Each packet from another source."""
    one = await line(attacker, rng)
    for number in range(rng.choice((30, 1000))):
        attacker.tally.sent()
        kind, payload = rng.choice(
            ((one.audio_type, b"\xf8\xff\xfe"), (one.video_type, b"\x10" + key_frame(64, 64, 30)))
        )
        await one.rtp(payload, kind, rng.randrange(2**32), ticks=number * 960)
        if number % 50 == 0:
            await asyncio.sleep(0.005)


async def jumps(attacker: Attacker, rng: Random) -> None:
    """Sequence numbers and times that leap, stand still, and go back."""
    one = await line(attacker, rng)
    for _ in range(400):
        attacker.tally.sent()
        step = rng.choice((1, 1, 2, 5, 100, 127, 128, 129, 1000, 0x3FFF, 0x7FFF, -1, -5, 0))
        one.sequence = (one.sequence + step) & 0xFFFF
        ticks = one.ticks + rng.choice((0, 960, 2**31, -(2**31), 2**30))
        if rng.random() < 0.5:
            await one.rtp(b"\xf8\xff\xfe", one.audio_type, one.audio_ssrc, ticks=ticks, sequence=one.sequence)
        else:
            await one.rtp(
                b"\x10" + key_frame(64, 64, 30), one.video_type, one.video_ssrc, ticks=ticks, sequence=one.sequence
            )
        await asyncio.sleep(0.001)


async def missing_ones(attacker: Attacker, rng: Random) -> None:
    """Holes, which the receiver asks for again with each packet."""
    one = await line(attacker, rng)
    for number in range(600):
        attacker.tally.sent()
        one.sequence = (one.sequence + rng.choice((1, 2, 60))) & 0xFFFF
        await one.rtp(
            b"\x00" + bytes(20), one.video_type, one.video_ssrc, ticks=number // 4 * 3000, sequence=one.sequence
        )
        if number % 20 == 0:
            await asyncio.sleep(0.004)


async def retransmissions(attacker: Attacker, rng: Random) -> None:
    one = await line(attacker, rng)
    for _ in range(300):
        attacker.tally.sent()
        inner = struct.pack("!H", rng.randrange(65536)) * rng.choice((0, 1, 1, 50)) + rng.randbytes(
            rng.choice((0, 1, 30, 1000))
        )
        await one.rtp(inner, one.rtx_type, rng.choice((one.rtx_ssrc, one.video_ssrc, 5)), ticks=one.ticks)
        await asyncio.sleep(0.001)


async def headers(attacker: Attacker, rng: Random) -> None:
    """Versions, padding, sources and extensions that are not there, or too many."""
    one = await line(attacker, rng)
    for _ in range(300):
        attacker.tally.sent()
        first = rng.choice((0x90, 0xA0, 0x8F, 0xBF, 0x80))
        if first & 0x10 and rng.random() < 0.7:
            words = rng.randrange(0, 20)
            profile = rng.choice((0xBEDE, 0x1000, 0xFFFF))
            body = struct.pack("!HH", profile, words) + rng.randbytes(words * 4)
        else:
            body = b""
        body += rng.randbytes(rng.randrange(100)) + bytes([rng.randrange(256)])
        kind = rng.choice((one.video_type, one.audio_type))
        packet = struct.pack("!BBHII", first, kind, one.sequence, one.ticks & 0xFFFFFFFF, one.video_ssrc) + body
        one.sequence = (one.sequence + 1) & 0xFFFF
        await one.send(packet)
        await asyncio.sleep(0.001)


def _rtcp(kind: int, count: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack("!BBH", 0x80 | count & 31, kind, len(body) // 4) + body


async def reports(attacker: Attacker, rng: Random) -> None:
    """Compounds of RTCP, whole and broken."""
    one = await line(attacker, rng)
    for _ in range(200):
        attacker.tally.sent()
        packet = _rtcp(201, 0, struct.pack("!I", one.video_ssrc))
        for _ in range(rng.choice((1, 3, 60))):
            kind = rng.choice((200, 201, 202, 203, 204, 205, 206, 207, 192, 255))
            count = rng.randrange(32)
            body = rng.choice(
                (rng.randbytes(rng.randrange(0, 120)), struct.pack("!I", one.video_ssrc) * (count + 1), b"")
            )
            packet += _rtcp(kind, count, body)
        if rng.random() < 0.3:
            packet = packet[:8] + junk.mangled(rng, packet[8:])
        await one.send(packet[:2000])
        await asyncio.sleep(0.002)


async def wishes(attacker: Attacker, rng: Random) -> None:
    """Reports of loss for all that was ever sent, wishes for pictures, and bounds that make no sense."""
    one = await line(attacker, rng)
    media = struct.pack("!II", one.video_ssrc, one.agents_ssrc)
    for _ in range(150):
        attacker.tally.sent()
        kind = rng.randrange(4)
        if kind == 0:  # 17 packets each, and all of them
            lost = b"".join(struct.pack("!HH", start & 0xFFFF, 0xFFFF) for start in range(0, 17 * 300, 17))
            packet = _rtcp(205, 1, media + lost)
        elif kind == 1:
            packet = _rtcp(206, rng.choice((1, 2, 3, 4)), media + bytes(8)) * 40
        elif kind == 2:
            packet = _rtcp(
                206, 15, media + b"REMB" + rng.choice((b"\xff\xff\xff\xff" + bytes(1000), b"\x01" + bytes(7), b""))
            )
        else:
            packet = _rtcp(203, 31, struct.pack("!I", one.video_ssrc) * 31)
        await one.send(packet)
        await asyncio.sleep(0.002)


async def flood(attacker: Attacker, rng: Random) -> None:
    """Some thousands a second, of one sort."""
    one = await line(attacker, rng, role=rng.choice(("speaker", "listener")))
    sort = rng.randrange(4)
    report = _rtcp(205, 1, struct.pack("!II", one.video_ssrc, one.agents_ssrc) + struct.pack("!HH", 1, 0xFFFF) * 20)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(rng.choice((4000, 8000))):
        attacker.tally.sent()
        if sort == 0:
            await one.sound(b"\xf8\xff\xfe")
        elif sort == 1:
            await one.rtp(
                b"\x00" + bytes(1000), one.video_type, one.video_ssrc, ticks=number // 3 * 3000, marker=number % 3 == 2
            )
        elif sort == 2:
            await one.send(report)
        else:
            await one.rtp(b"x", 120, one.audio_ssrc)
        if number % 50 == 49:
            await asyncio.sleep(max(0.0, began + number / 5000 - loop.time()))


async def pictures_too_many(attacker: Attacker, rng: Random) -> None:
    """More than a decoder can take, of a size that it must; then their sender leaves."""
    one = await line(attacker, rng)
    real = await asyncio.to_thread(pictures, 6, 1280, 720)
    for _ in range(25):
        for data in real:
            attacker.tally.sent()
            await one.picture(data)
        await asyncio.sleep(0.01)
    await attacker.close()
    attacker.tally.came("left")


async def people_who_leave(attacker: Attacker, rng: Random) -> None:
    """In every way, while what they sent is still being looked at."""
    for way in range(3):
        attacker.tally.sent()
        async with AsyncExitStack() as stack:
            one = await connect(attacker, rng, stack)
            for data in (key_frame(1920, 1080, 300, fill=b"\x55"), *[key_frame(16383, 16383)] * 5):
                await one.picture(data)
            if way == 0:
                one.page.vanish()
            elif way == 1:
                await one.page.pc.close()
            await asyncio.sleep(rng.choice((0, 0.2)))
        attacker.tally.came("left")


ATTACKS = (
    pictures_of_great_size,
    pictures_of_great_size,
    pictures_that_change,
    payloads_of_anything,
    descriptors,
    opus_of_all_sorts,
    streams,
    jumps,
    missing_ones,
    retransmissions,
    headers,
    reports,
    wishes,
    flood,
    flood,
    pictures_too_many,
    people_who_leave,
)
