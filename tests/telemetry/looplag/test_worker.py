"""A worker whose event loop does not keep up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.test import Client as Browser

from tests.admin.conftest import WORKERS
from tests.api.fixtures import Serve
from tests.asgi_client import Client
from visionagents_runner import NotReady
from visionagents_runner.models import AgentSession, Worker
from visionagents_runner.store import database, session_limits
from visionagents_runner.worker.current import current_worker
from visionagents_runner.worker.worker import AgentWorker


def the_worker() -> AgentWorker:
    worker = current_worker()
    assert worker is not None
    return worker


def overload(worker: AgentWorker) -> None:
    for _ in range(20):
        worker.lag._note(0.9)  # as measured: nobody need wait that long


async def test_it_refuses_new_starts_and_says_why_until_it_recovers(client: Client) -> None:
    overload(the_worker())
    for path, body in (("/sessions", {"call_id": "a"}), ("/calls/a/sessions", {})):
        answer = await client.post(path, body)
        assert answer.status == 503
        assert answer.detail == "The worker is overloaded: its event loop does not keep up"
        assert answer.headers["retry-after"] == "10"
    assert not await database.read(AgentSession.objects.exists)
    for _ in range(200):
        the_worker().lag._note(0.0)
    assert (await client.post("/sessions", {"call_id": "a"})).status == 201


async def test_it_is_not_ready_for_load_balancers(client: Client) -> None:
    overload(the_worker())
    answer = await client.get("/ready")
    assert (answer.status, answer.detail) == (503, "Server is not ready to accept requests")
    assert answer.headers["retry-after"] == "10"
    assert (await client.get("/health")).json() == {"status": "healthy", "warmed_up": True, "running": True}


async def test_it_refuses_starts_by_code_too_and_calls_go_on(launch: Any) -> None:
    launcher = await launch()
    session = await launcher.start_session("call")
    overload(the_worker())
    assert not launcher.ready
    with pytest.raises(NotReady, match="overloaded"):
        await launcher.start_session("another")
    assert not session.closing


async def test_a_start_that_was_let_in_before_is_not_closed_for_it(
    launch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = await launch()
    admit = session_limits.admit

    async def slowly(*args: Any) -> None:
        await admit(*args)
        overload(the_worker())

    monkeypatch.setattr(session_limits, "admit", slowly)
    session = await launcher.start_session("call")
    assert the_worker().lag.overloaded
    await asyncio.sleep(0)
    assert not session.closing


async def test_a_worker_that_is_not_warm_is_never_overloaded(serve: Serve) -> None:
    building, release = asyncio.Event(), asyncio.Event()

    async def create() -> Any:
        from tests.agents import StubAgent

        building.set()
        await release.wait()
        return StubAgent()

    serving = asyncio.create_task(serve(create=create))
    await building.wait()
    overload(the_worker())
    assert not the_worker().lag.overloaded
    release.set()
    await serving


async def test_the_heartbeat_writes_the_lag_to_the_row(launch: Any) -> None:
    await launch()
    overload(the_worker())
    await the_worker()._beat()
    row = await database.read(Worker.objects.get)
    assert row.loop_lag["max_ms"] == 900
    assert 0 <= row.loop_lag["p50_ms"] <= row.loop_lag["p99_ms"] <= 900
    assert row.loop_lag["overloaded"] is True


@pytest.mark.django_db
def test_the_admin_shows_the_lag(sign_in: Any, worker: Worker) -> None:
    browser: Browser = sign_in("view_worker")
    assert "overloaded" not in browser.get(WORKERS).content.decode()
    lag = {"p50_ms": 1.0, "p99_ms": 712.4, "max_ms": 1800.0, "overloaded": True}
    Worker.objects.update(loop_lag=lag)
    for path in (WORKERS, f"{WORKERS}{worker.pk}/change/"):
        text = browser.get(path).content.decode()
        assert "712 ms" in text
        assert "overloaded" in text
    assert "longest 1800 ms" in browser.get(WORKERS).content.decode()
