"""`spend`: how many in a time."""

from __future__ import annotations

import math
from typing import Any

from ..exceptions import TooMany
from . import refusals
from .limits import BYS, WORDS, Limits, get_limits, parsed, split

_MOST = 16384
"""Counters that are kept; above it those go that nobody has used for longest."""

_WHOLE = "all"


def prepare() -> None:
    """Import what counts, which takes 50 ms, before anybody waits for it."""
    _get_limiters()


def spend(
    what: str,
    *,
    person: str | None = None,
    identity: str | None = None,
    call: str | None = None,
    address: str | None = None,
) -> None:
    """Take one of what these may have of ``what``, and of what this worker gives to all.

    Raises:
        TooMany: somebody has had too much of it; they are told when they may again.
    """
    whom = {"person": person, "identity": identity, "call": call, "address": address, "worker": _WHOLE}
    for by, rate, limiter in _get_limiters().get(what, ()):
        if (key := whom[by]) is None:
            continue
        # What an identity has of a call is counted for each call.
        counted = f"{key}@{call}" if by == "identity" and call is not None else key
        result = limiter.limit(f"{what}:{by}:{counted}")
        if result.limited:
            seconds = max(1, math.ceil(result.state.retry_after))
            raise _too_many(what, by, key, rate, seconds)


def _too_many(what: str, by: str, key: str, rate: str, seconds: int) -> TooMany:
    whose = refusals.note(what, by, key)
    own = "this server takes no more" if by == "worker" else f"one {whose} may have no more"
    return TooMany(
        f"Too many {WORDS[what]}: {own} than {rate}. Try again in {seconds} s", what=what, by=whose, retry_after=seconds
    )


Limiters = dict[str, list[tuple[str, str, Any]]]

_limiters: tuple[Limits, Limiters] | None = None


def _get_limiters() -> Limiters:
    """Return by what the limits in force, each as by whom, the rate, and what counts; the narrowest first."""
    global _limiters
    limits = get_limits()
    if _limiters is None or _limiters[0] is not limits:
        _limiters = limits, _build(limits)
    return _limiters[1]


def _build(limits: Limits) -> Limiters:
    # GCRA: one number a counter, by the monotonic clock, in memory of bounded size, without a thread. (The library
    # `limits` keeps a timer's thread or a task, walks over all its keys at each expiry, and keeps the keys.)
    from throttled import Throttled
    from throttled.store import MemoryStore

    store = MemoryStore(options={"MAX_SIZE": _MOST})
    found: Limiters = {}
    for by in BYS:
        for name in Limits.__dataclass_fields__:
            what, whose = split(name)
            rate = getattr(limits, name)
            if whose == by and isinstance(rate, str):
                limiter = Throttled(using="gcra", quota=parsed(rate), store=store)
                found.setdefault(what, []).append((by, rate, limiter))
    return found


def forget() -> None:
    """Begin to count anew: for tests."""
    global _limiters
    _limiters = None
