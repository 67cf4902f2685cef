"""`RelayedClient`: somebody whose WebSocket is here, and who is in the room of another worker.

There a `relayed_member.RelayedMember` acts for them.

All limits on what a client may send are kept here, by its socket; what it may do is judged here too, before.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from ...utils.tasks import HeldTasks, spawn
from .. import protocol
from ..protocol import Code, Fatal
from .member import unasked
from .other_worker import FRAMES_WAITING

if TYPE_CHECKING:
    from .member import Guest, Port
    from .other_worker import Lane
    from .relay import Relay

logger = logging.getLogger(__name__)

ABSENT = "absent"
"""The code of a lane that is over because no agent of the call runs there."""
MOVED = "moved"
"""The code of a lane that is over because the agent of the call runs elsewhere now."""

_ANSWER_SECONDS = 3.0
_LOST = "The processes of the server do not keep up with each other: join again in a moment"


class Answer(Enum):
    SEATED = auto()
    ABSENT = auto()
    SILENT = auto()


class RelayedClient:
    """The client's side."""

    def __init__(self, port: Port, relay: Relay, home: uuid.UUID, guest: Guest) -> None:
        self._port = port
        self._relay = relay
        self._home = home
        self._guest = guest
        self._answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._lane: Lane | None = None
        self._frames: deque[bytes] = deque(maxlen=FRAMES_WAITING)
        self._heard = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._vetting = HeldTasks()

    async def join(self) -> Answer:
        """Ask to be let in.

        Raises:
            Fatal: there is no room for them.
        """
        self._lane = self._relay.knock(self._home, self, self._guest)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                answer = await self._answer
        except TimeoutError:
            return Answer.SILENT
        if answer is Answer.SEATED:
            self._task = spawn(self._play(), name="call-relayed-audio")
        return answer

    async def leave(self) -> None:
        if self._lane is not None:
            self._lane.close()
        tasks = self._vetting if self._task is None else {self._task, *self._vetting}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def on_message(self, kind: str, message: dict[str, Any]) -> None:
        assert self._lane is not None
        if not self._lane.post(protocol.encode(message)):
            raise Fatal(Code.GOING_AWAY, _LOST)

    def on_frame(self, frame: bytes) -> None:
        assert self._lane is not None
        self._lane.send_frame(frame)

    # What comes from there

    def take_text(self, text: str) -> None:
        if self._answer.cancelled():
            return  # too late
        if not self._answer.done():
            self._answer.set_result(Answer.SEATED)
        message, key = json.loads(text)
        self._port.post(message, key=key)

    def take_frame(self, frame: bytes) -> None:
        self._frames.append(frame)  # what the client has no room for is dropped, the oldest first
        self._heard.set()

    def over(self, code: str, detail: str) -> None:
        if self._answer.cancelled():
            return
        if code in {ABSENT, MOVED} and not self._answer.done():
            self._answer.set_result(Answer.ABSENT)
        elif code == MOVED:
            self._port.move()
        elif code:
            self._fail(Fatal(_known(code), detail))
        else:
            self._port.finish()

    def broken(self, why: str) -> None:
        if self._answer.done():
            self._fail(Fatal(Code.GOING_AWAY, f"{why}: join again in a moment"))
        else:
            self._answer.set_result(Answer.SILENT)

    def asked(self, number: int) -> None:
        self._vetting.spawn(self._vet(number), name="call-far-vet")

    def vouched(self, number: int) -> None:
        """It is this side that vouches."""

    async def _vet(self, number: int) -> None:
        try:
            await self._port.vet(time.monotonic())
        except Exception as error:
            problem = unasked(error)
            if not isinstance(problem, Fatal):
                logger.error("Somebody on a call could not be judged", exc_info=error)
                problem = Fatal(Code.SERVER_ERROR, "Something went wrong; the server's log says what")
            self._fail(problem)
        else:
            if self._lane is not None and self._lane.is_open:
                self._lane.vouch(number)

    def _fail(self, error: Fatal) -> None:
        if self._answer.done():
            self._port.fail(error)
        else:
            self._answer.set_exception(error)

    async def _play(self) -> None:
        while True:
            while self._frames:
                await self._port.send_frame(self._frames.popleft())
            self._heard.clear()
            await self._heard.wait()


def _known(code: str) -> Code:
    try:
        return Code(code)
    except ValueError:  # the other worker is of another version
        return Code.GOING_AWAY
