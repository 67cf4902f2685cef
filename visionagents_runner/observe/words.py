"""What is said and typed: partial words as they come, each message once when it is final."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .hooks import Undo, quietly

if TYPE_CHECKING:
    from vision_agents.core import Agent
    from vision_agents.core.edge.types import Participant

    from .conversation import Words
    from .turns import TurnTracker

Tell = Callable[..., None]

_MAX_OPEN = 32
_MAX_DONE = 256
_SETTLE_SECONDS = 0.25
"""A piece of an interrupted reply may still be on its way when the interruption is told."""


@dataclass(slots=True)
class _Open:
    role: str
    user_id: str
    text: str
    at: float
    interrupted: bool = False


class WordsWatch:
    """Watches an agent's conversation, and what its speech recognition says before that reaches the conversation.

    Messages that never become final (an interrupted reply) are told as such when the turn is over.
    """

    def __init__(self, agent: Agent, tell: Tell, turns: TurnTracker) -> None:
        self._agent_id = str(getattr(agent, "id", ""))
        self._tell = tell
        self._turns = turns
        self._open: dict[str, _Open] = {}
        self._done: deque[str] = deque(maxlen=_MAX_DONE)
        self._heard: dict[str, tuple[str, str]] = {}
        self._settling: asyncio.TimerHandle | None = None
        self._undo: Undo | None = None
        conversation = getattr(agent, "conversation", None)
        if conversation is not None:
            self.watch(conversation)

    def watch(self, conversation: Any) -> None:
        """Watch this conversation from now on, and no other."""
        from .conversation import watch_words

        self.unwatch()
        self._undo = watch_words(conversation, lambda words: quietly("words", self._on_words, words))

    def unwatch(self) -> None:
        if self._undo is not None:
            self._undo()
            self._undo = None

    def heard(self, participant: Participant, text: str, mode: str) -> None:
        """Speech recognition's words before they are final; ``mode`` is upstream's TranscriptMode.

        The conversation will give the final message an id of its own; until then the words go by one of ours.
        """
        key = str(participant.id)
        if mode == "final":
            self._heard.pop(key, None)
            return
        message_id, before = self._heard.get(key) or (f"partial-{uuid.uuid4()}", "")
        text = before + text if mode == "delta" else text
        if key not in self._heard and len(self._heard) >= _MAX_OPEN:
            self._heard.pop(next(iter(self._heard)))
        self._heard[key] = (message_id, text)
        self._tell_partial(message_id, "user", str(participant.user_id), text, participant_id=key)

    def interrupted(self) -> None:
        """The agent's reply was cut: tell its unfinished messages, once what is on its way has come."""
        waiting = False
        for message in self._open.values():
            if message.role == "assistant":
                message.interrupted = waiting = True
        if waiting and self._settling is None:
            self._settling = asyncio.get_running_loop().call_later(_SETTLE_SECONDS, self._settle)

    def close(self) -> None:
        self.unwatch()
        self._settle()
        for message_id in list(self._open):
            self._tell_unfinished(message_id)

    def _on_words(self, words: Words) -> None:
        message_id = words.message_id
        if message_id in self._done:
            return
        now = time.time()
        if words.role == "assistant":
            # Only a new piece of another reply says that the interrupted one is over; so does what a person says.
            if message_id not in self._open:
                self._settle()
            if words.text:
                self._turns.words(message_id, time.monotonic())
        else:
            self._settle()
        if words.completed:
            self._open.pop(message_id, None)
            self._done.append(message_id)
            if words.text:
                self._tell_message(message_id, words.role, words.user_id, words.text, completed=True, at=now)
            if words.role == "assistant":
                self._turns.reply_completed(message_id, time.monotonic())
            return
        message = self._open.get(message_id)
        if message is None:
            if len(self._open) >= _MAX_OPEN:
                self._tell_unfinished(next(iter(self._open)))
            message = self._open[message_id] = _Open(words.role, words.user_id, "", now)
        if words.text != message.text:
            message.text, message.at = words.text, now
            participant_id = self._agent_id if words.role == "assistant" else None
            self._tell_partial(message_id, words.role, words.user_id, words.text, participant_id=participant_id)

    def _settle(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        for message_id in [key for key, message in self._open.items() if message.interrupted]:
            self._tell_unfinished(message_id)

    def _tell_unfinished(self, message_id: str) -> None:
        message = self._open.pop(message_id)
        self._done.append(message_id)
        if message.text.strip():
            self._tell_message(message_id, message.role, message.user_id, message.text, completed=False, at=message.at)

    def _tell_message(self, message_id: str, role: str, user_id: str, text: str, *, completed: bool, at: float) -> None:
        data = {"message_id": message_id, "role": role, "user_id": user_id, "completed": completed, "text": text}
        self._tell("message", data, at)

    def _tell_partial(self, message_id: str, role: str, user_id: str, text: str, *, participant_id: str | None) -> None:
        data = {"message_id": message_id, "role": role, "user_id": user_id, "participant_id": participant_id}
        self._tell("partial", {**data, "text": text})
