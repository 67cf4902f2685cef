"""What reaches the people of a room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..observe.conversation import Words


@dataclass(frozen=True, slots=True)
class Presence:
    """A person or an agent came or left."""

    user_id: str
    participant_id: str
    name: str
    is_agent: bool
    here: bool
    muted: bool = False
    wants_video: bool = False
    """Whether the agent looks at people's cameras."""

    publishes_video: bool = False
    publishes_audio: bool = False


@dataclass(frozen=True, slots=True)
class CustomEvent:
    """What an agent sent with ``send_custom_event``. ``data`` is a copy of its own for each person."""

    data: dict[str, Any]
    agent_id: str


@dataclass(frozen=True, slots=True)
class Happening:
    """What an agent did: an event of its observer (see `visionagents_runner.observe`), or one of these two.

    "state" ``{"state": "waiting" | "listening" | "thinking" | "speaking"}``; "interrupted"
    ``{"message_id", "heard": 0..1}``: how much of the reply had really been played when it was cut.
    """

    kind: str
    data: dict[str, Any]
    agent_id: str


@dataclass(frozen=True, slots=True)
class Speaking:
    """Somebody began or ceased to be audible: a person, or an agent (whose ``participant_id`` is the agent's id)."""

    participant_id: str
    speaking: bool


@dataclass(frozen=True, slots=True)
class Media:
    """The way that a person's audio and video take; only that person is told."""

    transport: str
    """"webrtc" or "websocket"."""

    state: str
    """"connecting", "connected", "failed" or "closed"."""

    detail: str = ""
    """Why it failed, in a sentence, if it was shut out."""


@dataclass(frozen=True, slots=True)
class Renegotiate:
    """The browser should send a new offer: an agent that wants or publishes video has come or left."""


RoomEvent = Words | Presence | CustomEvent | Happening | Speaking | Media | Renegotiate
