"""How long each answer took, from the moment a person fell silent to the agent's voice, and where the time went.

All times that come in are seconds of ``time.monotonic()``; what goes out is whole milliseconds.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

TellTurn = Callable[[dict[str, Any]], None]

_AT_ONCE_SECONDS = 0.05
"""A transcript and an end of turn that come this close together come from one and the same step."""
_VOICE_SECONDS = 0.25
"""How long after a finished reply its voice may begin to be made, before the reply counts as one without."""
_SYNTHESIS_SECONDS = 10.0
_TAIL_SECONDS = 0.3
_MAX_PLAY_SECONDS = 120.0
_MAX_PEOPLE = 256
_MAX_OLD = 64


@dataclass(slots=True)
class _Turn:
    participant_id: str | None
    how: Literal["speech", "text"]
    silent_at: float | None = None
    ended_at: float | None = None
    trailing_seconds: float | None = None
    recognised_at: float | None = None
    processing_seconds: float | None = None
    words_at: float | None = None
    audio_at: float | None = None
    played_at: float | None = None
    audio_seconds: float = 0.0
    completed: bool = False
    messages: set[str] = field(default_factory=set)
    synthesising: set[str] = field(default_factory=set)

    @property
    def answered(self) -> bool:
        return self.words_at is not None or self.audio_at is not None

    def as_data(self, *, interrupted: bool) -> dict[str, Any]:
        """The data of a ``turn`` event.

        Each part lasts from the last moment that is known before it, so the parts that are known sum to the total. A
        part whose end is not known is None; the total is None if nothing before the answer is known.
        """
        decided, handed = self._decided_and_handed()
        audio = self.played_at or self.audio_at
        words = audio if self.words_at is None else self.words_at
        if words is not None and audio is not None:
            words = min(words, audio)
        silent = self.silent_at
        names = ("end_of_turn_ms", "recognition_ms", "model_ms", "voice_ms")
        first = last = None if silent is None else round(silent * 1000)
        parts: dict[str, int | None] = dict.fromkeys(names)
        known_before_words = first is not None
        for name, moment in zip(names, (decided, handed, words, audio), strict=True):
            if moment is None:
                continue
            ms = round(moment * 1000)
            if last is None:
                first = last = ms
            else:
                parts[name] = max(0, ms - last)
                last = max(last, ms)
            known_before_words = known_before_words or name in {"end_of_turn_ms", "recognition_ms"}
        if not known_before_words or first is None or last is None:
            parts["voice_ms"] = None
            total = None
        else:
            total = last - first
        return {
            "participant_id": self.participant_id,
            "how": self.how,
            **parts,
            "total_ms": total,
            "interrupted": interrupted,
        }

    def _decided_and_handed(self) -> tuple[float | None, float | None]:
        """When the end of the turn was decided, and when its text was there for the model."""
        ended, recognised = self.ended_at, self.recognised_at
        if recognised is None:
            return ended, None
        if ended is None:
            # Speech recognition alone: its final words are the end of the turn.
            processing = self.processing_seconds
            return (None if processing is None else recognised - processing), recognised
        if 0 <= ended - recognised <= _AT_ONCE_SECONDS and self.silent_at is not None and self.trailing_seconds:
            # Told only once it was recognised: the silence that decided it had been over before.
            return min(ended, self.silent_at + self.trailing_seconds), ended
        return ended, max(ended, recognised)


class TurnTracker:
    """Puts together what is told of a turn, and tells its times when the answer is over, interrupted or not.

    ``speaks`` says whether the agent has a voice apart from its model, ``realtime`` whether the model is the voice.
    """

    def __init__(self, tell: TellTurn, *, speaks: bool, realtime: bool = False) -> None:
        self._tell = tell
        self._speaks = speaks or realtime
        self._realtime = realtime
        self._voiced: dict[str, float] = {}
        self._started: dict[str, float] = {}
        self._heard: dict[str, _Turn] = {}
        self._ends_told: set[str] = set()
        self._current: _Turn | None = None
        self._old: deque[str] = deque(maxlen=_MAX_OLD)
        self._timer: asyncio.TimerHandle | None = None

    # The person

    def voiced(self, participant_id: str, at: float) -> None:
        """The person could be heard until ``at``."""
        if participant_id in self._voiced or len(self._voiced) < _MAX_PEOPLE:
            self._voiced[participant_id] = at

    def user_started(self, participant_id: str, at: float) -> None:
        """The person began to speak. But for Realtime models, which tell by themselves, that cuts every answer."""
        self._heard.pop(participant_id, None)
        if participant_id in self._started or len(self._started) < _MAX_PEOPLE:
            self._started[participant_id] = at
        if not self._realtime:
            self._cut()

    def user_ended(self, participant_id: str, at: float, trailing_silence_ms: float | None) -> None:
        """It was decided that the person has ended their turn."""
        if (turn := self._hear(participant_id)) is None:
            return
        self._ends_told.add(participant_id)
        turn.ended_at = at
        turn.trailing_seconds = None if trailing_silence_ms is None else trailing_silence_ms / 1000
        turn.silent_at = self._silent_since(participant_id, at)
        if turn.silent_at is None and turn.trailing_seconds is not None:
            turn.silent_at = at - turn.trailing_seconds

    def recognised(self, participant_id: str, at: float, processing_ms: float | None) -> None:
        """The final words of the person are there."""
        if (turn := self._hear(participant_id)) is None:
            return
        turn.recognised_at = at
        turn.processing_seconds = None if processing_ms is None else processing_ms / 1000
        if turn.ended_at is None:
            turn.silent_at = self._silent_since(participant_id, at)

    def said(self, participant_id: str, at: float) -> None:
        """A Realtime model heard words of the person. Not every one tells when their turn began or ended."""
        if participant_id not in self._ends_told and (turn := self._hear(participant_id)) is not None:
            turn.silent_at = self._silent_since(participant_id, at) or turn.silent_at

    def answering(self, participant_id: str, at: float) -> None:
        """The agent takes what the person said as their turn, and answers."""
        turn = self._heard.pop(participant_id, None)
        if turn is not None:
            self._cut()
            self._current = turn

    def asked(self, participant_id: str | None, at: float, *, interrupt: bool = True) -> None:
        """The agent was asked in writing to reply; None if nobody in the call did."""
        if self._current is not None and not interrupt and not self._current.completed:
            return  # it is dropped, as another answer is under way
        self._cut()
        self._current = _Turn(participant_id, "text", silent_at=at)

    def forget(self, participant_id: str) -> None:
        """The person left."""
        for known in (self._voiced, self._started, self._heard):
            known.pop(participant_id, None)
        self._ends_told.discard(participant_id)

    # The agent

    def words(self, message_id: str, at: float) -> None:
        """Words of the agent's message are there to be spoken."""
        if message_id in self._old:
            return
        turn = self._answer()
        if turn is None:
            self._old.append(message_id)  # it answers nothing that will be asked from now on
            return
        turn.messages.add(message_id)
        if turn.words_at is None:
            turn.words_at = at

    def reply_completed(self, message_id: str, at: float) -> None:
        """The agent's message is whole; ``message_id`` is "" where its audio is what is known to be whole."""
        turn = self._current
        if turn is not None and (message_id in turn.messages or (not message_id and turn.answered)):
            turn.completed = True
            self._await_end(turn)

    def synthesis_started(self, synthesis_id: str, at: float) -> None:
        if (turn := self._current) is not None:
            turn.synthesising.add(synthesis_id)
            self._await_end(turn)

    def synthesis_ended(self, synthesis_id: str | None, at: float, audio_seconds: float) -> None:
        """The voice of some words is made; with None and 0, that failed."""
        if (turn := self._current) is None:
            return
        if synthesis_id is None:
            turn.synthesising.clear()
        elif synthesis_id in turn.synthesising:
            turn.synthesising.discard(synthesis_id)
            turn.audio_seconds += audio_seconds
        self._await_end(turn)

    def audio_started(self, at: float) -> None:
        """The first piece of the agent's voice left for the call."""
        if (turn := self._answer()) is not None and turn.audio_at is None:
            turn.audio_at = at
            self._await_end(turn)

    def voice(self, at: float, seconds: float) -> None:
        """A Realtime model gave a piece of its voice."""
        if (turn := self._answer()) is None:
            return
        if turn.audio_at is None:
            turn.audio_at = at
            turn.words_at = at if turn.words_at is None else turn.words_at
        turn.audio_seconds += seconds
        if turn.completed:
            self._await_end(turn)

    def played(self, at: float) -> None:
        """The agent's voice really went out, after silence."""
        turn = self._current
        if turn is not None and turn.answered and turn.played_at is None:
            turn.played_at = at
            self._await_end(turn)

    def interrupted(self, at: float) -> None:
        """The answer that is under way was cut."""
        if self._current is not None and self._current.answered:
            self._cut()

    def close(self) -> None:
        """Tell the turn that is under way."""
        self._cut()
        self._heard.clear()

    # Within

    def _hear(self, participant_id: str) -> _Turn | None:
        turn = self._heard.get(participant_id)
        if turn is None and len(self._heard) < _MAX_PEOPLE:
            turn = self._heard[participant_id] = _Turn(participant_id, "speech")
        return turn

    def _silent_since(self, participant_id: str, at: float) -> float | None:
        voiced = self._voiced.get(participant_id)
        if voiced is None or voiced > at or voiced < self._started.get(participant_id, voiced):
            return None
        return voiced

    def _answer(self) -> _Turn | None:
        """The turn that is being answered. A Realtime model need not say whose it answers: the last one heard."""
        if self._current is None and self._realtime and self._heard:
            participant_id = next(reversed(self._heard))
            self._current = turn = self._heard.pop(participant_id)
            if turn.ended_at is None:
                turn.silent_at = self._silent_since(participant_id, time.monotonic())
        return self._current

    def _cut(self) -> None:
        turn = self._current
        if turn is not None:
            # While its end is awaited, a voice is playing; without one, there is nothing left to cut.
            self._finish(turn, interrupted=not turn.completed or turn.audio_at is not None)

    def _await_end(self, turn: _Turn) -> None:
        if not turn.completed:
            return
        if turn.audio_at is None:
            wait = _SYNTHESIS_SECONDS if turn.synthesising else _VOICE_SECONDS if self._speaks else 0.0
        else:
            playing = (turn.played_at or turn.audio_at) + turn.audio_seconds - time.monotonic()
            wait = max(playing, _SYNTHESIS_SECONDS if turn.synthesising else 0.0, 0.0) + _TAIL_SECONDS
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wait:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(min(wait, _MAX_PLAY_SECONDS), self._finish, turn)
        else:
            self._finish(turn)

    def _finish(self, turn: _Turn, interrupted: bool = False) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._current is turn:
            self._current = None
        self._old.extend(turn.messages)
        if turn.answered:
            self._tell(turn.as_data(interrupted=interrupted))
