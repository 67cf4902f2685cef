"""`ListHub`: how the sessions change, for all viewers of the list in this process."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Protocol

from ...api.lookup import Found, describe
from ...messaging.layer import LIST_GROUP, get_link
from ...models import AgentSession
from ...store import database, errors
from ...utils.loops import one_per_loop
from ..poller import Poller
from . import queries

NEWEST = 100
"""Sessions that each look covers besides the live ones: some may have begun and ended since the last."""
MOST_LIVE = 500
"""Live sessions that each look covers. Changes of more are seen when somebody tells of them."""
COUNTS_SECONDS = 60.0
"""How often it is counted anew though nothing changed: what is within 24 hours changes by itself."""

_COUNT_PAUSE_SECONDS = 0.5


class ListViewerLike(Protocol):
    @property
    def user_id(self) -> Any:
        """Whose sessions it sees; None: all."""

    def on_sessions(self, sessions: Sequence[dict[str, Any]]) -> None:
        """Take sessions that are new or changed, the oldest first, as REST shows them; it returns at once.

        Others get the same ones: they are only to be read.
        """

    def on_counts(self, counts: dict[str, int]) -> None: ...


class ListHub:
    """Works only while somebody views the list.

    However many views one user has, and however often new ones come, it is looked and counted once for all of them.
    """

    def __init__(self) -> None:
        self._viewers: set[ListViewerLike] = set()
        self._known: dict[uuid.UUID, State] = {}
        """The sessions that changes are measured against, as they were at the last look."""
        self._ready = asyncio.Event()
        self._counts: dict[Any, dict[str, int]] = {}
        """What was counted last, for each user with a view."""
        self._uncounted: set[Any] = set()
        """For whom it has to be counted anew."""
        self._counted_at = 0.0
        self._leave_group: Callable[[], None] | None = None
        self._poller = Poller(self._look, states_only=True, name="feeds-poll-list")

    @property
    def viewers(self) -> int:
        return len(self._viewers)

    def enter(self, viewer: ListViewerLike) -> None:
        """Tell ``viewer`` what changes, until `leave`. Once `ready`, nothing escapes it."""
        if not self._viewers:
            self._known.clear()
            self._counts.clear()
            self._uncounted.clear()
            self._ready.clear()
            self._poller.start()
            self._poller.hint_all()
            if (link := get_link()) is not None:
                self._leave_group = link.join(LIST_GROUP, self._on_message)
        self._viewers.add(viewer)
        self.count_for(viewer)

    def leave(self, viewer: ListViewerLike) -> None:
        if viewer not in self._viewers:
            return
        self._viewers.discard(viewer)
        if not self._viewers:
            self._poller.stop()
            if self._leave_group is not None:
                self._leave_group()
                self._leave_group = None

    def count_for(self, viewer: ListViewerLike) -> None:
        """Tell somebody the counts: what was counted last, or soon, for one for whom it was not counted yet."""
        counts = self._counts.get(viewer.user_id)
        if counts is not None:
            viewer.on_counts(counts)
        else:
            self._uncounted.add(viewer.user_id)
            self._poller.hint(())

    async def ready(self) -> None:
        """Return when what changes from now on is told."""
        await self._ready.wait()

    def _on_message(self, message: dict[str, Any]) -> None:

        self._poller.hint(uuid.UUID(each) for each in message["sessions"])

    async def _look(self, keys: frozenset[uuid.UUID] | None) -> None:
        changed = await (self._look_at_all() if keys is None else self._look_at(keys))
        if self._ready.is_set():
            self._tell(changed)
        if keys is None:
            self._ready.set()
        await self._count()

    async def _look_at_all(self) -> list[AgentSession]:
        live = [key for key, state in self._known.items() if state.live]
        rows, others = await database.read(_covered, live)
        changed = [row for row in (*rows, *others) if self._known.get(row.pk) != State.of(row)]
        self._known = {row.pk: State.of(row) for row in rows}
        return changed

    async def _look_at(self, keys: frozenset[uuid.UUID]) -> list[AgentSession]:
        rows = await database.read(queries.by_key, keys) if keys else []
        changed = [row for row in rows if self._known.get(row.pk) != State.of(row)]
        self._known.update((row.pk, State.of(row)) for row in changed)
        return changed

    def _tell(self, changed: list[AgentSession]) -> None:
        if not changed:
            return
        changed.sort(key=lambda row: (row.created_at, row.pk))
        described = cache(lambda row: describe(Found(row)))
        seen: dict[Any, list[dict[str, Any]]] = {}
        for viewer in tuple(self._viewers):
            user_id = viewer.user_id
            if user_id not in seen:
                mine = [row for row in changed if user_id is None or row.started_by_id == user_id]
                seen[user_id] = [described(row) for row in mine]
            if seen[user_id]:
                viewer.on_sessions(seen[user_id])
        self._uncounted |= {None, *(row.started_by_id for row in changed)}

    async def _count(self) -> None:
        users = {viewer.user_id for viewer in self._viewers}
        for user_id in self._counts.keys() - users:
            del self._counts[user_id]
        since = time.monotonic() - self._counted_at
        if since >= COUNTS_SECONDS:
            self._uncounted |= users
        self._uncounted &= users
        # Who has none yet gets them at once; the others have those of a moment ago.
        wanted = self._uncounted if since >= _COUNT_PAUSE_SECONDS else self._uncounted - self._counts.keys()
        if not wanted:
            return
        self._uncounted = self._uncounted - wanted
        if since >= _COUNT_PAUSE_SECONDS:
            self._counted_at = time.monotonic()
        try:
            counted = await database.read(queries.counts, wanted)
        except errors.DATABASE_ERRORS:
            self._uncounted |= wanted
            raise
        self._counts |= counted
        for viewer in tuple(self._viewers):
            if viewer.user_id in counted:
                viewer.on_counts(counted[viewer.user_id])


@dataclass(frozen=True, slots=True)
class State:
    """What of a session the list shows, and may change."""

    status: str
    end_reason: str
    times: tuple[datetime | None, ...]
    live: bool

    @classmethod
    def of(cls, row: AgentSession) -> State:
        times = (row.started_at, row.joined_at, row.ended_at)
        return cls(str(row.status), str(row.end_reason), times, row.ended_at is None)


def _covered(live: list[uuid.UUID]) -> tuple[list[AgentSession], list[AgentSession]]:
    """Return the sessions that a look covers, and those of ``live`` that are not, or no longer, among them."""
    rows = {row.pk: row for row in (*queries.live(MOST_LIVE), *queries.newest(NEWEST))}
    return list(rows.values()), queries.by_key(key for key in live if key not in rows)


get_list_hub = one_per_loop(ListHub)
"""Returns the hub of this event loop."""
