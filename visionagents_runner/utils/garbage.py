"""Garbage collections that hold the event loop, which carries audio, for a moment only.

A full collection of Python looks at every object, and some 300,000 were imported until a worker is warm: 0.2 s,
whenever somebody has the process make many objects. After `settle` it looks only at those that came since. And aiortc's
connections refer to themselves: what some tens of them leave takes 0.1 s to free at once, so that is done bit by bit.
"""

from __future__ import annotations

import asyncio
import gc

_PAUSE_SECONDS = 0.2
"""Between something's end and the collection, which may so be that of several."""

_settled = False
_due: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None = None


def settle() -> None:
    """Leave all that there is now out of every later collection. For a process that does nothing but serve."""
    global _settled
    gc.collect()
    gc.freeze()
    # A full collection costs little now, unless much has piled up for it.
    gc.set_threshold(*gc.get_threshold()[:2], 2)
    _settled = True


def collect_soon() -> None:
    """Something large has ended: collect what it leaves. Does nothing in a process that has not settled."""
    global _due
    loop = asyncio.get_running_loop()
    if _settled and (_due is None or _due[0] is not loop):
        _due = loop, loop.call_later(_PAUSE_SECONDS, _collect)


def _collect() -> None:
    global _due
    _due = None
    gc.collect()
