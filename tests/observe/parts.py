"""Real agents whose ears, voice and model do as a test tells them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from getstream.video.rtc.track_util import PcmData
from vision_agents.core import Agent
from vision_agents.core.edge.types import Participant
from vision_agents.core.llm.llm import LLM, LLMResponseDelta, LLMResponseFinal
from vision_agents.core.llm.realtime import Realtime
from vision_agents.core.stt.stt import STT, TranscriptResponse
from vision_agents.core.tts.tts import TTS

from visionagents_runner.observe import Observed, Observer, observe
from visionagents_runner.testing import StubEdge, stub_agent

CALLER = Participant(original=None, user_id="caller", id="caller-1")


def pcm(seconds: float) -> PcmData:
    return PcmData(samples=np.zeros(int(16000 * seconds), np.int16), sample_rate=16000, format="s16", channels=1)


class Ears(STT):
    """Hears what `says`, `murmurs`, `starts` and `ends` tell it."""

    turn_detection = True

    def __init__(self) -> None:
        super().__init__("ears")

    async def process_audio(self, pcm_data: PcmData, participant: Participant) -> None: ...

    def starts(self, who: Participant = CALLER) -> None:
        self._emit_turn_started_event(who)

    def murmurs(self, text: str, who: Participant = CALLER, mode: Any = "replacement") -> None:
        self._emit_transcript_event(text, who, TranscriptResponse(), mode=mode)

    def says(self, text: str, who: Participant = CALLER, processing_ms: float | None = None) -> None:
        self._emit_transcript_event(text, who, TranscriptResponse(processing_time_ms=processing_ms))

    def ends(self, who: Participant = CALLER, trailing_silence_ms: float | None = None) -> None:
        self._emit_turn_ended_event(who, trailing_silence_ms=trailing_silence_ms)


class Voice(TTS):
    """Speaks ``seconds`` of audio for each text, in two pieces."""

    streaming = True

    def __init__(self, seconds: float = 0.1) -> None:
        super().__init__("voice")
        self.seconds = seconds

    async def stream_audio(self, text: str, *args: Any, **kwargs: Any) -> Any:
        return iter([pcm(self.seconds / 2), pcm(self.seconds / 2)])

    async def stop_audio(self) -> None: ...


class Slow(LLM):
    """Answers with ``words`` one by one; after ``gate`` of them it waits until `go`."""

    provider_name = "slow"

    def __init__(self, *words: str, gate: int = 10**6) -> None:
        super().__init__()
        self.words = words or ("All ", "is ", "well.")
        self.gate = gate
        self.go = asyncio.Event()
        self.waiting = asyncio.Event()
        self.count = 0

    async def simple_response(self, text: str, participant: Participant | None = None) -> AsyncIterator[Any]:
        self.count += 1
        item_id = f"reply-{self.count}"
        for index, word in enumerate(self.words):
            if index == self.gate:
                self.waiting.set()
                await self.go.wait()
            yield LLMResponseDelta(delta=word, content_index=index, item_id=item_id)
        yield LLMResponseFinal(text="".join(self.words), item_id=item_id)


class LiveModel(Realtime):
    """A Realtime model whose server is the test."""

    provider_name = "live"

    async def connect(self) -> None:
        self._on_connected()

    async def close(self) -> None:
        self._on_disconnected(reason="closed")

    async def simple_audio_response(self, pcm: PcmData, participant: Participant) -> None: ...

    async def simple_response(self, text: str, participant: Participant | None = None) -> AsyncIterator[Any]:
        for item in ():
            yield item

    async def watch_video_track(self, track: Any, shared_forwarder: Any = None) -> None: ...


class Diary(list[Observed]):
    """What an observer told; `wait_for` awaits the next event of a kind."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self._news = asyncio.Event()
        observer.add_listener(self._note)

    def _note(self, event: Observed) -> None:
        self.append(event)
        self._news.set()

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        return [event.data for event in self if event.kind in kinds]

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self]

    async def wait_for(self, kind: str, count: int = 1) -> dict[str, Any]:
        async with asyncio.timeout(10):
            while len(self.of(kind)) < count:
                self._news.clear()
                await self._news.wait()
        return self.of(kind)[count - 1]


@asynccontextmanager
async def on_call(agent: Agent | None = None, **options: Any) -> AsyncIterator[tuple[Agent, Diary]]:
    """An agent that has joined a call, and the diary of its observer."""
    agent = agent or stub_agent(edge=StubEdge(), **options)
    observer = observe(agent)
    diary = Diary(observer)
    call = await agent.create_call("default", f"observed-{agent.id}")
    try:
        async with agent.join(call, participant_wait_timeout=0):
            yield agent, diary
    finally:
        observer.close()
