"""The agents of the server that is attacked: one whose voice never stops, one that hears, sees and answers."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

from visionagents_runner import AgentLauncher, Runner

from .watch import Watch

if TYPE_CHECKING:
    from vision_agents.core import Agent

HERTZ = 320.0
_AHEAD_SECONDS = 2.0

if address := os.environ.get("HOSTILE_WATCH"):
    Watch().install(address)


async def steady_agent() -> Agent:
    """Plays a tone"""
    from visionagents_runner.testing import stub_agent

    return stub_agent()


async def play(agent: Agent, call_type: str, call_id: str) -> None:
    from getstream.video.rtc import PcmData

    from tests.edge.browser import tone

    call = await agent.create_call(call_type, call_id)
    async with agent.join(call, participant_wait_timeout=0):
        samples = tone(HERTZ, 1.0, rate=48_000)
        due = time.monotonic()
        while agent.audio_track is not None:
            for start in range(0, len(samples), 960):
                await agent.audio_track.write(PcmData(48_000, "s16", samples[start : start + 960]))
                await asyncio.sleep(0)
            due += 1.0
            await asyncio.sleep(max(0.0, due - time.monotonic() - _AHEAD_SECONDS))


async def attentive_agent() -> Agent:
    """Hears, sees and echoes"""
    from getstream.video.rtc import PcmData
    from vision_agents.core.stt.stt import STT

    from tests.edge.test_video import Eye
    from visionagents_runner.testing import EchoLLM, stub_agent

    class Model(EchoLLM):
        """Lets others have their turn between two words, as a model far away does."""

        async def simple_response(self, *args: Any, **options: Any) -> Any:
            async for part in super().simple_response(*args, **options):
                yield part
                await asyncio.sleep(0)

    class Deaf(STT):
        async def process_audio(self, pcm_data: PcmData, participant: Any) -> None:
            return None

    return stub_agent(llm=Model(), stt=Deaf(), processors=[Eye()])


async def answer(agent: Agent, call_type: str, call_id: str) -> None:
    from visionagents_runner.testing import join_call

    await join_call(agent, call_type, call_id)


runner = Runner(
    launchers={
        "steady": AgentLauncher(steady_agent, play, agent_idle_timeout=0),
        "attentive": AgentLauncher(attentive_agent, answer, agent_idle_timeout=0),
    }
)
