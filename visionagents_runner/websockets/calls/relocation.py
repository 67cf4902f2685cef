"""`Follower`: has the people of a room without an agent go where an agent has come to their call: to another worker.

Whoever started it asked for it by a request of its own, which any worker may have got. There is one look for everybody.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from ...messaging.layer import LIST_GROUP, get_link
from ...utils.loops import one_per_loop
from ...worker.current import current_worker
from ..poller import Poller
from . import location
from .location import Call

Follow = Callable[[], None]


class Follower:
    """One a process. It looks only while somebody is alone."""

    def __init__(self) -> None:
        self._staying: dict[Call, list[Follow]] = {}
        self._leave_group: Callable[[], None] | None = None
        self._poller = Poller(self._look, states_only=True, name="signalling-follow")

    def stay(self, call: Call, follow: Follow) -> Callable[[], None]:
        """Have ``follow()`` called when the agent of ``call`` is elsewhere, and none here. Returns what ends that."""
        if not self._staying:
            self._poller.start()
        self._staying.setdefault(call, []).append(follow)
        if call in self._lonely():
            self._listen(True)

        def leave() -> None:
            others = self._staying.get(call, [])
            if follow in others:
                others.remove(follow)
                if not others:
                    del self._staying[call]
                if not self._staying:
                    self._poller.stop()
                    self._listen(False)

        return leave

    def _lonely(self) -> set[Call]:
        worker = current_worker()
        if worker is None:
            return set()
        return self._staying.keys() - {(session.call_type, session.call_id) for session in worker.live_sessions}

    def _listen(self, lonely: bool) -> None:
        """Be told what happens to the sessions of other workers, while that may matter."""
        if lonely and self._leave_group is None and (link := get_link()) is not None:
            self._leave_group = link.join(LIST_GROUP, self._on_message)
        elif not lonely and self._leave_group is not None:
            self._leave_group()
            self._leave_group = None

    def _on_message(self, message: dict[str, Any]) -> None:
        if message["type"] == "feed.states":
            self._poller.hint(uuid.UUID(each) for each in message["sessions"])

    async def _look(self, keys: frozenset[uuid.UUID] | None) -> None:
        lonely = self._lonely()
        self._listen(bool(lonely))
        if not lonely or (keys is not None and not keys):
            return
        for call in await location.at_other_workers(lonely, keys):
            for follow in tuple(self._staying.get(call, ())):
                follow()


get_follower = one_per_loop(Follower)
"""Returns the follower of this event loop."""
