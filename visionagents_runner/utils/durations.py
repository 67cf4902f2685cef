"""Lengths of time as people type them: ``90d``, ``12h``, ``1w 2d``."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
LONGEST = timedelta(days=36_525)
"""A century: databases cannot count back without end."""

_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])\s*")


def parse_duration(text: str) -> timedelta:
    """Return the length of time that ``text`` says: numbers, each with s, m, h, d or w.

    Raises:
        ValueError: it says none, or none above 0; a sentence.
    """
    parts = list(_PART.finditer(text.strip().lower()))
    if not parts or "".join(part[0] for part in parts) != text.strip().lower():
        raise ValueError(f"{text!r} is no length of time: write 30d, 12h or 90m (s, m, h, d and w are known)")
    try:
        length = sum((timedelta(**{_UNITS[part[2]]: float(part[1])}) for part in parts), timedelta())
    except OverflowError:
        length = timedelta.max
    if length > LONGEST:
        raise ValueError(f"{text!r} is longer than anything here lasts")
    if length <= timedelta(0):
        raise ValueError(f"{text!r} is no time at all: it must be above 0")
    return length
