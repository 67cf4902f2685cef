"""`Lease`: how long a worker may go on with sessions that others start again when they do not hear of it.

Others count from the heartbeat that the database has, by its clock. The worker counts from the moment before it sent
that one, by a clock of its own that nobody sets and that goes on while the machine sleeps: so it is never later.
"""

from __future__ import annotations

import time
from typing import Protocol

from ..conf.settings import get_settings

STOP_AFTER = 2 / 3
"""The part of WORKER_TTL after which such sessions are closed."""
FORCE_AFTER = 9 / 10
"""The part of it after which their agents are not waited for any more."""

GAP = 1 / 3
"""The part of it without a heartbeat of one's own after which the database may have been away."""


def boot_time() -> float:
    """Return seconds since boot, those during which the machine slept included."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class Stop(Protocol):
    def __call__(self, *, force: bool) -> None: ...


class Lease:
    """``stop(force=...)`` is called by `check` while it runs out, again and again until it is renewed."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._renewed_at = boot_time()
        self._steady_since = self._renewed_at

    def renew(self, sent_at: float) -> None:
        """A heartbeat that was sent at ``sent_at`` has reached the database."""
        if sent_at - self._renewed_at > self._gap:
            self._steady_since = boot_time()
        self._renewed_at = max(self._renewed_at, sent_at)

    @property
    def may_judge(self) -> bool:
        """Whether it can be told that another worker is silent.

        While the database was away nobody's heartbeat reached it, and they all look dead to whoever is back first. So
        this worker's own must have come through for as long as others may take, until this moment.
        """
        now = boot_time()
        return now - self._renewed_at <= self._gap and now - self._steady_since >= get_settings().WORKER_TTL

    @property
    def _gap(self) -> float:
        settings = get_settings()
        return max(2 * settings.HEARTBEAT_INTERVAL, settings.WORKER_TTL * GAP)

    @property
    def runs_out(self) -> bool:
        """Whether others are about to take this worker for dead: what it took on now, it would lose."""
        return boot_time() - self._renewed_at >= get_settings().WORKER_TTL * STOP_AFTER

    @property
    def check_seconds(self) -> float:
        """How often to `check`, so that the force comes well before the time-to-live ends."""
        return min(1.0, get_settings().WORKER_TTL * (1 - FORCE_AFTER) / 3)

    def check(self) -> None:
        if self.runs_out:
            self._stop(force=boot_time() - self._renewed_at >= get_settings().WORKER_TTL * FORCE_AFTER)
