"""The agent that needs no key, account or network: scripted answers, no language model, but a real `Agent`.

``create_agent`` and ``join_call`` are what an `AgentLauncher` takes. Importing this package costs nothing:
vision-agents loads with the first agent, in a thread, so that the server answers meanwhile. Where the extra ``demo`` is
installed the agent hears and speaks English, on this machine; else it is text alone.
"""

from __future__ import annotations

import asyncio
import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vision_agents.core import Agent

__all__ = ["create_agent", "join_call", "voice_hint"]


async def create_agent() -> Agent:
    """Speaks and understands English where that is installed; scripted answers, no language model."""
    agent: Agent = await (await _recipe()).create_agent()
    return agent


async def join_call(agent: Agent, call_type: str, call_id: str, *, greeting: str | None = None) -> None:
    """Join the call, greet whoever comes first, and stay until the call ends.

    Without a ``greeting`` the agent says what it is: it speaks English, and there is no language model.
    """
    recipe = await _recipe()
    await recipe.join_call(agent, call_type, call_id, greeting=recipe.GREETING if greeting is None else greeting)


def voice_hint() -> str:
    """Return how to give the demo agent ears and a voice, in a line; "" if it has them. Imports nothing of theirs."""
    from .speech import installed

    if installed():
        return ""
    return 'To talk with it by voice: pip install "visionagents-runner[demo]" (in a clone: pip install -e ".[demo]").'


async def _recipe() -> ModuleType:
    return await asyncio.to_thread(importlib.import_module, f"{__name__}.agent")
