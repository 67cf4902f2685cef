"""The runner of the test settings: agents that cost nothing and do as they are told."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from visionagents_runner import AgentLauncher, Runner


class Metrics:
    def to_dict(self) -> dict[str, int | float | None]:
        return {"llm_input_tokens__total": 0, "llm_latency_ms__avg": None}


@dataclass(eq=False)
class StubAgent:
    """Has of an Agent what the runner touches. ``end()`` ends the call from the other side."""

    close_error: Exception | None = None
    close_hangs: bool = False
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    closed: bool = False
    close_calls: int = 0
    joined_at: float = 0.0
    idle_since: float = 0.0
    llm: Any = None
    tts: Any = None
    stt: Any = None
    turn_detection: Any = None
    processors: tuple[Any, ...] = ()
    _multi_speaker_filter: Any = None
    edge: Any = None

    def __post_init__(self) -> None:
        self.ended = asyncio.Event()
        self.joined = asyncio.Event()
        self.metrics = Metrics()

    def join(self) -> None:
        self.joined_at = time.monotonic()
        self.joined.set()

    def end(self) -> None:
        self.ended.set()

    def on_call_for(self) -> float:
        return time.monotonic() - self.joined_at if self.joined_at else 0.0

    def idle_for(self) -> float:
        return time.monotonic() - self.idle_since if self.idle_since else 0.0

    async def close(self) -> None:
        self.close_calls += 1
        if self.close_hangs:
            await asyncio.Event().wait()
        if self.close_error is not None:
            raise self.close_error
        self.closed = True


async def create_agent() -> StubAgent:
    return StubAgent()


async def join_call(agent: StubAgent, call_type: str, call_id: str) -> None:
    agent.join()
    await agent.ended.wait()


runner = Runner(launcher=AgentLauncher(create_agent, join_call))  # type: ignore[arg-type]
