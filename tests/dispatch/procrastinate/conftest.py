"""Workers with the engine, and what is in Procrastinate's tables."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.apps import apps
from django.db import connection
from procrastinate.manager import JobManager

from tests.conftest import until
from tests.dispatch.conftest import host
from visionagents_runner.dispatch import claimer
from visionagents_runner.store import database

__all__ = ["host"]

WITH_PROCRASTINATE = apps.is_installed("procrastinate.contrib.django")
CHILD_SETTINGS = {"DJANGO_SETTINGS_MODULE": "tests.dispatch.procrastinate.child_settings"}
CONNECTIONS = "FROM pg_stat_activity WHERE application_name = 'visionagents-procrastinate'"

if not WITH_PROCRASTINATE:
    # `test_settings` runs these with settings of their own.
    collect_ignore = ["test_dispatch.py", "test_faults.py", "test_room.py"]


@pytest.fixture
def empty_queue(transactional_db: None) -> None:
    """Procrastinate's models are not Django's to empty after a test."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE procrastinate_jobs, procrastinate_workers CASCADE")


@pytest.fixture
def no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but a job brings a session to a worker."""
    monkeypatch.setattr(claimer, "_OVERDUE_SECONDS", 3600.0)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with each look for jobs that the worker of this process takes at Procrastinate's tables."""
    made: list[int] = []
    real = JobManager.fetch_job

    async def fetch_and_note(self: JobManager, *args: Any, **kwargs: Any) -> Any:
        job = await real(self, *args, **kwargs)
        made.append(1 if job else 0)
        return job

    monkeypatch.setattr(JobManager, "fetch_job", fetch_and_note)
    return made


async def query(statement: str, *values: Any) -> list[tuple[Any, ...]]:
    def read() -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall()

    return await database.read(read)


async def until_listening(looks: list[int]) -> None:
    """Wait until the worker of this process hears of jobs, and has seen that there was none before."""
    await until(lambda: bool(looks))
    await until_found(f"SELECT count(*) > 0 {CONNECTIONS} AND query LIKE 'LISTEN%%' AND state = 'idle'", True)


async def until_jobs(count: int) -> None:
    """Wait until there are so many jobs, fetched or not."""
    await until_found("SELECT count(*) FROM procrastinate_jobs", count)


async def until_found(statement: str, value: Any) -> None:
    async with asyncio.timeout(20):
        while await query(statement) != [(value,)]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def jobs() -> list[tuple[Any, ...]]:
    """Return ``(status, queue, priority, scheduled_at)`` of each job, in the order of their making."""
    return await query("SELECT status::text, queue_name, priority, scheduled_at FROM procrastinate_jobs ORDER BY id")
