"""`FeedPublisher`: tells viewers in other processes what happens in this worker's sessions, as soon as it does.

That there is news of a session's state is told to whoever views the list; the rest only of sessions that somebody
elsewhere asked for a moment ago, because each message costs this loop half a millisecond. See `messaging.layer`.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ...messaging import notifications
from ...messaging.layer import LIST_GROUP, Link, Message, get_link, session_group, worker_group
from ...sessions.recorder import LIVE_ONLY
from ...utils.loops import call_from_thread
from ...worker.services import Service
from .session_hub import ASK_SECONDS

if TYPE_CHECKING:
    from ...observe import Observed
    from ...worker.worker import AgentWorker

DEMAND_SECONDS = 3 * ASK_SECONDS
"""How long a session is told of after somebody asked for it."""
_MOST_STATES = 500


class FeedPublisher(Service):
    """One a worker. Where no channel layer reaches other processes it does nothing."""

    def __init__(self, worker: AgentWorker) -> None:
        super().__init__(worker)
        self._link: Link | None = None
        self._states: set[uuid.UUID] = set()
        self._demanded: dict[uuid.UUID, _Demand] = {}
        self._undo: list[Callable[[], None]] = []

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._link = link = get_link()
        if link is None:
            return

        def listener(keys: Sequence[uuid.UUID], states: bool) -> None:
            call_from_thread(loop, self._on_news, keys, states)

        self._undo = [link.join(worker_group(self._worker.id), self._on_message), notifications.on_news(listener)]

    async def close(self) -> None:
        self.abandon()

    def abandon(self) -> None:
        for undo in self._undo:
            undo()
        self._undo.clear()
        for key in list(self._demanded):
            self._forget(key)

    # What happens here

    def _on_news(self, keys: Sequence[uuid.UUID], states: bool) -> None:
        if self._link is None or not self._undo:
            return
        if states:
            if len(self._states) < _MOST_STATES:
                self._states.update(keys)
            self._link.post(LIST_GROUP, self._take_states, key="states")
        if self._demanded:
            for key in keys:
                if self._is_demanded(key):
                    message: Message = {"type": "feed.news", "session": str(key)}
                    self._link.post(session_group(key), partial(dict, message), key=("news", key))

    def _take_states(self) -> Message | None:
        keys, self._states = self._states, set()
        return {"type": "feed.states", "sessions": [str(key) for key in keys]} if keys else None

    def _on_observed(self, key: uuid.UUID, event: Observed) -> None:
        if event.kind != LIVE_ONLY or self._link is None or not self._is_demanded(key):
            return
        message = {"type": "feed.partial", "session": str(key), "data": event.data, "at": event.at}
        which = event.data.get("message_id")
        self._link.post(session_group(key), lambda: message, key=("partial", key, which))

    # What others ask for

    def _on_message(self, message: dict[str, Any]) -> None:
        if message["type"] != "feed.watch":
            return
        key = uuid.UUID(message["session"])
        session = self._worker.get_session(str(key))
        if session is None or session.finished:
            return
        demand = self._demanded.get(key)
        if demand is None:
            undo = self._worker.recorder.subscribe(key, lambda event: self._on_observed(key, event))
            demand = self._demanded[key] = _Demand(undo)
        demand.until = time.monotonic() + DEMAND_SECONDS

    def _is_demanded(self, key: uuid.UUID) -> bool:
        demand = self._demanded.get(key)
        if demand is not None and demand.until < time.monotonic():
            self._forget(key)
            return False
        return demand is not None

    def _forget(self, key: uuid.UUID) -> None:
        demand = self._demanded.pop(key, None)
        if demand is not None:
            demand.undo()


class _Demand:
    def __init__(self, undo: Callable[[], None]) -> None:
        self.undo = undo
        self.until = 0.0
