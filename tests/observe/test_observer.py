from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from vision_agents.core.edge.types import Participant
from vision_agents.core.llm.events import LLMErrorEvent

from tests.observe.parts import CALLER, Diary, Ears, LiveModel, Slow, Voice, on_call, pcm
from visionagents_runner.observe import observe
from visionagents_runner.testing import stub_agent


def _message(diary: Diary, role: str) -> list[dict[str, Any]]:
    return [data for data in diary.of("message") if data["role"] == role]


async def test_a_spoken_turn_is_told_from_partial_words_to_the_reply() -> None:
    ears = Ears()
    async with on_call(stt=ears, tts=Voice(), llm=Slow()) as (_, diary):
        ears.starts()
        ears.murmurs("how")
        ears.murmurs("how are you")
        ears.ends()
        ears.says("How are you?")
        await diary.wait_for("turn")
    spoken = [data for data in diary.of("partial") if data["role"] == "user"]
    assert [data["text"] for data in spoken] == ["how", "how are you"]
    assert {data["participant_id"] for data in spoken} == {"caller-1"}
    assert len({data["message_id"] for data in spoken}) == 1
    assert [data["text"] for data in _message(diary, "user")] == ["How are you?"]
    assert [data["text"] for data in diary.of("partial") if data["role"] == "assistant"][-1] == "All is well."
    [reply] = _message(diary, "assistant")
    assert reply == {
        "message_id": "reply-1",
        "role": "assistant",
        "user_id": "stub-agent",
        "completed": True,
        "text": "All is well.",
    }
    told = [kind for kind in diary.kinds if kind not in {"partial", "agent_turn_started", "agent_turn_ended"}]
    assert told == [
        "agent_joined",
        "user_turn_started",
        "message",
        "user_turn_ended",
        "message",
        "turn",
        "agent_left",
    ]
    assert diary.of("user_turn_ended") == [{"participant_id": "caller-1", "user_id": "caller"}]


async def test_partial_words_that_come_as_pieces_are_put_together() -> None:
    ears = Ears()
    async with on_call(stt=ears) as (_, diary):
        ears.murmurs("how ", mode="delta")
        ears.murmurs("are you", mode="delta")
        ears.says("How are you?")
        ears.murmurs("and now", mode="delta")
        await diary.wait_for("message")
    spoken = [data for data in diary.of("partial") if data["role"] == "user"]
    assert [data["text"] for data in spoken] == ["how ", "how are you", "and now"]
    assert spoken[2]["message_id"] != spoken[1]["message_id"]


async def test_an_interrupted_reply_is_kept_with_the_words_so_far_before_what_interrupted_it() -> None:
    ears, model = Ears(), Slow("One ", "two ", "three.", gate=2)
    async with on_call(stt=ears, tts=Voice(), llm=model) as (agent, diary):
        await agent.simple_response("count", CALLER)
        await model.waiting.wait()
        await diary.wait_for("partial", 2)
        ears.starts()
        model.go.set()
        ears.says("stop")
        ears.ends()
        await diary.wait_for("message", 2)
    first, second = diary.of("message")[:2]
    assert (first["role"], first["text"], first["completed"]) == ("assistant", "One two ", False)
    assert (second["role"], second["text"], second["completed"]) == ("user", "stop", True)
    assert len([data for data in diary.of("message") if data["message_id"] == first["message_id"]]) == 1


async def test_a_reply_that_is_cut_by_the_end_is_kept() -> None:
    model = Slow("One ", "two.", gate=1)
    async with on_call(llm=model) as (agent, diary):
        await agent.simple_response("count", CALLER)
        await model.waiting.wait()
        await diary.wait_for("partial")
    assert [(data["text"], data["completed"]) for data in _message(diary, "assistant")] == [("One ", False)]


async def test_a_realtime_model_is_told_in_the_same_words() -> None:
    model = LiveModel()
    async with on_call(llm=model, tts=None) as (_, diary):
        await model.process_audio(pcm(0.02), CALLER)
        model._emit_user_speech_started()
        model._emit_user_speech_transcription("Hello ", mode="delta")
        model._emit_user_speech_ended()
        model._emit_agent_speech_started()
        model._emit_agent_speech_transcription("Hi ", mode="delta")
        model._emit_audio_output_event(pcm(0.02))
        model._emit_agent_speech_transcription("there.", mode="delta")
        model._emit_agent_speech_transcription("Hi there.", mode="final")
        model._emit_audio_output_done_event()
        model._emit_agent_speech_ended()
        turn = await diary.wait_for("turn")
    assert [data["text"] for data in diary.of("message")] == ["Hello ", "Hi there."]
    assert [data["text"] for data in diary.of("partial")] == ["Hello ", "Hi ", "Hi there."]
    assert diary.of("connection")[0] == {"component": "realtime", "state": "connected", "reason": None}
    assert turn["how"] == "speech"
    assert turn["participant_id"] == "caller-1"
    assert turn["recognition_ms"] is None
    assert turn["total_ms"] == turn["model_ms"] + turn["voice_ms"]


