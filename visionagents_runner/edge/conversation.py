"""Conversations that tell, piece by piece, what is written into them.

There is no delta event in vision-agents, and Realtime models emit no transcript at all: both pass only through the
conversation, so that is what has to be watched.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

from vision_agents.core.agents.conversation import Conversation, InMemoryConversation, Message, MessageState

from .events import Words

logger = logging.getLogger(__name__)

Listener = Callable[[Words], None]
"""Called on the event loop within the agent's own work: it must not block, only pass on."""


class _Teller:
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


class RoomConversation(InMemoryConversation):
    """The conversation of one agent in a room, kept in memory."""

    def __init__(self, instructions: str, *, agent_id: str = "") -> None:
        super().__init__(instructions, [])
        self._teller = _Teller(agent_id)

    def add_listener(self, listener: Listener) -> None:
        self._teller.listeners.append(listener)

    def remove_listener(self, listener: Listener) -> None:
        if listener in self._teller.listeners:
            self._teller.listeners.remove(listener)

    # Not upsert_message: this hook runs under the conversation's lock, so in order, and never for a late piece that
    # the conversation ignores.
    async def _sync_to_backend(self, message: Message, state: MessageState, completed: bool) -> None:
        await super()._sync_to_backend(message, state, completed)
        self._teller.tell(message, completed=completed)


def watch_words(conversation: Conversation, listener: Listener, *, agent_id: str = "") -> Callable[[], None]:
    """Tell ``listener`` what is written into any conversation, another edge's included. Returns what undoes it."""
    if isinstance(conversation, RoomConversation):
        conversation.add_listener(listener)
        return lambda: conversation.remove_listener(listener)

    original = conversation.upsert_message
    signature = inspect.signature(original)
    teller = _Teller(agent_id)
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
