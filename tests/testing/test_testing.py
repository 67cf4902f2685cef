"""What users' own tests are given."""

from __future__ import annotations

import pytest
from vision_agents.core.llm.events import LLMResponseFinalEvent

from tests.conftest import until
from visionagents_runner.edge import open_rooms
from visionagents_runner.models import AgentSession, SessionStatus
from visionagents_runner.testing import StubEdge, stub_agent
from visionagents_runner.testing.fixtures import agent_launcher  # noqa: F401


async def test_a_stub_agent_is_a_real_agent_that_echoes():
    agent = stub_agent()
    finals = []

    async def on_final(event):
        finals.append(event.text)

    on_final.__annotations__["event"] = LLMResponseFinalEvent
    agent.events.subscribe(on_final)
    call = await agent.create_call("default", "c")
    async with agent.join(call, participant_wait_timeout=0):
        assert isinstance(agent.edge, StubEdge)
        assert await agent.edge.ask("hello there") == "You said: hello there"
        await agent.events.wait()
        assert agent.metrics.to_dict()["llm_latency_ms__avg"] is not None
    assert finals == ["You said: hello there"]
    assert agent.closed
    assert open_rooms() == ()


async def test_asking_an_agent_that_has_joined_nothing_says_so():
    with pytest.raises(RuntimeError, match="not connected to a call"):
        await StubEdge().ask("hello")


async def test_asking_an_agent_that_does_not_answer_times_out():
    agent = stub_agent()

    async def simple_response(*args, **kwargs):
        return None

    agent.simple_response = simple_response
    call = await agent.create_call("default", "c")
    async with agent.join(call, participant_wait_timeout=0):
        with pytest.raises(TimeoutError):
            await agent.edge.ask("hello", timeout=0.01)
        assert not agent.edge.room.people


@pytest.mark.smoke
@pytest.mark.django_db(transaction=True)
async def test_the_launcher_fixture_runs_sessions_on_the_test_database(agent_launcher):  # noqa: F811
    launcher = await agent_launcher(max_concurrent_sessions=2)
    session = await launcher.start_session("c")
    await until(lambda: session.agent.on_call_for() > 0)
    assert await session.agent.edge.ask("hi") == "You said: hi"
    session.agent.edge.end_call()
    await session.wait()
    row = await AgentSession.objects.aget(pk=session.id)
    assert (row.status, row.end_reason) == (SessionStatus.CLOSED, "finished")
