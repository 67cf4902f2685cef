"""`AgentSession.objects.dispatch()`: what it takes, what it queues, and that a worker starts it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from tests.conftest import until
from tests.dispatch.conftest import hosting, priorities_in_order_of_start, until_row
from tests.processes import child, run_side_by_side
from visionagents_runner import AgentLauncher, AgentNotFound
from visionagents_runner.dispatch.claimer import Claimer
from visionagents_runner.exceptions import InvalidInput
from visionagents_runner.models import AgentSession, Chore, EndReason, SessionEvent, SessionStatus
from visionagents_runner.signals import session_ended
from visionagents_runner.store import database, errors, queued_rows, session_rows
from visionagents_runner.store.retention import prune

pytestmark = pytest.mark.slow


def is_active(row: AgentSession) -> bool:
    return row.status == SessionStatus.ACTIVE


async def kinds_of(row: AgentSession) -> list[str]:
    return await database.read(
        lambda: list(SessionEvent.objects.filter(session=row).order_by("seq").values_list("kind", flat=True))
    )


# What is queued


@pytest.mark.django_db
def test_a_dispatched_session_is_a_queued_row_at_once() -> None:
    user = User.objects.create_user("operator")
    row = AgentSession.objects.dispatch("call", metadata={"a": 1}, started_by=user, source="crm", priority=5)
    assert isinstance(row.due_at, datetime)
    row.refresh_from_db()
    assert (row.status, row.agent, row.call_type, row.worker_id) == ("queued", "default", "default", None)
    assert (row.metadata, row.started_by, row.source, row.priority) == ({"a": 1}, user, "crm", 5)
    assert row.due_at is not None
    assert row.due_at <= timezone.now() + timedelta(seconds=5)
    assert not AgentSession.objects.occupying().exists()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"call_id": ""}, "call_id"),
        ({"call_id": "a\nb"}, "call_id"),
        ({"call_id": "call", "call_type": "."}, "call_type"),
        ({"call_id": "call", "metadata": [1]}, "metadata"),
        ({"call_id": "call", "at": datetime(2030, 1, 1)}, "at"),  # noqa: DTZ001
        ({"call_id": "call", "at": "tomorrow"}, "at"),
        ({"call_id": "call", "at": timedelta.max}, "at"),
        ({"call_id": "call", "priority": 101}, "priority"),
        ({"call_id": "call", "priority": True}, "priority"),
        ({"call_id": "call", "expires_at": timedelta(0)}, "expires_at"),
        ({"call_id": "call", "at": timedelta(hours=2), "expires_at": timedelta(hours=1)}, "expires_at"),
    ],
)
@pytest.mark.django_db
def test_malformed_arguments_are_named_and_queue_nothing(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        AgentSession.objects.dispatch(**options)
    assert caught.value.field == field
    assert not AgentSession.objects.exists()


@pytest.mark.django_db
def test_an_agent_that_the_runner_does_not_have_is_refused() -> None:
    with pytest.raises(AgentNotFound, match="there are: default"):
        AgentSession.objects.dispatch("call", agent="coach")


@pytest.mark.django_db
def test_what_is_rolled_back_was_never_queued() -> None:
    with transaction.atomic():
        AgentSession.objects.dispatch("call")
        transaction.set_rollback(True)
    assert not AgentSession.objects.exists()


@pytest.mark.django_db
def test_closing_a_queued_session_ends_it_here_and_now() -> None:
    row = AgentSession.objects.dispatch("call")
    assert session_rows.request_close_sync([row.pk], by="operator") == 1
    row.refresh_from_db()
    assert (row.status, row.end_reason) == ("closed", "requested")


@pytest.mark.django_db
def test_pruning_leaves_queued_sessions_alone() -> None:
    AgentSession.objects.dispatch("call", at=timedelta(days=1))
    prune(timedelta(0))
    assert AgentSession.objects.count() == 1


# That it is started


async def test_a_worker_starts_it(host: Any) -> None:
    worker = await host()
    row = await AgentSession.objects.adispatch("call", metadata={"a": 1})
    row = await until_row(row.pk, is_active)
    session = worker.get_session(str(row.pk))
    assert (row.worker_id, session.metadata, row.restartable) == (worker.id, {"a": 1}, False)
    assert (await kinds_of(row))[:3] == ["requested", "claimed", "started"]
    await session_rows.request_close(row.pk)
    row = await until_row(row.pk, lambda row: not row.is_live)
    assert row.end_reason == EndReason.REQUESTED


async def test_it_waits_for_a_worker_to_come(host: Any, transactional_db: None) -> None:
    row = await AgentSession.objects.adispatch("call")
    await host()
    await until_row(row.pk, is_active)


async def test_another_process_that_only_dispatches_is_heard_by_the_poll(host: Any) -> None:
    await host()
    with child(
        """
        from visionagents_runner.models import AgentSession
        row = await AgentSession.objects.adispatch("call")
        say(str(row.pk))
        """
    ) as other:
        await until_row(other.hear(), is_active)


async def test_a_session_for_later_is_not_started_before(host: Any) -> None:
    await host()
    later = await AgentSession.objects.adispatch("call", at=timedelta(seconds=1.5))
    now = await AgentSession.objects.adispatch("call", at=datetime(2020, 1, 1, tzinfo=UTC))
    await until_row(now.pk, is_active)
    row = await until_row(later.pk, is_active)
    assert row.started_at is not None
    assert row.due_at is not None
    assert row.started_at >= row.due_at


async def test_the_highest_priority_goes_first(host: Any, transactional_db: None) -> None:
    assert await priorities_in_order_of_start(host, (-1, 0, 100, 3)) == [100, 3, 0, -1]


async def test_one_that_nobody_takes_in_time_expires(host: Any) -> None:
    worker = await host(max_concurrent_sessions=1)
    blocking = await worker.launchers["default"].start_session("call")
    row = await AgentSession.objects.adispatch("call", expires_at=timedelta(seconds=0.3))
    await asyncio.sleep(0.4)
    blocking.request_close()
    await blocking.wait_ended()
    assert await database.write(AgentSession.objects.expire) == [row.pk]
    row = await until_row(row.pk, lambda row: not row.is_live)
    assert (row.status, row.end_reason) == ("failed", "expired")
    assert not any(worker.live_sessions)


async def test_an_agent_that_cannot_be_built_ends_the_session(host: Any) -> None:
    def create() -> None:
        if create.warm:  # type: ignore[attr-defined]
            raise ZeroDivisionError("no key")
        create.warm = True  # type: ignore[attr-defined]
        from tests.agents import StubAgent

        return StubAgent()  # type: ignore[return-value]

    create.warm = False  # type: ignore[attr-defined]
    await host(create=create)
    row = await AgentSession.objects.adispatch("call")
    row = await until_row(row.pk, lambda row: not row.is_live)
    assert row.end_reason == EndReason.CREATE_FAILED
    assert "no key" in row.error


async def test_a_worker_takes_only_agents_that_it_hosts(host: Any, transactional_db: None) -> None:
    row = AgentSession(call_id="call", agent="coach", status=SessionStatus.QUEUED)
    await database.write(row.insert)
    worker = await host()
    await AgentSession.objects.adispatch("other")
    await until(lambda: any(worker.live_sessions))
    assert (await until_row(row.pk, lambda row: True)).status == SessionStatus.QUEUED


async def test_a_cordoned_or_draining_worker_takes_nothing(host: Any) -> None:
    worker = await host()
    assert worker.services.get(Claimer).room() == {"default": None}
    worker.cordoned = True
    assert worker.services.get(Claimer).room() == {}
    row = await AgentSession.objects.adispatch("call")
    await worker.stop()
    row = await until_row(row.pk, lambda row: True)
    assert (row.status, row.worker_id) == (SessionStatus.QUEUED, None)


async def test_a_session_whose_claim_the_drain_overtakes_goes_back_into_the_queue(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await host()
    real = queued_rows.claim

    async def claim_then_drain(*args: Any, **kwargs: Any) -> bool:
        claimed = await real(*args, **kwargs)
        worker.draining = True
        return claimed

    monkeypatch.setattr(queued_rows, "claim", claim_then_drain)
    row = await AgentSession.objects.adispatch("call")
    row = await until_row(row.pk, lambda row: row.event_seq >= 3 and row.status == SessionStatus.QUEUED)
    worker.draining = False
    assert await kinds_of(row) == ["requested", "claimed", "requeued"]
    assert row.worker_id is None


async def test_a_claim_whose_answer_is_lost_does_not_leave_the_session_with_nobody(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await host()
    real = queued_rows.claim
    calls = []

    async def claim_and_lose_the_answer(*args: Any, **kwargs: Any) -> bool:
        claimed = await real(*args, **kwargs)
        calls.append(claimed)
        if len(calls) == 1:
            raise errors.DATABASE_ERRORS[0]("server closed the connection unexpectedly")
        return claimed

    monkeypatch.setattr(queued_rows, "claim", claim_and_lose_the_answer)
    row = await AgentSession.objects.adispatch("call")
    row = await until_row(row.pk, is_active)
    assert await kinds_of(row) == ["requested", "claimed", "requeued", "claimed", "started", "joined"][: row.event_seq]


# Many workers


async def test_of_several_workers_each_takes_some_and_none_takes_one_twice(transactional_db: None) -> None:
    with child(hosting(max_concurrent_sessions=10)) as one, child(hosting(max_concurrent_sessions=10)) as two:
        workers = {one.hear(), two.hear()}
        rows = [await AgentSession.objects.adispatch(f"call-{number}") for number in range(16)]
        hosts = [str((await until_row(row.pk, is_active)).worker_id) for row in rows]
        assert set(hosts) == workers
        for each in (one, two):
            each.tell()
            assert each.end() == 0
    events = await database.read(lambda: list(SessionEvent.objects.filter(kind="claimed").values_list("session_id")))
    assert len(events) == len(set(events)) == 16


def test_two_workers_cannot_claim_one_session(transactional_db: None) -> None:
    row = AgentSession.objects.dispatch("call")
    program = f"""
        from visionagents_runner.store import database, queued_rows, session_limits, session_rows
        from visionagents_runner.models import AgentSession, Worker
        me = Worker(hostname="h", pid=1)
        await database.write(me.save)
        row = await session_rows.get_session("{row.pk}")
        row.worker_id = me.pk
        go()
        say(str(await queued_rows.claim(row, session_limits.Limits(), restartable=False)))
        wait()
    """
    assert sorted(run_side_by_side(program, processes=4)) == ["False"] * 3 + ["True"]


async def test_a_limit_over_all_workers_postpones_and_the_session_starts_later(host: Any, settings: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "MAX_SESSIONS": 1}
    worker = await host()
    first = await worker.launchers["default"].start_session("call")
    row = await AgentSession.objects.adispatch("call")
    row = await until_row(row.pk, lambda row: row.attempts >= 2)
    assert row.status == SessionStatus.QUEUED
    assert await kinds_of(row) == ["requested", "postponed"]
    first.request_close()
    await until_row(row.pk, is_active)


async def test_when_a_limit_has_room_again_the_most_urgent_of_those_that_it_held_back_comes_first(
    host: Any, settings: Any
) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "MAX_SESSIONS": 1}
    worker = await host()
    first = await worker.launchers["default"].start_session("call")
    rows = [
        await AgentSession.objects.adispatch(name, priority=priority)
        for name, priority in (("old", 0), ("urgent", 50), ("young", 0))
    ]
    for row in rows:
        await until_row(row.pk, lambda row: row.attempts >= 1)
    # All are to try again much later by themselves.
    later = timezone.now() + timedelta(hours=1)
    await database.write(AgentSession.objects.queued().update, due_at=later, attempts=9)
    old, urgent, young = rows
    for ending, coming in ((first, urgent), (None, old), (None, young)):
        live = ending or next(iter(worker.live_sessions))
        live.request_close()
        await until_row(coming.pk, is_active)


async def test_the_end_of_a_session_that_never_ran_is_told_too(host: Any) -> None:
    told: list[tuple[str, str, str]] = []
    news = asyncio.Event()

    async def ended(session_id: str, status: str, end_reason: str, **kwargs: Any) -> None:
        told.append((session_id, status, end_reason))
        news.set()

    worker = await host()
    worker.cordoned = True
    session_ended.connect(ended)
    try:
        closed = await AgentSession.objects.adispatch("closed")
        await session_rows.request_close(closed.pk, by="operator")
        await news.wait()
        news.clear()
        late = await AgentSession.objects.adispatch("late", expires_at=timedelta(hours=1))
        await database.write(AgentSession.objects.filter(pk=late.pk).update, expires_at=late.created_at)
        assert worker._row is not None
        await worker._look_after_sessions()
        async with asyncio.timeout(20):
            while not news.is_set():
                # Who is to look at the queue goes by the clock.
                await database.write(Chore.objects.all().delete)
                await worker._look_after_sessions()
                await asyncio.sleep(0.02)
    finally:
        session_ended.disconnect(ended)
    assert told == [(str(closed.pk), "closed", "requested"), (str(late.pk), "failed", "expired")]


@pytest.mark.django_db(transaction=True)
def test_a_process_without_a_worker_tells_itself_of_what_it_ends() -> None:
    told: list[Any] = []

    def ended(session_id: str, status: str, end_reason: str, **kwargs: Any) -> None:
        told.append((session_id, status, end_reason))

    session_ended.connect(ended)
    try:
        row = AgentSession.objects.dispatch("call")
        session_rows.request_close_sync([row.pk])
    finally:
        session_ended.disconnect(ended)
    assert told == [(str(row.pk), "closed", "requested")]


@pytest.mark.django_db
def test_intervals_go_by_the_databases_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = timezone.now() - timedelta(hours=2)
    monkeypatch.setattr(timezone, "now", lambda: wrong)
    row = AgentSession.objects.dispatch("call", at=timedelta(minutes=5), expires_at=timedelta(minutes=10))
    now = AgentSession.objects.annotate(now=Now()).values_list("now", flat=True).get()
    assert row.due_at is not None
    assert row.expires_at is not None
    assert timedelta(minutes=4) < row.due_at - now < timedelta(minutes=6)
    assert timedelta(minutes=9) < row.expires_at - now < timedelta(minutes=11)


async def test_restart_is_named_or_none() -> None:
    with pytest.raises(ValueError, match="on-worker-loss"):
        AgentLauncher(lambda: None, lambda *args: None, restart="always")  # type: ignore[arg-type]
