"""What an agent is doing, from what it really plays and from what it says that it does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..observe import observe
from ..observe.conversation import Words
from .events import Happening

if TYPE_CHECKING:
    from vision_agents.core import Agent

    from ..observe import Observed, Observer

logger = logging.getLogger(__name__)

UNTOLD = frozenset({"partial", "custom"})
"""Kinds that reach people in another form already; but for what a person is saying, which is in no conversation yet."""

TURN_SECONDS = 60.0
"""An agent that has not said that its turn is over after so long is not thinking any more."""

SETTLE_SECONDS = 1.0
"""After its last word, an agent without a voice has that long to say that its turn is over."""


class AgentState:
    """One of "waiting" (nobody is there), "listening", "thinking", "speaking".

    Listens to the agent's observer too, and passes on what it tells.
    """

    def __init__(self, agent: Agent, tell: Callable[[Happening], None]) -> None:
        self.state = ""
        self._agent_id = agent.id
        self._tell = tell
        self._people = False
        self._speaking = False
        self._turn = False
        self._timer: asyncio.TimerHandle | None = None
        self._undo: Callable[[], None] | None = None
        self._observer: Observer | None = None
        with contextlib.suppress(ImportError):
            self._observer = observe(agent)
            self._undo = self._observer.add_listener(self._observed)
        self._update()

    def people_there(self, there: bool) -> None:
        self._people = there
        self._update()

    def speaking(self, speaking: bool) -> None:
        self._speaking = speaking
        self._update()

    def turn(self, begun: bool, *, after: float = 0.0) -> None:
        """A turn of the agent began or ended, ``after`` so many seconds."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        if begun:
            self._timer = loop.call_later(TURN_SECONDS, self.turn, False)
        elif after:
            self._timer = loop.call_later(after, self.turn, False)
            return
        self._turn = begun
        self._update()

    def voiced(self, participant_id: str, at: float) -> None:
        if self._observer is not None:
            self._observer.voiced(participant_id, at)

    def played(self, at: float) -> None:
        if self._observer is not None:
            self._observer.played(at)

    def shown(self, words: Words) -> Words | None:
        """What people may be shown of these words: ``REDACT`` sees them first. None for nothing."""
        if self._observer is None:
            return words
        data = {
            "message_id": words.message_id,
            "role": words.role,
            "user_id": words.user_id,
            "participant_id": words.participant_id,
            "text": words.text,
        }
        kind = "message" if words.completed else "partial"
        result = self._observer.redacted(kind, {**data, "completed": True} if words.completed else data)
        if result is None:
            return None
        text = str(result.get("text", ""))
        return words if text == words.text else replace(words, text=text, delta=None)

    def told(self) -> Happening:
        """For somebody who has just come."""
        return self._happening("state", {"state": self.state})

    def happened(self, kind: str, data: dict[str, Any]) -> None:
        self._tell(self._happening(kind, data))

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._undo is not None:
            self._undo()
            self._undo = None

    def _observed(self, observed: Observed) -> None:
        kind = observed.kind
        if kind in ("user_turn_ended", "agent_turn_started"):
            self.turn(True)
        elif kind == "agent_turn_ended":
            self.turn(False)
        elif kind == "error":
            self.turn(False, after=SETTLE_SECONDS)
        spoken = kind == "partial" and observed.data.get("participant_id") not in {None, self._agent_id}
        if spoken or kind not in UNTOLD:
            self.happened(kind, observed.data)

    def _update(self) -> None:
        if self._speaking:
            state = "speaking"
        elif self._turn:
            state = "thinking"
        else:
            state = "listening" if self._people else "waiting"
        if state != self.state:
            self.state = state
            self.happened("state", {"state": state})

    def _happening(self, kind: str, data: dict[str, Any]) -> Happening:
        return Happening(kind, data, self._agent_id)
