"""`Room`: where the people and the agents of one call meet, within this process.

A room exists while somebody is in it, person or agent, and belongs to one event loop. All of its methods but `say` are
synchronous: between two of them nothing changes behind the caller's back.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vision_agents.core.edge.types import Participant

from .events import CustomEvent, Presence, RoomEvent, Words
from .people import INBOX_SIZE, Person

if TYPE_CHECKING:
    from .connection import BrowserConnection

MAX_CUSTOM_EVENT_BYTES = 5 * 1024

_rooms: dict[tuple[str, str], Room] = {}


class RoomClosed(RuntimeError):
    """The room has ended or everybody has left it: `join_room` opens a new one."""


def join_room(call_type: str, call_id: str, user_id: str, *, name: str = "", inbox_size: int = INBOX_SIZE) -> Person:
    """Let somebody into the room of a call, which opens if they are the first.

    ``user_id`` need not be unique: one user may be there twice, as two people.
    """
    return room_of(call_type, call_id).join(user_id, name=name, inbox_size=inbox_size)


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
        self.ended = False
        """Whether the call was ended for everybody, by `end`."""

        self._people: dict[str, Person] = {}
        self._agents: list[BrowserConnection] = []
        self._typed: set[str] = set()
        self._closed = False

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

    def join(self, user_id: str, *, name: str = "", inbox_size: int = INBOX_SIZE) -> Person:
        """Let somebody in. The agents learn of it at once, the people too.

        Raises:
            RoomClosed: everybody has left it meanwhile, or it ended.
        """
        self._check_open()
        participant = Participant(original=None, user_id=user_id, id=f"{user_id}-{uuid.uuid4().hex[:8]}")
        person = Person(self, participant, name or user_id, inbox_size=inbox_size)
        for connection in self._agents:
            person.deliver(connection.presence(here=True))
        for other in self._people.values():
            person.deliver(_presence(other, here=True))
        self._tell(_presence(person, here=True))
        self._people[participant.id] = person
        for connection in self.agents:
            connection.person_joined(participant)
        return person

    def leave(self, person: Person) -> None:
        """Let somebody out; does nothing for one who is not there."""
        if self._people.pop(person.participant.id, None) is None:
            return
        person.dismiss()
        self._tell(_presence(person, here=False))
        for connection in self.agents:
            connection.person_left(person.participant)
        self._close_if_empty()

    async def say(self, person: Person, text: str) -> None:
        """Tell everybody what ``person`` typed, and ask every agent to reply.

        The text stands in each agent's conversation before its model is asked: ``Agent.simple_response`` alone does not
        store it, and some models read nothing else. Returns once all are asked; the replies come as `Words`.

        Raises:
            ValueError: there is nothing but white space.
            RoomClosed: the person is not in the room any more.
            Exception: the first of those that agents raised; the others were asked all the same.
        """
        if not text.strip():
            raise ValueError("There is nothing to say: the text is empty")
        if person.participant.id not in self._people:
            raise RoomClosed("Who has left the room cannot speak in it")
        message_id = str(uuid.uuid4())
        self._tell(
            Words(
                message_id=message_id,
                role="user",
                user_id=person.participant.user_id,
                text=text,
                delta=text,
                completed=True,
                participant_id=person.participant.id,
            )
        )
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

    def attach(self, connection: BrowserConnection) -> None:
        self._check_open()
        self._tell(connection.presence(here=True))
        self._agents.append(connection)
        for person in self._people.values():
            connection.person_joined(person.participant)

    def detach(self, connection: BrowserConnection) -> None:
        if connection in self._agents:
            self._agents.remove(connection)
            self._tell(connection.presence(here=False))
            self._close_if_empty()

    def overhear(self, words: Words) -> None:
        """Pass on what is written into an agent's conversation."""
        if words.message_id not in self._typed:
            self._tell(words)

    def broadcast(self, data: dict[str, Any], *, agent_id: str) -> None:
        """Send a custom event to everybody.

        Raises:
            TypeError, ValueError: it is not JSON, or more than 5 KB of it.
        """
        encoded = json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
        if len(encoded) > MAX_CUSTOM_EVENT_BYTES:
            raise ValueError(
                f"A custom event may have {MAX_CUSTOM_EVENT_BYTES} bytes as JSON, this one has {len(encoded)}: "
                "send an id and let the page fetch the rest"
            )
        for person in self._people.values():
            person.deliver(CustomEvent(data=json.loads(encoded), agent_id=agent_id))

    # Within

    def _tell(self, event: RoomEvent) -> None:
        for person in self._people.values():
            person.deliver(event)

    def _check_open(self) -> None:
        if self._closed:
            raise RoomClosed(f"The room of {self.call_type}/{self.call_id} has closed: join_room() opens a new one")

    def _close_if_empty(self) -> None:
        if not self._people and not self._agents:
            self._close()

    def _close(self) -> None:
        self._closed = True
        if _rooms.get((self.call_type, self.call_id)) is self:
            del _rooms[self.call_type, self.call_id]


def _presence(person: Person, *, here: bool) -> Presence:
    return Presence(
        user_id=person.participant.user_id,
        participant_id=person.participant.id,
        name=person.name,
        is_agent=False,
        here=here,
    )
