"""``/sessions``: the routes of the documented Runner."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import quote, unquote

import pytest
from asgiref.sync import sync_to_async

from tests.agents import StubAgent, join_call
from tests.api.fixtures import Serve
from tests.asgi_client import Answer, Client
from tests.conftest import until
from visionagents_runner import AgentLauncher
from visionagents_runner.models import AgentSession, EndReason, Worker
from visionagents_runner.worker.current import current_worker

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


async def start(client: Client, call_id: str = "my-call", **body: Any) -> str:
    answer = await client.post("/sessions", {"call_id": call_id, **body})
    assert answer.status == 201, answer.body
    return str(answer.json()["session_id"])


async def all_ended() -> None:
    """Wait until this process runs no session."""
    worker = current_worker()
    assert worker is not None
    await until(lambda: not any(worker.live_sessions))


async def elsewhere(**values: Any) -> AgentSession:
    """Return the row of a session that a worker other than this process runs."""
    worker = await Worker.objects.acreate(hostname="other", pid=1)
    values = {"call_id": "my-call", "status": "active", "worker": worker, **values}
    return await AgentSession.objects.acreate(**values)


@pytest.mark.smoke
async def test_a_started_session_is_answered_with_its_id_call_and_start(client: Client) -> None:
    answer = await client.post("/sessions", {"call_id": "my-call-123", "call_type": "default"})
    assert answer.status == 201
    started = answer.json()
    assert started["call_id"] == "my-call-123"
    assert TIME.fullmatch(started["started_at"])

    answer = await client.get(f"/sessions/{started['session_id']}")
    assert answer.status == 200
    assert answer.json() == {**started, "status": "active"}


async def test_call_type_and_metadata_are_kept(client: Client) -> None:
    metadata = {"language": "ქართული", "nested": [{"a": 1.5}, None]}
    session_id = await start(client, call_type="livestream", metadata=metadata)
    shown = (await client.get(f"/sessions/{session_id}")).json()
    assert (shown["call_type"], shown["metadata"]) == ("livestream", metadata)
    row = await AgentSession.objects.aget(pk=session_id)
    assert (row.call_type, row.metadata, row.source) == ("livestream", metadata, "api")


async def test_every_route_answers_with_a_trailing_slash_too(client: Client) -> None:
    answer = await client.post("/sessions/", {"call_id": "my-call"})
    assert answer.status == 201
    session_id = answer.json()["session_id"]
    assert (await client.get(f"/sessions/{session_id}/")).json()["status"] == "active"
    assert len((await client.get("/sessions/")).json()["items"]) == 1
    assert (await client.delete(f"/sessions/{session_id}/")).status == 200
    for path in ("/health/", "/ready/", "/metrics/"):
        assert (await client.get(path)).status == 200


async def test_a_live_session_is_read_without_a_query_or_a_thread(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = await start(client)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a thread was asked for")

    with monkeypatch.context() as patch:
        patch.setattr("visionagents_runner.store.database._QueryThread.run", refuse)
        assert (await client.get(f"/sessions/{session_id}")).status == 200
        assert (await client.get(f"/calls/my-call/sessions/{session_id}")).status == 200
        assert (await client.get(f"/calls/my-call/sessions/{session_id}/metrics")).status == 200


async def test_closing_answers_at_once_and_again(client: Client) -> None:
    session_id = await start(client)
    answer = await client.delete(f"/sessions/{session_id}")
    assert (answer.status, answer.json()) == (200, {"success": True})
    await all_ended()
    ended = (await client.get(f"/sessions/{session_id}")).json()
    assert (ended["status"], ended["end_reason"]) == ("closed", "requested")
    assert TIME.fullmatch(ended["ended_at"])
    answer = await client.delete(f"/sessions/{session_id}")
    assert (answer.status, answer.json()) == (200, {"success": True})


async def test_a_session_that_is_closing_is_shown_so(serve: Serve, allow_local: None) -> None:
    released = asyncio.Event()

    class SlowAgent(StubAgent):
        async def close(self) -> None:
            if self.joined_at:  # not the one that is built on trial
                await released.wait()
            await super().close()

    client = await serve(create=SlowAgent)
    session_id = await start(client)
    await client.delete(f"/sessions/{session_id}")
    assert (await client.get(f"/sessions/{session_id}")).json()["status"] == "closing"
    assert (await client.delete(f"/sessions/{session_id}")).status == 200
    released.set()


async def test_a_session_of_another_worker_is_shown_and_closed_through_its_row(client: Client) -> None:
    row = await elsewhere(metadata={"a": 1})
    shown = (await client.get(f"/sessions/{row.pk}")).json()
    assert (shown["status"], shown["metadata"], shown["started_at"]) == ("active", {"a": 1}, None)
    assert (await client.get(f"/sessions/{str(row.pk).upper()}")).json()["session_id"] == str(row.pk)

    assert (await client.delete(f"/sessions/{row.pk}")).json() == {"success": True}
    await row.arefresh_from_db()
    assert row.status == "closing"
    assert row.close_requested_at is not None


@pytest.mark.parametrize(
    "session_id",
    [
        "6f1c9f3e-0c1b-4a53-9a55-3f9d2b7c0e11",
        "not-a-uuid",
        "%00",
        "%ff",
        "%2E%2E",
        "a%2Fb",
        "🦊",
        "{6f1c9f3e-0c1b-4a53-9a55-3f9d2b7c0e11}",
        "6f1c9f3e0c1b4a539a553f9d2b7c0e11",
        "x" * 300,
    ],
)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_unknown_or_malformed_id_is_not_found(client: Client, method: str, session_id: str) -> None:
    path = quote(session_id, safe="%{}")
    answer = await client.request(method, f"/sessions/{path}")
    assert answer.status == 404
    if session_id != "%ff":
        assert answer.detail == f"Session with id '{unquote(session_id)}' not found"
    assert (await client.request(method, f"/calls/my-call/sessions/{path}")).status == 404


async def test_the_traceback_of_a_failed_session_stays_in_its_row(client: Client) -> None:
    row = await elsewhere()
    await sync_to_async(row.finish)(EndReason.ERROR, error="Traceback: secret")
    answer = await client.get(f"/sessions/{row.pk}")
    assert (answer.json()["status"], answer.json()["end_reason"]) == ("failed", "error")
    assert b"secret" not in answer.body


# Starting


async def test_an_agent_that_cannot_be_built_is_a_500_with_the_session_but_no_traceback(
    serve: Serve, allow_local: None
) -> None:
    built: list[StubAgent] = []

    async def create() -> StubAgent:
        if built:
            raise RuntimeError("the key is wrong")
        built.append(StubAgent())
        return built[0]

    client = await serve(create=create)
    answer = await client.post("/sessions", {"call_id": "my-call"})
    assert (answer.status, answer.detail) == (500, "Failed to start agent")
    assert b"key" not in answer.body
    await all_ended()
    row = await AgentSession.objects.aget(pk=answer.json()["session_id"])
    assert (row.status, row.end_reason) == ("failed", "create_failed")
    assert "the key is wrong" in row.error


async def test_an_agent_that_takes_too_long_is_a_503_with_the_session(
    serve: Serve, allow_local: None, settings: Any
) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "START_TIMEOUT": 0.05}
    built: list[StubAgent] = []

    async def create() -> StubAgent:
        if built:
            await asyncio.Event().wait()
        built.append(StubAgent())
        return built[0]

    client = await serve(create=create)
    answer = await client.post("/sessions", {"call_id": "my-call"})
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0
    row = await AgentSession.objects.aget(pk=answer.json()["session_id"])
    await all_ended()
    await row.arefresh_from_db()
    assert row.end_reason == "create_failed"


@pytest.mark.parametrize(
    ("limit", "detail"),
    [
        ("max_concurrent_sessions", "Reached maximum number of concurrent sessions"),
        ("max_sessions_per_call", "Reached maximum number of sessions for this call"),
    ],
)
@pytest.mark.parametrize("path", ["/sessions", "/calls/my-call/sessions"])
async def test_a_limit_is_a_429_with_retry_after(
    serve: Serve, allow_local: None, limit: str, detail: str, path: str
) -> None:
    client = await serve(**{limit: 1})
    await start(client)
    answer = await client.post(path, {"call_id": "my-call"})
    assert (answer.status, answer.detail) == (429, detail)
    assert int(answer.headers["retry-after"]) > 0
    assert await AgentSession.objects.acount() == 1


async def test_a_warming_worker_says_so(serve: Serve, allow_local: None) -> None:
    client = await serve()
    worker = current_worker()
    assert worker is not None
    worker.launchers["default"]._warmed_up = False
    answer = await client.post("/sessions", {"call_id": "my-call"})
    assert answer.status == 503
    assert "warming up" in answer.detail
    assert int(answer.headers["retry-after"]) > 0
    worker.draining = True
    answer = await client.post("/sessions", {"call_id": "my-call"})
    assert answer.status == 503
    assert "draining" in answer.detail
    worker.draining = False


async def test_a_client_that_goes_away_while_starting_leaves_a_session_that_can_be_found_and_closed(
    serve: Serve, allow_local: None, mount: str
) -> None:
    building, go_on = asyncio.Event(), asyncio.Event()
    built: list[StubAgent] = []

    async def create() -> StubAgent:
        if built:
            building.set()
            await go_on.wait()
        built.append(StubAgent())
        return built[-1]

    client = await serve(create=create)
    leave = asyncio.Event()
    request = asyncio.create_task(client.post("/sessions", {"call_id": "my-call"}, leave=leave))
    await building.wait()
    leave.set()
    if mount == "lean":
        request.cancel()  # as daphne does, after a while
    await asyncio.wait({request})
    (item,) = (await client.get("/sessions")).json()["items"]
    assert item["status"] == "starting"
    for path in (f"/sessions/{item['session_id']}", f"/sessions/{item['session_id']}/metrics"):
        assert (await client.get(path)).json()["started_at"] is None
    go_on.set()
    await until(lambda: len(built) == 2 and built[1].joined.is_set())
    assert (await client.get(f"/sessions/{item['session_id']}")).json()["status"] == "active"
    assert (await client.delete(f"/sessions/{item['session_id']}")).status == 200


async def test_a_session_that_starts_can_be_closed(serve: Serve, allow_local: None) -> None:
    building = asyncio.Event()
    built: list[StubAgent] = []

    async def create() -> StubAgent:
        if built:
            building.set()
            await asyncio.Event().wait()
        built.append(StubAgent())
        return built[0]

    client = await serve(create=create)
    request = asyncio.create_task(client.post("/sessions", {"call_id": "my-call"}))
    await building.wait()
    (item,) = (await client.get("/sessions")).json()["items"]
    assert (await client.get(f"/sessions/{item['session_id']}")).json()["started_at"] is None
    assert (await client.delete(f"/sessions/{item['session_id']}")).status == 200
    answer = await request
    assert (answer.status, answer.json()["session_id"]) == (409, item["session_id"])
    await all_ended()
    row = await AgentSession.objects.aget(pk=item["session_id"])
    assert (row.status, row.end_reason) == ("closed", "requested")


async def test_a_start_that_a_drain_ends_may_be_asked_of_another_worker(serve: Serve, allow_local: None) -> None:
    building = asyncio.Event()

    async def create() -> StubAgent:
        if building.is_set() or (worker := current_worker()) is None or worker.warmed_up:
            building.set()
            await asyncio.Event().wait()
        return StubAgent()

    client = await serve(create=create)
    request = asyncio.create_task(client.post("/sessions", {"call_id": "my-call"}))
    await building.wait()
    worker = current_worker()
    assert worker is not None
    await worker.stop()
    answer = await request
    assert (answer.status, "drain" in answer.detail) == (503, True)
    assert answer.headers["retry-after"]
    row = await AgentSession.objects.aget(pk=answer.json()["session_id"])
    assert (row.status, row.end_reason) == ("closed", "drained")


async def test_a_client_picks_one_of_several_agents(serve: Serve, allow_local: None) -> None:
    async def create() -> StubAgent:
        return StubAgent()

    client = await serve(
        launchers={"guide": AgentLauncher(create, join_call), "coach": AgentLauncher(create, join_call)}
    )
    assert (await client.post("/sessions", {"call_id": "a"})).json()["agent"] == "guide"
    assert (await client.post("/sessions", {"call_id": "b", "agent": "coach"})).json()["agent"] == "coach"
    assert (await client.post("/calls/c/sessions", {"agent": "coach"})).status == 201
    listed = (await client.get("/sessions?agent=coach")).json()["items"]
    assert [item["call_id"] for item in listed] == ["c", "b"]

    answer = await client.post("/sessions", {"call_id": "a", "agent": "nobody"})
    assert answer.status == 422
    (problem,) = answer.detail
    assert problem["loc"] == ["body", "agent"]
    assert "coach" in problem["msg"]
    assert await AgentSession.objects.acount() == 3


async def test_without_a_worker_the_first_start_makes_one_run(serve: Serve, allow_local: None) -> None:
    client: Client = await serve(work=False)
    try:
        answers: list[Answer] = []

        async def ask() -> bool:
            answers.append(await client.post("/sessions", {"call_id": "my-call"}))
            return answers[-1].status == 201

        while not await ask():
            assert answers[-1].status == 503
            await asyncio.sleep(0.01)
    finally:
        worker = current_worker()
        assert worker is not None
        await worker.stop()
