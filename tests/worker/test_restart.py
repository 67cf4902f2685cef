"""Sessions that are started again when their worker is lost: elsewhere, once, and never beside the first."""

from __future__ import annotations

import asyncio
import json
import signal
import uuid
from typing import Any

import pytest

from tests.agents import StubAgent
from tests.dispatch.conftest import host, until_row
from tests.processes import child, freeze
from tests.worker.test_reaping import reap, session_on, silent_worker
from visionagents_runner.dispatch.claimer import Claimer
from visionagents_runner.exceptions import NotReady, RunnerConfigurationError
from visionagents_runner.messaging import notifications
from visionagents_runner.models import AgentSession, Chore, EndReason, SessionEvent, SessionStatus, Worker
from visionagents_runner.models.session import PRIORITIES
from visionagents_runner.store import database, session_rows, worker_rows
from visionagents_runner.utils.process import identify
from visionagents_runner.worker import lease
from visionagents_runner.worker.lease import Lease

pytestmark = pytest.mark.slow

__all__ = ["host"]

START = """
    import tests.agents
    from visionagents_runner.worker.process import ensure_worker
    tests.agents.runner = Runner(launcher=AgentLauncher(create_agent, join_call, restart="on-worker-loss"))
    worker = await ensure_worker(tests.agents.runner)
    await worker.wait_warm()
    session = await worker.launchers["default"].start_session("call", metadata={"a": 1})
    say(session.id)
    await asyncio.Event().wait()
"""


async def successor_of(key: Any) -> AgentSession | None:
    return await database.read(AgentSession.objects.filter(restart_of_id=key).first)


async def data_of(key: Any, kind: str) -> dict[str, Any]:
    event = await database.read(SessionEvent.objects.filter(session_id=key, kind=kind).first)
    assert event is not None
    return event.data


async def test_a_session_whose_worker_is_killed_goes_on_elsewhere(host: Any) -> None:
    with child(START) as other:
        key = other.hear()
        other.process.send_signal(signal.SIGKILL)
        other.process.wait()
    worker = await host(restart="on-worker-loss")
    lost = await until_row(key, lambda row: not row.is_live)
    assert (lost.status, lost.end_reason) == ("lost", "worker_lost")
    successor = await successor_of(key)
    assert successor is not None
    row = await until_row(successor.pk, lambda row: row.status == SessionStatus.ACTIVE)
    assert (row.call_id, row.metadata, row.source, row.worker_id) == ("call", {"a": 1}, "restart", worker.id)
    assert await data_of(key, "ended") == {"reason": "worker_lost", "restarted_as": str(row.pk)}
    assert (await data_of(row.pk, "requested"))["restart_of"] == key
    assert row.restartable is False
    assert row.priority == max(PRIORITIES)  # people are on the call


async def test_it_is_started_again_once_and_not_a_second_time(transactional_db: None) -> None:
    def both() -> list[uuid.UUID]:
        session = session_on(silent_worker(0), restartable=True)
        for _ in range(2):
            AgentSession.objects.filter(pk=session.pk).finish(EndReason.WORKER_LOST)
        first = AgentSession.objects.get(restart_of=session)
        AgentSession.objects.filter(pk=first.pk).finish(EndReason.WORKER_LOST)
        return list(AgentSession.objects.exclude(restart_of=None).values_list("pk", flat=True))

    assert len(await database.write(both)) == 1


@pytest.mark.parametrize(
    "values", [{"restartable": False}, {"restartable": True, "close_requested_at": "2026-01-01T00:00Z"}]
)
async def test_one_that_is_not_of_that_kind_or_was_to_close_is_not_started_again(
    transactional_db: None, values: dict[str, Any]
) -> None:
    def lose() -> bool:
        session = session_on(silent_worker(0), **values)
        AgentSession.objects.filter(pk=session.pk).finish(EndReason.WORKER_LOST)
        return AgentSession.objects.filter(restart_of=session).exists()

    assert not await database.write(lose)


async def test_after_the_time_to_live_those_that_go_on_are_lost_and_others_wait_for_the_grace(
    launch: Any, settings: Any
) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "WORKER_TTL": 30, "WORKER_GRACE": 60}
    await launch()

    def prepare() -> tuple[AgentSession, AgentSession]:
        worker = silent_worker(40)
        return session_on(worker, restartable=True), session_on(worker)

    restartable, other = await database.write(prepare)
    await reap()
    assert (await until_row(restartable.pk, lambda row: True)).status == SessionStatus.LOST
    assert (await until_row(other.pk, lambda row: True)).status == SessionStatus.UNREACHABLE


