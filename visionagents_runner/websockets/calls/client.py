"""`CallClient`: who is at the other end of a call's WebSocket, whichever worker's room they are in."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import time
from collections.abc import Callable, Coroutine, Hashable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from ...auth.permissions import identity_of
from ...auth.recheck import get_rechecks
from ...messaging.layer import get_link
from ...store.errors import DATABASE_ERRORS
from ...utils.tasks import spawn
from ...utils.text import clean_name
from ...worker.current import current_worker
from .. import handshake, protocol
from ..protocol import Code, Fatal
from . import access
from .location import home_of
from .member import CallMember, Guest
from .relay import Relay
from .relayed_client import Answer, RelayedClient

if TYPE_CHECKING:
    import uuid

    from ...registry import AgentRegistry
    from ..socket import CallSocket

logger = logging.getLogger(__name__)

_JOIN_SECONDS = 30.0
_MOVE_SECONDS = 10.0
_SETTLE_SECONDS = 2.0
"""How long a worker may take to know of a session that the database has as its own."""
_AGAIN_SECONDS = 0.1
_MOST_TRIED = 2
_WAITING = 64

_MEDIA = frozenset({"offer", "pcm"})

_NO_WAY = "The agent of this call cannot be reached from here: try again in a moment"
_NO_ANSWER = "The process of the server that runs the agent of this call does not answer: try again in a moment"
_MOVED = "The agent of this call has come to another process of the server: join again"


class Seat(Protocol):
    """Somebody's place in a room, here or elsewhere."""

    def on_message(self, kind: str, message: dict[str, Any]) -> None: ...

    def on_frame(self, frame: bytes) -> None: ...

    async def leave(self) -> None: ...


