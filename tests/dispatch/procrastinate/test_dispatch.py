"""What is dispatched becomes a job in the same transaction, and the job starts the session on a worker."""

from __future__ import annotations

import asyncio
import signal
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, transaction
from django.utils import timezone
from procrastinate.contrib.django import app

from tests.dispatch.conftest import priorities_in_order_of_start, until_row
from tests.dispatch.procrastinate.conftest import CHILD_SETTINGS, CONNECTIONS, jobs, query, until_jobs, until_listening
from tests.dispatch.test_dispatch import is_active, kinds_of
from tests.processes import child
from visionagents_runner import AgentLauncher
from visionagents_runner.dispatch.procrastinate import load_engine
from visionagents_runner.dispatch.procrastinate.jobs import queue_name
from visionagents_runner.dispatch.procrastinate.worker import ProcrastinateEngine
from visionagents_runner.exceptions import RunnerConfigurationError
from visionagents_runner.models import AgentSession, SessionStatus
from visionagents_runner.store import database, session_rows

pytestmark = pytest.mark.usefixtures("empty_queue", "no_poll")


# The job


async def test_the_engine_is_on_where_procrastinate_is_installed(transactional_db: None) -> None:
    assert isinstance(load_engine(), ProcrastinateEngine)


async def test_the_job_is_like_the_row(transactional_db: None) -> None:
    at = datetime(2040, 1, 1, tzinfo=UTC)
    await AgentSession.objects.adispatch("call", at=at, priority=7)
    await AgentSession.objects.adispatch("call")
    assert await jobs() == [("todo", "agents.default", 7, at), ("todo", "agents.default", 0, None)]


async def test_no_job_is_left_of_what_is_rolled_back(host: Any) -> None:
    def dispatch_in_vain() -> None:
        with transaction.atomic():
            AgentSession.objects.dispatch("call")
            transaction.set_rollback(True)

    await host()
    await sync_to_async(dispatch_in_vain)()
    assert await jobs() == []
    row = await AgentSession.objects.adispatch("call")
    await until_row(row.pk, is_active)
    assert await sync_to_async(AgentSession.objects.count)() == 1


async def test_no_worker_hears_of_it_before_the_transaction_is_committed(host: Any) -> None:
    worker = await host()
    inside, commit = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def dispatch_slowly() -> AgentSession:
        with closing(connection), transaction.atomic():
            row = AgentSession.objects.dispatch("slow")
            loop.call_soon_threadsafe(inside.set)
            asyncio.run_coroutine_threadsafe(commit.wait(), loop).result(20)
            return row

    slow = asyncio.ensure_future(asyncio.to_thread(dispatch_slowly))
    await inside.wait()
    quick = await AgentSession.objects.adispatch("quick")
    await until_row(quick.pk, is_active)
    assert [session.call_id for session in worker.live_sessions] == ["quick"]
    commit.set()
    await until_row((await slow).pk, is_active)


@pytest.mark.django_db
def test_missing_tables_are_named_with_what_to_do() -> None:
    with connection.cursor() as cursor, transaction.atomic():
        cursor.execute("ALTER FUNCTION procrastinate_defer_jobs_v1 RENAME TO away")
        with pytest.raises(RunnerConfigurationError, match=r"manage\.py migrate"), transaction.atomic():
            AgentSession.objects.dispatch("call")
        transaction.set_rollback(True)
    assert not AgentSession.objects.exists()


@pytest.mark.parametrize("agent", ["a" * 100, "A" * 33, "é" * 50])
async def test_a_queue_fits_into_a_channel_of_postgresql(agent: str) -> None:
    assert len(f"procrastinate_queue_v1#{queue_name(agent)}".encode()) <= 63
    assert queue_name(agent) not in {queue_name(agent[:-1]), queue_name(agent.swapcase())}


# Starting


