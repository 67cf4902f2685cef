"""`RelayedMember`: somebody in the room of this process whose WebSocket is at another worker.

It is the port of their `CallMember`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from ...utils.tasks import spawn
from .. import protocol
from ..protocol import Code, Fatal
from .access import live_sessions
from .member import VET_SECONDS, CallMember, Guest, unasked
from .relayed_client import ABSENT, MOVED

if TYPE_CHECKING:
    from .other_worker import Lane

logger = logging.getLogger(__name__)


class RelayedMember:
    """The agent's side. Who they are and what they may do was judged where their WebSocket is."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._member = CallMember(self, guest)
        self._lane: Lane | None = None
        self._task: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[None]] = {}
        """What was asked of the side that judges them."""

    def open(self, lane: Lane) -> asyncio.Task[None]:
        """Let them in. The task that this returns ends when they have left."""
        self._lane = lane
        self._task = spawn(self._be_there(lane), name="call-relayed-member")
        return self._task

    async def _be_there(self, lane: Lane) -> None:
        try:
            if not _is_here(self._guest):
                lane.close(ABSENT)
                return
            try:
                await self._member.join()
            except Exception as error:
                self.fail(error)
            await self._over.wait()
        finally:
            lane.close()
            await self._member.leave()

    # The port

    def post(self, message: dict[str, Any], *, key: Hashable | None = None) -> None:
        assert self._lane is not None
        try:
            text = protocol.encode([message, None if key is None else repr(key)])
        except (TypeError, ValueError) as error:
            self.fail(error)
            return
        if not self._lane.post(text, key=key):
            self.fail(Fatal(Code.SILENT, "The connection is too slow for this call"))

    async def send_frame(self, frame: bytes) -> None:
        assert self._lane is not None
        self._lane.send_frame(frame)

    def fail(self, error: BaseException) -> None:
        if not isinstance(error, Fatal):
            logger.error("Somebody's place on a call failed", exc_info=error)
            error = Fatal(Code.SERVER_ERROR, "Something went wrong; the server's log says what")
        self._end(error.code.value, error.detail)

    def finish(self) -> None:
        self._end()

    def move(self) -> None:
        self._end(MOVED)

    async def vet(self, since: float) -> None:
        assert self._lane is not None
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._lane.ask(number)
            async with asyncio.timeout(VET_SECONDS):  # an older version does not answer
                await answer
        except TimeoutError as error:
            raise unasked(error) from None
        finally:
            del self._asked[number]

    def asked(self, number: int) -> None:
        """It is the other side that vouches."""

    def vouched(self, number: int) -> None:
        if (answer := self._asked.get(number)) is not None and not answer.done():
            answer.set_result(None)

    # What comes from the client

    def take_text(self, text: str) -> None:
        message = json.loads(text)
        try:
            self._member.on_message(message["type"], message)
        except Exception as error:
            self.fail(error)

    def take_frame(self, frame: bytes) -> None:
        self._member.on_frame(frame)

    def over(self, code: str, detail: str) -> None:
        self._over.set()

    def broken(self, why: str) -> None:
        self._end(Code.GOING_AWAY.value, f"{why}: join again in a moment")

    def _end(self, code: str = "", detail: str = "") -> None:
        if self._lane is not None and not self._over.is_set():
            self._lane.close(code, detail)
            self._over.set()


def _is_here(guest: Guest) -> bool:
    session_id = guest.admission.session_id
    return any(session_id in {None, session.id} for session in live_sessions(*guest.call))
