"""The keyless agent, as a person meets it in its room."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys

import pytest
from asgiref.sync import sync_to_async
from vision_agents.core.llm.events import LLMErrorEvent, LLMResponseFinalEvent, ToolEndEvent, ToolStartEvent

from tests.conftest import until
from visionagents_runner import demo
from visionagents_runner.demo.functions import register_functions
from visionagents_runner.demo.llm import MAX_MATCHED, ScriptedLLM
from visionagents_runner.demo.numbers import with_digits
from visionagents_runner.demo.rules import add_rules
from visionagents_runner.edge import Words, join_room, open_rooms
from visionagents_runner.models import AgentSession, EndReason
from visionagents_runner.testing import StubEdge, stub_agent


@pytest.fixture
async def agent():
    """The demo's model and rules, without its pauses, on an edge that can be asked."""
    edge = StubEdge()
    llm = ScriptedLLM()
    register_functions(llm, edge)
    add_rules(llm)
    agent = stub_agent(llm=llm, edge=edge)
    call = await agent.create_call("default", "c")
    async with agent.join(call, participant_wait_timeout=0):
        yield agent


async def ask(agent, text, user_id="caller"):
    assert isinstance(agent.edge, StubEdge)
    return await agent.edge.ask(text, user_id=user_id)


def events_of(agent, *types):
    seen = []

    async def on_event(event):
        seen.append(event)

    on_event.__annotations__["event"] = types[0] if len(types) == 1 else types[0] | types[1]
    agent.events.subscribe(on_event)
    return seen


def test_importing_the_projects_agents_does_not_load_vision_agents():
    code = (
        "import os, sys; os.environ['DJANGO_SETTINGS_MODULE'] = 'project.settings'; os.environ['DEBUG'] = '1';"
        "import project.agents; sys.exit('vision_agents' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_the_demo_greets_who_comes_says_that_it_is_scripted_and_ends_with_the_call():
    agent = await demo.create_agent()
    caller = join_room("default", "c", "caller")
    call = asyncio.create_task(demo.join_call(agent, "default", "c"))
    async for event in caller:
        if isinstance(event, Words) and event.completed:
            assert "there is no language model" in event.text
            break
    caller.room.end()
    await asyncio.wait_for(call, 10)
    assert open_rooms() == ()


async def test_the_demo_does_not_wait_for_somebody_before_it_listens_and_ends_if_nobody_comes():
    agent = await demo.create_agent()
    call = asyncio.create_task(demo.join_call(agent, "default", "c"))
    await until(lambda: agent.on_call_for() > 0)
    agent.edge.room.end()
    await asyncio.wait_for(call, 10)
    assert agent.conversation.messages == []


async def test_the_demo_says_who_it_is_and_what_it_can_do(agent):
    assert "there is no language model" in await ask(agent, "Who are you?")
    assert "roll dice" in await ask(agent, "what can you do?")
    assert "there is no language model" in await ask(agent, "xyzzy")
    assert (await ask(agent, "Hello")).startswith("Hello!")


async def test_a_tool_call_shows_in_events_and_metrics_as_with_any_model(agent):
    seen = events_of(agent, ToolStartEvent, ToolEndEvent)
    finals = events_of(agent, LLMResponseFinalEvent)
    assert re.fullmatch(r"It is \d\d:\d\d \S+\.", await ask(agent, "what time is it?"))
    await agent.events.wait()
    start, end = seen
    assert (start.tool_name, start.arguments, end.success) == ("get_time", {}, True)
    assert start.tool_call_id == end.tool_call_id
    assert [event.model for event in finals] == ["rules"]
    metrics = agent.metrics.to_dict()
    assert metrics["llm_tool_calls__total"] == 1
    assert metrics["llm_tool_latency_ms__avg"] > 0
    assert metrics["llm_latency_ms__avg"] >= metrics["llm_time_to_first_token_ms__avg"] > 0
    assert metrics["llm_output_tokens__total"] == 0
    assert metrics["tts_characters__total"] == 0, "a voice that says nothing must not be measured"


async def test_the_time_elsewhere(agent):
    assert re.fullmatch(r"In Tokyo it is \d\d:\d\d JST\.", await ask(agent, "what time is it in Tokyo right now?"))
    assert re.fullmatch(r"In New York it is \d\d:\d\d E[SD]T\.", await ask(agent, "time in new york"))
    assert re.fullmatch(
        r"In Europe/Paris it is \d\d:\d\d CES?T\.", await ask(agent, "the time in Europe/Paris, please")
    )
    assert await ask(agent, "what time is it in Atlantis?") == (
        "That did not work: I know no time zone or city named 'Atlantis'."
    )


@pytest.mark.parametrize(
    ("text", "sides", "count"),
    [
        ("roll a die", 6, 1),
        ("roll 2 dice", 6, 2),
        ("roll 3 dice with 20 sides", 20, 3),
        ("roll 4d8", 8, 4),
        ("d20", 20, 1),
        ("roll two 12-sided dice", 12, 2),
        ("roll 2 12-sided dice", 12, 2),
    ],
)
async def test_dice_are_rolled_as_asked(agent, text, sides, count):
    results = events_of(agent, ToolEndEvent)
    answer = await ask(agent, text)
    await agent.events.wait()
    [shown] = [event.result for event in results]
    assert len(shown) == count
    assert all(1 <= number <= sides for number in shown)
    assert str(shown[0]) in answer


@pytest.mark.parametrize("text", ["roll 0 dice", "roll 101 dice", "roll 1 dice with 1 sides", "1d999999999"])
async def test_impossible_dice_are_a_failed_tool_call_and_a_sentence(agent, text):
    results = events_of(agent, ToolEndEvent)
    answer = await ask(agent, text)
    await agent.events.wait()
    assert answer.startswith("That did not work: ")
    assert [event.success for event in results] == [False]


async def test_names_are_remembered_for_each_person(agent):
    assert "not told me" in await ask(agent, "what is my name?", "caller")
    assert await ask(agent, "My name is Caller Lovelace.", "caller") == "Nice to meet you, Caller Lovelace."
    assert await ask(agent, "call me Guest", "guest") == "Nice to meet you, Guest."
    assert await ask(agent, "What is my name?", "caller") == "Your name is Caller Lovelace."
    assert (await ask(agent, "hi", "guest")).startswith("Hello, Guest!")
    assert (await ask(agent, f"my name is {'x' * 61}")).startswith("That did not work: a name has")


@pytest.mark.parametrize(
    "said",
    ["My name is, um, Caller.", "my name's Caller", "Well, call me Caller, please.", "My name is actually Caller!"],
)
async def test_a_name_is_understood_as_people_say_it(agent, said):
    assert await ask(agent, said) == "Nice to meet you, Caller."


async def test_a_robot_goes_where_it_is_told_and_can_be_asked_where_it_is(agent):
    assert await ask(agent, "Where is the robot?") == "It is where it started."
    answer = await ask(agent, "Go forward ten meters.")
    assert answer == "The robot went forward 10 meters. It is 10 meters ahead of where it started."
    answer = await ask(agent, "um, could it move back three metres please")
    assert answer == "The robot went backward 3 meters. It is 7 meters ahead of where it started."
    await ask(agent, "Walk to the left.")
    answer = await ask(agent, "where's the robot now")
    assert answer == "It is 7 meters ahead of and 1 meter to the left of where it started."
    assert (await ask(agent, "go right 9000 meters")).startswith("That did not work: the robot goes up to 1000 meters")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Go forward ten meters", "Go forward 10 meters"),
        ("twenty-one dice with six sides", "21 dice with 6 sides"),
        ("Two hundred and a hundred", "200 and 100"),
        ("seventeen", "17"),
        ("someone often won a tent", "someone often won a tent"),
    ],
)
def test_numbers_in_words_are_digits_to_the_rules(text, said):
    assert with_digits(text) == said


