"""Every route of the API, asked of one worker about a session that runs on another."""

from __future__ import annotations

from typing import Any

import pytest

from tests.asgi_client import Client
from tests.websockets.feeds.conftest import feed, feed_list
from tests.worker.control.conftest import Server
from tests.worker.control.far import worker_elsewhere

pytestmark = pytest.mark.slow

BODIES: dict[str, Any] = {"say": {"text": "hello"}, "respond": {"text": "greet them"}}
LIVE = {
    ("GET", "/sessions/{session_id}"): 200,
    ("GET", "/sessions/{session_id}/events"): 200,
    ("GET", "/sessions/{session_id}/transcript"): 200,
    ("GET", "/sessions/{session_id}/metrics"): 200,
    ("GET", "/calls/{call_id}/sessions"): 200,
    ("GET", "/calls/{call_id}/sessions/{session_id}"): 200,
    ("GET", "/calls/{call_id}/sessions/{session_id}/metrics"): 200,
    ("POST", "/sessions/{session_id}/invitations"): 201,
    ("POST", "/sessions/{session_id}/say"): 202,
    ("POST", "/sessions/{session_id}/respond"): 202,
}
ENDING = {
    ("DELETE", "/sessions/{session_id}"): 200,
    ("DELETE", "/calls/{call_id}/sessions/{session_id}"): 202,
    ("POST", "/calls/{call_id}/sessions/{session_id}/close"): 202,
}
NO_SESSIONS = {
    ("POST", "/sessions"),
    ("GET", "/sessions"),
    ("POST", "/calls/{call_id}/sessions"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/metrics"),
}


async def ask(client: Client, method: str, path: str, session_id: str, call_id: str) -> Any:
    target = path.format(session_id=session_id, call_id=call_id)
    return await client.request(method, target, data=BODIES.get(path.rpartition("/")[2]))


async def test_every_route_answers_for_a_session_of_another_worker(server: Server, redis_url: str) -> None:
    client = Client(server.app)
    schema = (await client.get("/openapi.json")).json()
    known = {(method.upper(), path) for path, methods in schema["paths"].items() for method in methods}
    assert known == {*LIVE, *ENDING, *NO_SESSIONS}, "say here what a new route answers for a session elsewhere"
    async with worker_elsewhere(redis_url, talks=True, METRICS_INTERVAL=0.05) as far:
        calls = {each: await far.start(each) for each in ("one", "two", "three")}
        session_id = calls["one"]
        answers = {route: await ask(client, *route, session_id, "one") for route in LIVE}
        assert {route: answer.status for route, answer in answers.items()} == LIVE

        info = answers["GET", "/sessions/{session_id}"].json()
        assert (info["session_id"], info["call_id"], info["status"]) == (session_id, "one", "active")
        assert info["started_at"] is not None
        [listed] = answers["GET", "/calls/{call_id}/sessions"].json()["items"]
        assert listed["session_id"] == session_id
        assert {item["session_id"] for item in (await client.get("/sessions")).json()["items"]} == {*calls.values()}
        while not (measured := (await client.get(f"/sessions/{session_id}/metrics")).json()["metrics"]):
            pass
        assert "llm_input_tokens__total" in measured
        async with feed(server, session_id) as viewer:
            await viewer.hello()
            assert (await viewer.event("message"))["data"]["text"] == "hello"
        async with feed_list(server) as viewer:
            await viewer.hello()
            page = await viewer.hear("page")
            assert {each["session_id"] for each in page["sessions"]} == {*calls.values()}

        for (route, status), (call_id, each) in zip(ENDING.items(), calls.items(), strict=True):
            assert (await ask(client, *route, each, call_id)).status == status
            assert await far.do("ended", each) == "requested"
