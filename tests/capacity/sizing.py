"""``python -m tests.capacity.sizing``: the table of docs/how-to/size-a-cluster.md, from what `tests.capacity` measured.

On paper: nobody has run the larger ones. The figures are of a quiet machine with two cores, PostgreSQL 15 and Redis 7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

CALLS = (100, 1_000, 5_000, 20_000, 100_000)
CALLS_A_WORKER = 20
CALL_SECONDS = 300.0
EVENTS_A_SECOND = 1.0
"""Of a call, written to its history."""
READS_A_CALL = 2.0
MESSAGES_A_CALL = 4.0
"""From worker to worker: placed, found, closed, told of."""
LANES = 5
"""Connections of the runtime's own: see `visionagents_runner.store.database`."""
ENGINE = 3
"""With Procrastinate."""
POOL = (2, 16)
"""Django's: at rest, and at most. `min_size` and `max_size` of the shipped settings."""
BUSY = 0.5
"""How busy the database's and Redis' cores shall be."""
HEARTBEAT = 5.0
LARGE = 2_000
"""Calls from which on workers look more rarely, since Redis tells them."""

# Microseconds of the server's CPU, and bytes of write-ahead log.
CPU_US = {
    "heartbeat": 450,
    "poll": 740,
    "look after others": 650,
    "event": 36,
    "metrics snapshot": 190,
    "start": 3_560,
    "close": 2_470,
    "read": 310,
}
LOG_BYTES = {"heartbeat": 350, "event": 590, "metrics snapshot": 980, "start": 5_700, "close": 2_770}
MESSAGE_US = 330


@dataclass(frozen=True, slots=True)
class Size:
    calls: int

    @property
    def workers(self) -> int:
        return math.ceil(self.calls / CALLS_A_WORKER)

    @property
    def intervals(self) -> tuple[float, float]:
        """POLL_INTERVAL and METRICS_INTERVAL."""
        return (5.0, 30.0) if self.calls > LARGE else (1.0, 5.0)

    @property
    def starts(self) -> float:
        """A second; as many end."""
        return self.calls / CALL_SECONDS

    @property
    def work(self) -> dict[str, float]:
        """How much of each kind there is a second."""
        poll, metrics = self.intervals
        return {
            "heartbeat": self.workers / HEARTBEAT,
            "look after others": self.workers / HEARTBEAT,
            "poll": self.workers / poll,
            "event": self.calls * EVENTS_A_SECOND,
            "metrics snapshot": self.calls / metrics,
            "start": self.starts,
            "close": self.starts,
            "read": self.starts * READS_A_CALL,
        }

    @property
    def database_cores(self) -> float:
        return sum(CPU_US[kind] * rate for kind, rate in self.work.items()) / 1e6 / BUSY

    @property
    def log_megabytes(self) -> float:
        return sum(LOG_BYTES.get(kind, 0) * rate for kind, rate in self.work.items()) / 1e6

    @property
    def connections(self) -> tuple[int, int]:
        """At rest, and at most."""
        at_rest, at_most = (self.workers * (LANES + ENGINE + pool) for pool in POOL)
        return at_rest, at_most

    @property
    def redis_cores(self) -> float:
        messages = self.starts * MESSAGES_A_CALL + self.workers / HEARTBEAT
        return messages * MESSAGE_US / 1e6 / BUSY


def table() -> str:
    """Return it in Markdown."""
    head = "calls|workers, a core each|starts a second|`POLL_INTERVAL`, `METRICS_INTERVAL`|database: cores|log, MB/s"
    head += "|Redis: cores|connections at rest, at most"
    lines = [_line(head.split("|")), _line(["---:"] * 8)]
    for calls in CALLS:
        size = Size(calls)
        poll, metrics = size.intervals
        at_rest, at_most = size.connections
        cells = [
            f"{calls:,}",
            f"{size.workers:,}",
            _short(size.starts),
            f"{poll:g}, {metrics:g}",
            _short(size.database_cores),
            _short(size.log_megabytes),
            _short(size.redis_cores),
            f"{at_rest:,}, {at_most:,}",
        ]
        lines.append(_line(cells))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


if __name__ == "__main__":
    print(table())
