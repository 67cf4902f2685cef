"""A project whose code never comes back from two of its threads."""

from __future__ import annotations

import threading

from tests.agents import StubAgent, join_call
from visionagents_runner import AgentLauncher, Runner, ServeOptions


def create_agent(call_id: str | None) -> StubAgent:
    if call_id == "held":
        threading.Event().wait()
    return StubAgent()


def can_view_metrics() -> None:
    threading.Event().wait()


runner = Runner(
    AgentLauncher(create_agent, join_call, build_in_thread=True, close_timeout=0.5),  # type: ignore[arg-type]
    ServeOptions(can_view_metrics=can_view_metrics),
)
