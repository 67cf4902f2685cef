"""`Room`: where the people and the agents of one call meet, within this process.

A room exists while somebody is in it, person or agent, and belongs to one event loop. All of its methods but `say` are
synchronous: between two of them nothing changes behind the caller's back.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vision_agents.core.edge.types import Participant, TrackType

from ..conf.settings import get_settings
from ..observe.conversation import Words
from ..quotas.limits import get_limits
from ..quotas.refusals import note
from ..utils.tasks import spawn
from ..utils.text import looks_like
from ..utils.validation import call_key
from .bounds import custom_event
from .events import CustomEvent, Presence, RoomEvent
from .people import INBOX_SIZE, Person, Vet
from .pump import Pump

if TYPE_CHECKING:
    from getstream.video.rtc import PcmData

    from .connection import BrowserConnection
    from .video import VideoFeed, VideoRelay

VET_SECONDS = 4.0
"""How long an agent waits for those in the room to be judged; who is not by then has to leave."""

_rooms: dict[tuple[str, str], Room] = {}


class RoomClosed(RuntimeError):
    """The room has ended or everybody has left it: `join_room` opens a new one."""


class RoomFull(RuntimeError):
    """There is no place in the room, or none for this one; the message says why."""


@dataclass(frozen=True, slots=True)
class Share:
    """What somebody may have of a room; see `quotas`."""

    identity: str
    """Who they proved to be: all who are the same have their places together."""
    is_invited: bool = False
    """By an invitation: some places are kept for others."""
    seats: int | None = None
    """How many places they have together, if not as many as LIMITS says."""


def join_room(
    call_type: str,
    call_id: str,
    user_id: str,
    *,
    name: str = "",
    may_speak: bool = True,
    vet: Vet | None = None,
    share: Share | None = None,
    inbox_size: int = INBOX_SIZE,
) -> Person:
    """Let somebody into the room of a call, which opens if they are the first.

    ``user_id`` need not be unique: one user may be there twice, as two people. Without ``may_speak`` they hear and see
    everything, and whatever they send is refused. ``vet`` is asked before each agent comes, None of whom anybody may be
    there with. Without a ``share`` only ``MAX_PEOPLE_PER_CALL`` bounds them.

    Raises:
        RoomFull: ``MAX_PEOPLE_PER_CALL`` are there, or as many as their ``share`` allows.
    """
    room = room_of(call_type, call_id)
    return room.join(user_id, name=name, may_speak=may_speak, vet=vet, share=share, inbox_size=inbox_size)


def find_room(call_type: str, call_id: str) -> Room | None:
    """The open room of a call, or None."""
    room = _rooms.get((call_type, call_id))
    return None if room is None or room.abandoned else room


def open_rooms() -> tuple[Room, ...]:
    return tuple(room for room in _rooms.values() if not room.abandoned)


def room_of(call_type: str, call_id: str) -> Room:
    """The room of a call; a new one is registered, so somebody must enter it before anything is awaited.

    Raises:
        RuntimeError: the room lives on another event loop that still runs.
    """
    room = find_room(call_type, call_id)
    if room is None:
        room = _rooms[call_type, call_id] = Room(call_type, call_id)
    elif room.loop is not asyncio.get_running_loop():
        raise RuntimeError(f"The room of {call_type}/{call_id} is open on another event loop of this process")
    return room


class Room:
    def __init__(self, call_type: str, call_id: str) -> None:
        self.call_type = call_type
        self.call_id = call_id
        self.loop = asyncio.get_running_loop()
        self.key = call_key(call_type, call_id)
        self.ended = False
        """Whether the call was ended for everybody, by `end`."""

        self._people: dict[str, Person] = {}
        self._agents: list[BrowserConnection] = []
        self._typed: set[str] = set()
        self._closed = False
        self.pump = Pump(self)

    def __repr__(self) -> str:
        return f"<Room {self.call_type}/{self.call_id}: {len(self._people)} people, {len(self._agents)} agents>"

    @property
    def people(self) -> Mapping[str, Person]:
        """Who is there, by participant id; agents are not among them."""
        return MappingProxyType(self._people)

    @property
    def agents(self) -> tuple[BrowserConnection, ...]:
        return tuple(self._agents)

    @property
    def abandoned(self) -> bool:
        """Whether its event loop is closed: nobody in it can act any more, so it counts as gone."""
        return self.loop.is_closed()

    # People

    def join(
        self,
        user_id: str,
        *,
        name: str = "",
        may_speak: bool = True,
        vet: Vet | None = None,
        share: Share | None = None,
        inbox_size: int = INBOX_SIZE,
    ) -> Person:
        """Let somebody in. The agents learn of it at once, the people too.

        Raises:
            RoomClosed: everybody has left it meanwhile, or it ended.
            RoomFull: ``MAX_PEOPLE_PER_CALL`` are there, or as many as their ``share`` allows.
        """
        self._check_open()
        self._check_seats(share)
        participant = Participant(original=None, user_id=user_id, id=uuid.uuid4().hex[:16])
        person = Person(
            self, participant, name or user_id, may_speak=may_speak, vet=vet, share=share, inbox_size=inbox_size
        )
        for connection in self._agents:
            person.deliver(connection.presence(here=True))
            person.deliver(connection.state.told())
        for other in self._people.values():
            person.deliver(_presence(other, here=True))
        self.tell(_presence(person, here=True))
        self._people[participant.id] = person
        for connection in self.agents:
            connection.person_joined(participant)
        self.pump.wake()
        return person

    def _check_seats(self, share: Share | None) -> None:
        """
        Raises:
            RoomFull: there is no place for one more.
        """
        most, limits = get_settings().MAX_PEOPLE_PER_CALL, get_limits()
        if len(self._people) >= most:
            raise RoomFull(f"This call has as many people as it takes ({most}): try again when somebody has left")
        if share is None:
            return
        shares = [person.share for person in self._people.values() if person.share is not None]
        own = share.seats or limits.seats_per_identity
        if own and sum(other.identity == share.identity for other in shares) >= own:
            whose = note("seats", "identity", share.identity)
            raise RoomFull(
                f"All places of this invitation are taken ({own}): ask for another one, or try again when somebody left"
                if share.is_invited
                else f"One {whose} has {own} places on a call, and you have taken all: leave it elsewhere first"
            )
        kept = min(limits.seats_kept or 0, most // 2)
        if share.is_invited and kept and sum(other.is_invited for other in shares) >= most - kept:
            note("seats", "call", self.key)
            raise RoomFull(f"The places for guests are taken ({most - kept}): try again when somebody has left")

    def leave(self, person: Person) -> None:
        """Let somebody out; does nothing for one who is not there."""
        if self._people.pop(person.participant.id, None) is None:
            return
        person.dismiss()
        self.tell(_presence(person, here=False))
        for connection in self.agents:
            connection.person_left(person.participant)
        self._close_if_empty()

    async def say(self, person: Person, text: str) -> None:
        """Tell everybody what ``person`` typed, and ask every agent to reply.

        The text stands in each agent's conversation before its model is asked: ``Agent.simple_response`` alone does not
        store it, and some models read nothing else. Returns once all are asked; the replies come as `Words`.

        Raises:
            ValueError: there is nothing but white space.
            PermissionError: the person may only listen.
            RoomClosed: the person is not in the room any more.
            Exception: the first of those that agents raised; the others were asked all the same.
        """
        if not text.strip():
            raise ValueError("There is nothing to say: the text is empty")
        if person.participant.id not in self._people:
            raise RoomClosed("Who has left the room cannot speak in it")
        if not person.may_speak:
            raise PermissionError("Who joined as a listener cannot speak: join as a speaker")
        message_id = str(uuid.uuid4())
        shown: Words | None = Words(
            message_id=message_id,
            role="user",
            user_id=person.participant.user_id,
            text=text,
            delta=text,
            completed=True,
            participant_id=person.participant.id,
        )
        for connection in self.agents:
            shown = connection.state.shown(shown) if shown is not None else None
        if shown is not None:
            self.tell(shown)
        self._typed.add(message_id)  # the agents' conversations will tell of it too, and everybody knows it already
        try:
            asked = (connection.hear(person.participant, text, message_id) for connection in self.agents)
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
        finally:
            self._typed.discard(message_id)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def end(self) -> None:
        """End the call for everybody: the agents leave, the people's iterations stop. Ending twice does nothing."""
        if self._closed:
            return
        self.ended = True
        self._close()
        people, self._people = self._people, {}
        for person in people.values():
            person.dismiss()
        for connection in self.agents:
            connection.call_ended()

    # Agents

    async def vet(self) -> None:
        """Have everybody judged before an agent comes; who may not be there with it has left when this returns.

        Whoever enters meanwhile has to be judged with it in mind.
        """
        vets = {person: person.vet for person in self._people.values() if person.vet is not None}
        if not vets:
            return
        since = time.monotonic()
        judging = {person: spawn(vet(since), name="room-vet") for person, vet in vets.items()}
        try:
            await asyncio.wait(judging.values(), timeout=VET_SECONDS)
        finally:
            for task in judging.values():
                task.cancel()
        for person, task in judging.items():
            if not task.done() or task.cancelled() or task.exception() is not None:
                person.leave()

    def attach(self, connection: BrowserConnection) -> None:
        self._check_open()
        self.tell(connection.presence(here=True))
        self._agents.append(connection)
        for person in self._people.values():
            connection.person_joined(person.participant)
            for track_id, track_type in person.media.tracks():
                connection.track_added(person.participant, track_id, track_type)
        for person in self._people.values():
            if looks_like(person.name, connection.name):
                self.presence_changed(person)  # under a name of their own, see `_presence`
        if connection.wants_video and not connection.publishes_video:
            self.renegotiate()

    def detach(self, connection: BrowserConnection) -> None:
        if connection in self._agents:
            self._agents.remove(connection)
            self.tell(connection.presence(here=False))
            if connection.wants_video or connection.publishes_video:
                self.renegotiate()
            self._close_if_empty()

    def overhear(self, words: Words) -> None:
        """Pass on what is written into an agent's conversation."""
        if words.message_id not in self._typed:
            self.tell(words)

    def broadcast(self, data: dict[str, Any], *, agent_id: str) -> None:
        """Send a custom event to everybody.

        Raises:
            TypeError, ValueError: it is not JSON, or more than 5 KB of it.
        """
        encoded = custom_event(data)
        for person in self._people.values():
            person.deliver(CustomEvent(data=json.loads(encoded), agent_id=agent_id))

    # Media

    @property
    def wants_video(self) -> bool:
        """Whether an agent looks at people's cameras."""
        return any(connection.wants_video for connection in self._agents)

    @property
    def published_video(self) -> VideoRelay | None:
        """The video that people see: of the agent that was there first of those that publish any."""
        return next((c.video for c in self._agents if c.video is not None and not c.video.ended), None)

    def renegotiate(self) -> None:
        """An agent that wants or publishes video came or left."""
        for person in self._people.values():
            person.media.show(self.published_video)
            person.media.renegotiate()

    def heard(self, person: Person, pcm: PcmData, *, audible: bool) -> None:
        """Pass a frame of what somebody says on to the agents."""
        for connection in self._agents:
            connection.audio_received(person.participant, pcm, audible=audible)

    def track_added(self, person: Person, track_id: str, track_type: TrackType) -> None:
        for connection in self.agents:
            connection.track_added(person.participant, track_id, track_type)

    def track_removed(self, person: Person, track_id: str, track_type: TrackType) -> None:
        for connection in self.agents:
            connection.track_removed(person.participant, track_id, track_type)

    def watch(self, track_id: str) -> VideoFeed | None:
        """A feed of somebody's camera; None if there is no such track, or no more."""
        feeds = (person.media.watch(track_id) for person in self._people.values())
        return next((feed for feed in feeds if feed is not None), None)

    def custom_received(self, person: Person, data: dict[str, Any]) -> None:
        for connection in self.agents:
            connection.custom_received(person.participant, data)

    def trim(self) -> None:
        """An agent was interrupted: nobody need hear what was about to be sent."""
        for person in self._people.values():
            person.media.trim()

    def presence_changed(self, person: Person) -> None:
        for other in self._people.values():
            if other is not person:
                other.deliver(_presence(person, here=True))

    def tell(self, event: RoomEvent) -> None:
        """Deliver an event to everybody."""
        for person in tuple(self._people.values()):
            person.deliver(event)

    # Within

    def _check_open(self) -> None:
        if self._closed:
            raise RoomClosed(f"The room of {self.call_type}/{self.call_id} has closed: join_room() opens a new one")

    def _close_if_empty(self) -> None:
        if not self._people and not self._agents:
            self._close()

    def _close(self) -> None:
        self._closed = True
        self.pump.close()
        if _rooms.get((self.call_type, self.call_id)) is self:
            del _rooms[self.call_type, self.call_id]


def _presence(person: Person, *, here: bool) -> Presence:
    name = person.name
    if any(looks_like(name, connection.name) for connection in person.room.agents):
        name = f"{name} (person)"  # nobody passes for the agent
    return Presence(
        user_id=person.participant.user_id,
        participant_id=person.participant.id,
        name=name,
        is_agent=False,
        here=here,
        muted=person.muted,
    )
