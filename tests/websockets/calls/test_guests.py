"""What guests, who joined by an invitation, learn of a call, and what is not for them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import until
from tests.websockets.calls.client import Socket
from tests.websockets.calls.conftest import Serve
from tests.websockets.calls.test_access import join
from visionagents_runner.auth.tokens import make_join_token
from visionagents_runner.demo.llm import Question, ScriptedLLM
from visionagents_runner.edge import Happening, Presence, Words, find_room
from visionagents_runner.testing import stub_agent
from visionagents_runner.websockets.calls.events import alias_of, to_message

ARGUMENT, RESULT = "account-4711", "balance-12345"
HIDDEN = (ARGUMENT, RESULT, "look_up", "tool")


async def create_agent() -> Any:
    llm = ScriptedLLM()

    @llm.register_function(description="Looks something up")
    async def look_up(account: str) -> str:
        return RESULT

    @llm.rule("fail")
    async def fail(question: Question) -> str:
        raise ValueError(f"no {ARGUMENT}")

    @llm.rule("")
    async def answer(question: Question) -> str:
        await question.call("look_up", account=ARGUMENT)
        return "Done."

    return stub_agent(llm=llm)


def heard(socket: Socket) -> str:
    return json.dumps([each for each in socket.received if isinstance(each, dict)])


async def test_guests_learn_nothing_of_tools_and_others_do(serve: Serve, allow_local: None) -> None:
    server = await serve(create=create_agent)
    token = make_join_token(await server.start())
    async with join(server, token) as guest, server.socket() as caller:
        await guest.hello(token=token)
        await caller.hello()
        guest.send("say", id=1, text="go")
        for socket in (guest, caller):
            await until(lambda socket=socket: '"text": "Done.", "completed": true' in heard(socket))
        await until(lambda: '"kind": "turn"' in heard(guest))
        assert not [word for word in HIDDEN if word in heard(guest)]
        assert '"state": "thinking"' in heard(guest)  # that it is busy
        assert all(word in heard(caller) for word in HIDDEN)
        async with join(server, token) as late:
            await late.hello(token=token)
            await late.hear("presence", is_agent=True)
            await late.hear("happening", kind="state")
            assert not [word for word in HIDDEN if word in heard(late)]


async def test_a_setting_lets_guests_see_tools(serve: Serve, settings: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "GUESTS_SEE_TOOLS": True}
    server = await serve(create=create_agent)
    token = make_join_token(await server.start())
    async with join(server, token) as guest:
        await guest.hello(token=token)
        guest.send("say", id=1, text="go")
        started = await guest.hear("happening", kind="tool_started")
        assert (started["data"]["name"], started["data"]["arguments"]) == ("look_up", {"account": ARGUMENT})
        assert (await guest.hear("happening", kind="tool_ended"))["data"]["result"] == RESULT


async def test_guests_are_told_that_there_was_an_error_but_not_what_it_says(serve: Serve, allow_local: None) -> None:
    server = await serve(create=create_agent)
    token = make_join_token(await server.start())
    async with join(server, token) as guest, server.socket() as caller:
        await guest.hello(token=token)
        await caller.hello()
        guest.send("say", id=1, text="fail")
        assert set((await guest.hear("happening", kind="error"))["data"]) == {"component", "recoverable"}
        assert ARGUMENT in (await caller.hear("happening", kind="error"))["data"]["message"]
        assert ARGUMENT not in heard(guest)


async def test_guests_are_not_told_whose_models_there_are_nor_what_the_agent_was_given(serve: Serve) -> None:
    server = await serve()
    token = make_join_token(await server.start(metadata={"lead": ARGUMENT}))
    async with join(server, token) as guest:
        [told] = (await guest.hello(token=token))["sessions"]
        assert told["models"] == {}
        assert "metadata" not in told
        presence = await guest.hear("presence", is_agent=True)
        assert presence["session"] == told


async def test_guests_do_not_learn_the_keys_of_users(serve: Serve) -> None:
    server = await serve()
    session = await server.start()
    room = find_room("default", "my-call")
    assert room is not None
    user = room.join("4711", name="ada@mail.example")
    token = make_join_token(session)
    async with join(server, token) as guest:
        mine = await guest.hello(token=token)
        told = await guest.hear("presence", is_agent=False)
        assert told["name"] == "ada"
        assert told["participant_id"] == user.participant.id
        await user.say("hello")
        words = await guest.hear("words", role="user")
        assert words["user_id"] == told["user_id"] == alias_of("4711")
        await guest.hear("words", role="assistant", completed=True)
        assert "4711" not in json.dumps([mine, told, words]) + heard(guest)
    user.leave()


async def test_nobody_on_a_call_passes_for_its_agent(serve: Serve, allow_local: None) -> None:
    server = await serve()
    async with server.socket() as early, server.socket() as other:
        await early.hello(name=" STUB  agent\u200b")
        await other.hello(name="Other")
        assert (await other.hear("presence"))["name"] == "STUB agent"
        await server.start()
        assert (await other.hear("presence", is_agent=True))["name"] == "Stub agent"
        assert (await other.hear("presence", is_agent=False))["name"] == "STUB agent (person)"
        async with server.socket() as late:
            await late.hello(name="Stub-Agent")
            assert (await other.hear("presence"))["name"] == "Stub-Agent (person)"


# Everything that an agent may ever tell


@pytest.mark.parametrize("kind", ["asked", "dropped", "custom", "tool_progress", "some_new_kind"])
def test_guests_are_told_of_nothing_that_nobody_thought_of(kind: str) -> None:
    event = Happening(kind, {"data": ARGUMENT}, "agent")
    assert to_message(event, lambda _id: None, for_guest=True) is None
    assert to_message(event, lambda _id: None, for_guest=False) is not None


@pytest.mark.parametrize("role", ["tool", "function", "system", "developer", ""])
def test_guests_read_what_is_said_and_no_other_messages(role: str, settings: Any) -> None:
    words = Words("m", role, "x", ARGUMENT, None, True)
    events = [words, *(Happening(kind, {"role": role, "text": ARGUMENT}, "agent") for kind in ("message", "partial"))]
    for event in events:
        assert to_message(event, lambda _id: None, for_guest=True) is None
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "GUESTS_SEE_TOOLS": True}
    shown = role in {"tool", "function"}
    for event in events:
        assert (to_message(event, lambda _id: None, for_guest=True) is not None) == shown


def test_what_a_lost_connection_says_is_not_for_guests() -> None:
    data = {"component": "stt", "state": "disconnected", "reason": f"401 for {ARGUMENT}"}
    told = to_message(Happening("connection", data, "agent"), lambda _id: None, for_guest=True)
    assert told is not None
    assert told.message["data"] == {"component": "stt", "state": "disconnected"}


def test_a_guest_is_known_by_the_id_that_they_were_given() -> None:
    presence = Presence("guest-0123456789ab", "p", "Me", False, True)
    told = to_message(presence, lambda _id: None, for_guest=True)
    assert told is not None
    assert told.message["user_id"] == "guest-0123456789ab"
    assert alias_of("1") != alias_of("2")
