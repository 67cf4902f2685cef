"""The voice of the demo agent, which is none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from vision_agents.core.edge.types import Participant
from vision_agents.core.tts.tts import TTS, TTSOutputChunk


class SilentTTS(TTS):
    """Speaks nothing, and records nothing: no event, no metric, no empty audio.

    An `Agent` refuses to be built with neither speech recognition, nor a voice, nor a turn detector, nor a video
    processor, and this one talks by text alone.
    """

    streaming = False
    model = "none"

    def __init__(self) -> None:
        super().__init__("silent")

    async def send_iter(
        self, text: str, participant: Participant | None = None, *args: Any, **kwargs: Any
    ) -> AsyncIterator[TTSOutputChunk]:
        chunks: tuple[TTSOutputChunk, ...] = ()
        for chunk in chunks:
            yield chunk

    async def stream_audio(self, text: str, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        return self.send_iter(text)

    async def stop_audio(self) -> None:
        """Nothing plays."""
