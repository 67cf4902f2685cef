"""`SctpWatch`: what a browser sends for its data channels, checked before aiortc reads it.

aiortc's reader never ends at a chunk of length nought, counts through 65,536 numbers for each gap of four bytes, sorts
all that came out of order for each piece of data, and keeps what is never completed. A packet that no browser sends is
dropped whole, as the network might drop it; who goes on is shut out.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import unpack_from

from aiortc.rtcsctptransport import DATA_CHANNEL_OPEN, WEBRTC_DCEP, RTCSctpTransport

from ..quotas.bucket import Bucket

MAX_PACKET = 2048
MAX_CHUNKS = 64
MAX_PARAMETERS = 16
MAX_STREAMS = 64
"""Numbers of channels in one direction; the other side is told when the connection is made."""

MAX_CHANNELS = 8
MAX_NAME_BYTES = 1024
MAX_MESSAGE_BYTES = 16 * 1024
MAX_UNREAD_BYTES = 256 * 1024
"""Of messages that are not complete; the other side is told, and keeps to it."""

MAX_PIECES = 128
"""Of one channel's messages that are not complete."""

MAX_AHEAD = 256
"""How far a piece may be ahead of the next that is missing."""

MAX_GAPS = 2048
PIECES_A_SECOND, PIECE_BURST = 200.0, 500
ACKS_A_SECOND, ACK_BURST = 300.0, 600
OTHERS_A_SECOND, OTHER_BURST = 20.0, 60

DATA, INIT, INIT_ACK, SACK, HEARTBEAT, HEARTBEAT_ACK, ABORT, SHUTDOWN = range(8)
ERROR, COOKIE_ECHO, RECONFIG, FORWARD = 9, 10, 130, 192
_WITH_PARAMETERS = frozenset({HEARTBEAT, HEARTBEAT_ACK, ABORT, ERROR})
_RESET_STREAMS, _RESET_ANSWER, _ADD_STREAMS = 13, 16, 17
_SHORTEST = {_RESET_STREAMS: 12, _RESET_ANSWER: 8, _ADD_STREAMS: 8}


class SctpWatch:
    """Put before the association of one connection; ``refuse(why)`` is called when there is no end of nonsense."""

    def __init__(self, transport: RTCSctpTransport, refuse: Callable[[str], None]) -> None:
        self._transport = transport
        self._refuse = refuse
        self._pieces = Bucket(rate=PIECES_A_SECOND, burst=PIECE_BURST)
        self._acks = Bucket(rate=ACKS_A_SECOND, burst=ACK_BURST)
        self._others = Bucket(rate=OTHERS_A_SECOND, burst=OTHER_BURST)
        self._nonsense = Bucket(rate=1, burst=50)
        self._handle = transport._handle_data
        self._receive = transport._data_channel_receive
        transport._handle_data = self._on_packet  # type: ignore[method-assign]
        transport._data_channel_receive = self._on_message  # type: ignore[method-assign,assignment]
        transport._inbound_streams_max = MAX_STREAMS
        transport._advertised_rwnd = MAX_UNREAD_BYTES

    async def _on_packet(self, data: bytes) -> None:
        try:
            if not self._is_sane(data):
                raise ValueError
            if self._is_allowed(data):
                await self._handle(data)
        except ConnectionError:
            raise
        except Exception:  # aiortc unpacks what it has not measured, and asserts what others have to keep
            self._count_nonsense()

    async def _on_message(self, stream_id: int, protocol: int, data: bytes) -> None:
        channels = self._transport._data_channels
        if protocol == WEBRTC_DCEP:
            if data[:1] == bytes([DATA_CHANNEL_OPEN]):
                if stream_id in channels or len(data) > MAX_NAME_BYTES or len(channels) >= MAX_CHANNELS:
                    self._count_nonsense()
                    return
            elif stream_id not in channels:
                return
        elif len(data) > MAX_MESSAGE_BYTES:
            return
        await self._receive(stream_id, protocol, data)

    def _count_nonsense(self) -> None:
        if not self._nonsense.take():
            self._refuse("It sends over its data channel what no browser does")

    # Of one packet

    def _is_sane(self, data: bytes) -> bool:
        chunks = _chunks(data)
        return chunks is not None and all(self._is_sane_chunk(kind, body) for kind, body in chunks)

    def _is_sane_chunk(self, kind: int, body: bytes) -> bool:
        if kind == DATA:
            return self._is_sane_piece(body)
        if kind == SACK:
            return _is_sane_ack(body)
        if kind == FORWARD:
            return self._transport._last_received_tsn is not None and _is_sane_skip(body)
        if kind in {INIT, INIT_ACK}:
            return len(body) >= 16 and _parameters(body[16:]) is not None
        if kind in _WITH_PARAMETERS:
            return _parameters(body) is not None
        if kind == RECONFIG:
            return _is_sane_reconfiguration(body)
        return kind != SHUTDOWN or len(body) >= 4

    def _is_sane_piece(self, body: bytes) -> bool:
        transport = self._transport
        if len(body) <= 12 or transport._last_received_tsn is None:
            return False
        number, stream_id = unpack_from("!LH", body)
        ahead = (number - transport._last_received_tsn) & 0xFFFFFFFF
        if stream_id >= MAX_STREAMS or MAX_AHEAD < ahead < 0x80000000:
            return False
        stream = transport._inbound_streams.get(stream_id)
        if stream is not None and len(stream.reassembly) >= MAX_PIECES:
            return False
        return ahead >= 0x80000000 or transport._advertised_rwnd >= len(body)

    def _is_allowed(self, data: bytes) -> bool:
        """Whether there are not too many of its kind: one too many is lost, and sent again."""
        rates = {DATA: self._pieces, SACK: self._acks, FORWARD: self._acks}
        return all(rates.get(kind, self._others).take() for kind, _ in _chunks(data) or ())


