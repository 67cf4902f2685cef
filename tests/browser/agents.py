"""The runner of the server: agents that answer by text, so that a page is tested without speech to wait for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from visionagents_runner import AgentLauncher, Runner, ServeOptions
from visionagents_runner.demo import create_agent, join_call, vision

if TYPE_CHECKING:
    from vision_agents.core import Agent


async def text_agent() -> Agent:
    """Answers by text"""
    return await asyncio.to_thread(_text_agent)


def _text_agent() -> Agent:
    from vision_agents.core import Agent, User

    from visionagents_runner.demo.functions import register_functions
    from visionagents_runner.demo.llm import ScriptedLLM
    from visionagents_runner.demo.rules import add_rules
    from visionagents_runner.demo.voice import SilentTTS
    from visionagents_runner.edge import BrowserEdge
    from visionagents_runner.edge.filters import PassThroughFilter

    llm = ScriptedLLM(word_seconds=0.015)
    register_functions(llm)
    add_rules(llm)
    return Agent(
        edge=BrowserEdge(),
        llm=llm,
        tts=SilentTTS(),
        agent_user=User(id="text-agent", name="Text agent"),
        instructions="",
        multi_speaker_filter=PassThroughFilter(),
    )


_warmed_up = False


async def broken_agent() -> Agent:
    """Cannot be built, but for the warm-up"""
    global _warmed_up
    if _warmed_up:
        raise RuntimeError("It is broken on purpose")
    _warmed_up = True
    return await text_agent()


runner = Runner(
    launchers={
        "text": AgentLauncher(text_agent, join_call),
        "demo": AgentLauncher(create_agent, join_call),
        "vision": AgentLauncher(vision.create_agent, vision.join_call),
        "broken": AgentLauncher(broken_agent, join_call),
        "limited": AgentLauncher(text_agent, join_call, max_concurrent_sessions=1),
    }
)

open_runner = Runner(
    launchers={"text": AgentLauncher(text_agent, join_call)},
    serve_options=ServeOptions(can_start_session=lambda: True),
)
"""Anybody may start an agent, and nobody is known."""
