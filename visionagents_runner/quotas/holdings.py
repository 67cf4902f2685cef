"""`hold`: how many at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..exceptions import TooMany
from . import refusals
from .limits import BYS, WORDS, get_limits

_RETRY_SECONDS = 5

_held: dict[tuple[str, str, str], int] = {}
_counting = threading.Lock()  # under WSGI each request has a thread


def hold(
    what: str, *, identity: str | None = None, address: str | None = None, of_worker: bool = True
) -> Callable[[], None]:
    """Take one of what these may have of ``what`` at once, and of what this worker gives to all.

    Returns what gives it back; to call that twice does nothing more.

    Raises:
        TooMany: they have as many as they may; nothing was taken.
    """
    limits = get_limits()
    whom = {"identity": identity, "address": address, "worker": "all" if of_worker else None}
    wanted: list[tuple[str, str, str]] = []
    with _counting:
        for by in BYS:
            limit = getattr(limits, f"{what}_per_{by}", None)
            if (key := whom.get(by)) is None or not limit:
                continue
            wanted.append((what, by, key))
            if _held.get(wanted[-1], 0) >= limit:
                whose = refusals.note(what, by, key)
                own = "this server takes no more" if by == "worker" else f"one {whose} may have no more"
                words = f"Too many {WORDS[what]}: {own} than {limit}. Try again when there are fewer"
                raise TooMany(words, what=what, by=whose, retry_after=_RETRY_SECONDS)
        for each in wanted:
            _held[each] = _held.get(each, 0) + 1

    def give_back() -> None:
        with _counting:
            while wanted:
                each = wanted.pop()
                if (left := _held.get(each, 0) - 1) > 0:
                    _held[each] = left
                else:
                    _held.pop(each, None)

    return give_back


def held(what: str, by: str, key: str = "all") -> int:
    return _held.get((what, by, key), 0)


def forget() -> None:
    """Begin to count anew: for tests."""
    _held.clear()
