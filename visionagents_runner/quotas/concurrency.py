"""`few_at_once` and `one_by_one`: what is done for a few at once, while the others wait for their turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from .holdings import hold
from .limits import get_limits
from .who import Who

_NOBODY = Who()

_semaphores: dict[str, tuple[asyncio.AbstractEventLoop, int, asyncio.Semaphore]] = {}


def few_at_once(what: str) -> AbstractAsyncContextManager[None]:
    """Wait for one's turn where this worker does ``what`` for as many at once as LIMITS says."""
    size = getattr(get_limits(), f"{what}_per_worker")
    return _semaphore(what, size) if size else nullcontext()


@asynccontextmanager
async def one_by_one(what: str, who: Who = _NOBODY) -> AsyncIterator[None]:
    """Wait for one's turn where ``what`` takes one of the store's two threads for reads: the other one stays free.

    Raises:
        TooMany: they wait for as many as they, or all, may.
    """
    give_back = hold(what, identity=who.identity, address=who.address)
    try:
        async with _semaphore(what, 1):
            yield
    finally:
        give_back()


def heavy_read(who: Who) -> AbstractAsyncContextManager[None]:
    """Wait for one's turn to read a page of history: a short read, of somebody who joins a call, need not.

    Raises:
        TooMany: they wait for as many as they may.
    """
    return one_by_one("reads", who)


def _semaphore(what: str, size: int) -> asyncio.Semaphore:
    """Return that of this event loop."""
    loop = asyncio.get_running_loop()
    found = _semaphores.get(what)
    if found is None or found[0] is not loop or found[1] != size:
        found = _semaphores[what] = loop, size, asyncio.Semaphore(size)
    return found[2]
