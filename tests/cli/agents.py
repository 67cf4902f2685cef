"""Runners of other processes: an agent that answers in a room, and one whose build never ends."""

from __future__ import annotations

import sys
import time
from typing import Any

from visionagents_runner import AgentLauncher, Runner


async def create_agent() -> Any:
    from visionagents_runner.testing import stub_agent

    return stub_agent()


async def join_call(agent: Any, call_type: str, call_id: str) -> None:
    from visionagents_runner.testing import join_call as join

    await join(agent, call_type, call_id)


def build_for_ever() -> Any:
    print("building", file=sys.stderr, flush=True)
    time.sleep(3600)


runner = Runner(
    launchers={"default": AgentLauncher(create_agent, join_call), "other": AgentLauncher(create_agent, join_call)}
)
held = Runner(AgentLauncher(build_for_ever, join_call, build_in_thread=True))
