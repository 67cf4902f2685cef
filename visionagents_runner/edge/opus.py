"""Opus over RTP, both ways, at less cost than aiortc's own: mono, no resampler, no thread and no task a frame.

aiortc encodes stereo at 96 kbit/s in an executor, and decodes in a thread a track behind a buffer of 80 ms that grows
to 300 ms with the first lost packet. For what people say, mono at 32 kbit/s on the loop takes a third of the CPU. Both
are set per connection: other users of aiortc in the process notice nothing.
"""

from __future__ import annotations

import asyncio
import fractions
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import av
import numpy as np
from aiortc.codecs import get_capabilities
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtcrtpreceiver import RTCRtpReceiver, StreamStatistics
from aiortc.rtp import RtpPacket
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame

from ..quotas.bucket import Bucket
from .audio import FRAME_SAMPLES, RATE, SILENCE, Cutter, Samples
from .rtp import Statistics

logger = logging.getLogger(__name__)

TIME_BASE = fractions.Fraction(1, RATE)
BIT_RATE = 32_000
COMPLEXITY = "5"

MAX_SPEED, MAX_LUMP_SECONDS = 1.5, 6.0
"""Seconds of sound that are decoded in a second, and at once after the network stalled."""


class OpusOut(MediaStreamTrack):
    """What one person hears, as a track whose packets are encoded already: aiortc sends such as they are.

    It never ends before it is stopped, since a sender whose track has ended cannot be used again.
    """

    kind = "audio"
    LIMIT = 10

    def __init__(self) -> None:
        super().__init__()
        self._encoder = AudioCodecContext.create("libopus", "w")
        self._encoder.bit_rate = BIT_RATE
        self._encoder.format = "s16"
        self._encoder.layout = "mono"
        self._encoder.sample_rate = RATE
        self._encoder.time_base = TIME_BASE
        # Of libopus' three applications this one has no predictor to run: half the CPU, and 4 ms less delay.
        self._encoder.options = {"application": "lowdelay", "compression_level": COMPLEXITY}
        self._frame = AudioFrame(format="s16", layout="mono", samples=FRAME_SAMPLES)
        self._frame.sample_rate = RATE
        self._frame.time_base = TIME_BASE
        self._packets: deque[av.Packet] = deque(maxlen=self.LIMIT)
        self._waiter: asyncio.Future[None] | None = None

    def push(self, samples: Samples, number: int) -> None:
        """Encode and queue one frame; ``number`` is its place in time, so that gaps stay gaps."""
        self._frame.planes[0].update(samples.tobytes())  # libopus has read it when encode() returns
        self._frame.pts = number * FRAME_SAMPLES
        for packet in self._encoder.encode(self._frame):
            # The encoder shifts time by its own delay; the number does not.
            packet.pts = number * FRAME_SAMPLES
            packet.time_base = TIME_BASE
            self._packets.append(packet)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def trim(self, frames: int) -> None:
        """Forget all but the oldest ``frames``, which go out next."""
        while len(self._packets) > frames:
            self._packets.pop()

    async def recv(self) -> av.Packet:
        while not self._packets:
            if self.readyState != "live":
                raise MediaStreamError
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._packets.popleft()

    def stop(self) -> None:
        super().stop()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class OpusIn:
    """What one person says: RTP packets in, frames of 20 ms out, in order.

    A packet that is missing is waited for until three later ones are there, and is silence then.
    """

    REORDER = 3
    JUMP = 50

    def __init__(
        self, receiver: RTCRtpReceiver, codec: RTCRtpCodecParameters, listener: Callable[[Samples], None]
    ) -> None:
        self.packets = 0
        """How many came; whoever sees it grow knows that the other side is alive."""

        self._receiver = receiver
        self._payload_type = codec.payloadType
        self._listener = listener
        self._decoder = AudioCodecContext.create("libopus", "r")
        self._decoder.format = "s16"
        self._decoder.layout = "mono"
        self._decoder.sample_rate = RATE
        self._cutter = Cutter()
        self._rate = Bucket(rate=120, burst=300)
        self._sound = Bucket(rate=MAX_SPEED, burst=MAX_LUMP_SECONDS)
        self._ssrc: int | None = None
        self._next: int | None = None
        self._waiting: dict[int, bytes] = {}
        # aiortc makes receiver reports of these; without them the browser knows neither loss nor round trip.
        self._statistics: dict[int, StreamStatistics] | None = getattr(
            receiver, "_RTCRtpReceiver__remote_streams", None
        )
        receiver._handle_rtp_packet = self._handle  # type: ignore[method-assign]

    async def _handle(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        self.packets += 1
        if not self._receiver._enabled or packet.payload_type != self._payload_type or not self._rate.take():
            return
        if packet.ssrc != self._ssrc:
            if self._statistics is not None:
                self._statistics.clear()
            self._ssrc, self._next = packet.ssrc, None
            self._waiting.clear()
        if self._statistics is not None:
            if packet.ssrc not in self._statistics:
                self._statistics[packet.ssrc] = Statistics(RATE)
            self._statistics[packet.ssrc].add(packet)
        if packet.payload and self._sound.take(seconds_in(packet.payload)):
            self._order(packet.sequence_number, packet.payload)

    def _order(self, sequence: int, payload: bytes) -> None:
        if self._next is None:
            self._next = sequence
        ahead = (sequence - self._next) & 0xFFFF
        if ahead >= 0x8000 and 0x10000 - ahead < self.JUMP:
            return  # late, or twice
        if ahead > self.JUMP:
            self._waiting.clear()
            self._next = sequence
        self._waiting[sequence] = payload
        while self._waiting:
            found = self._waiting.pop(self._next, None)
            if found is not None:
                self._decode(found)
            elif len(self._waiting) < self.REORDER:
                return
            else:
                self._pass_on(SILENCE)
            self._next = (self._next + 1) & 0xFFFF

    def _decode(self, payload: bytes) -> None:
        try:
            for frame in self._decoder.decode(av.Packet(payload)):
                self._pass_on(frame_samples(frame))
        except av.FFmpegError:
            self._pass_on(SILENCE)

    def _pass_on(self, samples: Samples) -> None:
        for frame in self._cutter.feed(samples):
            self._listener(frame)


def seconds_in(payload: bytes) -> float:
    """How much sound an Opus packet says that it holds (RFC 6716, 3.1); libopus refuses more than 0.12."""
    configuration, code = payload[0] >> 3, payload[0] & 3
    if configuration < 12:
        milliseconds = (10.0, 20.0, 40.0, 60.0)[configuration & 3]
    elif configuration < 16:
        milliseconds = (10.0, 20.0)[configuration & 1]
    else:
        milliseconds = (2.5, 5.0, 10.0, 20.0)[configuration & 3]
    frames = (1, 2, 2, payload[1] & 0x3F if len(payload) > 1 else 1)[code]
    return milliseconds * frames / 1000


def frame_samples(frame: AudioFrame) -> Samples:
    """A copy of what a mono frame holds; a tenth of the work of ``to_ndarray``."""
    return np.frombuffer(memoryview(frame.planes[0]), dtype=np.int16, count=frame.samples).copy()


def opus_only() -> list[Any]:
    """For ``setCodecPreferences``."""
    return [codec for codec in get_capabilities("audio").codecs if codec.mimeType == "audio/opus"]