async def test_a_worker_stops_them_before_its_time_to_live_ends(
    host: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "WORKER_TTL": 30}
    worker = await host(restart="on-worker-loss")
    launcher = worker.launchers["default"]
    restartable = await launcher.start_session("call")
    launcher.restart = None
    other = await launcher.start_session("other")
    now = lease.boot_time() + 21

    monkeypatch.setattr(lease, "boot_time", lambda: now)
    worker.lease.check()
    await restartable.wait_ended()
    assert restartable.end_reason == EndReason.WORKER_LOST
    assert not other.closing
    successor = await successor_of(restartable.id)
    assert successor is not None
    await until_row(successor.pk, lambda row: row.status == SessionStatus.ACTIVE)


async def test_a_frozen_worker_finds_its_sessions_stopped_when_it_wakes_up(host: Any, settings: Any) -> None:
    ttl = {"HEARTBEAT_INTERVAL": 0.2, "WORKER_TTL": 1.5, "WORKER_GRACE": 30, "POLL_INTERVAL": 0.2}
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, **ttl}
    frozen = START.replace("await asyncio.Event().wait()", "await session.wait_ended(); say(session.end_reason.value)")
    with child(frozen, TEST_RUNNER_SETTINGS=json.dumps(ttl)) as other:
        key = other.hear()
        freeze(other.process)
        await host(restart="on-worker-loss")
        successor = None
        async with asyncio.timeout(20):
            while successor is None:
                await asyncio.sleep(0.05)
                successor = await successor_of(key)
        await until_row(successor.pk, lambda row: row.status == SessionStatus.ACTIVE)
        other.process.send_signal(signal.SIGCONT)
        assert await asyncio.to_thread(other.hear) == "worker_lost"
    assert (await until_row(key, lambda row: True)).status == SessionStatus.LOST


async def test_a_row_that_its_worker_does_not_run_is_ended(host: Any, settings: Any) -> None:
    # It looks when it starts, and then only when it is told to here.
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "HEARTBEAT_INTERVAL": 3600, "WORKER_TTL": 7200}
    worker = await host()
    async with asyncio.timeout(20):
        while not await database.read(Chore.objects.filter(name="sweep").exists):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    def admit() -> AgentSession:
        return session_on(Worker.objects.get(pk=worker.id), status=SessionStatus.STARTING, restartable=True)

    row = await database.write(admit)
    await worker._end_what_nobody_runs()
    assert (await until_row(row.pk, lambda row: True)).is_live
    await worker._end_what_nobody_runs()
    row = await until_row(row.pk, lambda row: True)
    assert (row.end_reason, row.is_live) == ("create_failed", False)
    assert await successor_of(row.pk) is None  # whoever asked was told that it did not start


async def test_one_that_another_worker_has_by_now_is_left_to_it(host: Any) -> None:
    worker = await host()
    row = await database.write(lambda: session_on(silent_worker(0), status=SessionStatus.STARTING))
    assert worker._row is not None
    assert await session_rows.end_not_begun(worker._row, [row.pk], "nobody") == []
    assert (await until_row(row.pk, lambda row: True)).is_live


async def test_a_worker_that_others_may_take_for_dead_takes_nothing(
    host: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "WORKER_TTL": 30, "HEARTBEAT_INTERVAL": 3600}
    worker = await host()
    real, ahead = lease.boot_time, 21.0
    monkeypatch.setattr(lease, "boot_time", lambda: real() + ahead)
    assert not worker.ready
    assert worker.services.get(Claimer).room() == {}
    with pytest.raises(NotReady, match="take it for dead"):
        await worker.launchers["default"].start_session("call")
    row = await AgentSession.objects.adispatch("call")
    await worker.services.get(Claimer)._look()
    assert (await until_row(row.pk, lambda row: True)).status == SessionStatus.QUEUED
    worker.lease.renew(lease.boot_time())
    worker.services.get(Claimer).hint()
    await until_row(row.pk, lambda row: row.status == SessionStatus.ACTIVE)


