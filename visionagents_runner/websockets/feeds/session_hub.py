"""`SessionHub` and `SessionWatch`: what all viewers of a session in this process share.

However many they are, there is one subscription to its partial words and one look at the database for all of them.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable
from itertools import takewhile
from typing import Any, Protocol

from ...messaging.layer import get_link, session_group, worker_group
from ...models import SessionEvent
from ...observe import Observed
from ...sessions.recorder import LIVE_ONLY
from ...store import database
from ...utils.loops import one_per_loop
from ...worker.current import current_worker
from ..poller import Poller
from . import queries
from .queries import News

REMEMBERED = 256
"""Events of a session that viewers who keep up get without a query of their own."""
ASK_SECONDS = 10.0
"""How often the worker of a session elsewhere is asked to tell what happens in it. See `publisher`."""


class Viewer(Protocol):
    def on_partial(self, data: dict[str, Any], at: float) -> None:
        """Take partial words; it returns at once."""


class SessionWatch:
    """One session, for all its viewers in this process."""

    def __init__(self, key: uuid.UUID, hint: Callable[[], None]) -> None:
        self.key = key
        self.last: int | None = None
        """The last number of its history, None until that is known."""
        self.status = ""
        self.end_reason = ""
        self.ended = False
        self.gone = False
        """Whether its row was deleted."""
        self.viewers: set[Viewer] = set()

        self._hint = hint
        self._recent: deque[SessionEvent] = deque(maxlen=REMEMBERED)
        self._changed = asyncio.Event()
        self._unsubscribe: Callable[[], None] | None = None
        self._leave_group: Callable[[], None] | None = None
        self._asked_at = -ASK_SECONDS

    @property
    def complete(self) -> bool:
        """Whether there is nothing more to come."""
        return self.ended or self.gone

    def since(self, seq: int) -> list[SessionEvent] | None:
        """Return the events after ``seq``; None if those are not all remembered."""
        if not self._recent or self._recent[0].seq > seq + 1:
            return None
        newer = list(takewhile(lambda row: row.seq > seq, reversed(self._recent)))
        newer.reverse()
        return newer

    async def change(self) -> None:
        """Return when there is news."""
        await self._changed.wait()

    def take(self, news: News | None) -> None:
        """Take what a look at the database found; None: there is no such session any more."""
        before = (self.last, self.status, self.ended, self.gone)
        if news is None:
            self.gone = True
        else:
            self.status, self.end_reason = news.status, news.end_reason
            if self.last is None:
                self.last = news.seq
            elif news.rows:
                self._recent.extend(news.rows)
                self.last = news.rows[-1].seq
            self.ended = news.ended and self.last >= news.seq
            if self.last < news.seq:
                self._hint()
            self._connect(news)
        if before != (self.last, self.status, self.ended, self.gone):
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    def close(self) -> None:
        for undo in (self._unsubscribe, self._leave_group):
            if undo is not None:
                undo()
        self._unsubscribe = self._leave_group = None

    # Partial words

    def _connect(self, news: News) -> None:
        """Have its worker, here or elsewhere, tell what happens before it is written."""
        if news.ended:
            self.close()
            return
        worker = current_worker()
        if worker is not None and worker.id == news.worker_id:
            if self._unsubscribe is None:
                self._unsubscribe = worker.recorder.subscribe(self.key, self._on_observed)
        elif news.worker_id is not None and (link := get_link()) is not None:
            if self._leave_group is None:
                self._leave_group = link.join(session_group(self.key), self._on_message)
            now = time.monotonic()
            if now - self._asked_at >= ASK_SECONDS:
                self._asked_at = now
                ask = {"type": "feed.watch", "session": str(self.key)}
                link.post(worker_group(news.worker_id), lambda: ask, key=("watch", self.key))

    def _on_observed(self, event: Observed) -> None:
        if event.kind == LIVE_ONLY:
            self._tell_partial(event.data, event.at)

    def _on_message(self, message: dict[str, Any]) -> None:
        if message["type"] == "feed.partial":
            self._tell_partial(message["data"], message["at"])
        else:
            self._hint()

    def _tell_partial(self, data: dict[str, Any], at: float) -> None:
        for viewer in tuple(self.viewers):
            viewer.on_partial(data, at)


class SessionHub:
    """The sessions that somebody watches in this process. It works only while there are such."""

    def __init__(self) -> None:
        self._watches: dict[uuid.UUID, SessionWatch] = {}
        self._poller = Poller(self._look, states_only=False, name="feeds-poll-sessions")

    def enter(self, key: uuid.UUID, viewer: Viewer) -> SessionWatch:
        """Have ``viewer`` among those who watch a session, until `leave`."""
        if not self._watches:
            self._poller.start()
        watch = self._watches.get(key)
        if watch is None:
            watch = self._watches[key] = SessionWatch(key, lambda: self._poller.hint([key]))
            self._poller.hint([key])
        watch.viewers.add(viewer)
        return watch

    def leave(self, watch: SessionWatch, viewer: Viewer) -> None:
        watch.viewers.discard(viewer)
        if not watch.viewers and self._watches.get(watch.key) is watch:
            del self._watches[watch.key]
            watch.close()
            if not self._watches:
                self._poller.stop()

    @property
    def watched(self) -> int:
        return len(self._watches)

    async def _look(self, keys: frozenset[uuid.UUID] | None) -> None:
        wanted = {
            key: watch.last
            for key, watch in self._watches.items()
            if (keys is None or key in keys) and not watch.complete
        }
        if not wanted:
            return
        found = await database.read(queries.news_of, wanted)
        for key in wanted:
            watch = self._watches.get(key)
            # Somebody may have left and come meanwhile: then this is another watch, which asked for other things.
            if watch is not None and watch.last == wanted[key]:
                watch.take(found.get(key))


get_hub = one_per_loop(SessionHub)
"""Returns the hub of this event loop."""
