"""The recipe of the demo agent."""

from __future__ import annotations

import asyncio

from vision_agents.core import Agent, User

from ..edge import BrowserEdge
from ..edge.filters import PassThroughFilter
from .functions import register_functions
from .llm import ScriptedLLM
from .rules import add_rules
from .voice import SilentTTS

GREETING = (
    "Hello! I am the demo agent. I give scripted answers, there is no language model behind me. "
    'Ask "what can you do?" to see what I know.'
)
WORD_SECONDS = 0.015
"""Pause between two words of a reply, so that it can be seen to stream, and interrupted."""


async def create_agent() -> Agent:
    llm = ScriptedLLM(word_seconds=WORD_SECONDS)
    register_functions(llm)
    add_rules(llm)
    return Agent(
        edge=BrowserEdge(),
        llm=llm,
        tts=SilentTTS(),
        agent_user=User(id="demo-agent", name="Demo agent"),
        instructions="Scripted answers, no language model.",
        multi_speaker_filter=PassThroughFilter(),
    )


async def join_call(agent: Agent, call_type: str, call_id: str) -> None:
    call = await agent.create_call(call_type, call_id)
    async with agent.join(call, participant_wait_timeout=0):
        # A task of its own: the call may end, or be ended, before anybody ever comes.
        greeting = asyncio.create_task(_greet(agent))
        try:
            await agent.finish()
        finally:
            greeting.cancel()
            await asyncio.gather(greeting, return_exceptions=True)


async def _greet(agent: Agent) -> None:
    await agent.wait_for_participant()
    await agent.say(GREETING)
