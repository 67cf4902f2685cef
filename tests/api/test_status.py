"""``/health``, ``/ready`` and ``/metrics``."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agents import StubAgent, join_call
from tests.api.fixtures import Serve
from tests.api.test_sessions import start
from tests.asgi_client import REMOTE, Client
from visionagents_runner import AgentLauncher
from visionagents_runner.api.status import preferred_type
from visionagents_runner.worker.current import current_worker

PROMETHEUS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
OPENMETRICS = "application/openmetrics-text"


async def test_health_and_readiness_are_public_and_say_nothing_else(serve: Serve) -> None:
    client = (await serve()).like(peer=REMOTE, host="agents.example")
    answer = await client.get("/health")
    assert (answer.status, answer.json()) == (200, {"status": "healthy", "warmed_up": True, "running": True})
    answer = await client.get("/ready")
    assert (answer.status, answer.json()) == (200, {"status": "ready"})


async def test_without_a_worker_it_lives_but_is_not_ready(serve: Serve) -> None:
    client = await serve(work=False)
    answer = await client.get("/health")
    assert (answer.status, answer.json()) == (200, {"status": "healthy", "warmed_up": False, "running": False})
    answer = await client.get("/ready")
    assert (answer.status, answer.detail) == (503, "Server is not ready to accept requests")


async def test_a_draining_worker_is_not_ready(serve: Serve) -> None:
    client = await serve()
    worker = current_worker()
    assert worker is not None
    worker.draining = True
    answer = await client.get("/ready")
    worker.draining = False
    assert (answer.status, answer.detail) == (503, "Server is not ready to accept requests")
    assert int(answer.headers["retry-after"]) > 0


async def test_status_needs_no_database(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the database was asked")

    with monkeypatch.context() as patch:
        patch.setattr("visionagents_runner.store.database._QueryThread.run", refuse)
        for path in ("/health", "/ready", "/metrics"):
            assert (await client.get(path)).status == 200


async def test_metrics_are_json_unless_text_is_preferred(client: Client) -> None:
    await start(client)
    for accept in (None, "*/*", "application/json", "text/html,application/xml;q=0.9,*/*;q=0.8"):
        answer = await client.get("/metrics", headers={} if accept is None else {"accept": accept})
        assert answer.headers["content-type"] == "application/json"
        shown = answer.json()
        assert (shown["active_sessions"], shown["total_sessions_started"]) == (1, 1)
        assert (shown["warmed_up"], shown["running"], shown["draining"]) == (True, True, False)
        assert shown["agents"]["default"]["sessions_by_status"] == {"active": 1}


async def test_metrics_in_prometheus_text(serve: Serve, allow_local: None) -> None:
    async def create() -> StubAgent:
        return StubAgent()

    client = await serve(
        launchers={
            "guide": AgentLauncher(create, join_call, max_concurrent_sessions=3),
            "coach": AgentLauncher(create, join_call),
        }
    )
    await start(client, agent="coach")
    answer = await client.get("/metrics", headers={"accept": "text/plain"})
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.body.decode().splitlines()
    assert 'visionagents_sessions{agent="coach",status="active"} 1.0' in lines
    assert 'visionagents_sessions{agent="guide",status="active"} 0.0' in lines
    assert 'visionagents_sessions_limit{agent="guide"} 3.0' in lines
    assert "# TYPE visionagents_sessions_started_total counter" in lines
    assert 'visionagents_sessions_started_total{agent="coach"} 1.0' in lines
    assert "visionagents_running 1.0" in lines

    answer = await client.get("/metrics", headers={"accept": PROMETHEUS})
    assert answer.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    lines = answer.body.decode().splitlines()
    assert "# TYPE visionagents_sessions_started counter" in lines
    assert lines[-1] == "# EOF"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("image/png", "application/json"),
        ("text/*", "text/plain"),
        ("text/plain, application/json", "application/json"),
        ("text/plain, application/json;q=0.9", "text/plain"),
        ("text/plain;q=0", "application/json"),
        ("TEXT/PLAIN; version=0.0.4", "text/plain"),
        ("application/json;q=0, text/plain;q=0.1", "text/plain"),
        (PROMETHEUS, OPENMETRICS),
        (f"{OPENMETRICS};q=nonsense,text/plain;q=0.2", "text/plain"),
        (";;,,;q=", "application/json"),
        ("image/png," * 31 + "text/plain", "text/plain"),
        ("image/png," * 32 + "text/plain", "application/json"),
        ("text/plain" + ";a" * 30_000, "text/plain"),
    ],
)
def test_the_accept_header_chooses(accept: str, expected: str) -> None:
    assert preferred_type(accept) == expected
