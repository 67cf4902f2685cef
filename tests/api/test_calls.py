"""``/calls``: the routes of vision-agents 0.6.9, whose clients must work unchanged."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from asgiref.sync import sync_to_async
from pydantic import TypeAdapter

from tests.api.test_sessions import TIME, elsewhere
from tests.asgi_client import Client
from tests.conftest import until
from visionagents_runner.models import AgentSession, EndReason
from visionagents_runner.worker.current import current_worker


async def test_the_answers_are_what_the_models_of_vision_agents_expect(client: Client) -> None:
    from vision_agents.core.runner.http.models import (
        GetAgentSessionMetricsResponse,
        GetAgentSessionResponse,
        StartSessionResponse,
    )

    answer = await client.post("/calls/my-call/sessions", {"call_type": "default"})
    assert answer.status == 201
    started = TypeAdapter(StartSessionResponse).validate_json(answer.body)
    path = f"/calls/my-call/sessions/{started.session_id}"
    answer = await client.get(path)
    assert answer.status == 200
    assert TypeAdapter(GetAgentSessionResponse).validate_json(answer.body).session_started_at.utcoffset() is not None
    answer = await client.get(f"{path}/metrics")
    assert answer.status == 200
    metrics = TypeAdapter(GetAgentSessionMetricsResponse).validate_json(answer.body)
    assert metrics.metrics == {"llm_input_tokens__total": 0, "llm_latency_ms__avg": None}
    answer = await client.delete(path)
    assert (answer.status, answer.body) == (202, b"")


@pytest.mark.parametrize("body", [b"{}", b"", b'{"call_type": "livestream"}'])
async def test_a_start_needs_nothing_but_the_path(client: Client, body: bytes) -> None:
    assert (await client.request("POST", "/calls/my-call/sessions", body=body)).status == 201


async def test_a_beacon_closes_whatever_its_content_type(client: Client) -> None:
    session_id = (await client.post("/calls/my-call/sessions", {})).json()["session_id"]
    path = f"/calls/my-call/sessions/{session_id}/close"
    answer = await client.request("POST", path, body=b"bye", headers={"content-type": "text/plain;charset=UTF-8"})
    assert (answer.status, answer.body) == (202, b"")
    worker = current_worker()
    assert worker is not None
    await until(lambda: not any(worker.live_sessions))
    assert (await AgentSession.objects.aget(pk=session_id)).end_reason == "requested"


async def test_an_ended_session_and_one_on_another_call_are_not_found(client: Client) -> None:
    row = await elsewhere()
    path = f"/calls/my-call/sessions/{row.pk}"
    other = f"/calls/another-call/sessions/{row.pk}"
    assert (await client.get(path)).status == 200
    for wrong in (other, f"/calls/MY-CALL/sessions/{row.pk}"):
        for method, suffix in (("GET", ""), ("DELETE", ""), ("POST", "/close"), ("GET", "/metrics")):
            answer = await client.request(method, wrong + suffix)
            assert (answer.status, answer.detail) == (404, f"Session with id '{row.pk}' not found")
    await row.arefresh_from_db()
    assert row.close_requested_at is None
    await sync_to_async(row.finish)(EndReason.FINISHED)
    for method, suffix in (("GET", ""), ("DELETE", ""), ("POST", "/close"), ("GET", "/metrics")):
        assert (await client.request(method, path + suffix)).status == 404
    assert (await client.get(f"/sessions/{row.pk}")).status == 200


async def test_the_metrics_of_a_session_elsewhere_are_what_its_worker_wrote(client: Client) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    row = await elsewhere(metrics={"llm_latency_ms__avg": 12.5}, metrics_at=at)
    shown = (await client.get(f"/calls/my-call/sessions/{row.pk}/metrics")).json()
    assert shown["metrics"] == {"llm_latency_ms__avg": 12.5}
    assert shown["metrics_generated_at"] == "2026-01-02T03:04:05Z"
    assert TIME.fullmatch(shown["session_started_at"])


CALL_IDS = [
    "a/b",
    "/",
    "a/sessions/b",
    "x/sessions",
    "a/b/",
    "100%",
    "%2F",
    "*",
    "🦊 fox",
    "a b+c",
    "?query#fragment",
    "...",
    "ünïcödé",
    "x" * 255,
    "é" * 255,
]


async def test_a_call_id_is_one_encoded_segment_of_any_text(client: Client) -> None:
    for call_id in CALL_IDS:
        path = f"/calls/{quote(call_id, safe='')}/sessions"
        answer = await client.post(path, {})
        assert (answer.status, answer.json()["call_id"]) == (201, call_id)
        session_id = answer.json()["session_id"]
        assert (await client.get(f"{path}/{session_id}/")).json()["call_id"] == call_id
        assert (await client.get(f"{path}/{session_id}/metrics")).status == 200
        assert [item["session_id"] for item in (await client.get(path)).json()["items"]] == [session_id]
        assert (await client.get(f"/sessions?call_id={quote(call_id, safe='')}")).json()["items"][0][
            "call_id"
        ] == call_id
        assert (await client.delete(f"{path}/{session_id}")).status == 202


MALFORMED_CALL_IDS = [
    ("%2E%2E", '"."'),
    ("%2e", '"."'),
    ("..", '"."'),
    ("%00", "control"),
    ("a%0Ab", "control"),
    ("%7F", "control"),
    ("%ED%A0%80", "surrogate"),
    ("%FF", "surrogate"),
    ("x" * 256, "255"),
    ("", "empty"),
]


async def test_a_malformed_call_id_is_refused_with_the_reason(client: Client) -> None:
    for segment, reason in MALFORMED_CALL_IDS:
        for method, path in (("POST", ""), ("GET", ""), ("GET", "/0"), ("DELETE", "/0")):
            answer = await client.request(method, f"/calls/{segment}/sessions{path}", body=b"{}")
            assert answer.status == 422, (method, path, answer.body)
            (problem,) = answer.detail
            assert problem["loc"] == ["path", "call_id"]
            assert reason in problem["msg"]
        assert not await AgentSession.objects.aexists()
