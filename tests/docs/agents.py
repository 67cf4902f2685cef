"""The runner of the pictures: two agents of the demo that talk, and one whose model cannot be reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from visionagents_runner import AgentLauncher, Runner
from visionagents_runner.demo import create_agent, join_call

if TYPE_CHECKING:
    from vision_agents.core import Agent

_warmed_up = False


async def unreachable_agent() -> Agent:
    """Cannot be built, but for the warm-up"""
    global _warmed_up
    if _warmed_up:
        raise ConnectionError("The model at http://127.0.0.1:11434/v1 did not answer")
    _warmed_up = True
    return await create_agent()


runner = Runner(
    launchers={
        "reception": AgentLauncher(create_agent, join_call, max_concurrent_sessions=10),
        "tutor": AgentLauncher(create_agent, join_call, max_concurrent_sessions=10),
        "local-model": AgentLauncher(unreachable_agent, join_call, max_concurrent_sessions=4),
    }
)
