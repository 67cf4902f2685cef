"""`Watch`: the connections of a server, what each of them waits for, and until when.

Neither uvicorn nor daphne ends a connection that sends half a request, drips a body, or takes no answer; and both
accept until no file descriptor is left for the database, Redis and the sockets of calls.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import time
from contextlib import suppress
from enum import Enum, auto
from itertools import islice
from typing import Any, Protocol

from ..conf.settings import get_settings
from ..telemetry.connections import REASONS, count_connections_of, refused
from ..utils.http_answer import answer

try:
    import resource as _resource
except ImportError:  # Windows
    _limits: Any = None
else:
    _limits = _resource


logger = logging.getLogger(__name__)

READ_BYTES = 4096
"""Read at once where each byte may cost much: 256 KiB of tiny frames or chunks hold the loop for half a second."""
BODY_READ_BYTES = 65536
"""The same of a body whose length is known."""
MOST_HEAD_BYTES = 65536
MOST_FRAGMENTS = 4096
"""Of one WebSocket message: empty ones cost memory and never reach the limit of its size."""
_SLOWEST_BYTES = 4096
"""What a client has to send, or take, a second, on average."""
_MOST_UNSENT_BYTES = 16 * 1024 * 1024
"""What may wait for the client of a WebSocket."""
_MOST_REST_BYTES = 1024 * 1024
_REST_SECONDS = 5.0
"""How long, and how much, is read of a body that nobody wants any more: a connection that is closed with bytes unread
is reset, and its client never sees the answer."""
_HANDSHAKE_SECONDS = 20.0
_LOOKED_AT = 16
_MOST_CONNECTIONS = 10_000
_FEWEST_CONNECTIONS = 4
_MOST_RESERVED = 256
_ACCEPTED_AT_ONCE = 8
_TELL_SECONDS = 60.0
_TICK_SECONDS = 1.0


class Phase(Enum):
    FRESH = auto()
    """Nothing has come yet."""
    IDLE = auto()
    """Kept after an answer."""
    HEAD = auto()
    BODY = auto()
    ANSWER = auto()
    """All has come; the application works."""
    REST = auto()
    """The application has answered without reading all of the body."""
    HANDSHAKE = auto()
    WEBSOCKET = auto()
    ENDING = auto()
    """It closes once what was sent has gone."""


_WAITING = frozenset({Phase.FRESH, Phase.IDLE, Phase.HEAD})
_SLOW = frozenset({Phase.BODY, Phase.REST, Phase.ENDING})
_SOCKETS = frozenset({Phase.HANDSHAKE, Phase.WEBSOCKET})


class Wire(Protocol):
    """What the watch wants of a server's connection."""

    def unsent(self) -> int:
        """Return how many bytes wait for the client to take them."""

    def reads(self) -> bool:
        """Return whether the server reads what the client sends."""

    def fragments(self) -> int:
        """Return of how many parts the WebSocket message that is coming in consists."""

    def refuse(self, words: bytes) -> None:
        """Send ``words``, if no other one is under way, and close."""

    def drop(self) -> None:
        """Close at once."""


