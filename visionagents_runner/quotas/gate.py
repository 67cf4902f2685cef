"""`heavy_read`: long reads go one after the other, so that a short one, of somebody who joins a call, need not wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .holdings import hold
from .who import Who

_gate: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None


@asynccontextmanager
async def heavy_read(who: Who) -> AsyncIterator[None]:
    """Wait for one's turn to read a page of history. The store has two threads for reads: the other one stays free.

    Raises:
        TooMany: they wait for as many as they may.
    """
    give_back = hold("reads", identity=who.identity, address=who.address)
    try:
        async with _get_gate():
            yield
    finally:
        give_back()


def _get_gate() -> asyncio.Semaphore:
    """Return that of this event loop."""
    global _gate
    loop = asyncio.get_running_loop()
    if _gate is None or _gate[0] is not loop:
        _gate = loop, asyncio.Semaphore(1)
    return _gate[1]