async def test_what_no_rule_is_for_is_repeated_but_not_at_length(agent):
    assert 'no rule for "Ten of clubs."' in await ask(agent, "Ten of clubs.")
    assert '"many many many many many many many many many many many many ..."' in await ask(agent, "many " * 100)


@pytest.mark.django_db(transaction=True)
async def test_sessions_of_this_call_are_counted_and_nothing_of_others_is_told(agent):
    for call_id in ("c", "another", "over"):
        await AgentSession.objects.acreate(call_id=call_id)
    ended = await AgentSession.objects.aget(call_id="over")
    await sync_to_async(ended.finish)(EndReason.FINISHED)
    events = events_of(agent, ToolStartEvent, ToolEndEvent)
    assert await ask(agent, "how many sessions are live?") == "1 session is live on this call."
    await AgentSession.objects.acreate(call_id="c")
    assert await ask(agent, "list the live sessions") == "2 sessions are live on this call."
    await until(lambda: len(events) == 4)
    assert [event.result for event in events if isinstance(event, ToolEndEvent)] == [1, 2]


async def test_rules_look_at_the_beginning_of_a_long_text_only(agent, monkeypatch):
    looked_at = []

    class Pattern:
        def search(self, text):
            looked_at.append(len(text))

    monkeypatch.setattr(agent.llm, "_rules", [(Pattern(), None)])
    await ask(agent, "go " * 1333)
    assert looked_at == [MAX_MATCHED]


async def test_without_a_database_the_question_about_sessions_gets_a_clear_answer(agent, monkeypatch):
    from django.db import OperationalError

    async def read(*args, **kwargs):
        raise OperationalError("could not connect")

    monkeypatch.setattr("visionagents_runner.store.database.read", read)
    answer = await ask(agent, "how many sessions are live?")
    assert answer == "That did not work: the database of sessions is not available."


async def test_a_rule_that_raises_is_an_llm_error():
    llm = ScriptedLLM()

    @llm.rule("")
    async def broken(question):
        raise ZeroDivisionError("oops")

    agent = stub_agent(llm=llm)
    call = await agent.create_call("default", "c")
    errors = events_of(agent, LLMErrorEvent)
    async with agent.join(call, participant_wait_timeout=0):
        person = agent.edge.person()
        await person.say("hello")
        await until(lambda: bool(errors))
        person.leave()
    assert errors[0].error_message == "oops"


async def test_a_tool_that_takes_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr("visionagents_runner.demo.llm.TOOL_TIMEOUT_SECONDS", 0.01)
    llm = ScriptedLLM()

    @llm.register_function(description="Never ends")
    async def sleep() -> None:
        await asyncio.Event().wait()

    @llm.rule("")
    async def rule(question):
        await question.call("sleep")
        return "done"

    agent = stub_agent(llm=llm)
    call = await agent.create_call("default", "c")
    async with agent.join(call, participant_wait_timeout=0):
        assert await agent.edge.ask("go") == "That did not work: sleep took longer than 0.01 seconds."


async def test_a_reply_comes_word_by_word(agent):
    person = agent.edge.person()
    await person.say("thanks")
    deltas = []
    async for event in person:
        if isinstance(event, Words) and event.role == "assistant":
            deltas.append(event.delta)
            if event.completed:
                break
    person.leave()
    assert deltas == ["You ", "are ", "welcome.", ""]
