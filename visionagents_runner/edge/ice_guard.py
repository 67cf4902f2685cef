"""`IceGuard`: what comes in at the UDP sockets of one connection, before anything of it is read.

The sockets are open to whoever finds them. aioice by itself parses everything, answers strangers with an error, asks
whichever address a stranger's question seems to come from, and queues without bound what is no STUN; an empty datagram
ends the connection. Here

- a question (STUN) is answered only if it is signed with the password of this connection, and up to a rate;
- an address is asked back only then, or if `candidates` leave it: at most `MAX_ADDRESSES` of them at a time, each four
  times, and up to a rate;
- other packets count only from an address that has proved itself in this way, up to a size, a rate and a number of
  streams; who goes on far beyond what any browser sends is shut out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aioice import stun
from aioice.ice import Connection, StunProtocol

from ..quotas.bucket import Bucket

MAX_DATAGRAM = 2048
MAX_QUESTION = 548
MAX_ADDRESSES = 16
MAX_UNREAD = 256
"""Packets that wait while the connection is not made yet: nobody reads them then."""

PACKETS_A_SECOND, PACKET_BURST = 1000.0, 2000
"""A browser sends 50 to 100 packets of sound a second, and some 100 of a picture, in bursts of a few hundred."""
FLOOD_A_SECOND, FLOOD_BURST = 500.0, 5000
"""Dropped packets that may be. Beyond them it is no burst."""

MAX_STREAMS = 31
"""Numbers of streams (SSRC) that a browser may use. It needs three or four; a report, which aiortc writes of all that
it has seen, has room for 31."""

RETRANSMISSIONS = 3

_COOKIE = stun.COOKIE.to_bytes(4, "big")
_REQUEST, _RESPONSE, _ERROR = 0x0001, 0x0101, 0x0111


class IceGuard:
    """Put before an aioice connection that has no sockets yet; ``refuse(why)`` is called once, if it has to be."""

    def __init__(self, connection: Connection, refuse: Callable[[str], None]) -> None:
        self.dropped = 0
        self._connection = connection
        self._refuse: Callable[[str], None] | None = refuse
        self._proved: dict[tuple[str, int], None] = {}
        self._streams: set[bytes] = set()
        self._ufrag = connection.local_username.encode()
        self._password = connection.local_password.encode()
        self._packets = Bucket(rate=PACKETS_A_SECOND, burst=PACKET_BURST)
        self._patience = Bucket(rate=FLOOD_A_SECOND, burst=FLOOD_BURST)
        self._questions = Bucket(rate=50, burst=200)
        self._asked = Bucket(rate=5, burst=100)
        self._newcomers = Bucket(rate=0.1, burst=MAX_ADDRESSES)
        self._gather = connection.gather_candidates
        self._check = connection.request_received
        connection.gather_candidates = self._gather_and_watch  # type: ignore[method-assign]
        connection.data_received = self._drop  # type: ignore[method-assign]
        connection.request_received = self._on_question  # type: ignore[method-assign,assignment]

    async def _gather_and_watch(self) -> None:
        await self._gather()
        for protocol in self._connection._protocols:
            _Sentry(self, protocol)

    def shut(self, why: str) -> None:
        refuse, self._refuse = self._refuse, None
        if refuse is not None:
            refuse(why)

    # In

    def on_datagram(self, sentry: _Sentry, data: bytes, address: tuple[str, int]) -> None:
        if data[4:8] == _COOKIE and data[0] < 2:
            if self._is_expected(sentry.protocol, data):
                sentry.read(data, address)
        elif address in self._proved:
            self._on_packet(sentry.protocol, data)

    def _is_expected(self, protocol: StunProtocol, data: bytes) -> bool:
        kind = data[0] << 8 | data[1]
        if kind == _REQUEST:
            return len(data) <= MAX_QUESTION and self._ufrag in data and self._questions.take()
        return kind in (_RESPONSE, _ERROR) and len(data) <= MAX_DATAGRAM and data[8:20] in protocol.transactions

    def _on_packet(self, protocol: StunProtocol, data: bytes) -> None:
        if not self._packets.take():
            self.dropped += 1
            if not self._patience.take():
                self.shut(f"It sends more than {PACKETS_A_SECOND:.0f} packets a second")
            return
        if not 12 < len(data) <= MAX_DATAGRAM:
            return
        if 127 < data[0] < 192:
            stream = data[4:8] if 192 <= data[1] <= 208 else data[8:12]
            if stream not in self._streams:
                if len(self._streams) >= MAX_STREAMS:
                    self.shut(f"It sends more than {MAX_STREAMS} streams")
                    return
                self._streams.add(stream)
        elif not 19 < data[0] < 64:
            return  # neither SRTP nor DTLS
        queue = self._connection._queue
        if queue.qsize() < MAX_UNREAD:
            queue.put_nowait((data, protocol.local_candidate.component))

    def _on_question(self, message: stun.Message, address: tuple[str, int], protocol: StunProtocol) -> None:
        if not self._is_signed(message):
            return
        if address not in self._proved:
            if not self._newcomers.take():
                return
            self._forget()
            self._proved[address] = None
        self._check(message, address, protocol)

    def _drop(self, data: bytes, component: int) -> None:
        """What came before the sentries did, or looked like STUN and is none."""
        self.dropped += 1

    def _is_signed(self, message: stun.Message) -> bool:
        attributes = message.attributes
        # Who offers controls: of a browser there is no question of the other kind, with which roles could be swapped.
        return (
            message.message_method == stun.Method.BINDING
            and isinstance(attributes.get("USERNAME"), str)
            and "PRIORITY" in attributes
            and "ICE-CONTROLLED" not in attributes
            and self._connection._valid_username(attributes["USERNAME"])
            and message.check_message_integrity(self._password)
        )

    def _forget(self) -> None:
        """Make room for another address: a browser that moves between networks has many, one after the other."""
        if len(self._proved) < MAX_ADDRESSES:
            return
        connection = self._connection
        used = {pair.remote_addr for pair in connection._nominated.values()}
        oldest = next(address for address in self._proved if address not in used)
        del self._proved[oldest]
        for pair in [pair for pair in connection._check_list if pair.remote_addr == oldest]:
            if pair.task is not None:
                pair.task.cancel()
            connection._check_list.remove(pair)
        connection._remote_candidates[:] = [
            candidate
            for candidate in connection._remote_candidates
            if (candidate._network_host, candidate.port) != oldest
        ]

    # Out

    def may_ask(self) -> bool:
        return self._asked.take()


class _Sentry:
    """Stands before one socket."""

    def __init__(self, guard: IceGuard, protocol: StunProtocol) -> None:
        self.protocol = protocol
        self._guard = guard
        self._read = protocol.datagram_received
        self._ask = protocol.request
        protocol.datagram_received = self._received  # type: ignore[method-assign,assignment]
        protocol.request = self._request  # type: ignore[method-assign,assignment]

    def _received(self, data: bytes, address: tuple[Any, ...]) -> None:
        if len(data) >= 12:
            self._guard.on_datagram(self, data, (address[0], address[1]))

    def read(self, data: bytes, address: tuple[str, int]) -> None:
        try:
            self._read(data, address)
        except Exception:  # aioice unpacks what it has not measured
            self._guard.dropped += 1

    async def _request(
        self,
        request: stun.Message,
        address: tuple[str, int],
        integrity_key: bytes | None = None,
        retransmissions: int | None = None,
    ) -> tuple[stun.Message, tuple[str, int]]:
        if not self._guard.may_ask():
            raise stun.TransactionTimeout
        most = RETRANSMISSIONS if retransmissions is None else min(retransmissions, RETRANSMISSIONS)
        try:
            return await self._ask(request, address, integrity_key, most)
        except stun.TransactionFailed as error:
            # To "your role is mine" aioice asks again, for as long as that is the answer.
            raise stun.TransactionTimeout from error
