"""Conversations that tell, piece by piece, what is written into them.

There is no delta event in vision-agents, and Realtime models emit no transcript at all: both pass only through the
conversation, so that is what has to be watched.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vision_agents.core.agents.conversation import Conversation, Message

logger = logging.getLogger(__name__)


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


Listener = Callable[[Words], None]
"""Called on the event loop within the agent's own work: it must not block, only pass on."""


class Teller:
    """Turns the states of messages into `Words` and hands them to listeners."""

    def __init__(self, agent_id: str) -> None:
        self.agent_id = agent_id
        self.listeners: list[Listener] = []
        self._told: dict[str, str] = {}

    def tell(self, message: Message, *, completed: bool) -> None:
        message_id = str(message.id)
        before, text = self._told.get(message_id, ""), message.content
        if completed:
            self._told.pop(message_id, None)
        else:
            self._told[message_id] = text
        words = Words(
            message_id=message_id,
            role=message.role or "",
            user_id=message.user_id or "",
            text=text,
            delta=_added(before, text),
            completed=completed,
            agent_id=self.agent_id,
        )
        for listener in tuple(self.listeners):
            try:
                listener(words)
            except Exception:
                logger.exception("A listener of the conversation failed")


def _added(before: str, text: str) -> str | None:
    if text.startswith(before):
        return text[len(before) :]
    # A final text comes stripped, where the pieces before it ended with a space.
    return "" if text.rstrip() == before.rstrip() else None


def watch_words(conversation: Conversation, listener: Listener, *, agent_id: str = "") -> Callable[[], None]:
    """Tell ``listener`` what is written into any conversation, another edge's included. Returns what undoes it."""
    tells: Callable[[Listener], Callable[[], None]] | None = getattr(conversation, "tell_words_to", None)
    if tells is not None:
        return tells(listener)

    original = conversation.upsert_message
    signature = inspect.signature(original)
    teller = Teller(agent_id)
    teller.listeners.append(listener)
    final: set[str] = set()

    async def upsert_message(*args: Any, **kwargs: Any) -> Message:
        message = await original(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        completed = bool(bound.arguments.get("completed", True))
        if str(message.id) not in final:
            if completed:
                final.add(str(message.id))
            teller.tell(message, completed=completed)
        return message

    conversation.upsert_message = upsert_message  # type: ignore[method-assign]

    def undo() -> None:
        teller.listeners.clear()
        if vars(conversation).get("upsert_message") is upsert_message:
            del conversation.upsert_message

    return undo
