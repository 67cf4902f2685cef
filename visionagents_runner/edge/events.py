"""What reaches the people of a room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Words:
    """Something said or typed. One message comes as several of these, each with ``text`` longer than the one before."""

    message_id: str
    role: str
    """"user" or "assistant"."""

    user_id: str
    """Who says it."""

    text: str
    """All of the message so far: whoever missed one of these has lost nothing."""

    delta: str | None
    """What this one adds to ``text``; None if the message was replaced by another wording."""

    completed: bool
    """Whether the message is final. One that is interrupted never is."""

    agent_id: str = ""
    """The id of the agent in whose conversation it stands; empty for what a person typed to the whole room."""

    participant_id: str = ""
    """The id of the person in the room, where it was typed."""


@dataclass(frozen=True, slots=True)
class Presence:
    """A person or an agent came or left."""

    user_id: str
    participant_id: str
    name: str
    is_agent: bool
    here: bool


@dataclass(frozen=True, slots=True)
class CustomEvent:
    """What an agent sent with ``send_custom_event``. ``data`` is a copy of its own for each person."""

    data: dict[str, Any]
    agent_id: str


RoomEvent = Words | Presence | CustomEvent
