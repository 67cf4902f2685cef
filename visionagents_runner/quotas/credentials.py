"""Guesses: API keys and cookies that are not known to count, each of which the database is asked about."""

from __future__ import annotations

import threading
from contextlib import AbstractAsyncContextManager, nullcontext

from ..utils.bounded import keep
from .concurrency import one_by_one
from .rates import spend

_MOST = 4096


class _Familiar:
    """Who credentials that counted lately stood for, by digest; bounded, those go that were not seen for longest."""

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}
        self._lock = threading.Lock()  # under WSGI each thread has an event loop

    def __contains__(self, digest: str) -> bool:
        return digest in self._seen

    def get(self, digest: str) -> str | None:
        return self._seen.get(digest)

    def add(self, digest: str, identity: str) -> None:
        with self._lock:
            keep(self._seen, digest, identity, most=_MOST)


_familiar = _Familiar()


def check_guess(digest: str, address: str | None) -> None:
    """Count the look-up of a credential, unless it is one that counted lately: guesses keep nobody else out.

    Raises:
        TooMany: too many such came from this address.
    """
    if digest not in _familiar:
        spend("credentials", address=address)


def one_look_up(digest: str) -> AbstractAsyncContextManager[None]:
    """Wait for one's turn to look up a credential: only those that counted lately are looked up side by side.

    So somebody who has just signed in gets in, from however many addresses others guess, and whoever is known waits for
    nobody.

    Raises:
        TooMany: too many wait.
    """
    return nullcontext() if digest in _familiar else one_by_one("credentials")


def note_valid(digest: str, identity: str) -> None:
    """The credential counts, and stands for ``identity``."""
    _familiar.add(digest, identity)


def identity_behind(digest: str) -> str | None:
    """Return for whom a credential counted lately. It need not any more: for refusing, not for letting in."""
    return _familiar.get(digest)