@pytest.mark.django_db
def test_a_worker_that_was_declared_dead_gets_no_session_from_the_queue() -> None:
    worker = silent_worker(0)
    row = AgentSession.objects.dispatch("call")
    worker.mark_stopped()
    assert not AgentSession.objects.claim(row.pk, worker.pk)
    worker.revive()
    assert AgentSession.objects.claim(row.pk, worker.pk)


async def test_one_that_somebody_closes_while_its_worker_stops_it_is_not_started_again(
    host: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "WORKER_TTL": 30, "HEARTBEAT_INTERVAL": 3600}
    closing, may_close = asyncio.Event(), asyncio.Event()

    class Slow(StubAgent):
        async def close(self) -> None:
            closing.set()
            await may_close.wait()
            await super().close()

    made: list[StubAgent] = []

    async def create() -> StubAgent:
        made.append(Slow() if made else StubAgent())  # the first one is there to warm up
        return made[-1]

    worker = await host(create, restart="on-worker-loss")
    session = await worker.launchers["default"].start_session("call")
    real = lease.boot_time
    monkeypatch.setattr(lease, "boot_time", lambda: real() + 21)
    worker.lease.check()
    await closing.wait()
    session.request_close(by="operator")
    may_close.set()
    await session.wait_ended()
    row = await until_row(session.id, lambda row: not row.is_live)
    assert (row.status, row.end_reason) == ("closed", "requested")
    assert await successor_of(session.id) is None


@pytest.mark.django_db
def test_an_engine_that_cannot_take_what_goes_on_does_not_keep_a_lost_session_live() -> None:
    def refuse(session: AgentSession) -> None:
        raise RunnerConfigurationError("no tables")

    session = session_on(silent_worker(0), restartable=True)
    engine = notifications._engine
    notifications.set_engine(refuse)
    try:
        AgentSession.objects.filter(pk=session.pk).finish(EndReason.WORKER_LOST)
    finally:
        notifications.set_engine(engine)
    successor = AgentSession.objects.get(restart_of=session)
    assert list(AgentSession.objects.due()) == [successor]


def test_a_lease_stops_early_forces_late_and_is_renewed(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "WORKER_TTL": 30}
    told: list[bool] = []
    now = 1000.0
    monkeypatch.setattr(lease, "boot_time", lambda: now)
    held = Lease(lambda *, force: told.append(force))
    now = 1019.0
    held.check()
    assert told == []
    now = 1021.0
    held.check()
    now = 1028.0
    held.check()
    assert told == [False, True]
    held.renew(1027.0)
    held.renew(1003.0)  # an older heartbeat whose answer came late
    held.check()
    assert told == [False, True]


def test_who_could_not_reach_the_database_itself_calls_nobody_silent(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "WORKER_TTL": 30, "HEARTBEAT_INTERVAL": 5}
    now = 1000.0
    monkeypatch.setattr(lease, "boot_time", lambda: now)
    held = Lease(lambda *, force: None)
    assert not held.may_judge  # it has just come
    for now in range(1005, 1035, 5):
        held.renew(now)
    assert held.may_judge
    now = 1090.0
    held.renew(now)  # the database was away for a minute
    assert not held.may_judge
    for now in range(1095, 1125, 5):
        held.renew(now)
    assert held.may_judge


def test_who_has_not_reached_the_database_for_long_judges_nobody_before_it_has(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "WORKER_TTL": 30, "HEARTBEAT_INTERVAL": 5}
    now = 1000.0
    monkeypatch.setattr(lease, "boot_time", lambda: now)
    held = Lease(lambda *, force: None)
    for now in range(1005, 1045, 5):
        held.renew(now)
    assert held.may_judge
    now += 11  # the database was away, and answers somebody else first
    assert not held.may_judge


@pytest.mark.django_db
def test_a_worker_that_gives_a_sign_of_life_while_it_is_judged_is_left_alone(settings: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "WORKER_TTL": 30, "WORKER_GRACE": 60}
    me, back = silent_worker(0), silent_worker(91)
    session = session_on(back)

    def judge() -> bool:
        Worker.objects.beat(back.pk)
        return True

    judged = iter([lambda: True, judge])
    assert worker_rows._reap(me, identify(), lambda: next(judged)(), 0.0).lost == []
    back.refresh_from_db()
    session.refresh_from_db()
    assert (back.state, session.is_live) == ("running", True)