async def test_a_notification_brings_it_to_a_worker(host: Any, settings: Any, looks: list[int]) -> None:
    settings.PROCRASTINATE_WORKER_DEFAULTS = {"fetch_job_polling_interval": 3600.0}
    worker = await host()
    await until_listening(looks)
    row = await AgentSession.objects.adispatch("call", metadata={"a": 1})
    row = await until_row(row.pk, is_active)
    assert row.worker_id == worker.id
    assert (await kinds_of(row))[:3] == ["requested", "claimed", "started"]
    await until_jobs(0)


async def test_a_notification_brings_it_to_an_agent_of_the_longest_name(
    host: Any, settings: Any, looks: list[int]
) -> None:
    settings.PROCRASTINATE_WORKER_DEFAULTS = {"fetch_job_polling_interval": 3600.0}
    from tests.agents import create_agent, join_call

    name = "n" * 100
    await host(launchers={name: AgentLauncher(create_agent, join_call)})
    await until_listening(looks)
    row = await AgentSession.objects.adispatch("call", agent=name)
    await until_row(row.pk, is_active)


async def test_without_notifications_it_is_found_by_polling(host: Any, settings: Any) -> None:
    settings.PROCRASTINATE_WORKER_DEFAULTS = {"listen_notify": False, "fetch_job_polling_interval": 0.1}
    await host()
    row = await AgentSession.objects.adispatch("call")
    await until_row(row.pk, is_active)
    assert not await query(f"SELECT 1 {CONNECTIONS} AND query LIKE 'LISTEN%%'")


async def test_what_waited_for_the_first_worker_is_started(host: Any, transactional_db: None) -> None:
    row = await AgentSession.objects.adispatch("call")
    await host()
    await until_row(row.pk, is_active)


async def test_any_process_may_dispatch(host: Any) -> None:
    await host()
    with child(
        """
        from asgiref.sync import sync_to_async
        from visionagents_runner.models import AgentSession
        row = await sync_to_async(AgentSession.objects.dispatch)("call")
        say(str(row.pk))
        """,
        **CHILD_SETTINGS,
    ) as other:
        await until_row(other.hear(), is_active)


async def test_it_is_not_started_before_its_time(host: Any) -> None:
    await host()
    at = timezone.now() + timedelta(seconds=1.5)
    later = await AgentSession.objects.adispatch("call", at=at)
    now = await AgentSession.objects.adispatch("call")
    await until_row(now.pk, is_active)
    row = await until_row(later.pk, is_active)
    assert row.started_at is not None
    assert row.started_at >= at
    await until_jobs(0)


async def test_the_highest_priority_goes_first(host: Any, transactional_db: None) -> None:
    assert await priorities_in_order_of_start(host, (-1, 0, 100, 3)) == [100, 3, 0, -1]
    await until_jobs(0)


async def test_jobs_of_sessions_that_are_not_queued_any_more_are_deleted(host: Any, transactional_db: None) -> None:
    closed = await AgentSession.objects.adispatch("call")
    await session_rows.request_close(closed.pk)
    withdrawn = await AgentSession.objects.adispatch("call")
    await database.write(lambda: AgentSession.objects.withdraw(withdrawn.pk))
    assert len(await jobs()) == 2
    worker = await host()
    await until_jobs(0)
    assert not any(worker.live_sessions)


# The rest of the process, and of the project


async def test_signals_stay_as_they_were_and_no_connection_is_left(host: Any, looks: list[int]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    worker = await host()
    await until_listening(looks)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    await worker.stop()
    assert not await query(f"SELECT 1 {CONNECTIONS}")
    assert not await query("SELECT 1 FROM procrastinate_workers")


async def test_a_worker_of_procrastinate_without_agents_leaves_the_session_to_the_poll(
    transactional_db: None, caplog: pytest.LogCaptureFixture
) -> None:
    row = await AgentSession.objects.adispatch("call")
    with app.replace_connector(app.connector.get_worker_connector()):  # type: ignore[attr-defined]
        async with app.open_async():
            await app.run_worker_async(wait=False, install_signal_handlers=False, delete_jobs="always")
    assert await jobs() == []
    assert (await until_row(row.pk, lambda row: True)).status == SessionStatus.QUEUED
    assert "manage.py procrastinate worker --queues" in caplog.text
