"""The runner of servers in other processes: real agents on stub models, and the page's socket in a hurry if asked."""

from __future__ import annotations

import os
from typing import Any

from visionagents_runner import AgentLauncher, Runner
from visionagents_runner.websockets import protocol

protocol.SILENCE_SECONDS = float(os.environ.get("TEST_SILENCE_SECONDS", protocol.SILENCE_SECONDS))


async def create_agent() -> Any:
    from visionagents_runner.testing import stub_agent

    return stub_agent()


async def join_call(agent: Any, call_type: str, call_id: str) -> None:
    from visionagents_runner.testing import join_call as join

    await join(agent, call_type, call_id)


runner = Runner(AgentLauncher(create_agent, join_call))
