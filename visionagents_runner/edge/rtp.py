"""`RtpWatch`: what a browser says over RTP and RTCP, bounded before aiortc acts on it.

aiortc sends again whatever a report (NACK) names, as often as it names it, encodes a key frame at every wish for one,
and ends the connection at the first report that it cannot unpack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpreceiver import NackGenerator, RTCRtpReceiver, StreamStatistics
from aiortc.rtp import (
    RTCP_PSFB_APP,
    RTP_HISTORY_SIZE,
    AnyRtcpPacket,
    RtcpByePacket,
    RtcpPacket,
    RtcpPsfbPacket,
    RtcpRtpfbPacket,
    RtpPacket,
)

from ..quotas.bucket import Bucket

REPORTS_A_SECOND, REPORT_BURST = 100.0, 300
MAX_IN_ONE = 16
"""Reports in one packet; a browser puts three to five there."""

SENT_AGAIN_A_SECOND, SENT_AGAIN_BURST = 100.0, 200
"""Packets that are sent again; a browser is sent 50 of sound in a second, and about as many of a picture."""

MAX_MALFORMED_A_SECOND, MALFORMED_BURST = 5.0, 200


class RtpWatch:
    """Put before the RTP and RTCP of one connection; ``refuse(why)`` is called when there is no end of nonsense."""

    def __init__(self, transport: RTCDtlsTransport, refuse: Callable[[str], None]) -> None:
        self._router = transport._rtp_router
        self._refuse = refuse
        self._reports = Bucket(rate=REPORTS_A_SECOND, burst=REPORT_BURST)
        self._again = Bucket(rate=SENT_AGAIN_A_SECOND, burst=SENT_AGAIN_BURST)
        self._key_frames = Bucket(rate=1, burst=4)
        self._bit_rates = Bucket(rate=2, burst=8)
        self._malformed = Bucket(rate=MAX_MALFORMED_A_SECOND, burst=MALFORMED_BURST)
        self._handle_rtp = transport._handle_rtp_data
        transport._handle_rtp_data = self._on_rtp  # type: ignore[method-assign]
        transport._handle_rtcp_data = self._on_rtcp  # type: ignore[method-assign]

    async def _on_rtp(self, data: bytes, arrival_time_ms: int) -> None:
        try:
            await self._handle_rtp(data, arrival_time_ms)
        except ConnectionError:
            raise
        except Exception:  # aiortc unpacks what it has not measured
            self._nonsense()

    async def _on_rtcp(self, data: bytes) -> None:
        if not self._reports.take():
            return
        try:
            if not _is_short(data):
                raise ValueError
            for packet in RtcpPacket.parse(data):
                if self._counts(packet):
                    for recipient in self._router.route_rtcp(packet):
                        await recipient._handle_rtcp_packet(packet)
        except ConnectionError:
            raise
        except Exception:  # as above
            self._nonsense()

    def _counts(self, packet: AnyRtcpPacket) -> bool:
        if isinstance(packet, RtcpRtpfbPacket):
            packet.lost = [number for number in dict.fromkeys(packet.lost) if self._again.take()][:RTP_HISTORY_SIZE]
            return bool(packet.lost)
        if isinstance(packet, RtcpPsfbPacket):
            return (self._bit_rates if packet.fmt == RTCP_PSFB_APP else self._key_frames).take()
        # A stream that ends may begin again, which aiortc does not know: it ends its decoder with it.
        return not isinstance(packet, RtcpByePacket)

    def _nonsense(self) -> None:
        if not self._malformed.take():
            self._refuse("It sends what is no RTP")


def _is_short(data: bytes) -> bool:
    position = count = 0
    while position + 4 <= len(data):
        position += 4 + 4 * int.from_bytes(data[position + 2 : position + 4], "big")
        count += 1
    return count <= MAX_IN_ONE


class Statistics(StreamStatistics):
    """Of a stream whose times may be anything: they end up in 32 bits of a report."""

    @property
    def jitter(self) -> int:
        return min(super().jitter, 0xFFFFFFFF)


class Missing(NackGenerator):
    """Which packets are asked for again; after a jump none, where aiortc counts all that were jumped over."""

    def add(self, packet: RtpPacket) -> bool:
        if self.max_seq is not None:
            ahead = (packet.sequence_number - self.max_seq) & 0xFFFF
            if RTP_HISTORY_SIZE < ahead < 0x8000:
                self.max_seq = packet.sequence_number
                self.missing.clear()
                return False
        return super().add(packet)


def take_decoder(receiver: RTCRtpReceiver, decoder: Any | None = None) -> None:
    """Have ``decoder``, or nobody, take the frames of ``receiver`` as its queue.

    aiortc decodes in a thread for each track, and waits on the event loop for it to end, and for everything that is
    queued until then. Here that thread ends as soon as it has begun.
    """
    receive = receiver.receive

    async def receive_without_thread(parameters: Any) -> None:
        queue = getattr(receiver, _DECODER_QUEUE)
        await receive(parameters)
        if queue is not decoder:
            queue.put(None)
            setattr(receiver, _DECODER_QUEUE, decoder)
            setattr(receiver, _DECODER_THREAD, decoder)

    receiver.receive = receive_without_thread  # type: ignore[method-assign]


_DECODER_QUEUE = "_RTCRtpReceiver__decoder_queue"
_DECODER_THREAD = "_RTCRtpReceiver__decoder_thread"
