"""What was refused because somebody had too much: counted for Prometheus, and one line a minute in the log."""

from __future__ import annotations

import logging
import time
from collections import Counter

from .limits import WORDS, labels

logger = logging.getLogger(__name__)

LOG_SECONDS = 60.0

_counts: Counter[tuple[str, str]] = Counter()
_logged: dict[tuple[str, str], tuple[float, int]] = {}
"""When the log told of a kind last, and how many there had been."""


def note(what: str, by: str, key: str) -> str:
    """Count a refusal by the limit of ``by``; returns whose it is: of an identity, which kind of."""
    if by == "identity":
        by = key.partition(":")[0]
    kind = what, by
    _counts[kind] += 1
    now = time.monotonic()
    logged_at, before = _logged.get(kind, (-LOG_SECONDS, 0))
    if now - logged_at >= LOG_SECONDS:
        _logged[kind] = now, _counts[kind]
        whose = "all of this worker" if by == "worker" else f"one {by}"
        logger.warning(
            "Too many %s of %s%s: %d refused%s",
            WORDS[what],
            whose,
            f" ({key})" if by in {"user", "key", "invitation", "address"} else "",
            _counts[kind] - before,
            ", the first" if not before else " since the last line like this",
        )
    return by


def refused() -> dict[tuple[str, str], int]:
    """Return how many were refused since this process began, by what and whose limit; all there are, at 0 too."""
    return {kind: _counts[kind] for kind in labels()} | dict(_counts)


def forget() -> None:
    """Begin to count anew: for tests."""
    from . import holdings, rates

    for each in (_counts, _logged):
        each.clear()
    holdings.forget()
    rates.forget()
