"""Rooms: who is in them, what reaches them, and that none is left over."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from tests.conftest import until
from visionagents_runner.edge import CustomEvent, Presence, RoomClosed, Words, find_room, join_room, open_rooms
from visionagents_runner.testing import StubEdge, stub_agent


@pytest.fixture(autouse=True)
def no_room_is_left_over():
    yield
    assert open_rooms() == ()


async def test_a_room_opens_with_the_first_person_and_is_gone_after_the_last():
    caller = join_room("default", "c", "caller")
    guest = join_room("default", "c", "guest")
    assert caller.room is guest.room is find_room("default", "c")
    caller.leave()
    assert find_room("default", "c") is guest.room
    guest.leave()
    assert find_room("default", "c") is None


async def test_rooms_differ_by_call_type_and_call_id():
    people = [join_room(*call, "caller") for call in (("default", "c"), ("default", "d"), ("video", "c"))]
    assert len(open_rooms()) == 3
    for person in people:
        person.leave()


async def test_one_user_may_be_in_a_room_twice():
    first, second = join_room("default", "c", "caller"), join_room("default", "c", "caller")
    assert first.participant.id != second.participant.id
    first.leave()
    first.leave()
    assert list(second.room.people) == [second.participant.id]
    second.leave()


async def test_a_closed_room_lets_nobody_in_but_the_call_gets_a_new_one():
    caller = join_room("default", "c", "caller")
    caller.leave()
    with pytest.raises(RoomClosed, match="join_room"):
        caller.room.join("guest")
    again = join_room("default", "c", "guest")
    assert again.room is not caller.room
    again.leave()


async def test_people_learn_who_is_there_who_comes_and_who_leaves():
    caller = join_room("default", "c", "caller", name="Caller")
    guest = join_room("default", "c", "guest")
    guest.leave()
    caller.leave()
    assert [(e.name, e.here) async for e in caller if isinstance(e, Presence)] == [("guest", True), ("guest", False)]
    assert [(e.name, e.here) async for e in guest if isinstance(e, Presence)] == [("Caller", True)]


async def test_an_inbox_is_bounded_and_drops_the_oldest():
    slow = join_room("default", "c", "slow", inbox_size=2)
    others = [join_room("default", "c", f"p{number}") for number in range(5)]
    slow.leave()
    assert [event.user_id async for event in slow if isinstance(event, Presence)] == ["p3", "p4"]
    assert slow.dropped == 3
    for other in others:
        other.leave()


async def test_a_waiting_reader_wakes_when_its_person_leaves():
    caller = join_room("default", "c", "caller")
    reading = asyncio.create_task(anext(caller, None))
    await asyncio.sleep(0)
    caller.leave()
    assert await reading is None


async def test_what_a_person_types_reaches_everybody_once_however_many_agents_listen():
    agents = [stub_agent(), stub_agent()]
    call = await agents[0].create_call("default", "c")
    async with agents[0].join(call, participant_wait_timeout=0), agents[1].join(call, participant_wait_timeout=0):
        caller, guest = join_room("default", "c", "caller"), join_room("default", "c", "guest")
        await caller.say("hello")
        replies: set[str] = set()
        typed = 0
        async for event in guest:
            if isinstance(event, Words) and event.role == "user":
                typed += 1
                assert (event.user_id, event.participant_id, event.text) == ("caller", caller.participant.id, "hello")
            elif isinstance(event, Words) and event.completed:
                replies.add(event.agent_id)
                assert event.text == "You said: hello"
                if len(replies) == 2:
                    break
        assert typed == 1
        assert replies == {agent.id for agent in agents}
        for agent in agents:
            assert agent.conversation is not None
            first = agent.conversation.messages[0]
            assert (first.role, first.user_id, first.content) == ("user", "caller", "hello")
        caller.leave()
        guest.leave()
        assert find_room("default", "c") is not None, "the agents are still there"


async def test_an_agent_that_cannot_hear_does_not_keep_the_others_from_replying():
    deaf, well = stub_agent(), stub_agent()
    call = await well.create_call("default", "c")

    async def simple_response(*args: object, **kwargs: object) -> None:
        raise RuntimeError("deaf")

    deaf.simple_response = simple_response  # type: ignore[method-assign]
    async with deaf.join(call, participant_wait_timeout=0), well.join(call, participant_wait_timeout=0):
        caller = join_room("default", "c", "caller")
        with pytest.raises(RuntimeError, match="deaf"):
            await caller.say("hello")
        async for event in caller:
            if isinstance(event, Words) and event.completed and event.role == "assistant":
                assert event.agent_id == well.id
                break
        caller.leave()


async def test_nothing_cannot_be_said_nor_can_it_from_outside():
    caller = join_room("default", "c", "caller")
    with pytest.raises(ValueError, match="empty"):
        await caller.say("  \n")
    caller.leave()
    with pytest.raises(RoomClosed):
        await caller.say("hello")


async def test_custom_events_reach_each_person_as_a_copy_of_their_own():
    agent = stub_agent()
    call = await agent.create_call("default", "c")
    async with agent.join(call, participant_wait_timeout=0):
        people = [join_room("default", "c", name) for name in ("caller", "guest")]
        await agent.send_custom_event({"type": "note", "items": [1]})
        seen = []
        for person in people:
            async for event in person:
                if isinstance(event, CustomEvent):
                    seen.append(event.data)
                    break
            person.leave()
        assert seen == [{"type": "note", "items": [1]}] * 2
        assert seen[0]["items"] is not seen[1]["items"]
        assert isinstance(agent.edge, StubEdge)
        assert agent.edge.custom_events == [{"type": "note", "items": [1]}]


async def test_a_custom_event_over_5_kb_or_not_json_is_refused():
    agent = stub_agent()
    call = await agent.create_call("default", "c")
    async with agent.join(call, participant_wait_timeout=0):
        frame = len('{"text": ""}')
        await agent.send_custom_event({"text": "x" * (5 * 1024 - frame)})
        with pytest.raises(ValueError, match="5120 bytes as JSON, this one has 5121"):
            await agent.send_custom_event({"text": "x" * (5 * 1024 - frame + 1)})
        with pytest.raises(TypeError):
            await agent.send_custom_event({"text": object()})
    with pytest.raises(RuntimeError, match="not connected"):
        await agent.send_custom_event({})


async def test_ending_the_call_sends_everybody_home_and_closes_the_agents():
    agents = [stub_agent(), stub_agent()]
    call = await agents[0].create_call("default", "c")

    async def stay(agent):
        async with agent.join(call, participant_wait_timeout=0):
            await agent.finish()

    staying = [asyncio.create_task(stay(agent)) for agent in agents]
    caller = join_room("default", "c", "caller")
    while len(caller.room.agents) < 2:
        await anext(caller)
    caller.room.end()
    caller.room.end()
    assert caller.room.ended
    assert not caller.here
    assert find_room("default", "c") is None
    await asyncio.gather(*staying)
    await until(lambda: all(agent.closed for agent in agents))


async def test_handlers_of_the_end_of_a_call_run_to_their_end():
    from vision_agents.core.edge.events import CallEndedEvent

    agent = stub_agent()
    call = await agent.create_call("default", "c")
    handled = asyncio.Event()

    async def on_end(event: CallEndedEvent) -> None:
        await asyncio.sleep(0.05)
        handled.set()

    on_end.__annotations__["event"] = CallEndedEvent
    agent.events.subscribe(on_end)
    async with agent.join(call, participant_wait_timeout=0):
        assert isinstance(agent.edge, StubEdge)
        agent.edge.end_call()
        await agent.finish()
    await asyncio.wait_for(handled.wait(), 10)


@pytest.mark.slow
async def test_nothing_holds_a_room_its_people_or_agents_after_the_call():
    async def call_and_forget() -> list[weakref.ref[object]]:
        agent = stub_agent()
        call = await agent.create_call("default", "c")
        async with agent.join(call, participant_wait_timeout=0):
            assert isinstance(agent.edge, StubEdge)
            await agent.edge.ask("hello")
            room = agent.edge.room
            assert room is not None
            return [weakref.ref(room), weakref.ref(agent.edge), weakref.ref(room.agents[0])]

    tasks = asyncio.all_tasks()
    kept = await call_and_forget()
    # The agent's observer may have a timer left.
    await until(lambda: gc.collect() >= 0 and [ref() for ref in kept] == [None] * 3)
    assert asyncio.all_tasks() == tasks


def test_a_room_of_a_closed_event_loop_is_gone():
    async def enter():
        return join_room("default", "c", "caller")

    abandoned = asyncio.run(enter())
    assert find_room("default", "c") is None

    async def enter_again():
        person = join_room("default", "c", "guest")
        assert person.room is not abandoned.room
        assert list(person.room.people) == [person.participant.id]
        person.leave()

    asyncio.run(enter_again())
    assert open_rooms() == ()


async def test_a_room_of_another_running_loop_is_refused():
    caller = join_room("default", "c", "caller")

    def elsewhere():
        async def enter():
            join_room("default", "c", "guest")

        asyncio.run(enter())

    with pytest.raises(RuntimeError, match="another event loop"):
        await asyncio.to_thread(elsewhere)
    caller.leave()
