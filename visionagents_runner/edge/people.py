"""`Person`: somebody in a room, and what is waiting to reach them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias

from vision_agents.core.edge.types import Participant

from ..quotas import spend
from .events import CustomEvent, RoomEvent
from .media import PersonMedia

if TYPE_CHECKING:
    from .pcm import PcmLink
    from .room import Room, Share

INBOX_SIZE = 512

Vet: TypeAlias = Callable[[float], Coroutine[Any, Any, None]]
"""``await vet(since)`` judges whether somebody may be there with an agent that is about to come. If not, it has them
leave, and tells them why. ``since`` (monotonic) is when that was first asked."""


class Person:
    """Somebody in a room. Iterate over it (one reader at a time) for what happens there.

    The iteration ends when the person left or the room ended. Events that nobody reads in time are dropped, the oldest
    first, and counted in ``dropped``.
    """

    def __init__(
        self,
        room: Room,
        participant: Participant,
        name: str,
        *,
        may_speak: bool = True,
        vet: Vet | None = None,
        share: Share | None = None,
        inbox_size: int = INBOX_SIZE,
    ) -> None:
        self.room = room
        self.participant = participant
        self.name = name
        self.may_speak = may_speak
        """False for a listener, who hears and sees everything and is not heard."""
        self.vet = vet
        """None: they may be there with any agent."""

        self.share = share

        self.muted = False
        self.dropped = 0
        self.media = PersonMedia(self)
        self._inbox: deque[RoomEvent] = deque(maxlen=inbox_size)
        self._waiter: asyncio.Future[None] | None = None
        self._gone = False

    def __repr__(self) -> str:
        return f"<Person {self.participant.id} in {self.room!r}>"

    @property
    def here(self) -> bool:
        return not self._gone

    @property
    def transport(self) -> str | None:
        """ "webrtc" or "websocket" while audio flows that way, else None."""
        return self.media.transport

    @property
    def custom_by_data_channel(self) -> bool:
        """Whether custom events go over the WebRTC data channel "events", and not to this iteration."""
        return self.media.channel_open

    async def negotiate(self, offer_sdp: str) -> str:
        """Answer a WebRTC offer: the first, and each later one of the same connection.

        Returns within 12 s. `Media` events tell what becomes of the connection: it has 15 s to be made.

        Raises:
            BadOffer: it is malformed, too large, or asks for what a room does not have.
            NoMedia: WebRTC cannot work here (the `Media` event "failed" is told too): use `open_pcm`.
        """
        return await self.media.negotiate(offer_sdp)

    def open_pcm(self) -> PcmLink:
        """Let audio flow as plain frames, in place of what was there.

        Raises:
            NoMedia: the person has left.
        """
        return self.media.open_pcm()

    def set_muted(self, muted: bool) -> None:
        """Let nobody hear this person, or again; the others are told."""
        if self.muted != muted and self.here:
            self.muted = muted
            self.media.mute(muted)
            self.room.presence_changed(self)

    def receive_custom(self, data: dict[str, Any]) -> None:
        """Pass an event of the person's on to the agents, as `BrowserCustomEvent`.

        Raises:
            TypeError, ValueError: it is no JSON object, or more than 5 KB of it.
            PermissionError: the person may only listen.
            TooMany: the person sends too many.
        """
        self.spend("events")
        self.media.receive_custom(data)

    def spend(self, what: str) -> None:
        """Take one of what the person may have of ``what`` in a time, see `quotas`.

        Raises:
            TooMany: it is one too many.
        """
        identity = None if self.share is None else self.share.identity
        spend(what, person=self.participant.id, identity=identity, call=self.room.key)

    async def say(self, text: str) -> None:
        """Type ``text`` to everybody in the room; every agent there is asked to reply. See `Room.say`."""
        await self.room.say(self, text)

    def leave(self) -> None:
        """Leave the room; what carries the person's audio and video closes in the background. Twice does nothing."""
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
        if isinstance(event, CustomEvent) and self.media.send_custom(event.data, event.agent_id):
            return
        if len(self._inbox) == self._inbox.maxlen:
            self.dropped += 1
        self._inbox.append(event)
        self._wake()

    def dismiss(self) -> None:
        """Nothing more will come; what is in the inbox can still be read."""
        self._gone = True
        self.media.close()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
