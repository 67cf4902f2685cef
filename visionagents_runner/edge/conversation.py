"""`RoomConversation`: what is said between one agent and the people of its room."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from vision_agents.core.agents.conversation import InMemoryConversation, Message, MessageState

from ..observe.conversation import Listener, Teller


class RoomConversation(InMemoryConversation):
    """The conversation of one agent in a room, kept in memory."""

    def __init__(self, instructions: str, *, agent_id: str = "") -> None:
        super().__init__(instructions, [])
        self._teller = Teller(agent_id)

    def tell_words_to(self, listener: Listener) -> Callable[[], None]:
        """What `observe.conversation.watch_words` asks for. Returns what ends it."""
        listeners = self._teller.listeners
        listeners.append(listener)

        def undo() -> None:
            with suppress(ValueError):
                listeners.remove(listener)

        return undo

    # Not upsert_message: this hook runs under the conversation's lock, so in order, and never for a late piece that
    # the conversation ignores.
    async def _sync_to_backend(self, message: Message, state: MessageState, completed: bool) -> None:
        await super()._sync_to_backend(message, state, completed)
        self._teller.tell(message, completed=completed)
