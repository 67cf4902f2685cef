"""The agents of the fleet: they do as the metadata of their session says, and leave traces that they were there.

Metadata: ``seconds`` (they hang up after that), ``fail`` (they fail then instead), ``build`` (seconds that it takes to
build them).
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.agents import StubAgent
from visionagents_runner import AgentLauncher, Runner, ServeOptions, testing

from .trace import FOLDER, Tracer

if TYPE_CHECKING:
    from visionagents_runner.session import LiveSession

tracer = Tracer(Path(os.environ.get(FOLDER, ".")))
limits: dict[str, int] = json.loads(os.environ.get("CLUSTER_LIMITS", "{}"))
"""``worker``: most `limited` sessions on one worker; ``call``: most `shared` sessions on one call; ``agent``: most
`few` sessions anywhere."""


class TracedAgent(StubAgent):
    session: LiveSession | None = None

    async def close(self) -> None:
        await super().close()
        if self.session is not None:
            tracer.note("closed", self.session.id)


async def create_agent(session: LiveSession | None) -> TracedAgent:
    agent = TracedAgent()
    agent.session = session
    if session is not None:
        await asyncio.sleep(session.metadata.get("build", 0))
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
    return agent


async def join_talker(agent: Any, call_type: str, call_id: str) -> None:
    session: LiveSession = agent.cluster_session
    with tracer.run(session.id, session.agent_name, call_id):
        await testing.join_call(agent, call_type, call_id)


async def allow_everybody() -> None:
    """For workers that are not asked over loopback."""


def _launcher(create: Any = create_agent, join: Any = join_call, **options: Any) -> AgentLauncher:
    options.setdefault("no_participant_timeout", 0)
    return AgentLauncher(create, join, close_timeout=5.0, maintenance_interval=1.0, **options)


def _launchers() -> dict[str, AgentLauncher]:
    return {
        "default": _launcher(),
        "limited": _launcher(max_concurrent_sessions=limits.get("worker")),
        "shared": _launcher(max_sessions_per_call=limits.get("call")),
        "few": _launcher(max_sessions=limits.get("agent")),
        "restarted": _launcher(restart="on-worker-loss"),
        "talker": _launcher(create_talker, join_talker),
    }


_OPEN = dict.fromkeys(
    ("can_start_session", "can_close_session", "can_view_session", "can_view_metrics", "can_speak"), allow_everybody
)

runner = Runner(
    launchers=_launchers(),
    serve_options=ServeOptions(**_OPEN) if os.environ.get("CLUSTER_OPEN") else ServeOptions(),  # type: ignore[arg-type]
)
