"""`Turn`: one line that was sent, the agent's reply to it, and how long that took."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vision_agents.core import Agent

    from ...edge import Words

SLOW_MS = 1000


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of a turn, in milliseconds."""

    model: float
    """From the line that was sent to the model's first word, tool calls included."""

    voice: float | None = None
    """What the voice then needed until its first sound; None if it had not spoken when the reply was complete."""

    @property
    def total(self) -> float:
        """How long there was nothing to read or, where the agent has a voice, to hear."""
        return self.model + (self.voice or 0.0)

    @property
    def slow(self) -> bool:
        return self.total >= SLOW_MS

    def line(self, *, dot: str = "·", dash: str = "─") -> str:
        voice = "" if self.voice is None else f" {dot} voice {self.voice:.0f}"
        return f"model {self.model:.0f}{voice} {dash} {self.total:.0f} ms"


class Turn:
    """Knows when the reply is complete, which nothing says outright.

    That the model has ended is an event, its words come through the conversation, and an ``agent.say()`` (a greeting)
    may come in between: that one has neither partial words nor an event. A Realtime model has no event at all.
    """

    def __init__(self, *, realtime: bool = False) -> None:
        self.done = asyncio.Event()
        self.interrupted = False
        self.error = ""
        self._realtime = realtime
        self._began = time.perf_counter()
        self._first_word: float | None = None
        self._voice: float | None = None
        self._final: str | None = None
        self._partial: set[str] = set()
        self._complete: list[str] = []

    def on_words(self, words: Words) -> None:
        """The agent says something."""
        if not words.completed:
            self._partial.add(words.message_id)
            self._note_first_word()
        elif self._realtime or self._final is not None or words.message_id in self._partial:
            self._finish(words.text)
        else:
            self._complete.append(_bare(words.text))

    def on_final(self, text: str) -> None:
        """The model has ended its reply; its last words may still be on their way."""
        self._final = _bare(text)
        if self._final in self._complete:
            self._finish(text)

    def on_voice(self, milliseconds: float) -> None:
        if self._voice is None:
            self._voice = milliseconds

    def fail(self, error: str) -> None:
        if not self.done.is_set():
            self.error = error
            self.done.set()

    def interrupt(self) -> None:
        if not self.done.is_set():
            self.interrupted = True
            self.done.set()

    async def watch_model(self, agent: Agent) -> None:
        """End the turn if the model ends without a reply: what it raises is only logged upstream."""
        task = _model_task(agent)
        if task is None:
            return
        await asyncio.wait({task})
        # The handlers of the events that it sent have run by now: they were scheduled before this.
        if self._final is not None:
            return
        if task.cancelled():
            self.interrupt()
        elif (error := task.exception()) is not None:
            self.fail(f"{type(error).__name__}: {error}")
        else:
            self.fail("The model gave no answer.")

    def figures(self) -> Figures | None:
        """What was measured; None if there was no reply."""
        if self._first_word is None or self.interrupted or self.error:
            return None
        return Figures(model=(self._first_word - self._began) * 1000, voice=self._voice)

    def _note_first_word(self) -> None:
        if self._first_word is None:
            self._first_word = time.perf_counter()

    def _finish(self, text: str) -> None:
        if text.strip():
            self._note_first_word()
            self.done.set()
        else:
            # So ends a failed request with upstream's OpenAI plugin: no error event, an empty reply.
            self.fail("The model gave an empty answer; the log may say why.")


def _bare(text: str) -> str:
    """As it stands in the conversation, which leaves out these marks of Markdown."""
    return text.replace("*", "").replace("#", "").strip()


def _model_task(agent: Agent) -> asyncio.Task[Any] | None:
    """The task in which the model answers; None where the agent has another way to answer (a Realtime model)."""
    turn = getattr(getattr(agent, "_flow", None), "_llm_turn", None)
    task = getattr(turn, "_llm_response_task", None)
    return task if isinstance(task, asyncio.Task) else None
