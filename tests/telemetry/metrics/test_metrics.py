"""What Prometheus is told of a worker."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import prometheus_client
import pytest

from tests.agents import StubAgent
from tests.api.fixtures import Serve
from tests.api.test_sessions import start
from tests.asgi_client import Client
from tests.conftest import agent_of, until
from tests.processes import ROOT
from tests.telemetry.metrics.scrape import Page, scrape
from visionagents_runner.models import AgentSession, EndReason, Worker
from visionagents_runner.models.worker import seconds_ago
from visionagents_runner.observe import observe
from visionagents_runner.store import database
from visionagents_runner.store.census import Cluster
from visionagents_runner.worker.current import current_worker
from visionagents_runner.worker.worker import AgentWorker

pytestmark = pytest.mark.slow


def the_worker() -> AgentWorker:
    worker = current_worker()
    assert worker is not None
    return worker


def live(session_id: str) -> Any:
    session = the_worker().get_session(session_id)
    assert session is not None
    return session


async def test_starts_joins_and_ends_are_counted_and_timed(client: Client) -> None:
    session = live(await start(client))
    await until(lambda: session.on_call_for() > 0)
    session.check_limits()  # a stub has no events: that it joined is asked
    page = await scrape(client)
    assert page("starts_total", agent="default", outcome="started") == 1
    assert page("start_duration_seconds_count", agent="default") == 1
    assert page("join_duration_seconds_count", agent="default") == 1
    assert page("sessions_ended_total", agent="default", reason="finished") == 0
    agent_of(session).end()
    await session.wait()
    page = await scrape(client)
    assert page("sessions_ended_total", agent="default", reason="finished") == 1
    assert page("sessions", agent="default", status="active") == 0


async def test_media_that_is_refused_is_counted(client: Client) -> None:
    from visionagents_runner.edge.bounds import refused

    before = (await scrape(client))("media_refused_total", what="offers")
    refused["offers"] += 1
    page = await scrape(client)
    assert page("media_refused_total", what="offers") == before + 1
    assert page("media_refused_total", what="connections") == refused["connections"]


async def test_starts_that_fail_are_counted_by_why(serve: Serve, allow_local: None) -> None:
    entered = asyncio.Event()
    what: list[Any] = []

    async def create() -> StubAgent:
        if what and what[-1] == "raise":
            raise ValueError("no")
        if what and what[-1] == "hang":
            entered.set()
            await asyncio.Event().wait()
        return StubAgent()

    client = await serve(create=create, max_concurrent_sessions=1)
    what.append("raise")
    assert (await client.post("/sessions", {"call_id": "a"})).status == 500
    await until(lambda: not list(the_worker().live_sessions))
    what.append("hang")
    starting = asyncio.create_task(client.post("/sessions", {"call_id": "a"}))
    await entered.wait()
    (session,) = the_worker().live_sessions
    session.request_close()
    assert (await starting).status == 409
    await session.wait_ended()
    what.append("go")
    assert (await client.post("/sessions", {"call_id": "a"})).status == 201
    assert (await client.post("/sessions", {"call_id": "a"})).status == 429
    for _ in range(20):
        the_worker().lag._note(0.9)
    assert (await client.post("/sessions", {"call_id": "a"})).status == 503
    page = await scrape(client)
    counted = {
        outcome: page("starts_total", agent="default", outcome=outcome)
        for outcome in ("started", "failed", "timed_out", "closed", "limit_reached", "not_ready", "error")
    }
    assert counted == {
        "started": 1, "failed": 1, "timed_out": 0, "closed": 1, "limit_reached": 1, "not_ready": 1, "error": 0,
    }  # fmt: skip
    assert page("overloaded") == 1
    assert page("sessions_limit", agent="default") == 1


async def test_turns_are_timed_in_parts_and_errors_counted(client: Client) -> None:
    session = live(await start(client))
    turn = {"how": "speech", "end_of_turn_ms": 500, "recognition_ms": None, "model_ms": 400, "voice_ms": 80}
    observe(session.agent).tell("turn", {**turn, "total_ms": 980, "interrupted": True, "participant_id": "p"})
    observe(session.agent).tell("turn", {"how": "text", "total_ms": None, "interrupted": False})
    observe(session.agent).tell(
        "error", {"component": "tts", "type": "ValueError", "message": "no", "recoverable": True}
    )
    page = await scrape(client)
    assert page("turn_duration_seconds_count", agent="default", how="speech") == 1
    assert page("turn_duration_seconds_sum", agent="default", how="speech") == pytest.approx(0.98)
    assert page("turn_part_duration_seconds_sum", agent="default", part="model") == pytest.approx(0.4)
    assert page("turn_part_duration_seconds_count", agent="default", part="recognition") is None
    assert page("turns_interrupted_total", agent="default") == 1
    assert page("agent_errors_total", agent="default", component="tts") == 1


async def test_the_loop_and_the_recorder_are_measured(client: Client) -> None:
    worker = the_worker()
    worker.lag._note(0.3)
    session = live(await start(client))
    observe(session.agent).tell("custom", {"data": 1})
    page = await scrape(client)
    moments = page("loop_lag_seconds_count")
    assert moments is not None
    assert page("loop_lag_seconds_bucket", le="+Inf") == moments >= 6
    assert page("loop_lag_seconds_bucket", le="0.25") == moments - 1
    assert page("loop_lag_max_seconds") == pytest.approx(0.3)
    assert page("recorder_queue_limit_events") == 20_000
    assert page("recorder_dropped_events_total") == 0
    assert page("recorder_waiting_events") == worker.recorder.waiting
    await worker.recorder.settle(session.uuid)
    assert (await scrape(client))("recorder_written_events_total") == worker.recorder.written > 0


async def test_the_cluster_is_told_from_the_database(client: Client) -> None:
    await start(client)
    other = Worker(hostname="other", pid=1, capacity=5)
    silent = Worker(hostname="silent", pid=2, heartbeat_at=seconds_ago(31))

    def end() -> None:
        AgentSession.objects.create(call_id="new", worker=other, agent="coach")
        AgentSession.objects.create(call_id="old", worker=other, agent="coach", created_at=seconds_ago(2 * 86400))
        AgentSession.objects.filter(call_id__in=("new", "old")).finish(EndReason.ERROR)

    await database.write(lambda: (other.save(force_insert=True), silent.save(force_insert=True)))
    await database.write(
        lambda: [
            AgentSession.objects.create(call_id=str(number), worker=other, status=status, agent="coach")
            for number, status in enumerate(("starting", "unreachable", "unreachable"))
        ]
    )
    await database.write(end)
    page = await scrape(client)
    assert page("cluster_up") == 1
    assert page("cluster_sessions", agent="default", status="active") == 1
    assert page("cluster_sessions", agent="default", status="queued") == 0
    assert page("cluster_sessions", agent="coach", status="unreachable") == 2
    assert page("cluster_recent_ends", agent="coach", reason="error") == 1
    assert page("cluster_workers", state="running") == 2
    assert page("cluster_workers", state="silent") == 1
    assert page("cluster_capacity_sessions") is None  # this worker has no limit


async def test_a_hundred_scrapes_ask_the_database_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    read = database.read

    async def counting(fn: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal asked
        asked += getattr(fn, "__name__", "") == "read_census"
        return await read(fn, *args, **kwargs)

    monkeypatch.setattr(database, "read", counting)
    pages = await asyncio.gather(*(scrape(client) for _ in range(100)))
    assert asked == 1
    assert all(page("cluster_up") == 1 for page in pages)


async def test_a_database_that_is_away_takes_only_the_clusters_numbers(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import OperationalError

    async def away(*args: Any, **kwargs: Any) -> Any:
        raise OperationalError("the server closed the connection")

    monkeypatch.setattr(database, "read", away)
    page = await scrape(client)
    assert page("cluster_up") == 0
    assert page("cluster_workers", state="running") is None
    assert page("running") == 1


async def test_a_database_that_hangs_does_not_hold_up_a_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    release = asyncio.Event()

    async def hang(*args: Any, **kwargs: Any) -> Any:
        await release.wait()

    tracked: list[asyncio.Task[Any]] = []
    monkeypatch.setattr(database, "read", hang)
    monkeypatch.setattr("visionagents_runner.store.census._PATIENCE_SECONDS", 0.01)
    cluster = Cluster(tracked.append)
    assert await cluster.census() is None
    assert await cluster.census() is None
    assert len(tracked) == 1  # one query at a time, however many ask
    release.set()
    await tracked[0]


async def test_without_a_worker_there_is_little_to_tell(serve: Serve, allow_local: None) -> None:
    page = await scrape(await serve(work=False))
    assert page("running") == 0
    assert page("cluster_up") is None
    assert "visionagents_build_info" in page.names


async def test_both_formats_say_the_same(client: Client) -> None:
    await start(client)
    text = await scrape(client)
    answer = await client.get("/metrics", headers={"accept": "application/openmetrics-text"})
    strict = Page(answer.body.decode(), openmetrics=True)
    assert strict.names == text.names


async def test_names_and_labels_keep_to_prometheus_conventions(client: Client) -> None:
    session = live(await start(client))
    observe(session.agent).tell("turn", {"how": "speech", "total_ms": 100, "model_ms": 100})
    page = await scrape(client)
    ours = [family for family in page.families if not family.name.startswith("process_")]
    for family in ours:
        assert re.fullmatch(r"visionagents_[a-z_]+", family.name)
        assert family.documentation
        assert family.type in {"counter", "gauge", "histogram"}
        assert "_ms" not in family.name
    labels = {label for family in ours for sample in family.samples for label in sample.labels}
    assert labels == {
        "agent", "status", "outcome", "reason", "how", "part", "state", "le", "waits_for", "what", "by", "kind",
        "version", "vision_agents", "django", "python",
    }  # fmt: skip
    text = (await client.get("/metrics", headers={"accept": "text/plain"})).body.decode()
    reference = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    told = {name.removesuffix("_total") for name in re.findall(r"^\| `(\w+)`", reference, re.M)}
    assert {family.name for family in ours} <= told
    assert session.id not in text
    assert "_created" not in text


async def test_the_projects_own_registry_is_left_alone(client: Client) -> None:
    await start(client)
    names = {family.name for family in prometheus_client.REGISTRY.collect()}
    assert not [name for name in names if name.startswith("visionagents")]