async def test_tools_are_told_with_arguments_and_result() -> None:
    agent = stub_agent()

    @agent.llm.register_function()
    async def look_up(thing: str) -> dict[str, Any]:
        return {"thing": thing, "at": object()}

    async with on_call(agent) as (_, diary):
        calls: list[Any] = [
            {"type": "tool_call", "id": "call-1", "name": "look_up", "arguments_json": {"thing": "key"}},
            {"type": "tool_call", "id": "call-2", "name": "no_such_tool", "arguments_json": {}},
        ]
        await agent.llm._execute_tools(calls)
        await diary.wait_for("tool_ended", 2)
    assert diary.of("tool_started")[0] == {
        "tool_call_id": "call-1",
        "name": "look_up",
        "arguments": {"thing": "key"},
    }
    ended = {data["tool_call_id"]: data for data in diary.of("tool_ended")}
    assert ended["call-1"]["ok"] is True
    assert ended["call-1"]["result"]["thing"] == "key"
    assert ended["call-1"]["ms"] >= 0
    assert ended["call-2"]["ok"] is False
    assert ended["call-2"]["error"]
    json.dumps(ended)


async def test_people_custom_events_and_errors_are_told() -> None:
    async with on_call() as (agent, diary):
        person = agent.edge.person("guest")
        await agent.send_custom_event({"type": "score", "value": 3})
        await agent.send_metrics_event()
        agent.llm.on_llm_error(error=ValueError("no such model for Bearer sk-abcdef123456"))
        person.leave()
        await diary.wait_for("participant_left")
        await diary.wait_for("error")
    assert diary.of("participant_joined")[0]["user_id"] == "guest"
    assert [data["data"] for data in diary.of("custom")] == [{"type": "score", "value": 3}]
    assert diary.of("error") == [
        {"component": "llm", "type": "ValueError", "message": "no such model for Bearer sk-***", "recoverable": True}
    ]


async def test_a_handler_of_the_project_that_explodes_is_told_and_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    agent = stub_agent()

    async def explode(event: LLMErrorEvent) -> None:
        raise RuntimeError("boom")

    explode.__annotations__["event"] = LLMErrorEvent
    agent.events.subscribe(explode)
    async with on_call(agent) as (_, diary):
        agent.llm.on_llm_error(error=ValueError("first"))
        await diary.wait_for("error", 2)
    assert {data["component"] for data in diary.of("error")} == {"llm", "handler"}


async def test_events_carry_the_time_at_which_they_were_made() -> None:
    before = time.time()
    async with on_call() as (agent, diary):
        await agent.edge.ask("hello")
    assert all(before <= event.at <= time.time() for event in diary)
    assert diary[0].kind == "agent_joined"


async def test_a_listener_that_explodes_harms_neither_the_agent_nor_others(caplog: pytest.LogCaptureFixture) -> None:
    agent = stub_agent()

    def explode(event: Any) -> None:
        raise RuntimeError("boom")

    observe(agent).add_listener(explode)
    async with on_call(agent) as (_, diary):
        assert await agent.edge.ask("hello") == "You said: hello"
    assert [data["text"] for data in diary.of("message")] == ["hello", "You said: hello"]


async def test_an_agent_has_one_observer_until_it_is_closed() -> None:
    agent = stub_agent()
    observer = observe(agent)
    assert observe(agent) is observer
    observer.close()
    observer.close()
    assert observe(agent) is not observer
    observe(agent).close()
    await agent.close()


async def test_closing_takes_every_hook_back() -> None:
    agent = stub_agent(stt=Ears())
    before = {id(part): set(vars(part)) for part in (agent, agent.edge, agent.stt.output)}
    observe(agent).close()
    del vars(agent)["_visionagents_runner_observer"]
    assert {id(part): set(vars(part)) for part in (agent, agent.edge, agent.stt.output)} == before
    assert not any("observe" in handler.__module__ for funcs in agent.events._handlers.values() for handler in funcs)
    await agent.close()


async def test_an_observer_made_after_the_join_sees_what_comes() -> None:
    agent = stub_agent()
    call = await agent.create_call("default", "late")
    async with agent.join(call, participant_wait_timeout=0):
        observer = observe(agent)
        diary = Diary(observer)
        await agent.edge.ask("hello")
        observer.close()
    assert [data["text"] for data in diary.of("message")] == ["hello", "You said: hello"]


async def test_a_stream_that_a_component_makes_anew_when_it_starts_is_watched() -> None:
    class Restarting(Ears):
        async def start(self) -> None:
            await super().start()
            self._output = type(self._output)()

    ears = Restarting()
    async with on_call(stt=ears) as (_, diary):
        ears.murmurs("hel")
        assert diary.of("partial")[0]["text"] == "hel"


async def test_two_people_are_told_apart() -> None:
    ears, guest = Ears(), Participant(original=None, user_id="guest", id="guest-1")
    async with on_call(stt=ears) as (_, diary):
        ears.murmurs("one")
        ears.murmurs("two", guest)
        ears.murmurs("one more")
        await asyncio.sleep(0)
    assert [(data["participant_id"], data["text"]) for data in diary.of("partial")] == [
        ("caller-1", "one"),
        ("guest-1", "two"),
        ("caller-1", "one more"),
    ]
