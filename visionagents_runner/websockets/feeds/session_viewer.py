"""`SessionViewer`: a client that follows one session.

It has a place in the session's history and moves on from there as fast as its socket takes it: from what the hub
remembers while it keeps up, else from the database. So nothing is ever queued for it beyond a few messages.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ...api.lookup import describe
from ...auth.recheck import get_rechecks
from ...models import KINDS_WITHOUT_WORDS, SessionEvent, without_words
from ...store import database, errors
from ...utils.tasks import spawn
from ...utils.timestamps import iso
from .. import protocol
from ..protocol import Code, Fatal
from . import access, queries
from .session_hub import SessionWatch, get_hub

if TYPE_CHECKING:
    from ...registry import AgentRegistry
    from ..socket import CallSocket

UNACKED = 64
"""Messages that may be under way to a viewer."""
MAX_SEQ = 2**53

_ROOM = 32
_PARTIAL_ROOM = 8
_GREETING_SECONDS = 30.0


class FeedViewer(ABC):
    """What viewers of all feeds have in common: the hello, tasks that end the connection if they fail, the rechecks."""

    def __init__(self, socket: CallSocket, scope: Mapping[str, Any], runner: AgentRegistry) -> None:
        self.greeted = False
        self._socket = socket
        self._scope = scope
        self._runner = runner
        self._tasks: set[asyncio.Task[None]] = set()
        self._end_rechecks: Callable[[], None] = lambda: None

    async def leave(self) -> None:
        """Stop watching; nothing of this viewer is left."""
        self._end_rechecks()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def on_message(self, kind: str, message: dict[str, Any]) -> None:
        if kind != "hello":
            detail = "A feed only takes acks and pongs" if self.greeted else "Say hello first"
            raise Fatal(Code.BAD_MESSAGE, detail)
        if self.greeted:
            raise Fatal(Code.BAD_MESSAGE, "Hello was said before")
        if message.get("v") != protocol.VERSION:
            raise Fatal(Code.BAD_MESSAGE, f"This server speaks version {protocol.VERSION}")
        self._read_hello(message)
        self.greeted = True
        self._do(self._serve(), name="follow")

    def on_frame(self, frame: bytes) -> None:
        raise Fatal(Code.BAD_MESSAGE, "A feed takes no audio")

    @abstractmethod
    def _read_hello(self, message: dict[str, Any]) -> None:
        """Keep what the hello asks for.

        Raises:
            Fatal: it makes no sense.
        """

    @abstractmethod
    async def _welcome(self) -> None:
        """Admit the client, and tell it so.

        Raises:
            Fatal: it may not see this.
        """

    @abstractmethod
    async def _follow(self) -> None:
        """Tell the client what happens, to the end."""

    @abstractmethod
    async def _recheck(self, since: float) -> None:
        """Ask again what the client may see; what was looked up ``since`` is fresh enough.

        Raises:
            Fatal: not this, any more.
        """

    async def _serve(self) -> None:
        async with asyncio.timeout(_GREETING_SECONDS):
            await self._welcome()
        self._end_rechecks = get_rechecks().keep(self._recheck, self._fail)
        await self._follow()

    def _do(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        task = spawn(work, name=f"feed-viewer-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, (TimeoutError, *errors.DATABASE_ERRORS)):
            error = Fatal(Code.SERVER_ERROR, "The database does not answer: try again in a moment")
        self._socket.fail(error)


class SessionViewer(FeedViewer):
    def __init__(self, socket: CallSocket, scope: Mapping[str, Any], runner: AgentRegistry, session_id: str) -> None:
        super().__init__(socket, scope, runner)
        self._session_id = session_id
        self._watch: SessionWatch | None = None
        self._words = False
        self._seq = 0
        """The client has all it may see of the history up to here, or it is on its way."""
        self._status = ""
        self._is_live = False

    async def leave(self) -> None:
        if self._watch is not None:
            get_hub().leave(self._watch, self)
        await super().leave()

    def _read_hello(self, message: dict[str, Any]) -> None:
        after = message.get("after", 0)
        if not isinstance(after, int) or isinstance(after, bool) or not 0 <= after <= MAX_SEQ:
            raise Fatal(Code.BAD_MESSAGE, "after must be the number of an event")
        self._seq = after

    async def _welcome(self) -> None:
        sight = await access.look_at_session(self._scope, self._runner, self._session_id)
        self._socket.identify(sight.identity)
        self._words = sight.words
        self._watch = watch = get_hub().enter(sight.key, self)
        while watch.last is None and not watch.gone:
            await watch.change()
        seq = watch.last or 0
        self._seq = min(self._seq, seq)
        self._status = watch.status
        self._socket.post(
            {
                "type": "welcome",
                "v": protocol.VERSION,
                "session": {**describe(sight.found), "status": watch.status, "end_reason": watch.end_reason or None},
                "seq": seq,
                "after": self._seq,
                "words": self._words,
            }
        )

    async def _recheck(self, since: float) -> None:
        sight = await access.look_at_session(self._scope, self._runner, self._session_id, since)
        if self._words and not sight.words:
            raise Fatal(Code.NOT_ALLOWED, "You may no longer read what was said: connect again to follow the rest")

    # Telling

    async def _follow(self) -> None:
        watch = self._watch
        assert watch is not None
        while True:
            await self._socket.room(_ROOM)
            self._tell_status(watch)
            assert watch.last is not None
            if watch.gone:
                raise Fatal(Code.NOT_FOUND, "The session was deleted")
            if self._seq < watch.last:
                await self._move_on(watch)
            elif watch.ended:
                await self._tell_end(watch)
                return
            else:
                if not self._is_live:
                    self._is_live = True
                    self._socket.post({"type": "live", "seq": self._seq})
                await watch.change()

    async def _move_on(self, watch: SessionWatch) -> None:
        """Tell what comes next, as much as one page of it."""
        rows = watch.since(self._seq)
        if rows is None:
            if self._is_live:
                # It was too slow: what was partial is stale, and the rest comes from the database.
                self._is_live = False
                self._socket.post({"type": "resync", "after": self._seq})
            last = watch.last
            assert last is not None
            rows = await database.read(queries.events_after, watch.key, self._seq)
            if not rows:  # pruned
                self._seq = last
        for row in rows[: queries.PAGE]:
            self._seq = row.seq
            if self._words or row.kind in KINDS_WITHOUT_WORDS:
                self._socket.post(_event(row, words=self._words))

    def _tell_status(self, watch: SessionWatch) -> None:
        if watch.status != self._status:
            self._status = watch.status
            self._socket.post({"type": "status", "status": watch.status}, key="status")

    async def _tell_end(self, watch: SessionWatch) -> None:
        self._socket.post(
            {"type": "ended", "seq": self._seq, "status": watch.status, "end_reason": watch.end_reason or None}
        )
        await self._socket.emptied()
        self._socket.finish()

    def on_partial(self, data: dict[str, Any], at: float) -> None:
        # The first that a viewer who is behind goes without.
        if self._is_live and self._words and self._socket.waiting < _PARTIAL_ROOM:
            message = {"type": "partial", "at": iso(datetime.fromtimestamp(at, UTC)), "data": data}
            self._socket.post(message, key=("partial", data.get("message_id")))


def _event(row: SessionEvent, *, words: bool) -> dict[str, Any]:
    data = row.data if words else without_words(row.kind, row.data)
    return {"type": "event", "seq": row.seq, "kind": row.kind, "at": iso(row.at), "data": data}