class CallClient:
    """Says hello, has the client judged, and seats it where the agent of its call is: it is their `Port`."""

    def __init__(
        self, socket: CallSocket, scope: Mapping[str, Any], runner: AgentRegistry, call: tuple[str, str]
    ) -> None:
        self.greeted = False
        self._socket = socket
        self._scope = scope
        self._runner = runner
        self._call = call
        self._judge: access.Judge | None = None
        self._admission: access.Admission | None = None
        self._guest: Guest | None = None
        self._end_rechecks: Callable[[], None] = lambda: None
        self._moves = False
        self._seat: Seat | None = None
        self._waiting: list[tuple[str, dict[str, Any]]] = []
        """What came while the client moved from one room to another."""
        self._moves_on = False
        """Whether the agent was elsewhere again before the client was in its seat."""
        self._task: asyncio.Task[None] | None = None

    async def leave(self) -> None:
        """Leave the call; nothing of this client is left."""
        self._end_rechecks()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._seat is not None:
            await self._seat.leave()

    # What the socket reads

    def on_message(self, kind: str, message: dict[str, Any]) -> None:
        if kind == "hello":
            self._hello(message)
        elif self._guest is None:
            raise Fatal(Code.BAD_MESSAGE, "Say hello first, and wait for the welcome")
        elif self._seat is not None:
            self._seat.on_message(kind, message)
        elif kind == "leave":
            self._socket.finish()
        elif kind in _MEDIA:
            pass  # it begins these anew when it is welcomed there, and could take the answer for that of its new offer
        elif len(self._waiting) < _WAITING:
            self._waiting.append((kind, message))
        else:
            raise Fatal(Code.TOO_FAST, "Send less while the call moves to another process of the server")

    def on_frame(self, frame: bytes) -> None:
        if self._seat is not None:
            self._seat.on_frame(frame)

    # The port

    def post(self, message: dict[str, Any], *, key: Hashable | None = None) -> None:
        self._socket.post(message, key=key)

    async def send_frame(self, frame: bytes) -> None:
        await self._socket.send_frame(frame)

    def fail(self, error: BaseException) -> None:
        self._socket.fail(error)

    def finish(self) -> None:
        self._socket.finish()

    def move(self) -> None:
        if self._seat is None:
            self._moves_on = True
        elif self._moves:
            seat, self._seat = self._seat, None
            self._do(self._move(seat), name="move")
        else:
            self.fail(Fatal(Code.GOING_AWAY, _MOVED))

    async def vet(self, since: float) -> None:
        assert self._judge is not None
        assert self._admission is not None
        await self._judge.confirm(self._admission, since)

    # Joining

    def _hello(self, message: dict[str, Any]) -> None:
        if self.greeted:
            raise Fatal(Code.BAD_MESSAGE, "Hello was said before")
        if message.get("v") != protocol.VERSION:
            raise Fatal(Code.BAD_MESSAGE, f"This server speaks version {protocol.VERSION}: reload the page")
        token, name = message.get("token"), message.get("name", "")
        if not (token is None or isinstance(token, str)) or not isinstance(name, str):
            raise Fatal(Code.BAD_MESSAGE, "token and name must be text")
        self.greeted = True
        self._moves = message.get("moves") is True
        self._do(self._join(token or None, clean_name(name)), name="join")

    async def _join(self, token: str | None, name: str) -> None:
        async with asyncio.timeout(_JOIN_SECONDS):
            self._judge = access.Judge(self._scope, self._runner, self._call, token)
            admission = replace(await self._judge.admit(), identity=self._identity(token))
            self._admission = admission
            self._socket.identify(admission.identity)
            # Who was invited by name has that name; everybody else may say theirs.
            name = (admission.name or name) if admission.session_id else (name or admission.name)
            guest = Guest(self._call, admission, name or "Guest", self._agents() if admission.may_start else ())
            seat = await self._find_seat(guest)
            self._guest = guest
        self._end_rechecks = get_rechecks().keep(self.vet, self._fail)
        self._sit(seat)

    def _identity(self, token: str | None) -> str | None:
        """Return who was let in, as what they presented proves."""
        if token is not None:
            return f"invitation:{hashlib.sha256(token.encode()).hexdigest()[:16]}"
        return identity_of(handshake.HandshakeRequest(self._scope))

    def _agents(self) -> tuple[str, ...]:
        worker = current_worker()
        return tuple(self._runner.launchers) if worker is not None and worker.not_starting() is None else ()

    async def _move(self, seat: Seat) -> None:
        assert self._guest is not None
        await seat.leave()
        self._moves_on = False  # if the old seat said so once more, it was for this move
        async with asyncio.timeout(_MOVE_SECONDS):
            await self.vet(time.monotonic())  # there may be a session that was not there when they came
            seat = await self._find_seat(self._guest)
        self._sit(seat)

    def _sit(self, seat: Seat) -> None:
        self._seat = seat
        if self._moves_on:
            self._moves_on = False
            self.move()
            return
        waiting, self._waiting = self._waiting, []
        for kind, message in waiting:
            seat.on_message(kind, message)

    async def _find_seat(self, guest: Guest) -> Seat:
        """Enter the room where the agent is.

        Raises:
            Fatal: there is no room for them, or it cannot be reached.
        """
        session_id = guest.admission.session_id
        tried: set[uuid.UUID] = set()
        patience = time.monotonic() + _SETTLE_SECONDS
        while len(tried) < _MOST_TRIED and (home := await home_of(guest.call, session_id, exclude=tried)) is not None:
            if get_link() is None:
                _warn_of_no_way()
                raise Fatal(Code.ELSEWHERE, _NO_WAY)
            seat, answer = await self._go(guest, home)
            if seat is not None:
                return seat
            if answer is Answer.ABSENT and time.monotonic() < patience:
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                tried.add(home)  # there may be another agent, not the first of the call, but one that answers
        if tried and (session_id is not None or not access.live_sessions(*guest.call)):
            raise Fatal(Code.ELSEWHERE, _NO_ANSWER)
        member = CallMember(self, guest)
        try:
            await member.join()
        except BaseException:
            await member.leave()
            raise
        return member

    async def _go(self, guest: Guest, home: uuid.UUID) -> tuple[Seat | None, Answer]:
        """Enter the room of another worker, if it lets them in."""
        worker = current_worker()
        relay = None if worker is None else worker.services.get(Relay)
        if relay is None or not relay.is_open:
            raise Fatal(Code.GOING_AWAY, "The server is going away: join again in a moment")
        member = RelayedClient(self, relay, home, guest)
        try:
            answer = await member.join()
        except BaseException:
            await member.leave()
            raise
        if answer is Answer.SEATED:
            return member, answer
        await member.leave()
        return None, answer

    # Its task

    def _do(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        self._task = spawn(work, name=f"call-client-{name}")
        self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, DATABASE_ERRORS):
            logger.error("Joining a call failed: the database does not answer", exc_info=error)
            error = Fatal(Code.SERVER_ERROR, "The database does not answer: try again in a moment")
        elif isinstance(error, TimeoutError):
            error = Fatal(Code.SERVER_ERROR, "The server took too long: try again in a moment")
        self._socket.fail(error)


@functools.cache
def _warn_of_no_way() -> None:
    """Tell whoever can do something about it, once."""
    logger.warning(
        "Somebody joins a call whose agent runs in another process of the server, which this one cannot reach: "
        "set CHANNEL_LAYERS to channels_redis"
    )
