"""`Vp8In`: what one person's camera shows, decoded with care.

A frame of 200 bytes may declare that it is 16383 pixels wide and high: the decoder believes it, takes 400 MB for each
picture, and seconds. So a frame is judged by its first ten bytes, and what it leaves behind is bounded:

- pictures have at most `MAX_PIXELS`, and their size changes rarely;
- `MAX_FRAMES` frames and `MAX_BYTES` wait; only the newest picture waits to be taken;
- all cameras of a process share `DECODERS` threads, and nobody waits for one that has work left.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import av
from aiortc.codecs import is_rtx
from aiortc.jitterbuffer import JitterFrame
from aiortc.mediastreams import VIDEO_TIME_BASE
from aiortc.rate import RateCounter
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtcrtpreceiver import RTCRtpReceiver, StreamStatistics
from aiortc.rtp import RtpPacket
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from ..quotas.bucket import Bucket
from ..utils.tasks import spawn
from .offers import VIDEO_MACROBLOCKS
from .rtp import Missing, Statistics, take_decoder
from .video import NewestFrame

logger = logging.getLogger(__name__)

MAX_PIXELS = VIDEO_MACROBLOCKS * 16 * 16
"""Of one picture, 3.5 MB decoded: what the answer asks for. A decoder keeps about six of them."""

CLOCK = 90_000
MAX_FRAMES = 30
MAX_BYTES = 1024 * 1024
FRAMES_A_SECOND, FRAME_BURST = 60.0, 90
DECODERS = min(4, os.cpu_count() or 1)

_decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="camera-decoder")


class Vp8In(NewestFrame):
    """The pictures of one receiver as a track. It ends when it is stopped."""

    def __init__(self, receiver: RTCRtpReceiver) -> None:
        super().__init__()
        self.refused = 0
        """How many frames were not decoded for what they declare, or for how many they were."""

        self._receiver = receiver
        self._codec: VideoCodecContext | None = None
        self._frames: deque[tuple[bytes, int]] = deque()
        self._bytes = 0
        self._size: tuple[int, int] | None = None
        self._needs_key = True
        self._decoding: asyncio.Task[None] | None = None
        self._ssrc: int | None = None
        self._told = False
        self._rate = Bucket(rate=FRAMES_A_SECOND, burst=FRAME_BURST)
        self._sizes = Bucket(rate=0.5, burst=8)
        self._wishes = Bucket(rate=0.5, burst=2)
        self._statistics: dict[int, StreamStatistics] = getattr(receiver, "_RTCRtpReceiver__remote_streams", {})
        self._codecs: dict[int, RTCRtpCodecParameters] = getattr(receiver, "_RTCRtpReceiver__codecs", {})
        self._handle = receiver._handle_rtp_packet
        receiver._handle_rtp_packet = self._on_packet  # type: ignore[method-assign]
        _bound(receiver)
        take_decoder(receiver, self)

    def stop(self) -> None:
        super().stop()
        self._forget()
        self._frame = None
        if self._decoding is None:
            self._codec = None  # tens of MB, which a circle of references would keep for a while
        self._wake()

    # The receiver's side, which takes this for a queue and a thread

    def put(self, task: tuple[Any, JitterFrame] | None) -> None:
        if task is None or self.readyState != "live":
            self._forget()
            return
        _, frame = task
        data: bytes = frame.data
        if not self._is_wanted(data):
            self.refused += 1
            return
        self._frames.append((data, frame.timestamp))
        self._bytes += len(data)
        if self._decoding is None:
            self._decoding = spawn(self._decode(), name="camera-decode")

    def join(self) -> None:
        """There is nothing to wait for."""

    async def _on_packet(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        if packet.ssrc not in self._statistics:
            self._statistics[packet.ssrc] = Statistics(CLOCK)
        codec = self._codecs.get(packet.payload_type)
        if codec is not None and not is_rtx(codec):
            self._ssrc = packet.ssrc
        await self._handle(packet, arrival_time_ms)

    # Judging

    def _is_wanted(self, data: bytes) -> bool:
        if len(data) < 3:
            return False
        if not self._rate.take() or len(self._frames) >= MAX_FRAMES or self._bytes + len(data) > MAX_BYTES:
            self._start_over()
            return False
        if data[0] & 1:
            if self._needs_key:
                self._wish()
            return not self._needs_key
        size = key_frame_size(data)
        if size is None or not self._takes(size):
            self._needs_key = True
            return False
        self._needs_key = False
        return True

    def _takes(self, size: tuple[int, int]) -> bool:
        width, height = size
        if not 0 < width * height <= MAX_PIXELS:
            if not self._told:
                self._told = True
                logger.warning(
                    "A camera sends pictures of %s by %s: none is decoded above %s pixels", *size, MAX_PIXELS
                )
            return False
        if size != self._size:
            if not self._sizes.take():
                return False
            self._size = size
        return True

    def _start_over(self) -> None:
        """Frames are missing from now on: nothing can be made of the next before a key frame."""
        self._forget()
        self._wish()

    def _forget(self) -> None:
        self._frames.clear()
        self._bytes = 0
        self._needs_key = True

    def _wish(self) -> None:
        if self._ssrc is not None and self._wishes.take():
            spawn(self._receiver._send_rtcp_pli(self._ssrc), name="camera-key-frame")

    # Decoding

    async def _decode(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._frames:
                data, timestamp = self._frames.popleft()
                self._bytes -= len(data)
                pictures = await loop.run_in_executor(_decoders, self._decode_one, data, timestamp)
                if self.readyState != "live":
                    break
                if pictures is None:
                    self._start_over()
                elif pictures:
                    self._show(pictures[-1])
        finally:
            self._decoding = None
            if self.readyState != "live":
                self._codec = None

    def _decode_one(self, data: bytes, timestamp: int) -> list[VideoFrame] | None:
        """What a frame shows, which may be nothing; None if it cannot be decoded."""
        if self._codec is None:
            self._codec = VideoCodecContext.create("libvpx", "r")
            self._codec.thread_count = 1
        packet = av.Packet(data)
        packet.pts, packet.time_base = timestamp, VIDEO_TIME_BASE
        try:
            return self._codec.decode(packet)
        except (av.FFmpegError, ValueError, MemoryError):
            return None


def key_frame_size(data: bytes) -> tuple[int, int] | None:
    """The width and height that a key frame of VP8 declares (RFC 6386, 9.1); None if it declares none."""
    if len(data) < 10 or data[3:6] != b"\x9d\x01\x2a":
        return None
    return int.from_bytes(data[6:8], "little") & 0x3FFF, int.from_bytes(data[8:10], "little") & 0x3FFF


class _Counter(RateCounter):
    """Begins anew after a pause, where aiortc steps through every millisecond of it: an hour holds the loop 1 s."""

    def _erase_old(self, now_ms: int) -> None:
        if self._origin_ms is not None and abs(now_ms - self._origin_ms) > 2 * self._window_size:
            self.reset()
            self._origin_ms = now_ms
        super()._erase_old(now_ms)


def _bound(receiver: Any) -> None:
    receiver._RTCRtpReceiver__nack_generator = Missing()
    receiver._RTCRtpReceiver__remote_bitrate_estimator.incoming_bitrate.__class__ = _Counter
