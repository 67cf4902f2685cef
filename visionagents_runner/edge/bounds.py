"""Bounds on what others may send: how often, and how much."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

MAX_CUSTOM_EVENT_BYTES = 5 * 1024


refused: Counter[str] = Counter(connections=0, offers=0)
"""How many offers were refused in this process, and how many connections were shut out, for what they are or send."""


class Rate:
    """A token bucket."""

    def __init__(self, *, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._left = burst
        self._at = time.monotonic()

    def allow(self, amount: float = 1.0) -> bool:
        """Whether one more, or so much, is allowed now; if so it counts."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < amount:
            return False
        self._left -= amount
        return True


def custom_event(data: Any) -> bytes:
    """``data`` as JSON.

    Raises:
        TypeError, ValueError: it is not a JSON object, or more than 5 KB of it.
    """
    if not isinstance(data, dict):
        raise TypeError("A custom event is a JSON object")
    try:
        encoded = json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("A custom event is nested too deeply") from None
    if len(encoded) > MAX_CUSTOM_EVENT_BYTES:
        raise ValueError(
            f"A custom event may have {MAX_CUSTOM_EVENT_BYTES} bytes as JSON, this one has {len(encoded)}: "
            "send an id and let the page fetch the rest"
        )
    return encoded
