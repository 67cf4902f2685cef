"""What Prometheus is told of the sessions that wait, and of what a worker takes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db.models.functions import Now

from tests.agents import create_agent, join_call
from tests.api.fixtures import Serve
from tests.api.test_sessions import start
from tests.asgi_client import Client
from tests.telemetry.metrics.scrape import scrape
from visionagents_runner import AgentLauncher
from visionagents_runner.models import AgentSession, SessionEvent
from visionagents_runner.store import database, queue_stats


def queue(agent: str, seconds: float, *, tried: bool = False, **values: Any) -> AgentSession:
    """Queue a session that has been due for so many seconds; one that was ``tried`` ran into a limit then."""
    row = AgentSession(call_id="call", agent=agent, status="queued", **values)
    row.insert()
    this = AgentSession.objects.filter(pk=row.pk)
    if tried:
        assert AgentSession.objects.postpone(row.pk, 3600, why="full")
        SessionEvent.objects.filter(session=row, kind="postponed").update(at=Now() - timedelta(seconds=seconds))
    else:
        this.update(due_at=Now() - timedelta(seconds=seconds))
    return row


async def test_sessions_that_wait_are_told_by_agent_and_by_what_they_wait_for(client: Client) -> None:
    def fill() -> None:
        queue("coach", 100)
        queue("coach", 10)
        queue("coach", 200, tried=True)
        queue("coach", -1000)
        queue("other", 5)

    await database.write(fill)
    page = await scrape(client)
    counted = {
        (agent, waits_for): page("cluster_queued_sessions", agent=agent, waits_for=waits_for)
        for agent in ("coach", "other", "default")
        for waits_for in queue_stats.FOR
    }
    assert counted == {
        ("coach", "worker"): 2, ("coach", "limit"): 1, ("coach", "time"): 1,
        ("other", "worker"): 1, ("other", "limit"): None, ("other", "time"): None,
        ("default", "worker"): 0, ("default", "limit"): 0, ("default", "time"): 0,
    }  # fmt: skip
    oldest = page("cluster_queue_oldest_seconds", agent="coach", waits_for="worker")
    assert oldest is not None
    assert 100 <= oldest < 190
    # That its next try is an hour away does not make its wait any shorter.
    held = page("cluster_queue_oldest_seconds", agent="coach", waits_for="limit")
    assert held is not None
    assert 200 <= held < 1000
    assert page("cluster_queue_oldest_seconds", agent="coach", waits_for="time") is None
    assert page("cluster_queue_oldest_seconds", agent="default", waits_for="worker") == 0


async def test_what_a_worker_runs_and_what_it_takes_make_its_share(serve: Serve, allow_local: None) -> None:
    launchers = {name: AgentLauncher(create_agent, join_call, max_concurrent_sessions=2) for name in ("a", "b")}  # type: ignore[arg-type]
    client = await serve(launchers=launchers)
    await start(client, agent="b")
    page = await scrape(client)
    assert page("capacity_sessions") == 4
    assert sum(value for (name, _), value in page.samples.items() if name == "visionagents_sessions") == 1


async def test_a_worker_with_an_agent_without_a_limit_tells_no_capacity(client: Client) -> None:
    assert (await scrape(client))("capacity_sessions") is None
