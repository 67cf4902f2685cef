"""`Person`: somebody in a room, and what is waiting to reach them."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from vision_agents.core.edge.types import Participant

from .events import RoomEvent

if TYPE_CHECKING:
    from .room import Room

INBOX_SIZE = 512


class Person:
    """Somebody in a room. Iterate over it (one reader at a time) for what happens there.

    The iteration ends when the person left or the room ended. Events that nobody reads in time are dropped, the oldest
    first, and counted in ``dropped``.
    """

    def __init__(self, room: Room, participant: Participant, name: str, *, inbox_size: int = INBOX_SIZE) -> None:
        self.room = room
        self.participant = participant
        self.name = name
        self.dropped = 0
        self._inbox: deque[RoomEvent] = deque(maxlen=inbox_size)
        self._waiter: asyncio.Future[None] | None = None
        self._gone = False

    def __repr__(self) -> str:
        return f"<Person {self.participant.id} in {self.room!r}>"

    @property
    def here(self) -> bool:
        return not self._gone

    async def say(self, text: str) -> None:
        """Type ``text`` to everybody in the room; every agent there is asked to reply. See `Room.say`."""
        await self.room.say(self, text)

    def leave(self) -> None:
        """Leave the room. Leaving twice does nothing."""
        self.room.leave(self)

    def __aiter__(self) -> Person:
        return self

    async def __anext__(self) -> RoomEvent:
        while not self._inbox:
            if self._gone:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._inbox.popleft()

    # The room's side

    def deliver(self, event: RoomEvent) -> None:
        if len(self._inbox) == self._inbox.maxlen:
            self.dropped += 1
        self._inbox.append(event)
        self._wake()

    def dismiss(self) -> None:
        """Nothing more will come; what is in the inbox can still be read."""
        self._gone = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
