"""`BrowserCall`: what an agent joins."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BrowserCall:
    """Names a room. It holds none: the room exists while somebody is in it."""

    call_type: str
    id: str
