"""One timer of 20 ms for all the rooms of an event loop."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol
from weakref import WeakKeyDictionary

from .audio import FRAME_SECONDS

logger = logging.getLogger(__name__)

MAX_BEHIND = 5
"""Frames that are made up for after a stall, in one go. After a longer one the clock skips to where it should be."""


class Ticking(Protocol):
    def tick(self, number: int) -> None:
        """Do the work of one frame; ``number`` counts 20 ms steps of real time, and skips after a long stall."""


class Clock:
    """Calls those that have something to do, every 20 ms. It sleeps while nobody has.

    A callback, not a task: with many rooms a task for each would spend more on waking up than on sound.
    """

    def __init__(self) -> None:
        self._ticking: dict[Ticking, None] = {}
        self._anchor = asyncio.get_running_loop().time()
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, one: Ticking) -> None:
        self._ticking[one] = None
        if self._timer is None:
            self._number = self._due()
            self._schedule()

    def discard(self, one: Ticking) -> None:
        self._ticking.pop(one, None)
        if not self._ticking and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> int:
        return int((asyncio.get_running_loop().time() - self._anchor) / FRAME_SECONDS + 1e-6)

    def _schedule(self) -> None:
        when = self._anchor + (self._number + 1) * FRAME_SECONDS
        self._timer = asyncio.get_running_loop().call_at(when, self._tick)

    def _tick(self) -> None:
        due = max(self._due(), self._number + 1)
        if due - self._number > MAX_BEHIND:
            self._number = due - 1
        while self._number < due and self._ticking:
            self._number += 1
            for one in tuple(self._ticking):
                try:
                    one.tick(self._number)
                except Exception:
                    logger.exception("A room's audio failed; it goes on with the next frame")
        self._timer = None
        if self._ticking:
            self._schedule()


_clocks: WeakKeyDictionary[asyncio.AbstractEventLoop, Clock] = WeakKeyDictionary()


def clock() -> Clock:
    """The clock of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _clocks.get(loop)
    if found is None:
        found = _clocks[loop] = Clock()
    return found
