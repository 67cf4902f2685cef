"""The spans of a session, as OpenTelemetry's SDK takes them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from tests.agents import StubAgent, create_agent, join_call
from tests.conftest import agent_of, until
from visionagents_runner import StartFailed
from visionagents_runner.exceptions import MaxSessionsPerCallExceeded
from visionagents_runner.telemetry import tracing
from visionagents_runner.worker.current import current_worker

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    # Not set for the whole process: that can be done once, and other tests are to run without.
    monkeypatch.setattr(tracing, "_tracer", lambda: provider.get_tracer("visionagents_runner"))
    exporter.clear()
    return exporter


def finished(name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def one(name: str) -> ReadableSpan:
    (span,) = finished(name)
    return span


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


async def test_a_session_is_one_trace_from_start_to_close(launch: Any, spans: InMemorySpanExporter) -> None:
    async def join(agent: StubAgent, call_type: str, call_id: str) -> None:
        with provider.get_tracer("agents").start_as_current_span("what the agent traces itself"):
            agent.join()
        await agent.ended.wait()

    launcher = await launch(create_agent, join)
    with provider.get_tracer("web").start_as_current_span("POST /sessions") as request:
        session = await launcher.start_session("a/b", "room")
    session.check_limits()
    agent_of(session).end()
    await session.wait()
    root, start = one("agent_session"), one("agent_session.start")
    assert root.parent is None
    assert [link.context.span_id for link in root.links] == [request.get_span_context().span_id]
    assert parent_of(start) == root.context.span_id
    for name in ("agent_session.admit", "agent_session.build"):
        assert parent_of(one(name)) == start.context.span_id
    for name in ("agent_session.join", "agent_session.close", "what the agent traces itself"):
        assert parent_of(one(name)) == root.context.span_id
    assert root.attributes == {
        "session.id": session.id,
        "gen_ai.agent.name": "default",
        "visionagents.call.type": "room",
        "visionagents.call.id": "a/b",
        "visionagents.end_reason": "finished",
    }
    assert {span.status.status_code for span in exporter.get_finished_spans()} == {StatusCode.UNSET}


async def test_errors_are_in_the_spans(launch: Any, spans: InMemorySpanExporter) -> None:
    building = [ValueError("no model")]

    async def create() -> StubAgent:
        if building and current_worker().live_sessions and any(current_worker().live_sessions):  # type: ignore[union-attr]
            raise building.pop()
        return await create_agent()

    async def join(agent: StubAgent, call_type: str, call_id: str) -> None:
        raise OSError("no call")

    launcher = await launch(create, join)
    with pytest.raises(StartFailed):
        await launcher.start_session("call")
    await until(lambda: len(finished("agent_session")) == 1)
    (event,) = one("agent_session.build").events
    assert event.attributes is not None
    assert event.attributes["exception.message"] == "no model"
    assert one("agent_session.start").status.status_code is StatusCode.ERROR
    exporter.clear()

    session = await launcher.start_session("call")
    await session.wait_ended()
    root, join_span = one("agent_session"), one("agent_session.join")
    assert root.attributes is not None
    assert root.attributes["visionagents.end_reason"] == "join_failed"
    assert root.status.status_code is join_span.status.status_code is StatusCode.ERROR
    assert [event.name for event in root.events] == ["exception"]


async def test_a_start_that_is_refused_ends_its_spans(launch: Any, spans: InMemorySpanExporter) -> None:
    launcher = await launch(max_sessions_per_call=1)
    await launcher.start_session("call")
    exporter.clear()
    with pytest.raises(MaxSessionsPerCallExceeded):
        await launcher.start_session("call")
    assert one("agent_session").status.status_code is StatusCode.ERROR
    assert one("agent_session.admit").status.status_code is StatusCode.ERROR


async def test_the_recorder_traces_what_it_writes(launch: Any, spans: InMemorySpanExporter) -> None:
    from visionagents_runner.observe import observe

    launcher = await launch()
    session = await launcher.start_session("call")
    for number in range(3):
        observe(session.agent).tell("custom", {"data": number})
    worker = current_worker()
    assert worker is not None
    await worker.recorder.settle(session.uuid)
    assert sum(span.attributes["visionagents.events"] for span in finished("agent_recorder.flush")) == 3  # type: ignore


async def test_without_an_sdk_nothing_is_traced_and_all_works(launch: Any) -> None:
    launcher = await launch(create_agent, join_call)
    session = await launcher.start_session("call")
    assert not session._trace._root.is_recording()
    session.request_close()
    await asyncio.wait_for(session.wait_ended(), 10)
