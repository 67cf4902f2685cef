"""What becomes of the sessions of a worker that dies, and of one that was only slow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection, transaction

from tests.conftest import agent_of, row_of, until
from tests.processes import child
from visionagents_runner.models import AgentSession, EndReason, SessionEvent, Worker, WorkerState
from visionagents_runner.models.worker import seconds_ago
from visionagents_runner.signals import session_ended
from visionagents_runner.store import database, worker_rows
from visionagents_runner.utils import process
from visionagents_runner.utils.process import identify, is_known_dead, start_time
from visionagents_runner.worker.current import current_worker

pytestmark = pytest.mark.slow

HOSTING = """
    async with AgentLauncher(create_agent, join_call) as launcher:
        sessions = [await launcher.start_session(f"call-{n}") for n in range(3)]
        say([session.id for session in sessions])
        await asyncio.Event().wait()
"""


def silent_worker(seconds: float, **values: Any) -> Worker:
    worker = Worker.objects.create(hostname="elsewhere", pid=1, **values)
    Worker.objects.filter(pk=worker.pk).update(heartbeat_at=seconds_ago(seconds))
    return worker


def session_on(worker: Worker, **values: Any) -> AgentSession:
    session = AgentSession(call_id="call", worker=worker, **values)
    session.insert()
    return session


async def reap() -> list[uuid.UUID]:
    worker = current_worker()
    assert worker is not None
    assert worker._row is not None
    return (await worker_rows.reap(worker._row, identify())).lost


async def test_sessions_of_a_killed_process_are_lost_when_the_next_worker_starts(launch: Any) -> None:
    ended: list[tuple[str, str]] = []

    def receiver(sender: Any, session_id: str, end_reason: str, **kwargs: Any) -> None:
        ended.append((session_id, end_reason))

    with child(HOSTING) as other:
        ids = other.hear()
        other.process.send_signal(signal.SIGKILL)
        other.process.wait()
    session_ended.connect(receiver)
    try:
        await launch()
        await until(lambda: len(ended) == 3)
    finally:
        session_ended.disconnect(receiver)
    assert sorted(ended) == sorted((pk, "worker_lost") for pk in ids)
    rows = await database.read(lambda: list(AgentSession.objects.all()))
    assert {(row.status, row.end_reason) for row in rows} == {("lost", "worker_lost")}
    assert all("process ended" in row.error for row in rows)
    states = await database.read(lambda: list(Worker.objects.order_by("started_at").values_list("state", flat=True)))
    assert states == [WorkerState.STOPPED, WorkerState.RUNNING]


async def test_sessions_of_a_process_that_lives_are_left_alone(launch: Any) -> None:
    with child(HOSTING) as other:
        other.hear()
        await launch()
        assert await reap() == []
        assert await database.read(AgentSession.objects.live().count) == 3


async def test_a_silent_workers_sessions_are_unreachable_then_lost(launch: Any) -> None:
    await launch()
    worker = await database.write(silent_worker, 31)
    session = await database.write(session_on, worker)
    assert await reap() == []
    row = await row_of(session)
    assert (row.status, row.is_live) == ("unreachable", True)
    await database.write(Worker.objects.filter(pk=worker.pk).update, heartbeat_at=seconds_ago(91))
    await reap()
    row = await row_of(session)
    assert (row.status, row.end_reason) == ("lost", "worker_lost")
    assert await reap() == []
    kinds = await database.read(lambda: list(SessionEvent.objects.values_list("kind", flat=True)))
    assert kinds == ["requested", "unreachable", "ended"]


async def test_a_worker_that_comes_back_takes_its_sessions_back(launch: Any) -> None:
    launcher = await launch()
    session = await launcher.start_session("call")
    await database.write(AgentSession.objects.filter(pk=session.uuid).mark_unreachable)
    assert (await row_of(session)).status == "unreachable"
    worker = current_worker()
    assert worker is not None
    await worker._beat()
    assert (await row_of(session)).status == "active"


async def test_a_worker_that_was_declared_dead_closes_its_sessions_and_goes_on(launch: Any) -> None:
    launcher = await launch()
    session = await launcher.start_session("call")
    worker = current_worker()
    assert worker is not None
    assert worker._row is not None
    await database.write(lambda: AgentSession.objects.finish(EndReason.WORKER_LOST))
    await database.write(worker._row.mark_stopped)
    await worker._beat()
    await worker._look_after_sessions()
    await session.wait()
    assert agent_of(session).closed
    row = await row_of(session)
    assert (row.status, row.end_reason) == ("lost", "worker_lost")
    other = await launcher.start_session("call")
    assert (await row_of(other)).status == "active"
    assert (await database.read(Worker.objects.get)).state == WorkerState.RUNNING


async def test_a_session_admitted_while_its_worker_stopped_does_not_stay_live(launch: Any) -> None:
    await launch()
    worker = await database.write(silent_worker, 0)
    await database.write(worker.mark_stopped)
    session = await database.write(session_on, worker)
    await reap()  # it may have been reaped: the worker that was launched looks at once, too
    assert (await row_of(session)).status == "lost"


@pytest.mark.django_db(transaction=True)
def test_of_two_that_end_a_session_only_the_first_does() -> None:
    session = session_on(silent_worker(0))
    assert session.finish(EndReason.FINISHED)
    assert AgentSession.objects.finish(EndReason.WORKER_LOST) == []
    session.refresh_from_db()
    assert session.end_reason == EndReason.FINISHED


def somebody_waits_for_a_lock() -> bool:
    where = {
        "postgresql": "pg_locks WHERE NOT granted",
        "mysql": "information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
    }
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT COUNT(*) FROM {where[connection.vendor]}")
        return bool(cursor.fetchone()[0])


@pytest.mark.django_db(transaction=True)
def test_of_two_that_end_it_at_once_the_one_that_waits_for_the_other_finds_it_ended() -> None:
    if connection.vendor == "sqlite":
        return  # there, whoever is second does not even read before
    worker = silent_worker(0)
    session = session_on(worker)
    worker.mark_stopped()

    def sweep() -> list[uuid.UUID]:
        try:
            return worker_rows._reap(silent_worker(0), identify(), lambda: False, 0.0).lost
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as others:
        with transaction.atomic():
            assert AgentSession.objects.filter(worker_id=worker.pk).finish(EndReason.WORKER_LOST) == [session.pk]
            sweeping = others.submit(sweep)
            deadline = time.monotonic() + 10
            while not somebody_waits_for_a_lock():
                assert time.monotonic() < deadline
                assert not sweeping.done()
                time.sleep(0.2)  # MariaDB tells what it told before to who asks more often
        assert sweeping.result(10) == []
    assert [event.kind for event in session.events.all()].count("ended") == 1


@pytest.mark.django_db
def test_a_change_of_state_by_a_condition_that_would_not_be_judged_again_is_refused() -> None:
    session_on(silent_worker(0))
    with pytest.raises(ValueError, match="subquery"):
        AgentSession.objects.filter(worker__state="stopped").finish(EndReason.WORKER_LOST)


def test_a_process_is_known_by_its_start_time() -> None:
    started = start_time(os.getpid())
    assert started
    assert not is_known_dead(os.getpid(), started)
    assert is_known_dead(os.getpid(), "1")  # the number was given to another process
    assert is_known_dead(2**22 + 1, "1")
    assert not is_known_dead(2**22 + 1, "")  # nothing is known


def test_a_process_that_proc_hides_is_not_dead(monkeypatch: Any) -> None:
    read = process._read
    hidden = f"/proc/{os.getppid()}/stat"
    monkeypatch.setattr(process, "_read", lambda path: "" if path == hidden else read(path))
    assert not is_known_dead(os.getppid(), "1")


def test_a_zombie_is_dead() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child_process:
        started = start_time(child_process.pid)
        assert child_process.stdin is not None
        child_process.stdin.close()
        os.waitid(os.P_PID, child_process.pid, os.WEXITED | os.WNOWAIT)
        assert is_known_dead(child_process.pid, started)
