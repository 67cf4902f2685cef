"""Which session, call and request a log record belongs to."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.agents import StubAgent, create_agent
from tests.asgi_client import Client
from tests.conftest import agent_of
from visionagents_runner.telemetry.correlation import CorrelationFilter, clean_request_id, correlate, uncorrelate
from visionagents_runner.telemetry.logs import JSONFormatter

project = logging.getLogger("project.agents")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(CorrelationFilter())
    handler.setFormatter(JSONFormatter())
    root = logging.getLogger()
    root.addHandler(handler)
    level = root.level
    root.setLevel(logging.INFO)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def lines(stream: io.StringIO, logger: str = "project.agents") -> list[dict[str, Any]]:
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [record for record in records if record["logger"].startswith(logger)]


async def test_all_that_a_session_does_is_logged_with_its_id_and_its_call(launch: Any, stream: io.StringIO) -> None:
    async def create() -> StubAgent:
        project.info("building")
        return await create_agent()

    async def join(agent: StubAgent, call_type: str, call_id: str) -> None:
        async def inner() -> None:
            project.info("within a task of the agent's own")

        await asyncio.create_task(inner())
        await asyncio.to_thread(project.info, "within a thread")
        agent.join()
        await agent.ended.wait()
        project.error("leaving", exc_info=ValueError("no"))

    launcher = await launch(create, join)
    sessions = [await launcher.start_session(call, "room") for call in ("a", "b")]
    for session in sessions:
        agent_of(session).end()
        await session.wait()
    for session in sessions:
        mine = [line for line in lines(stream, "") if line.get("session") == session.id]
        said = [line["message"] for line in mine if line["logger"] == "project.agents"]
        assert said == ["building", "within a task of the agent's own", "within a thread", "leaving"]
        assert {line["call"] for line in mine} == {f"room/{session.call_id}"}
        assert f"Session {session.id} ended: finished" in [line["message"] for line in mine]
    assert "ValueError: no" in lines(stream)[-1]["exception"]
    project.info("of nobody")
    assert "session" not in lines(stream)[-1]


async def test_a_request_has_an_id_that_is_echoed_and_logged(
    client: Client, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = await client.get("/health", headers={"x-request-id": "proxy-7.42"})
    assert answer.headers["x-request-id"] == "proxy-7.42"
    first, second = [(await client.get("/health")).headers["x-request-id"] for _ in range(2)]
    assert first != second
    answer = await client.get("/sessions/unknown", headers={"x-request-id": "a"})
    assert (answer.status, answer.headers["x-request-id"]) == (404, "a")
    answer = await client.request("PUT", "/sessions", headers={"x-request-id": "b"})
    assert (answer.status, answer.headers["x-request-id"]) == (405, "b")

    def explode(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr("visionagents_runner.api.status.current_worker", explode)
    answer = await client.get("/health", headers={"x-request-id": "c"})
    assert (answer.status, answer.headers["x-request-id"]) == (500, "c")
    (line,) = lines(stream, "visionagents_runner.api")
    assert line["request_id"] == "c"
    assert "RuntimeError: no" in line["exception"]


async def test_what_a_start_logs_carries_the_request_that_asked(client: Client, stream: io.StringIO) -> None:
    from django.db import OperationalError

    from visionagents_runner.store import session_limits

    with pytest.MonkeyPatch.context() as patch:

        async def away(*args: Any) -> None:
            raise OperationalError("gone")

        patch.setattr(session_limits, "admit", away)
        answer = await client.post("/sessions", {"call_id": "a"}, headers={"x-request-id": "start-1"})
    assert answer.status == 503
    (line,) = lines(stream, "visionagents_runner.worker.launcher")
    assert line["request_id"] == "start-1"


@pytest.mark.parametrize("given", ["", None, "a b", "x\n", "é", "a" * 129, '"', "<i>"])
def test_a_request_id_that_is_no_id_is_replaced(given: str | None) -> None:
    assert clean_request_id(given).isalnum()
    assert clean_request_id(given) != given


def test_a_record_that_says_its_session_itself_keeps_it() -> None:
    token = correlate(session="of the task", call="a/b")
    try:
        record = logging.makeLogRecord({"session": "of the record"})
        assert CorrelationFilter().filter(record)
    finally:
        uncorrelate(token)
    assert (record.session, record.call) == ("of the record", "a/b")  # type: ignore[attr-defined]


def test_json_is_one_line_and_takes_anything() -> None:
    record = logging.makeLogRecord(
        {"name": "a", "levelname": "INFO", "msg": "two\nlines %s", "args": ("é",), "thing": object(), "created": 0.25}
    )
    text = JSONFormatter().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert line.pop("thing").startswith("<object object")
    assert line == {"time": "1970-01-01T00:00:00.250Z", "level": "INFO", "logger": "a", "message": "two\nlines é"}
