"""What a browser would not send: raw packets of each kind over the connection of a `Browser` that has joined."""

from __future__ import annotations

import asyncio
import struct
from fractions import Fraction
from typing import Any, Self

import aiortc
import av
from aiortc.rtcsctptransport import crc32c
from aiortc.rtp import RTCP_BYE, RTCP_PSFB, RTCP_RTPFB, pack_rtcp_packet

from tests.edge.browser import Browser


class Lag:
    """How long the event loop was held at most, while it is entered."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.sleep(0)
        self._task.cancel()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await asyncio.sleep(0.01)
            self.worst = max(self.worst, loop.time() - began - 0.01)


def transport_of(page: Browser) -> Any:
    return page.pc.getTransceivers()[0].receiver.transport


def rtp(
    ssrc: int, number: int, *, payload_type: int = 96, payload: bytes = b"\xf8\xff\xfe", extension: bytes = b""
) -> bytes:
    head = struct.pack(
        "!BBHLL", 0x90 if extension else 0x80, payload_type, number & 0xFFFF, number * 960 & 0xFFFFFFFF, ssrc
    )
    return head + extension + payload


def nack(ssrc: int, first: int, words: int) -> bytes:
    """A report that names ``words`` times 17 packets as lost, from ``first`` on, again and again."""
    return pack_rtcp_packet(
        RTCP_RTPFB, 1, struct.pack("!LL", 1, ssrc) + struct.pack("!HH", first & 0xFFFF, 0xFFFF) * words
    )


def picture_wish(ssrc: int) -> bytes:
    return pack_rtcp_packet(RTCP_PSFB, 1, struct.pack("!LL", 1, ssrc))


def goodbye(*ssrcs: int) -> bytes:
    return pack_rtcp_packet(RTCP_BYE, len(ssrcs), struct.pack(f"!{len(ssrcs)}L", *ssrcs))


def bit_rate_without_streams() -> bytes:
    """A REMB that says that 255 numbers follow, and none does."""
    return pack_rtcp_packet(RTCP_PSFB, 15, struct.pack("!LL", 1, 0) + b"REMB\xff\x00\x00\x00")


async def send_sctp(page: Browser, chunks: bytes) -> None:
    """Send these chunks as a packet of the page's association, with the tag and the sum that it needs."""
    sctp = page.pc.sctp
    head = struct.pack("!HHL", 5000, 5000, sctp._remote_verification_tag)
    total = crc32c(head + bytes(4) + chunks)
    await sctp.transport._send_data(head + struct.pack("<L", total) + chunks)


def chunk(kind: int, body: bytes, *, flags: int = 0, length: int | None = None) -> bytes:
    size = len(body) + 4 if length is None else length
    return struct.pack("!BBH", kind, flags, size) + body + bytes(-len(body) % 4)


def key_frame(width: int, height: int, *, size: int = 210) -> bytes:
    """A key frame of VP8 that declares this size, and holds nothing."""
    tag = (160 << 5) | (1 << 4)
    return struct.pack("<I", tag)[:3] + b"\x9d\x01\x2a" + struct.pack("<HH", width, height) + bytes(size - 10)


class Frames(aiortc.MediaStreamTrack):
    """A camera that sends these frames, encoded already, and then nothing any more."""

    kind = "video"

    def __init__(self, frames: list[bytes], *, pause: float = 0.005) -> None:
        super().__init__()
        self.sent = 0
        self.begin = asyncio.Event()
        self._frames = frames
        self._pause = pause

    @property
    def all_sent(self) -> bool:
        return self.sent == len(self._frames)

    async def recv(self) -> av.Packet:
        await self.begin.wait()
        if self.all_sent:
            await asyncio.Event().wait()
        await asyncio.sleep(self._pause)
        packet = av.Packet(self._frames[self.sent])
        self.sent += 1
        packet.pts, packet.time_base = self.sent * 3000, Fraction(1, 90_000)
        return packet
