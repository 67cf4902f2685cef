"""`Bucket`: how many in a time, for whoever has one of their own: a connection, say."""

from __future__ import annotations

import time


class Bucket:
    """Allows ``rate`` a second, and ``burst`` at once."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = float(burst)
        self._at = time.monotonic()

    def take(self, amount: float = 1.0) -> bool:
        """Whether one more, or so much, is allowed now; if so it counts."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < amount:
            return False
        self._left -= amount
        return True

    def give_back(self) -> None:
        """It did not count after all."""
        self._left = min(self._burst, self._left + 1)