def _chunks(data: bytes) -> list[tuple[int, bytes]] | None:
    """The kinds and bodies of the chunks of a packet; None if they are no such."""
    if not 16 <= len(data) <= MAX_PACKET:
        return None
    found: list[tuple[int, bytes]] = []
    position = 12
    while position <= len(data) - 4:
        kind, _, length = unpack_from("!BBH", data, position)
        if length < 4 or position + length > len(data) or len(found) == MAX_CHUNKS:
            return None
        found.append((kind, data[position + 4 : position + length]))
        position += length + -length % 4
    return found


def _parameters(body: bytes) -> list[tuple[int, bytes]] | None:
    """The parameters of a chunk; None if they are no such."""
    found: list[tuple[int, bytes]] = []
    position = 0
    while position <= len(body) - 4:
        kind, length = unpack_from("!HH", body, position)
        if length < 4 or position + length > len(body) or len(found) == MAX_PARAMETERS:
            return None
        found.append((kind, body[position + 4 : position + length]))
        position += length + -length % 4
    return found


def _is_sane_ack(body: bytes) -> bool:
    if len(body) < 12:
        return False
    gaps, duplicates = unpack_from("!HH", body, 8)
    if len(body) != 12 + 4 * (gaps + duplicates):
        return False
    spans = (unpack_from("!HH", body, 12 + 4 * number) for number in range(gaps))
    total = 0
    for first, last in spans:
        if first > last:
            return False
        total += last - first + 1
    return total <= MAX_GAPS


def _is_sane_skip(body: bytes) -> bool:
    if len(body) < 4 or len(body) % 4:
        return False
    ids = [unpack_from("!H", body, position)[0] for position in range(4, len(body), 4)]
    return len(ids) <= MAX_STREAMS and all(stream_id < MAX_STREAMS for stream_id in ids)


def _is_sane_reconfiguration(body: bytes) -> bool:
    parameters = _parameters(body)
    if parameters is None:
        return False
    for kind, value in parameters:
        if len(value) < _SHORTEST.get(kind, 0) or (kind == _RESET_STREAMS and len(value) % 2):
            return False
    return True
