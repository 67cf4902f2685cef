"""What a session's agent does, in its history."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.agents import StubAgent
from tests.agents import join_call as stub_join_call
from tests.conftest import until
from tests.observe.parts import CALLER, Ears, LiveModel, Slow, Voice, pcm
from visionagents_runner.exceptions import RunnerConfigurationError
from visionagents_runner.models import AgentSession, SessionEvent
from visionagents_runner.observe import observe
from visionagents_runner.store import database, session_rows
from visionagents_runner.testing import join_call, stub_agent
from visionagents_runner.worker.current import current_worker


async def history(session: Any) -> list[SessionEvent]:
    return await database.read(lambda: list(SessionEvent.objects.filter(session_id=session.uuid).order_by("seq")))


def of(events: list[SessionEvent], kind: str) -> list[dict[str, Any]]:
    return [event.data for event in events if event.kind == kind]


async def test_the_history_of_a_session_is_whole_and_ends_with_its_end(launch: Callable[..., Any]) -> None:
    launcher = await launch(stub_agent, join_call)
    session = await launcher.start_session("recorded")
    await until(lambda: session.agent.edge.room is not None and session.agent.conversation is not None)
    await session.agent.edge.ask("hello", user_id="caller")
    session.agent.edge.end_call()
    await session.wait_ended()
    events = await history(session)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[0].kind == "requested"
    assert events[-1].kind == "ended"
    assert [(data["role"], data["text"]) for data in of(events, "message")] == [
        ("user", "hello"),
        ("assistant", "You said: hello"),
    ]
    assert len(of(events, "agent_joined")) == len(of(events, "agent_left")) == 1
    assert of(events, "participant_joined")[0]["user_id"] == "caller"
    assert of(events, "turn")[0]["how"] == "text"
    assert not of(events, "partial")
    row = await session_rows.get_session(session.uuid)
    assert row is not None
    assert row.event_seq == len(events)


async def test_a_spoken_call_that_is_cut_off_keeps_what_was_said(launch: Callable[..., Any]) -> None:
    launcher = await launch(lambda: stub_agent(stt=Ears(), tts=Voice(), llm=Slow("One ", "two.", gate=1)), join_call)
    session = await launcher.start_session("recorded")
    await until(lambda: session.agent.conversation is not None)
    ears, model = session.agent.stt, session.agent.llm
    ears.starts()
    ears.ends()
    ears.says("Count to two.")
    await model.waiting.wait()
    await asyncio.sleep(0.05)
    session.request_close()
    await session.wait_ended()
    events = await history(session)
    assert [(data["role"], data["text"], data["completed"]) for data in of(events, "message")] == [
        ("user", "Count to two.", True),
        ("assistant", "One ", False),
    ]
    assert of(events, "turn")[0]["interrupted"] is True
    assert events[-1].kind == "ended"


async def test_a_realtime_agent_has_a_history_too(launch: Callable[..., Any]) -> None:
    launcher = await launch(lambda: stub_agent(llm=LiveModel(), tts=None), join_call)
    session = await launcher.start_session("recorded")
    await until(lambda: session.agent.conversation is not None)
    model = session.agent.llm
    await model.process_audio(pcm(0.02), CALLER)
    model._emit_user_speech_transcription("Hello.", mode="final")
    model._emit_agent_speech_transcription("Hi.", mode="final")
    await until(lambda: len(session.agent.conversation.messages) == 2)
    session.request_close()
    await session.wait_ended()
    events = await history(session)
    assert [data["text"] for data in of(events, "message")] == ["Hello.", "Hi."]
    assert [data["state"] for data in of(events, "connection")] == ["connected", "disconnected"]


async def test_a_redact_that_lets_nothing_through_does_not_hide_from_the_runner_that_the_agent_joined(
    launch: Callable[..., Any], settings: Any
) -> None:
    settings.VISIONAGENTS_RUNNER = {"REDACT": f"{__name__}.nothing"}
    launcher = await launch(stub_agent, join_call)
    session = await launcher.start_session("recorded")
    await until(lambda: session.joined_at is not None)
    await until(lambda: session.agent.conversation is not None)
    await session.agent.edge.person().say("hello")
    assert session.had_participant
    session.request_close()
    await session.wait_ended()
    assert [event.kind for event in await history(session)] == [
        "requested",
        "started",
        "joined",
        "close_requested",
        "ended",
    ]


def nothing(session_id: str, kind: str, data: dict[str, Any]) -> None:
    assert AgentSession.objects.model is AgentSession
    assert len(session_id) == 36


async def test_a_redact_that_cannot_be_imported_keeps_the_worker_from_starting(
    launch: Callable[..., Any], settings: Any
) -> None:
    settings.VISIONAGENTS_RUNNER = {"REDACT": "no.such.function"}
    with pytest.raises(RunnerConfigurationError, match="REDACT"):
        await launch(stub_agent, join_call)
    assert current_worker() is None


async def test_a_session_that_ended_leaves_no_observer_and_no_task(launch: Callable[..., Any]) -> None:
    launcher = await launch(stub_agent, join_call)
    session = await launcher.start_session("recorded")
    await until(lambda: session.agent.conversation is not None)
    observer = observe(session.agent)
    await session.agent.edge.ask("hello")
    session.request_close()
    await session.wait_ended()
    assert observer.closed
    assert "send_custom_event" not in vars(session.agent.edge)
    worker = current_worker()
    assert worker is not None
    assert worker.recorder.waiting == 0


async def test_an_agent_that_cannot_be_observed_runs_all_the_same(
    launch: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(StubAgent):
        events = object()

    launcher = await launch(Odd, stub_join_call)
    session = await launcher.start_session("odd")
    session.request_close()
    await session.wait_ended()
    assert session.status == "closed"
    assert "cannot be observed" in caplog.text
