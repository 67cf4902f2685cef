"""How the chat reaches an agent: as a person in its room, or, on another edge, through its conversation."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from .events import subscribe

if TYPE_CHECKING:
    from vision_agents.core import Agent
    from vision_agents.core.agents.conversation import Conversation

    from ...edge import BrowserEdge, Person, Presence, RoomEvent, Words
    from ...sessions.session import LiveSession

_LOOK_SECONDS = 0.02


class Audience(Protocol):
    """What a connection reports to."""

    def on_words(self, words: Words) -> None: ...
    def on_presence(self, presence: Presence) -> None: ...
    def on_custom_event(self, data: dict[str, Any]) -> None: ...


class AgentConnection(Protocol):
    """Reports the agent's words from the start, whether or not it has entered."""

    def enter(self) -> None:
        """Be on the call from now on. Entering twice does nothing."""

    async def say(self, text: str) -> None:
        """Let the agent hear ``text``; returns once it is asked, before it replies."""

    def leave(self, *, end: bool) -> bool:
        """Be gone. With ``end``, end the call if nobody else is on it; returns whether it did."""


async def connect(session: LiveSession, audience: Audience) -> AgentConnection:
    """Return the connection to the session's agent, once that is on its call."""
    from ...edge import BrowserEdge

    agent = session.agent
    # Looked at, not awaited: the agent tells that it joined, but sets up its conversation only after that.
    while (conversation := agent.conversation) is None:  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_SECONDS)
    if isinstance(agent.edge, BrowserEdge):
        return RoomConnection(agent, conversation, agent.edge, audience)
    return ConversationLink(session, conversation, audience)


def user_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "you"  # a container's user may have no name


class RoomConnection:
    """One of the people in the agent's room."""

    def __init__(self, agent: Agent, conversation: Conversation, edge: BrowserEdge, audience: Audience) -> None:
        from ...edge import watch_words

        self._agent = agent
        self._room = edge.room
        self._audience = audience
        self._person: Person | None = None
        self._reader: asyncio.Task[None] | None = None
        self._undo = watch_words(conversation, self._on_words, agent_id=agent.id)

    def enter(self) -> None:
        from ...edge import RoomClosed

        if self._person is None and self._room is not None:
            with suppress(RoomClosed):  # the call ended this moment; the session will say so
                self._person = self._room.join(user_name())
        if self._person is not None and self._reader is None:
            self._reader = asyncio.create_task(self._read(self._person), name="console-room")

    async def say(self, text: str) -> None:
        if self._person is None:
            raise RuntimeError("The agent has left the call")
        await self._person.say(text)

    def leave(self, *, end: bool) -> bool:
        self._undo()
        if self._person is None or self._room is None:
            return False
        self._person.leave()
        if self._reader is not None:
            self._reader.cancel()
        if not end or self._room.people:
            return False
        self._room.end()
        return True

    def _on_words(self, words: Words) -> None:
        if words.role == "assistant":  # what people say comes through the room
            self._audience.on_words(words)

    async def _read(self, person: Person) -> None:
        async for event in person:
            self._dispatch(event, person)

    def _dispatch(self, event: RoomEvent, person: Person) -> None:
        from ...edge import CustomEvent, Presence, Words

        if isinstance(event, Words):
            typed_here = event.participant_id == person.participant.id
            of_agent = event.role == "assistant" and event.agent_id == self._agent.id
            if not typed_here and not of_agent:
                self._audience.on_words(event)
        elif isinstance(event, Presence):
            if event.participant_id != self._agent.id:
                self._audience.on_presence(event)
        elif isinstance(event, CustomEvent):
            self._audience.on_custom_event(event.data)


class ConversationLink:
    """On an edge that is not ours: what is typed goes straight to the agent, its words come from its conversation."""

    def __init__(self, session: LiveSession, conversation: Conversation, audience: Audience) -> None:
        from vision_agents.core.edge.events import ParticipantJoinedEvent, ParticipantLeftEvent

        from ...edge import watch_words

        self._agent = agent = session.agent
        self._session = session
        self._audience = audience
        self._conversation = conversation
        self._user_id = user_name()
        self._others: set[str] = set()

        async def on_participant(event: Any) -> None:
            if isinstance(event, ParticipantJoinedEvent):
                self._others.add(event.participant.id)
            else:
                self._others.discard(event.participant.id)

        self._undo: list[Callable[[], None]] = [
            watch_words(conversation, self._on_words, agent_id=agent.id),
            subscribe(agent, on_participant, ParticipantJoinedEvent, ParticipantLeftEvent),
        ]

    def enter(self) -> None:
        """Nothing to do: the agent can be talked to from outside."""

    async def say(self, text: str) -> None:
        from vision_agents.core.edge.types import Participant

        # simple_response does not store what was said, and some models read nothing but the conversation.
        await self._conversation.send_message("user", self._user_id, text)
        participant = Participant(original=None, user_id=self._user_id, id=self._user_id)
        await self._agent.simple_response(text, participant=participant)

    def leave(self, *, end: bool) -> bool:
        for undo in self._undo:
            undo()
        if not end or self._others:
            return False
        from ...models import EndReason  # late: the console loads before Django has its apps

        self._session.request_close(by="console", reason=EndReason.FINISHED)
        return True

    def _on_words(self, words: Words) -> None:
        if not (words.role == "user" and words.user_id == self._user_id):
            self._audience.on_words(words)
