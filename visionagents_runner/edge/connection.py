"""`BrowserConnection`: one agent's place in a room."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from vision_agents.core.edge.events import CallEndedEvent, ParticipantJoinedEvent, ParticipantLeftEvent
from vision_agents.core.edge.types import Connection, Participant

from .call import BrowserCall
from .conversation import RoomConversation
from .events import Presence
from .room import Room, room_of

if TYPE_CHECKING:
    from vision_agents.core import Agent
    from vision_agents.core.events.manager import EventManager

PLUGIN_NAME = "browser"


class BrowserConnection(Connection):
    """Made by `BrowserEdge.join`; entering the room is part of making it."""

    def __init__(self, agent: Agent, call: BrowserCall, events: EventManager) -> None:
        self.agent = agent
        self.call = call
        self.conversation: RoomConversation | None = None
        self._events = events
        self._emptied_at = 0.0
        self._waiters: set[asyncio.Future[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False
        self.room: Room = room_of(call.call_type, call.id)
        self.room.attach(self)

    async def close(self) -> None:
        """Leave the room. Closing twice does nothing."""
        self._closed = True
        self._emptied_at = 0.0
        if self.conversation is not None:
            self.conversation.remove_listener(self.room.overhear)
        self.room.detach(self)
        self._wake()

    async def wait_for_participant(self, timeout: float | None = None) -> None:
        """Return as soon as a person is in the room, at once if one is.

        Raises:
            TimeoutError: nobody came within ``timeout`` seconds.
            ConnectionError: the agent left the room first.
        """
        if not self.room.people and not self._closed:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await asyncio.wait_for(waiter, timeout)
            finally:
                self._waiters.discard(waiter)
        if self._closed:
            raise ConnectionError("The agent left the call while it waited for somebody to join")

    def idle_since(self) -> float:
        """When the last person left, as of ``time.time()``; 0.0 while somebody is there, and before anybody came."""
        return self._emptied_at

    # The room's side

    def presence(self, *, here: bool) -> Presence:
        user = self.agent.agent_user
        return Presence(
            user_id=user.id or "",
            participant_id=self.agent.id,
            name=user.name or user.id or "",
            is_agent=True,
            here=here,
        )

    def person_joined(self, participant: Participant) -> None:
        self._emptied_at = 0.0
        self._events.send(ParticipantJoinedEvent(plugin_name=PLUGIN_NAME, participant=participant, call=self.call))
        self._wake()

    def person_left(self, participant: Participant) -> None:
        if not self.room.people:
            self._emptied_at = time.time()
        self._events.send(ParticipantLeftEvent(plugin_name=PLUGIN_NAME, participant=participant, call=self.call))

    async def hear(self, participant: Participant, text: str, message_id: str) -> None:
        """Store what a person typed in the agent's conversation and ask the agent to reply."""
        if self.conversation is not None:
            await self.conversation.send_message("user", participant.user_id, text, message_id=message_id)
        await self.agent.simple_response(text, participant=participant)

    def call_ended(self) -> None:
        """Tell the agent that the call is over.

        The agent closes itself inside its handler of this event, and closing cancels and awaits every handler that the
        event bus knows, this one included: neither would ever end, and ``agent.closed`` never become True
        (vision-agents 0.6.9). So the bus must not know of it; the reference is kept here instead.
        """
        known: set[asyncio.Task[None]] = self._events._handler_tasks
        before = set(known)
        self._events.send(CallEndedEvent(plugin_name=PLUGIN_NAME, call=self.call))
        started = known - before
        known.difference_update(started)
        self._ending.update(started)
        for task in started:
            task.add_done_callback(self._ending.discard)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
