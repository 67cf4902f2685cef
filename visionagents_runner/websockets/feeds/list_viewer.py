"""`ListViewer`: a client that follows which sessions there are."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...api.listing import list_page
from ...api.schemas import Filters
from ...auth.permissions import Access, who_asks
from ...store import database
from .. import protocol
from ..handshake import HandshakeRequest
from ..protocol import Code, Fatal
from . import access
from .list_hub import get_list_hub
from .session_viewer import FeedViewer

if TYPE_CHECKING:
    from ...registry import AgentRegistry
    from ..socket import CallSocket

PAGE_LIMIT = 100
_DEFAULT_LIMIT = 50
_PENDING = 256
_ROOM = 32


class ListViewer(FeedViewer):
    """Gets a page of the newest sessions, then each that is new or changed, whole, and counts.

    While it is slow, only the latest state of each session waits for it; if those are too many, it gets a new page.
    """

    def __init__(self, socket: CallSocket, scope: Mapping[str, Any], runner: AgentRegistry) -> None:
        super().__init__(socket, scope, runner)
        self._access: Access | None = None
        self._limit = _DEFAULT_LIMIT
        self._pending: dict[str, dict[str, Any]] = {}
        self._stale = True
        """Whether it needs a page before anything else."""
        self._counts: dict[str, int] | None = None
        self._news = asyncio.Event()

    @property
    def user_id(self) -> Any:
        return None if self._access is None or self._access.sees_all else self._access.user_id

    async def leave(self) -> None:
        get_list_hub().leave(self)
        await super().leave()

    def on_sessions(self, sessions: Sequence[dict[str, Any]]) -> None:
        for session in sessions:
            self._pending.pop(session["session_id"], None)
            self._pending[session["session_id"]] = session
        if len(self._pending) > _PENDING:
            self._stale = True
            self._pending.clear()
        self._news.set()

    def on_counts(self, counts: dict[str, int]) -> None:
        self._counts = counts
        self._news.set()

    def _read_hello(self, message: dict[str, Any]) -> None:
        limit = message.get("limit", _DEFAULT_LIMIT)
        if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= PAGE_LIMIT:
            raise Fatal(Code.BAD_MESSAGE, f"limit must be 1 to {PAGE_LIMIT}")
        self._limit = limit

    async def _welcome(self) -> None:
        self._access = await access.look_at_list(self._scope, self._runner)
        self._socket.identify(who_asks(HandshakeRequest(self._scope), self._access).identity)
        self._socket.post({"type": "welcome", "v": protocol.VERSION, "all": self.user_id is None})
        hub = get_list_hub()
        hub.enter(self)
        await hub.ready()

    async def _recheck(self, since: float) -> None:
        before = self.user_id
        self._access = await access.look_at_list(self._scope, self._runner, since)
        if self.user_id != before:
            self._stale = True
            self._news.set()
            get_list_hub().count_for(self)

    async def _follow(self) -> None:
        while True:
            await self._socket.room(_ROOM)
            if self._stale:
                self._stale = False
                self._pending.clear()
                await self._tell_page()
            elif self._pending:
                session = self._pending.pop(next(iter(self._pending)))
                self._socket.post({"type": "session", "session": session}, key=("session", session["session_id"]))
            elif self._counts is not None:
                self._socket.post({"type": "counts", **self._counts}, key="counts")
                self._counts = None
            else:
                self._news.clear()
                await self._news.wait()

    async def _tell_page(self) -> None:
        assert self._access is not None
        page = await database.read(list_page, self._access, Filters(limit=self._limit, agent=None, cursor=None), None)
        self._socket.post({"type": "page", "sessions": page["items"], "next": page["next"]}, key="page")
