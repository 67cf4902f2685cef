"""The agent that looks at the camera: it outlines what moves, finds faces where it can, and can be asked about it.

A second kind beside the demo agent, made of the same parts, and as much a script: no model, no key, no network.
``create_agent`` and ``join_call`` are what an `AgentLauncher` takes. Importing this package costs nothing.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vision_agents.core import Agent

__all__ = ["create_agent", "installed", "join_call"]


def installed() -> bool:
    """Whether OpenCV is there. Does not import it."""
    return importlib.util.find_spec("cv2") is not None


async def create_agent() -> Agent:
    """Looks at your camera, outlines what moves, and can be asked about it; scripted, no language model.

    Raises:
        RuntimeError: OpenCV is missing; the message says what installs it.
    """
    agent: Agent = await (await _recipe()).create_agent()
    return agent


async def join_call(agent: Agent, call_type: str, call_id: str) -> None:
    """Join the call, greet whoever comes first, and stay until the call ends."""
    await (await _recipe()).join_call(agent, call_type, call_id)


async def _recipe() -> ModuleType:
    if not installed():
        raise RuntimeError(
            'The vision demo needs OpenCV: pip install "visionagents-runner[demo]" '
            '(in a clone: pip install -e ".[demo]")'
        )
    return await asyncio.to_thread(importlib.import_module, f"{__name__}.agent")
