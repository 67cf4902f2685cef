"""A worker takes jobs only while it has room, and a job that finds none does not go round in circles."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conftest import until
from tests.dispatch.conftest import hosting, until_row
from tests.dispatch.procrastinate.conftest import CHILD_SETTINGS, jobs, query, until_found, until_jobs, until_listening
from tests.dispatch.test_dispatch import is_active
from tests.processes import child
from visionagents_runner import AgentLauncher
from visionagents_runner.dispatch.claimer import Claimer, Placed
from visionagents_runner.dispatch.procrastinate import job_manager
from visionagents_runner.models import AgentSession, SessionStatus, Worker
from visionagents_runner.store import database, session_rows

pytestmark = pytest.mark.usefixtures("empty_queue", "no_poll")

FETCHED = "SELECT job_id FROM procrastinate_events WHERE type = 'started'"


async def test_a_full_worker_fetches_nothing_and_one_with_room_takes_what_it_can(host: Any, looks: list[int]) -> None:
    full = await host(max_concurrent_sessions=1)
    await until_listening(looks)
    blocking = await full.launchers["default"].start_session("call")
    before = len(looks)
    rows = [await AgentSession.objects.adispatch(f"call-{number}") for number in range(6)]
    with child(
        hosting(max_concurrent_sessions=4).replace("say(str(worker.id))", SAY_WITHOUT_POLL), **CHILD_SETTINGS
    ) as other:
        name = other.hear()
        await until_jobs(2)
        assert await query(FETCHED) == []
        assert len(looks) == before
        states = [await until_row(row.pk, lambda row: row.status != SessionStatus.STARTING) for row in rows]
        assert sorted(str(row.worker_id) for row in states) == sorted([name] * 4 + ["None"] * 2)
        blocking.request_close()
        await until(lambda: any(session is not blocking for session in full.live_sessions))
        await until_jobs(1)
        other.tell()
        assert other.end() == 0


SAY_WITHOUT_POLL = (
    "from visionagents_runner.dispatch import claimer; claimer._OVERDUE_SECONDS = 3600.0; say(str(worker.id))"
)


async def test_agents_with_room_are_served_while_another_is_full(host: Any) -> None:
    from tests.agents import create_agent, join_call

    worker = await host(
        launchers={
            "small": AgentLauncher(create_agent, join_call, max_concurrent_sessions=1),
            "large": AgentLauncher(create_agent, join_call, max_concurrent_sessions=9),
        }
    )
    first = await AgentSession.objects.adispatch("call", agent="small")
    await until_row(first.pk, is_active)
    waiting = await AgentSession.objects.adispatch("call", agent="small", priority=100)
    for _ in range(3):
        row = await AgentSession.objects.adispatch("call", agent="large")
        await until_row(row.pk, is_active)
    assert (await until_row(waiting.pk, lambda row: True)).status == SessionStatus.QUEUED
    assert [job[:2] for job in await jobs() if job[0] == "todo"] == [("todo", "agents.small")]
    assert len(list(worker.live_sessions)) == 4


async def test_no_more_jobs_go_on_together_than_there_is_room_for(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real, under_way, most = Claimer.place, 0, 0
    both = asyncio.Event()

    async def place(self: Claimer, key: Any) -> Placed:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == 2:
            both.set()
        await both.wait()
        try:
            return await real(self, key)
        finally:
            under_way -= 1

    monkeypatch.setattr(Claimer, "place", place)
    rows = [await AgentSession.objects.adispatch(f"call-{number}") for number in range(5)]
    worker = await host(max_concurrent_sessions=2)
    await until(lambda: len(list(worker.live_sessions)) == 2)
    await until_jobs(len(rows) - 2)
    assert most == 2


async def test_what_finds_no_room_after_all_is_tried_again_and_starts(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tries = Claimer.place, []

    async def place(self: Claimer, key: Any) -> Placed:
        tries.append(key)
        return Placed.NO_ROOM if len(tries) < 4 else await real(self, key)

    monkeypatch.setattr(Claimer, "place", place)
    await host()
    row = await AgentSession.objects.adispatch("call")
    await until_row(row.pk, is_active)
    assert len(tries) == 4
    await until_jobs(0)


@pytest.mark.parametrize("placed", [Placed.NO_ROOM, Placed.NOT_DUE])
async def test_what_never_finds_room_is_left_to_the_poll_in_the_end(
    host: Any, monkeypatch: pytest.MonkeyPatch, placed: Placed
) -> None:
    tries = []

    async def place(self: Claimer, key: Any) -> Placed:
        tries.append(key)
        return placed

    monkeypatch.setattr(Claimer, "place", place)
    monkeypatch.setattr(job_manager, "_FIRST_PAUSE_SECONDS", 0.001)
    await host()
    row = await AgentSession.objects.adispatch("call")
    await until(lambda: bool(tries))
    await until_jobs(0)
    assert 2 < len(tries) <= 10
    assert (await until_row(row.pk, lambda row: True)).status == SessionStatus.QUEUED


async def test_a_job_comes_again_when_a_limit_over_all_workers_lets_it(host: Any, settings: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "MAX_SESSIONS": 1}
    worker = await host()
    first = await worker.launchers["default"].start_session("call")
    row = await AgentSession.objects.adispatch("call")
    row = await until_row(row.pk, lambda row: row.attempts >= 2)
    await until_found("SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo' AND scheduled_at > now()", 1)
    first.request_close()
    await until_row(row.pk, is_active)
    await until_jobs(0)


async def test_a_cordoned_worker_fetches_nothing(host: Any, looks: list[int]) -> None:
    worker = await host()
    await until_listening(looks)
    await database.write(Worker(pk=worker.id).request_drain)
    await until(lambda: worker.cordoned)
    before = len(looks)
    row = await AgentSession.objects.adispatch("call")
    with child(hosting(), **CHILD_SETTINGS) as other:
        other.hear()
        started = await until_row(row.pk, is_active)
        assert started.worker_id != worker.id
        assert len(looks) == before
        await session_rows.request_close(row.pk)
        other.tell()
        assert other.end() == 0
