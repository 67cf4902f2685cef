"""How many connections the servers of this process have, and how many they refused or ended."""

from __future__ import annotations

from collections import Counter
from typing import Protocol
from weakref import WeakSet

REASONS = {
    "head_timeout": "sent no whole request within HEAD_TIMEOUT",
    "body_timeout": "sent their bodies too slowly (BODY_TIMEOUT)",
    "send_timeout": "did not take what was sent to them (SEND_TIMEOUT)",
    "too_large": "sent too large a body, or too large a head",
    "made_room": "waited longest when file descriptors ran out; raise the limit (ulimit -n, LimitNOFILE)",
    "no_room": "found no file descriptor free; raise the limit (ulimit -n, LimitNOFILE)",
}
"""Why connections are refused or ended: labels of a metric, and how a log line goes on after a number of them."""
refused: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
"""How often, in this process."""


class Server(Protocol):
    """Who has connections."""

    def numbers(self) -> tuple[int, int]:
        """Return how many there are: for requests, and WebSockets."""
        ...


_servers: WeakSet[Server] = WeakSet()


def count_connections_of(server: Server) -> None:
    """Count the connections of a server for as long as it is held elsewhere."""
    _servers.add(server)


def numbers() -> tuple[int, int]:
    """Return how many connections the servers of this process have: for requests, and WebSockets."""
    each = [server.numbers() for server in _servers]
    return sum(http for http, _ in each), sum(sockets for _, sockets in each)
