"""The store's threads: their order, their connections, and what they do when the database is gone."""

from __future__ import annotations

import asyncio
import threading
import uuid
from typing import Any

import pytest
from django.db import OperationalError, connection, connections

from visionagents_runner.models import AgentSession, Slot, Worker
from visionagents_runner.store import database, session_rows, worker_rows
from visionagents_runner.store.errors import try_again_after_deadlock

pytestmark = pytest.mark.django_db(transaction=True)


async def test_writes_happen_in_the_order_in_which_they_were_asked_for() -> None:
    done: list[int] = []
    await asyncio.gather(*(database.write(done.append, number) for number in range(50)))
    assert done == list(range(50))


async def test_a_slow_write_does_not_hold_up_a_heartbeat_or_a_read() -> None:
    worker = Worker(hostname="here", pid=1)
    await worker_rows.register(worker)
    release = threading.Event()
    slow = asyncio.ensure_future(database.write(release.wait, 20))
    assert await worker_rows.beat(worker, within=10)
    assert await database.read(Worker.objects.count) == 1
    assert not slow.done()
    release.set()
    await slow


async def test_a_heartbeat_that_the_database_does_not_answer_gives_up(monkeypatch: Any) -> None:
    release = threading.Event()
    monkeypatch.setattr(worker_rows, "_beat", lambda *args: release.wait(20))
    with pytest.raises(TimeoutError):
        await worker_rows.beat(Worker(), within=0.01)
    release.set()


async def test_after_a_lost_connection_the_next_write_has_a_new_one() -> None:
    def cut() -> None:
        connections["default"].ensure_connection()
        if connections["default"].vendor == "sqlite":
            connections["default"].close()  # a file cannot hang up
        else:
            connections["default"].connection.close()

    await database.write(cut)
    await database.persist(Worker.objects.create, hostname="here", pid=1)
    assert await database.read(Worker.objects.count) == 1


async def test_persist_tries_until_the_database_answers() -> None:
    failures = [OperationalError("gone"), OperationalError("still gone")]

    def flaky() -> str:
        if failures:
            raise failures.pop()
        return "written"

    assert await database.persist(flaky) == "written"


async def test_a_deadlock_is_tried_again_and_another_error_is_not() -> None:
    tries: list[int] = []

    def deadlocked() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise OperationalError("deadlock detected")
        return "admitted"

    assert try_again_after_deadlock(deadlocked) == "admitted"

    def broken() -> None:
        tries.append(1)
        raise OperationalError("no such column")

    tries.clear()
    with pytest.raises(OperationalError, match="no such column"):
        try_again_after_deadlock(broken)
    assert len(tries) == 1


@pytest.mark.parametrize("key", ["", "x", "1" * 300, "\x00", "é"])
async def test_an_id_that_is_no_uuid_is_no_session(key: str) -> None:
    assert await session_rows.get_session(key) is None


async def test_many_sessions_are_asked_about_in_batches() -> None:
    assert await session_rows.ended_among([uuid.uuid4() for _ in range(1200)]) == []


def test_two_first_takers_of_a_slot_make_one_row() -> None:
    errors: list[BaseException] = []

    def take() -> None:
        try:
            for number in range(20):
                try_again_after_deadlock(lambda number=number: Slot.objects.take([("call", str(number))]))
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert list(Slot.objects.values_list("taken", flat=True)) == [4] * 20


def test_a_row_that_would_be_ended_and_live_is_refused_by_the_database() -> None:
    from django.db import IntegrityError

    with pytest.raises(IntegrityError):
        AgentSession.objects.create(call_id="x", status="closed")
    with pytest.raises(IntegrityError):
        AgentSession.objects.create(call_id="x", status="active", end_reason="finished")
    with pytest.raises(IntegrityError):
        AgentSession.objects.create(call_id="x", status="resting")


async def test_ending_does_not_wait_for_ever_for_a_thread_that_the_database_holds() -> None:
    release = threading.Event()
    held = asyncio.ensure_future(database.write(release.wait, 20))
    await asyncio.sleep(0)
    assert await asyncio.to_thread(database.close, 0.01) is False
    release.set()
    await held
    assert await asyncio.to_thread(database.close) is True
