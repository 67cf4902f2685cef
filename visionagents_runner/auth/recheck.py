"""`Rechecks`: asks again, every few seconds, whether people may still be where they are: on calls, and at feeds.

A key may have been revoked meanwhile, an account switched off, a cookie's session deleted, a permission taken away, and
nobody tells of it. All who are here are asked about in one round, so that what they have in common is looked up once.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable

from ..store.errors import DATABASE_ERRORS
from ..utils.loops import one_per_loop
from ..utils.tasks import spawn

logger = logging.getLogger(__name__)

RECHECK_SECONDS = 2.4
"""Between the end of a round and the next one. With `SPREAD_SECONDS`, twice at worst, and what the database takes to
answer, it is under 5 s until whoever lost a right is out."""
SPREAD_SECONDS = 0.8
"""How long a round takes at most to ask about all: not all at once, on the loop that carries audio."""

_AT_ONCE = 4
_PATIENCE_SECONDS = 20.0

Check = Callable[[float], Awaitable[None]]
"""``check(since)`` raises if they may not stay; what was looked up since (monotonic) is fresh enough."""


class Rechecks:
    """One an event loop. It works only while there is somebody to ask about."""

    def __init__(self) -> None:
        self._kept: dict[int, _Kept] = {}
        self._numbers = itertools.count()
        self._task: asyncio.Task[None] | None = None

    def keep(self, check: Check, fail: Callable[[BaseException], None]) -> Callable[[], None]:
        """Ask ``check`` in each round, and call ``fail`` with what it raises. Returns what ends that.

        While the database does not answer, nobody can be judged, and everybody stays.
        """
        number = next(self._numbers)
        kept = self._kept[number] = _Kept(check, fail)
        if self._task is None:
            self._task = spawn(self._run(), name="rechecks")

        def end() -> None:
            self._kept.pop(number, None)
            kept.cancel()
            if not self._kept and self._task is not None:
                self._task.cancel()
                self._task = None

        return end

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            since = time.monotonic()
            everybody = list(self._kept.values())
            for number, kept in enumerate(everybody):
                if number and number % _AT_ONCE == 0:
                    await asyncio.sleep(SPREAD_SECONDS * _AT_ONCE / len(everybody))
                kept.begin(since)


class _Kept:
    def __init__(self, check: Check, fail: Callable[[BaseException], None]) -> None:
        self._check = check
        self._fail = fail
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    def begin(self, since: float) -> None:
        if not self._ended and (self._task is None or self._task.done()):
            self._task = spawn(self._ask(since), name="recheck")

    def cancel(self) -> None:
        self._ended = True
        if self._task is not None:
            self._task.cancel()

    async def _ask(self, since: float) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._check(since)
        except (TimeoutError, *DATABASE_ERRORS) as error:
            logger.debug("Whether somebody may stay could not be asked: %r", error)
        except Exception as error:
            self._fail(error)


get_rechecks = one_per_loop(Rechecks)
"""Returns those of this event loop."""
