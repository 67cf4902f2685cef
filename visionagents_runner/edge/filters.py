"""An audio filter that needs no model."""

from __future__ import annotations

from getstream.video.rtc import PcmData
from vision_agents.core.edge.types import Participant
from vision_agents.core.utils.audio_filter import AudioFilter


class PassThroughFilter(AudioFilter):
    """Lets everybody's audio through.

    The agent's default filter downloads a model from the internet when it warms up: without a network the agent could
    not start.
    """

    async def process_audio(self, pcm: PcmData, participant: Participant) -> PcmData:
        return pcm

    def clear(self, participant: Participant | None = None) -> None:
        """Nothing is held."""
