"""`BrowserEdge` under a real Agent."""

from __future__ import annotations

import asyncio
import time

import pytest
from getstream.video.rtc import AudioStreamTrack
from vision_agents.core.edge.events import ParticipantJoinedEvent, ParticipantLeftEvent

from tests.conftest import until
from visionagents_runner.edge import BrowserEdge, join_room, open_rooms
from visionagents_runner.testing import stub_agent


@pytest.fixture(autouse=True)
def no_room_is_left_over():
    yield
    assert open_rooms() == ()


@pytest.fixture
def agent():
    return stub_agent(edge=BrowserEdge())


def record(agent):
    """Return a list that grows by (event class, user id), and an event that is set with each."""
    seen, changed = [], asyncio.Event()

    async def on_event(event):
        seen.append((type(event), event.participant.user_id))
        changed.set()

    on_event.__annotations__["event"] = ParticipantJoinedEvent | ParticipantLeftEvent
    agent.events.subscribe(on_event)
    return seen, changed


async def test_a_call_has_its_id_and_type(agent):
    call = await agent.create_call("video", "a/b")
    assert (call.call_type, call.id) == ("video", "a/b")


async def test_the_audio_track_is_a_real_one_and_is_published(agent):
    assert isinstance(agent.audio_track, AudioStreamTrack)
    call = await agent.create_call("default", "c")
    async with agent.join(call, participant_wait_timeout=0):
        assert agent.edge.audio_track is agent.audio_track


async def test_joining_tells_of_the_people_who_were_there_before(agent):
    caller = join_room("default", "c", "caller")
    seen, changed = record(agent)
    call = await agent.create_call("default", "c")
    async with agent.join(call, participant_wait_timeout=0):
        await asyncio.wait_for(changed.wait(), 10)
        assert seen == [(ParticipantJoinedEvent, "caller")]
        caller.leave()


async def test_people_who_come_and_leave_are_events(agent):
    seen, changed = record(agent)
    call = await agent.create_call("default", "c")
    async with agent.join(call, participant_wait_timeout=0):
        caller = join_room("default", "c", "caller")
        await asyncio.wait_for(changed.wait(), 10)
        changed.clear()
        caller.leave()
        await asyncio.wait_for(changed.wait(), 10)
    assert seen == [(ParticipantJoinedEvent, "caller"), (ParticipantLeftEvent, "caller")]


async def test_other_agents_are_not_participants(agent):
    seen, _ = record(agent)
    other = stub_agent()
    call = await agent.create_call("default", "c")
    async with agent.join(call, participant_wait_timeout=0), other.join(call, participant_wait_timeout=0):
        await agent.events.wait()
        assert seen == []
        assert agent.idle_for() == 0.0


async def test_idle_counts_from_when_everybody_left_not_from_before_anybody_came(agent):
    call = await agent.create_call("default", "c")
    async with agent.join(call, participant_wait_timeout=0):
        connection = agent.edge.connection
        assert connection.idle_since() == 0.0
        caller, guest = join_room("default", "c", "caller"), join_room("default", "c", "guest")
        caller.leave()
        assert connection.idle_since() == 0.0
        before = time.time()
        guest.leave()
        assert before <= connection.idle_since() <= time.time()
        assert agent.idle_for() >= 0.0
        again = join_room("default", "c", "caller")
        assert connection.idle_since() == 0.0
        again.leave()


async def test_an_agent_that_joins_an_emptied_room_is_not_idle_yet(agent):
    first = stub_agent()
    call = await agent.create_call("default", "c")
    async with first.join(call, participant_wait_timeout=0):
        join_room("default", "c", "caller").leave()
        async with agent.join(call, participant_wait_timeout=0):
            assert first.edge.connection.idle_since() > 0  # type: ignore[attr-defined]
            assert agent.edge.connection.idle_since() == 0.0


async def test_waiting_for_a_participant_ends_when_one_comes_or_at_once_if_one_is_there(agent):
    call = await agent.create_call("default", "c")
    async with agent.join(call, participant_wait_timeout=0):
        connection = agent.edge.connection
        waiting = asyncio.create_task(connection.wait_for_participant())
        await asyncio.sleep(0)
        caller = join_room("default", "c", "caller")
        await asyncio.wait_for(waiting, 10)
        await connection.wait_for_participant(timeout=0)
        caller.leave()
        with pytest.raises(asyncio.TimeoutError):
            await connection.wait_for_participant(timeout=0.01)


async def test_waiting_for_a_participant_does_not_outlive_the_connection(agent):
    call = await agent.create_call("default", "c")
    async with agent.join(call, participant_wait_timeout=0):
        connection = agent.edge.connection
        waiting = asyncio.create_task(connection.wait_for_participant())
        await asyncio.sleep(0)
        await connection.close()
        with pytest.raises(ConnectionError, match="left the call"):
            await waiting


async def test_a_call_that_ends_while_the_agent_waits_for_somebody_lets_it_go(agent):
    call = await agent.create_call("default", "c")

    async def join():
        async with agent.join(call, participant_wait_timeout=None):
            await agent.finish()

    joining = asyncio.create_task(join())
    await until(lambda: agent.edge.room is not None)
    agent.edge.room.end()
    await asyncio.wait_for(joining, 10)


async def test_an_edge_joins_one_room_at_a_time(agent):
    call = await agent.create_call("default", "c")
    async with agent.join(call, participant_wait_timeout=0):
        with pytest.raises(RuntimeError, match="an edge of its own"):
            await agent.edge.join(agent, call)


async def test_the_room_is_left_though_another_component_hangs_when_closing(agent):
    release = asyncio.Event()

    agent.llm.close = release.wait
    call = await agent.create_call("default", "c")
    async with agent.join(call, participant_wait_timeout=0):
        closing = asyncio.create_task(agent.close())
        await until(lambda: agent.edge.room is None)
        assert open_rooms() == ()
        assert not closing.done()
        release.set()
        await closing


async def test_an_agent_that_never_joined_closes():
    agent = stub_agent()
    await agent.close()
    assert agent.closed


def test_there_is_no_page_to_open(agent):
    assert not hasattr(agent.edge, "open_demo_for_agent")
    assert agent.edge.open_demo() is None
