"""What PostgreSQL and SQLite do by themselves, and MariaDB and MySQL only if they are told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connections, transaction
from django.utils import timezone

from tests.conftest import until
from visionagents_runner.models import AgentSession, EventLine, SessionEvent, Worker
from visionagents_runner.store import database, errors, worker_rows

pytestmark = pytest.mark.django_db(transaction=True)


@contextmanager
def connection_with(**options: Any) -> Iterator[None]:
    """Have this thread use a connection of its own, with these OPTIONS."""
    ours = connections["default"]
    other = ours.copy()
    other.settings_dict["OPTIONS"].update(options)
    connections["default"] = other
    try:
        yield
    finally:
        other.close()
        connections["default"] = ours


def test_the_database_gives_its_time_in_utc_wherever_its_server_is() -> None:
    far = {"init_command": "SET time_zone = '+05:00'"} if connections["default"].vendor == "mysql" else {}
    with connection_with(**far):
        worker = Worker.objects.create(hostname="here", pid=1)
        worker.refresh_from_db()
        assert abs(timezone.now() - worker.heartbeat_at) < timedelta(minutes=1)
        assert not Worker.objects.silent(60).exists()


async def test_a_write_that_waits_for_a_lock_gives_up_and_the_lane_goes_on(monkeypatch: Any) -> None:
    """The database itself says so, in time: nobody is left with a statement of which nothing is known."""
    if connections["default"].vendor == "sqlite":
        pytest.skip("SQLite has one lock and waits for it as its timeout says")
    monkeypatch.setattr(database, "_QUERY_SECONDS", 1.0)
    worker = Worker(hostname="here", pid=1)
    await worker_rows.register(worker)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            Worker.objects.filter(pk=worker.pk).update(runner="held")
            held.set()
            release.wait(60)
        connections.close_all()

    holder = asyncio.create_task(asyncio.to_thread(hold))
    await until(held.is_set)
    with pytest.raises(OperationalError):
        await database.write(Worker.objects.filter(pk=worker.pk).update, runner="waited")
    kept = await database.write(lambda: connections["default"].connection is not None)
    release.set()
    await holder
    await database.write(Worker.objects.filter(pk=worker.pk).update, runner="after")
    assert kept
    assert (await database.read(Worker.objects.get)).runner == "after"


async def test_the_lanes_recover_when_the_server_has_closed_their_connections() -> None:
    if connections["default"].vendor == "sqlite":
        pytest.skip("SQLite has no server")
    own = "pg_backend_pid()" if connections["default"].vendor == "postgresql" else "CONNECTION_ID()"

    def number() -> int:
        with connections["default"].cursor() as cursor:
            cursor.execute(f"SELECT {own}")
            return int(cursor.fetchone()[0])

    def kill(doomed: int) -> None:
        with connections["default"].cursor() as cursor:
            cursor.execute(f"SELECT pg_terminate_backend({doomed})" if "pg" in own else f"KILL {doomed}")
        connections.close_all()

    worker = Worker(hostname="here", pid=1)
    await worker_rows.register(worker)
    assert await worker_rows.beat(worker, within=10)
    for lane in (database._writer, database._pulse, *database._readers):
        doomed = await lane.run(number)
        await asyncio.to_thread(kill, doomed)
    await database.persist(Worker.objects.filter(pk=worker.pk).update, runner="after")

    async def beaten() -> bool:
        try:
            return await worker_rows.beat(worker, within=10)
        except errors.DATABASE_ERRORS:
            return False

    assert await beaten() or await beaten()
    for lane in database._readers:
        with pytest.raises(errors.DATABASE_ERRORS):
            await lane.run(Worker.objects.count)
        assert await lane.run(Worker.objects.count) == 1


def test_events_far_larger_than_one_statement_may_be_are_written_in_order() -> None:
    """MariaDB refuses a statement above max_allowed_packet, 16 MiB by default."""
    session = AgentSession(call_id="call")
    with transaction.atomic():
        session.insert()
    text = '"\\' * 4000 + "\U0001f3a4"
    lines = [EventLine(session.pk, "custom", timezone.now(), {"n": n, "text": text}) for n in range(500)]
    assert SessionEvent.objects.append(lines) == {session.pk: 501}
    written = SessionEvent.objects.filter(session=session, kind="custom").order_by("seq")
    assert [event.data for event in written] == [line.data for line in lines]
    assert [event.at for event in written] == [line.at for line in lines]


def test_events_of_many_sessions_find_their_own() -> None:
    sessions = [AgentSession(call_id=f"call-{number}") for number in range(30)]
    with transaction.atomic():
        for session in sessions:
            session.insert()
    lines = [
        EventLine(session.pk, "custom", timezone.now(), {"call": session.call_id, "n": n})
        for n in range(3)
        for session in sessions
    ]
    AgentSession.objects.filter(call_id="call-7").delete()
    last = SessionEvent.objects.append(lines)
    assert len(last) == 29
    assert set(last.values()) == {4}
    for session in AgentSession.objects.all():
        found = session.events.filter(kind="custom").order_by("seq").values_list("seq", "data")
        assert list(found) == [(n + 2, {"call": session.call_id, "n": n}) for n in range(3)]
