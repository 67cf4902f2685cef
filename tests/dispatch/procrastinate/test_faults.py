"""Workers that die, connections that break, a PostgreSQL that is away: sessions start all the same."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from procrastinate import PsycopgConnector
from procrastinate.manager import JobManager

from tests.dispatch.conftest import hosting, until_row
from tests.dispatch.procrastinate.conftest import (
    CHILD_SETTINGS,
    CONNECTIONS,
    query,
    until_found,
    until_jobs,
    until_listening,
)
from tests.dispatch.test_dispatch import is_active, kinds_of
from tests.processes import child
from visionagents_runner.dispatch import claimer
from visionagents_runner.dispatch.claimer import Claimer, Placed
from visionagents_runner.dispatch.procrastinate import job_manager
from visionagents_runner.dispatch.procrastinate import worker as engine
from visionagents_runner.models import AgentSession
from visionagents_runner.store import errors

pytestmark = pytest.mark.usefixtures("empty_queue")

WITHOUT_END = """
    from visionagents_runner.dispatch.claimer import Claimer
    async def place(self, key):
        say("fetched")
        await asyncio.Event().wait()
    Claimer.place = place
"""


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    """Return what the engine had to say: ``lines(logging.WARNING)``."""
    caplog.set_level(logging.INFO, logger="visionagents_runner.dispatch.procrastinate")

    def at_least(level: int) -> list[str]:
        return [
            record.getMessage()
            for record in caplog.records
            if record.name.startswith("visionagents_runner.dispatch.procrastinate") and record.levelno >= level
        ]

    return at_least


async def test_a_worker_killed_between_fetching_and_claiming_keeps_nobody_waiting(
    host: Any, transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claimer, "_OVERDUE_SECONDS", 0.1)
    monkeypatch.setattr(engine, "_STALLED_SECONDS", 0.5)
    monkeypatch.setattr(engine, "_SWEEP_SECONDS", 0.1)
    with child(WITHOUT_END + hosting(), **CHILD_SETTINGS) as other:
        dead = other.hear()
        row = await AgentSession.objects.adispatch("call")
        assert other.hear() == "fetched"
        other.process.kill()
        other.process.wait()
    assert await query("SELECT status::text FROM procrastinate_jobs") == [("doing",)]
    worker = await host()
    row = await until_row(row.pk, is_active)
    assert str(row.worker_id) == str(worker.id) != dead
    assert (await kinds_of(row))[:3] == ["requested", "claimed", "started"]
    await until_jobs(0)


async def test_connections_that_are_ended_are_made_again(
    host: Any, settings: Any, looks: list[int], no_poll: None, lines: Any
) -> None:
    settings.PROCRASTINATE_WORKER_DEFAULTS = {"fetch_job_polling_interval": 3600.0}
    await host()
    for round_ in range(2):
        await until_listening(looks)
        row = await AgentSession.objects.adispatch(f"call-{round_}")
        await until_row(row.pk, is_active)
        await until_jobs(0)
        looks.clear()
        looks.append(0)
        assert await query(f"SELECT pg_terminate_backend(pid, 5000) {CONNECTIONS}")
    await until_listening(looks)
    row = await AgentSession.objects.adispatch("last")
    await until_row(row.pk, is_active)


async def test_a_registration_that_others_deleted_is_made_again(
    host: Any, looks: list[int], no_poll: None, lines: Any
) -> None:
    await host()
    await until_listening(looks)
    await query("DELETE FROM procrastinate_workers RETURNING id")
    row = await AgentSession.objects.adispatch("call")
    await until_row(row.pk, is_active)
    assert len(lines(logging.WARNING)) == 1
    await until_found("SELECT count(*) FROM procrastinate_workers", 1)


async def test_while_procrastinate_has_no_database_the_poll_goes_on(
    host: Any, transactional_db: None, monkeypatch: pytest.MonkeyPatch, lines: Any
) -> None:
    real, there = engine.connector_params, False
    monkeypatch.setattr(claimer, "_OVERDUE_SECONDS", 0.1)
    monkeypatch.setattr(
        engine, "connector_params", lambda alias: real(alias) if there else {**real(alias), "dbname": "nowhere"}
    )
    monkeypatch.setattr(job_manager, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(job_manager, "_LAST_PAUSE_SECONDS", 0.05)
    await host()
    for call in ("one", "two"):
        row = await AgentSession.objects.adispatch(call)
        await until_row(row.pk, is_active)
    (line,) = lines(logging.WARNING)
    assert "polling until it is back (connection failed: " in line
    assert '"nowhere" does not exist' in line
    monkeypatch.setattr(claimer, "_OVERDUE_SECONDS", 3600.0)
    there = True
    row = await AgentSession.objects.adispatch("three")
    await until_row(row.pk, is_active)
    assert lines(logging.INFO)[-1] == "Procrastinate's worker is back"


async def test_a_job_whose_placing_fails_ends_and_the_poll_takes_over(
    host: Any, monkeypatch: pytest.MonkeyPatch, lines: Any
) -> None:
    monkeypatch.setattr(claimer, "_OVERDUE_SECONDS", 0.1)

    async def place(self: Claimer, key: Any) -> Placed:
        raise errors.DATABASE_ERRORS[0]("server closed the connection unexpectedly")

    monkeypatch.setattr(Claimer, "place", place)
    await host()
    row = await AgentSession.objects.adispatch("call")
    await until_row(row.pk, is_active)
    await until_jobs(0)


async def test_a_worker_stops_in_order_while_a_job_is_under_way(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, real = asyncio.Event(), Claimer.place

    async def place(self: Claimer, key: Any) -> Placed:
        entered.set()
        await asyncio.sleep(0.1)
        return await real(self, key)

    monkeypatch.setattr(Claimer, "place", place)
    worker = await host()
    row = await AgentSession.objects.adispatch("call")
    await entered.wait()
    await worker.stop()
    row = await until_row(row.pk, lambda row: row.status in {"queued", "closed"})
    assert not await query(f"SELECT 1 {CONNECTIONS}")
    if row.status == "queued":
        assert await query("SELECT status::text FROM procrastinate_jobs") == [("todo",)]


async def test_a_sweep_that_outlives_its_app_ends_without_a_word() -> None:
    async with asyncio.timeout(10):
        await engine.ProcrastinateEngine()._sweep(JobManager(PsycopgConnector()))  # type: ignore[arg-type]
