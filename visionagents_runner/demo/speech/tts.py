"""`LocalTTS`: a voice on this machine, in English."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from getstream.video.rtc import PcmData
from vision_agents.core.edge.types import Participant
from vision_agents.core.tts.tts import TTS, TTSOutputChunk
from vision_agents.core.warmup import Warmable

from .engine import Job, Priority, speech_engine
from .voices import Sound, Voice, shared_voice, without_lead

FIRST_PHRASE_CHARACTERS = 24
"""About so much is spoken as the first phrase of a long sentence, so that it is heard while the rest is made."""

PHRASE_CHARACTERS = 90
_PATIENCE_SECONDS = 3.0
_LOOK_SECONDS = 0.05
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_CLAUSE = re.compile(r"(?<=[,;:])\s+")


class LocalTTS(TTS, Warmable[None]):
    """Speaks phrase by phrase, in the thread of `engine`: the first is heard while the next is made."""

    streaming = True
    model = "local"

    def __init__(self, *, audible: Callable[[], bool] | None = None) -> None:
        """``audible`` tells whether anybody can hear it; while nobody can, nothing is spoken, told or measured."""
        super().__init__("local")
        self._audible = audible
        self._patient_until: float | None = None
        self._told = False
        self._current: Job[Sound] | None = None

    async def on_warmup(self) -> None:
        """Begin to load the voice. It is not waited for: a session may go by in text alone."""
        shared_voice.start()

    def on_warmed_up(self, resource: None) -> None:
        """The voice is the process's."""

    async def send_iter(
        self, text: str, participant: Participant | None = None, *args: Any, **kwargs: Any
    ) -> AsyncIterator[TTSOutputChunk]:
        if not await self._is_heard() or await self._voice() is None:
            return
        async for chunk in super().send_iter(text, participant, *args, **kwargs):
            yield chunk

    async def stream_audio(self, text: str, *args: Any, **kwargs: Any) -> AsyncIterator[PcmData]:
        """Return the sound of ``text``, phrase by phrase. It ends early when the agent is interrupted.

        Raises:
            SpeechUnavailable: there is no voice; the message says the fix.
        """
        return _Phrases(self, await shared_voice.wait(), phrases(text))

    async def stop_audio(self) -> None:
        if self._current is not None:
            self._current.cancel()

    async def _is_heard(self) -> bool:
        """Whether somebody can hear it. The first words wait a little for those who are just connecting."""
        if self._audible is None:
            return True
        loop = asyncio.get_running_loop()
        if self._patient_until is None:
            self._patient_until = loop.time() + _PATIENCE_SECONDS
        epoch = self._epoch
        while (  # noqa: ASYNC110 - whoever knows has no event to wait for
            not (audible := self._audible()) and loop.time() < self._patient_until and epoch == self._epoch
        ):
            await asyncio.sleep(_LOOK_SECONDS)
        return audible

    async def _voice(self) -> Voice | None:
        """The voice, once it is loaded; None where it cannot be, which is told once."""
        try:
            voice = await shared_voice.wait()
        except Exception as error:
            if not self._told:
                self._told = True
                self._emit_error_event(error, context="loading the voice")
            return None
        self._told = False
        self.model = voice.name
        return voice


class _Phrases:
    """An iterator, not a generator: one that is left half-way needs nobody to close it."""

    def __init__(self, tts: LocalTTS, voice: Voice, waiting: list[str]) -> None:
        self._tts = tts
        self._voice = voice
        self._waiting = deque(waiting)
        self._epoch = tts.epoch
        self._first = True

    def __aiter__(self) -> _Phrases:
        return self

    async def __anext__(self) -> PcmData:
        rate = self._voice.sample_rate
        while self._waiting:
            sound = await self._speak(self._waiting.popleft())
            if sound is None or self._epoch != self._tts.epoch:
                break
            if self._first:
                sound, self._first = without_lead(sound, rate), False
            if len(sound):
                return PcmData(samples=sound, sample_rate=rate, format="s16", channels=1)
        raise StopAsyncIteration

    async def _speak(self, text: str) -> Sound | None:
        """Return the sound of ``text``; None if the agent was interrupted meanwhile."""
        job = speech_engine().submit(Priority.VOICE, lambda _: self._voice.speak(text))
        self._tts._current = job
        try:
            return await job.done
        except asyncio.CancelledError:
            job.cancel()
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # not the job was cancelled, but who waits for it
            return None


def phrases(text: str) -> list[str]:
    """Cut ``text`` where a speaker would breathe: after sentences, and within long ones after clauses.

    Only the first phrase is cut short; later ones are made while it plays, and sound better in one.
    """
    cut: list[str] = []
    for sentence in _SENTENCE.split(text.strip()):
        phrase = ""
        for clause in _CLAUSE.split(sentence):
            longest = PHRASE_CHARACTERS if cut else FIRST_PHRASE_CHARACTERS
            if phrase and len(phrase) + len(clause) > longest:
                cut.append(phrase)
                phrase = clause
            else:
                phrase = f"{phrase} {clause}" if phrase else clause
        if phrase:
            cut.append(phrase)
    return cut