class Watched:
    """One connection."""

    __slots__ = ("_counted", "_patience", "_stalls", "_unsent", "_watch", "phase", "received", "since", "wire")

    def __init__(self, watch: Watch, wire: Wire) -> None:
        self.wire = wire
        self.phase = Phase.FRESH
        self.since = time.monotonic()
        self.received = 0
        """Bytes since the phase began."""
        self._watch = watch
        self._counted = 0
        """How much of ``received`` has been looked at."""
        self._stalls = False
        self._unsent = 0
        self._patience = 0.0
        """Seconds that it may still move less than it should."""

    def enter(self, phase: Phase) -> None:
        if self.phase is Phase.ENDING:
            return
        if not (self.phase is Phase.FRESH and phase is Phase.HEAD):  # waiting for the first byte counts as well
            self.since = time.monotonic()
        self.received = self._counted = 0
        self.phase = phase
        self._patience = get_settings().BODY_TIMEOUT
        self._watch.moved(self)

    def heard(self, size: int) -> None:
        """Take note of bytes from the client, before they are looked at."""
        if self.phase in (Phase.FRESH, Phase.IDLE):
            self.enter(Phase.HEAD)
        self.received += size

    def is_excessive(self) -> bool:
        """Whether more has come than any request of this phase may have."""
        if self.phase is Phase.REST:
            return self.received > _MOST_REST_BYTES
        if self.phase is Phase.BODY:
            limit = get_settings().MAX_PROJECT_BODY_BYTES
            # Of the framing of chunks too, which no application sees.
            return limit is not None and self.received > 8 * max(limit, get_settings().MAX_BODY_BYTES)
        return self.phase in (Phase.HEAD, Phase.ANSWER) and self.received > MOST_HEAD_BYTES + READ_BYTES

    @property
    def is_waiting(self) -> bool:
        """Whether it can be closed with little harm."""
        return self.phase in _WAITING

    @property
    def is_slow(self) -> bool:
        """Whether it is its client that the server waits for."""
        return self.phase in _SLOW or self._stalls

    def stall(self) -> None:
        """The client takes less than is sent."""
        self._stalls = True
        self._unsent = 0
        self._patience = get_settings().SEND_TIMEOUT
        self._watch.moved(self)

    def flow(self) -> None:
        self._stalls = False
        self._patience = get_settings().BODY_TIMEOUT
        self._watch.moved(self)

    def end(self, reason: str, status: int | None = None, detail: str = "") -> None:
        """End the connection, with an answer if ``status`` is given and no other answer is under way."""
        self._watch.count(reason)
        if status is None:
            self.wire.drop()
        else:
            self.wire.refuse(answer(status, detail))

    def gone(self) -> None:
        self._watch.forget(self)

    def look(self, now: float, elapsed: float) -> None:
        """End it if its time is over. ``elapsed``: seconds since the last look."""
        unsent = self.wire.unsent()
        if self.phase in _SOCKETS and (unsent > _MOST_UNSENT_BYTES or self.wire.fragments() > MOST_FRAGMENTS):
            self.end("send_timeout" if unsent > _MOST_UNSENT_BYTES else "too_large")
        elif self._is_stalled(unsent, elapsed):
            self.end("send_timeout")
        elif self.phase in (Phase.FRESH, Phase.HEAD):
            if _is_over(now - self.since, get_settings().HEAD_TIMEOUT):
                # A browser opens connections ahead of its requests: 408 would be news to it.
                words = "The request line and the headers took too long"
                self.end("head_timeout", 408 if self.phase is Phase.HEAD else None, words)
        elif self.phase is Phase.IDLE:
            if not unsent and _is_over(now - self.since, get_settings().KEEP_ALIVE_TIMEOUT):
                self.wire.drop()
        elif self.phase is Phase.BODY:
            came, self._counted = self.received - self._counted, self.received
            if self.wire.reads() and self._runs_out(came, elapsed, get_settings().BODY_TIMEOUT):
                self.end("body_timeout", 408, "The request body took too long")
        elif self.phase is Phase.HANDSHAKE:
            if now - self.since > _HANDSHAKE_SECONDS:
                self.end("head_timeout")
        elif self.phase in (Phase.REST, Phase.ENDING) and not unsent and now - self.since > _REST_SECONDS:
            self.wire.drop()

    def _is_stalled(self, unsent: int, elapsed: float) -> bool:
        if not unsent:
            return False
        if not self._stalls:
            if self.phase not in (Phase.IDLE, Phase.ENDING):
                return False
            self.stall()  # too little for the server to call it that; and nothing is added to it any more
        taken, self._unsent = max(0, self._unsent - unsent), unsent
        return self._runs_out(taken, elapsed, get_settings().SEND_TIMEOUT)

    def _runs_out(self, moved: int, elapsed: float, limit: float) -> bool:
        """Whether it has moved less than it should for longer than it may, having moved ``moved`` bytes just now."""
        self._patience = min(limit, self._patience + moved / _SLOWEST_BYTES) - elapsed
        return bool(limit) and self._patience < 0


