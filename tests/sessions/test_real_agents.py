"""Sessions of real vision-agents Agents: what their events tell, and that they close."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass
from typing import Any

import pytest
from vision_agents.core.edge.events import CallEndedEvent

from tests.conftest import row_of, until
from visionagents_runner.models import AgentSession
from visionagents_runner.sessions.session import LiveSession
from visionagents_runner.testing import StubEdge, join_call, stub_agent

pytestmark = pytest.mark.slow


@dataclass
class ForeignCall:
    id: str = "call"


def edge_of(session: LiveSession) -> StubEdge:
    return session.agent.edge  # type: ignore[return-value]


def end_as_other_edges_do(session: LiveSession) -> None:
    """Send the event as upstream's edges do: vision-agents then closes the agent inside the event's handler."""
    edge_of(session).events.send(CallEndedEvent(call=ForeignCall()))


async def start(launch: Any, **options: Any) -> LiveSession:
    launcher = await launch(stub_agent, join_call, **{"maintenance_interval": 3600, **options})
    session: LiveSession = await launcher.start_session("call")
    await until(lambda: session.joined_at is not None)
    return session


async def test_the_agents_own_event_tells_when_it_joined(launch: Any) -> None:
    session = await start(launch)
    await until_written(session, "joined_at")
    row = await row_of(session)
    assert row.agent_id == session.agent.id
    assert row.created_at <= row.started_at <= row.joined_at


async def test_a_call_that_is_ended_by_the_others_finishes_the_session(launch: Any) -> None:
    session = await start(launch)
    edge_of(session).end_call()
    await session.wait()
    row = await row_of(session)
    assert (row.status, row.end_reason, row.error) == ("closed", "finished", "")
    assert session.agent.closed


async def test_an_agent_that_waits_for_itself_while_it_closes_is_helped(launch: Any) -> None:
    session = await start(launch, close_timeout=60)
    end_as_other_edges_do(session)
    async with asyncio.timeout(20):
        await session.wait()
    row = await row_of(session)
    assert (row.status, row.end_reason, row.error) == ("closed", "finished", "")
    assert session.agent.closed


async def test_sessions_leave_no_task_behind_however_they_end(launch: Any) -> None:
    launcher = await launch(stub_agent, join_call, maintenance_interval=3600)
    ends = (
        lambda session: edge_of(session).end_call(),
        end_as_other_edges_do,
        lambda session: session.request_close(),
    )

    async def cycle() -> None:
        sessions = [await launcher.start_session(f"call-{number}") for number in range(len(ends))]
        await until(lambda: all(session.joined_at for session in sessions))
        for session, end in zip(sessions, ends, strict=True):
            end(session)
        await asyncio.gather(*(session.wait() for session in sessions))

    await cycle()
    before = await settled()
    for _ in range(5):
        await cycle()
    assert await settled() <= before


async def settled() -> set[str]:
    """Return the names of the tasks that stay when those that are ending have ended."""
    names: set[str] = set()
    for _ in range(3):
        await asyncio.sleep(0.05)
        gc.collect()
        names = {task.get_coro().__qualname__ for task in asyncio.all_tasks()}  # type: ignore[union-attr]
    return names


async def test_somebody_who_came_and_left_makes_the_call_idle(launch: Any) -> None:
    session = await start(launch, agent_idle_timeout=0.01)
    session.check_limits()
    assert not session.closing
    person = edge_of(session).person()
    await until(lambda: session.had_participant)
    session.check_limits()
    assert not session.closing
    person.leave()
    await until(lambda: session.idle_for() > 0.01)
    session.check_limits()
    await session.wait()
    assert (await row_of(session)).end_reason == "idle"


async def test_a_reply_counts_in_the_metrics_that_the_row_keeps(launch: Any) -> None:
    session = await start(launch)
    assert await edge_of(session).ask("hello") == "You said: hello"
    assert len(session.metrics()) == 25
    session.request_close()
    await session.wait()
    row = await row_of(session)
    assert row.metrics["llm_latency_ms__avg"] is not None


async def test_a_close_while_the_agent_waits_for_somebody_ends_at_once(launch: Any) -> None:
    async def patient_join(agent: Any, call_type: str, call_id: str) -> None:
        call = await agent.create_call(call_type, call_id)
        async with agent.join(call, participant_wait_timeout=None):
            await agent.finish()

    launcher = await launch(stub_agent, patient_join)
    session = await launcher.start_session("call")
    await until(lambda: session.joined_at is not None)
    session.request_close()
    async with asyncio.timeout(10):
        await session.wait()
    assert (await row_of(session)).end_reason == "requested"
    assert session.agent.closed


async def until_written(session: LiveSession, field: str) -> AgentSession:
    async with asyncio.timeout(10):
        while getattr(row := await row_of(session), field) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    return row
