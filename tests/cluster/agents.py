"""The agents of the fleet: they do as the metadata of their session says, and leave traces that they were there.

Metadata: ``seconds`` (they hang up after that), ``fail`` (they fail then instead), ``build`` and ``closing`` (seconds
that it takes to build and to close them).
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.agents import StubAgent
from visionagents_runner import AgentLauncher, Runner, ServeOptions, testing

from .trace import FOLDER, Tracer

if TYPE_CHECKING:
    from visionagents_runner.sessions.session import LiveSession

tracer = Tracer(Path(os.environ.get(FOLDER, ".")))
limits: dict[str, int] = json.loads(os.environ.get("CLUSTER_LIMITS", "{}"))
"""``worker``: most `limited` sessions on one worker; ``call``: most `shared` sessions on one call; ``agent``: most
`few` sessions anywhere."""

SLOW_SECONDS = float(os.environ.get("CLUSTER_SLOW", "0"))
"""For how long whoever asks for metrics holds a connection of the project's, while it is found out if they may."""


class TracedAgent(StubAgent):
    session: LiveSession | None = None

    async def close(self) -> None:
        try:
            if self.session is not None:
                await asyncio.sleep(self.session.metadata.get("closing", 0))
            await super().close()
        finally:
            if self.session is not None:
                tracer.closed(self.session.id)


async def create_agent(session: LiveSession | None) -> TracedAgent:
    agent = TracedAgent()
    agent.session = session
    if session is not None:
        await asyncio.sleep(session.metadata.get("build", 0))
        tracer.built(session.id, session.agent_name)
    return agent


async def join_call(agent: TracedAgent, call_type: str, call_id: str) -> None:
    session = agent.session
    assert session is not None
    with tracer.run(session.id, session.agent_name, call_id):
        agent.join()
        try:
            async with asyncio.timeout(session.metadata.get("seconds")):
                await agent.ended.wait()
        except TimeoutError:
            if session.metadata.get("fail"):
                raise RuntimeError("The agent failed, as it was told") from None


def create_talker(session: LiveSession | None) -> Any:
    """A real agent, which echoes."""
    agent = testing.stub_agent()
    agent.cluster_session = session  # type: ignore[attr-defined]
    if session is not None:
        close, key = agent.close, session.id

        async def traced_close() -> None:
            try:
                await close()
            finally:
                tracer.closed(key)

        agent.close = traced_close  # type: ignore[method-assign]
        tracer.built(key, session.agent_name)
    return agent


async def join_talker(agent: Any, call_type: str, call_id: str) -> None:
    session: LiveSession = agent.cluster_session
    with tracer.run(session.id, session.agent_name, call_id):
        await testing.join_call(agent, call_type, call_id)


async def allow_everybody() -> None:
    """For workers that are not asked over loopback."""


def allow_slowly() -> None:
    """A permission that queries, as a project's may, and takes its time over it."""
    hold_a_connection(SLOW_SECONDS)


def hold_a_connection(seconds: float) -> None:
    """Take one of the project's connections, and keep it for so long."""
    from django.db import connection

    connection.ensure_connection()
    time.sleep(seconds)


def _launcher(create: Any = create_agent, join: Any = join_call, **options: Any) -> AgentLauncher:
    options.setdefault("no_participant_timeout", 0)
    return AgentLauncher(create, join, close_timeout=5.0, maintenance_interval=1.0, **options)


def _launchers() -> dict[str, AgentLauncher]:
    return {
        "default": _launcher(),
        "limited": _launcher(max_concurrent_sessions=limits.get("worker")),
        "shared": _launcher(max_sessions_per_call=limits.get("call")),
        "few": _launcher(max_sessions=limits.get("agent")),
        "single": _launcher(max_sessions=1),
        "restarted": _launcher(restart="on-worker-loss"),
        "talker": _launcher(create_talker, join_talker),
    }


_OPEN = dict.fromkeys(
    ("can_start_session", "can_close_session", "can_view_session", "can_view_metrics", "can_speak"), allow_everybody
)


def _rules() -> dict[str, Any]:
    rules: dict[str, Any] = dict(_OPEN) if os.environ.get("CLUSTER_OPEN") else {}
    return {**rules, "can_view_metrics": allow_slowly} if SLOW_SECONDS else rules


runner = Runner(launchers=_launchers(), serve_options=ServeOptions(**_rules()))
