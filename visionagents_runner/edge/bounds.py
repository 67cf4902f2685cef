"""Bounds on what others may send, and how often they were kept."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

MAX_CUSTOM_EVENT_BYTES = 5 * 1024


refused: Counter[str] = Counter(connections=0, offers=0)
"""How many offers were refused in this process, and how many connections were shut out, for what they are or send."""


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
