"""The agents that both runners host: a stub that costs nothing, or a real Agent on a room without media.

``BENCHMARK_AGENT`` chooses ("stub", "real"), ``BENCHMARK_CREATE_SECONDS`` is how long ``create_agent`` takes, and
``BENCHMARK_LOG`` names a file to which each stub writes one JSON line when it has closed.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from typing import Any

from vision_agents.core import User
from vision_agents.core.observability.agent import AgentMetrics

CREATE_SECONDS = float(os.environ.get("BENCHMARK_CREATE_SECONDS", "0"))
LOG = os.environ.get("BENCHMARK_LOG", "")


class StubAgent:
    """Has of an Agent what the two launchers touch."""

    llm = tts = stt = turn_detection = edge = _multi_speaker_filter = None
    processors: tuple[Any, ...] = ()

    def __init__(self) -> None:
        self.id = str(uuid.uuid4())
        self.agent_user = User(id=self.id, name="Stub")
        self.metrics = AgentMetrics()
        self.call_id = ""
        self.closed = False
        self.cancelled_at = 0.0
        self._joined_at = 0.0

    async def stay(self, call_id: str) -> None:
        self.call_id = call_id
        self._joined_at = time.monotonic()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled_at = time.time()

    def on_call_for(self) -> float:
        return time.monotonic() - self._joined_at if self._joined_at else 0.0

    def idle_for(self) -> float:
        return 0.0

    async def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if LOG and self.call_id:
            line = {"call_id": self.call_id, "cancelled_at": self.cancelled_at, "closed_at": time.time()}
            with open(LOG, "a", encoding="utf-8") as file:  # noqa: ASYNC230 - tens of microseconds, in both
                file.write(json.dumps(line) + "\n")


async def create_stub() -> StubAgent:
    if CREATE_SECONDS:
        await asyncio.sleep(CREATE_SECONDS)
    return StubAgent()


async def join_stub(agent: StubAgent, call_type: str, call_id: str) -> None:
    # Like ``async with agent.join(call)``: whoever leaves the call closes the agent, whichever launcher runs it.
    try:
        await agent.stay(call_id)
    finally:
        await agent.close()


async def create_real() -> Any:
    from visionagents_runner.testing import stub_agent

    return stub_agent()


async def join_real(agent: Any, call_type: str, call_id: str) -> None:
    from visionagents_runner.testing import join_call

    await join_call(agent, call_type, call_id)


REAL = os.environ.get("BENCHMARK_AGENT") == "real"
create_agent: Any = create_real if REAL else create_stub
join_call: Any = join_real if REAL else join_stub


def limits() -> dict[str, int]:
    """Limits for a launcher, from ``BENCHMARK_LIMITS``: a JSON object, with the names that both launchers know."""
    found: dict[str, int] = json.loads(os.environ.get("BENCHMARK_LIMITS", "{}"))
    return found
