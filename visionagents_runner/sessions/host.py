"""`Host`: what a session needs of whoever starts it, which is its launcher."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from vision_agents.core import Agent

    from ..telemetry.instruments import Instruments
    from .recorder import Recorder
    from .session import LiveSession


class Host(Protocol):
    """Its time limits are those of `AgentLauncher`."""

    agent_idle_timeout: float
    max_session_duration_seconds: float | None
    join_timeout: float
    no_participant_timeout: float
    close_timeout: float

    @property
    def recorder(self) -> Recorder | None: ...

    @property
    def instruments(self) -> Instruments | None: ...

    async def build_agent(self, session: LiveSession) -> Agent: ...

    async def join_call(self, agent: Agent, call_type: str, call_id: str) -> None: ...

    def track(self, task: asyncio.Task[Any]) -> None:
        """Have ``task`` finish before the worker stops."""
