"""`Poller`: looks at the database at once when there is a hint, and each POLL_INTERVAL whether there is or not."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence

from ..conf.settings import get_settings
from ..messaging import notifications
from ..store.errors import DATABASE_ERRORS, first_line
from ..utils.loops import call_from_thread, wait_for_event
from ..utils.tasks import spawn

logger = logging.getLogger(__name__)

Look = Callable[[frozenset[uuid.UUID] | None], Awaitable[None]]
"""``look(keys)`` looks at these sessions; None: at all of interest."""

_PAUSE_SECONDS = 0.02
"""Between two looks, so that many hints cost one."""
_MOST_HINTS = 1000


class Poller:
    """Runs from `start` to `stop`, for who has viewers meanwhile. News of this process count as hints."""

    def __init__(self, look: Look, *, states_only: bool, name: str) -> None:
        self._look = look
        self._states_only = states_only
        self._name = name
        self._hints: set[uuid.UUID] = set()
        self._all = False
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._undo: Callable[[], None] = lambda: None

    def start(self) -> None:
        loop = asyncio.get_running_loop()

        def listener(keys: Sequence[uuid.UUID], states: bool) -> None:
            if states or not self._states_only:
                call_from_thread(loop, self.hint, keys)

        self._undo = notifications.on_news(listener)
        self._task = spawn(self._run(), name=self._name)

    def stop(self) -> None:
        self._undo()
        if self._task is not None:
            self._task.cancel()

    def hint(self, keys: Iterable[uuid.UUID]) -> None:
        """Look at these soon."""
        self._hints.update(keys)
        if len(self._hints) > _MOST_HINTS:
            self._hints.clear()
            self._all = True
        self._news.set()

    def hint_all(self) -> None:
        self._all = True
        self._news.set()

    async def _run(self) -> None:
        polled_at = 0.0
        silent = False
        while True:
            interval = get_settings().POLL_INTERVAL
            await wait_for_event(self._news, max(0.0, polled_at + interval - time.monotonic()))
            self._news.clear()
            everything = self._all or time.monotonic() - polled_at >= interval
            keys = frozenset(self._hints)
            self._hints.clear()
            if everything:
                self._all, polled_at = False, time.monotonic()
            try:
                await self._look(None if everything else keys)
            except DATABASE_ERRORS as error:
                if not silent:
                    logger.warning("Live feeds wait: the database does not answer (%s)", first_line(error))
                silent = True
                await asyncio.sleep(interval)
            except Exception:
                logger.exception("Looking for news of sessions failed; live feeds go on")
                await asyncio.sleep(interval)
            else:
                silent = False
            await asyncio.sleep(_PAUSE_SECONDS)