class Watch:
    """All connections of one server."""

    def __init__(self) -> None:
        self.tick_seconds = _TICK_SECONDS
        self._all: dict[Watched, None] = {}
        # Whoever goes first when there is no room: those of the first, then those of the second, from the oldest on.
        self._waiting: dict[Watched, None] = {}
        self._slow: dict[Watched, None] = {}
        self._coming = 0
        """Those that were accepted, and are not here yet."""
        self._leaving: set[Watched] = set()
        """Those that were ended to make room, and have their descriptors yet."""
        self._room = _MOST_CONNECTIONS
        """How many connections there may be, as of the last look."""
        self._told: dict[str, tuple[float, int]] = {}
        self._looked_at = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        count_connections_of(self)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        limits = get_settings()
        timeouts = (limits.HEAD_TIMEOUT, limits.BODY_TIMEOUT, limits.SEND_TIMEOUT, limits.KEEP_ALIVE_TIMEOUT)
        self.tick_seconds = min(_TICK_SECONDS, *(each / 4 for each in timeouts if each))
        self._measure()
        self._timer = loop.call_later(self.tick_seconds, self._tick, loop)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def add(self, wire: Wire) -> Watched:
        watched = Watched(self, wire)
        self._coming = max(0, self._coming - 1)
        self._all[watched] = self._waiting[watched] = None
        return watched

    def moved(self, watched: Watched) -> None:
        """Put a connection where its phase belongs; at the end, unless it is there."""
        if watched not in self._all:
            return
        for belongs, group in ((watched.is_waiting, self._waiting), (watched.is_slow, self._slow)):
            if not belongs:
                group.pop(watched, None)
            elif watched.phase is Phase.IDLE:
                group.pop(watched, None)
                group[watched] = None
            else:
                group.setdefault(watched)

    def forget(self, watched: Watched) -> None:
        for group in (self._all, self._waiting, self._slow):
            group.pop(watched, None)
        self._leaving.discard(watched)

    def admits(self) -> bool:
        """Return whether one more connection, just accepted, may stay; another one may have to go for it."""
        if len(self._all) + self._coming >= self._room and not self._evict():
            self.count("no_room")
            return False
        self._coming += 1
        return True

    def _evict(self) -> bool:
        """End the connection that waits longest for its client; returns whether there is any such."""
        group = self._waiting or self._slow
        if not group:
            return False
        # Rather not one that has not taken all of its answer yet.
        oldest = next((each for each in islice(group, _LOOKED_AT) if not each.wire.unsent()), next(iter(group)))
        self.forget(oldest)
        self._leaving.add(oldest)
        oldest.end("made_room")
        return True

    def _measure(self) -> None:
        """Find out how many connections there is room for, while everything else needs descriptors, too."""
        self._room = _MOST_CONNECTIONS
        if (limit := descriptor_limit()) is not None:
            others = _descriptors() - len(self._all) - self._coming - len(self._leaving)
            self._room = max(_FEWEST_CONNECTIONS, min(self._room, limit - reserve(limit) - others))
        self._coming = 0
        for _ in range(len(self._all) - self._room):
            if not self._evict():
                break

    def count(self, reason: str) -> None:
        """Count a connection that is refused or ended; the log says so once a minute."""
        refused[reason] += 1
        told_at, pending = self._told.get(reason, (-_TELL_SECONDS, 0))
        self._told[reason] = told_at, pending + 1
        self._tell(reason, time.monotonic())

    def _tell(self, reason: str, now: float) -> None:
        told_at, pending = self._told[reason]
        if pending and now - told_at >= _TELL_SECONDS:
            self._told[reason] = now, 0
            level = logging.WARNING if reason in {"made_room", "no_room"} else logging.INFO
            logger.log(level, "Connections ended: %d that %s", pending, REASONS[reason])

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.monotonic()
        # While the loop was held, nobody could send or take anything.
        elapsed, self._looked_at = min(now - self._looked_at, 2 * self.tick_seconds), now
        for watched in list(self._all):
            watched.look(now, elapsed)
        self._measure()
        for reason in self._told:
            self._tell(reason, now)
        self._timer = loop.call_later(self.tick_seconds, self._tick, loop)

    def numbers(self) -> tuple[int, int]:
        """Return how many connections there are: for requests, and WebSockets."""
        sockets = sum(watched.phase in _SOCKETS for watched in self._all)
        return len(self._all) - sockets, sockets


class BoundedListener(socket.socket):
    """A listening socket that accepts no more than its watch has room for, and some at a time.

    asyncio's and Twisted's own loops accept until the system refuses, and then log each attempt.
    """

    def __init__(self, listener: socket.socket, watch: Watch) -> None:
        super().__init__(listener.family, listener.type, listener.proto, fileno=listener.dup().detach())
        self.setblocking(False)
        self._watch = watch
        self._accepted = 0
        self._spare = _open_spare()

    def accept(self) -> tuple[socket.socket, Any]:
        if not self._accepted:
            asyncio.get_running_loop().call_soon(self._go_on)
        while self._accepted < _ACCEPTED_AT_ONCE:
            self._accepted += 1
            try:
                connection, address = super().accept()
            except OSError as error:
                if error.errno not in {errno.EMFILE, errno.ENFILE} or (spare := self._spare) is None:
                    raise
                if not self._turn_away(spare):
                    break
                continue
            if self._watch.admits():
                return connection, address
            connection.close()
        raise BlockingIOError(errno.EAGAIN, "the loop's other work comes first")

    def close(self) -> None:
        super().close()
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def _go_on(self) -> None:
        self._accepted = 0

    def _turn_away(self, spare: int) -> bool:
        """Close the next connection, if there is one, with the descriptor that is kept for that."""
        os.close(spare)
        try:
            super().accept()[0].close()
        except OSError:
            return False
        finally:
            self._spare = _open_spare()
        self._watch.count("no_room")
        return True


def descriptor_limit() -> int | None:
    """Return how many descriptors this process may have; None: any number."""
    if _limits is None:
        return None
    limit: int = _limits.getrlimit(_limits.RLIMIT_NOFILE)[0]
    return None if limit == _limits.RLIM_INFINITY else limit


def _descriptors() -> int:
    """Return how many descriptors this process has open."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return 0


def reserve(limit: int) -> int:
    """Return how many of the descriptors clients get none of."""
    return min(limit // 4, _MOST_RESERVED)


def read_at_once(transport: Any, size: int) -> None:
    """Have an asyncio transport read ``size`` bytes at most before other work gets its turn."""
    with suppress(AttributeError):  # another loop than asyncio's own
        transport.max_size = size


def _is_over(seconds: float, limit: float) -> bool:
    return bool(limit) and seconds > limit


def _open_spare() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return None
