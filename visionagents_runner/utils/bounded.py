"""What is kept in memory, and never more than so much of it."""

from __future__ import annotations

import math
import time
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def keep(entries: dict[K, V], key: K, value: V, *, most: int) -> None:
    """Put an entry into a dict, as its newest; above ``most`` those go that were put there first."""
    entries.pop(key, None)
    while len(entries) >= most:
        entries.pop(next(iter(entries)), None)
    entries[key] = value


class Seldom:
    """Whether it is time to say something again that would be said too often."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = -math.inf

    def __call__(self) -> bool:
        """Return whether it was not, within the last so many seconds, when this was asked; if so, it is from now on."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True
