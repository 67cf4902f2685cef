"""The worker: registration, heartbeat, close requests, drain."""

from __future__ import annotations

import asyncio
import threading
import uuid
from typing import Any

import pytest
from django.db import OperationalError

from tests.agents import StubAgent, create_agent, join_call
from tests.conftest import agent_of, row_of, until
from visionagents_runner import AgentLauncher, NotReady
from visionagents_runner.models import AgentSession, EndReason, SessionEvent, Worker, WorkerState
from visionagents_runner.models.worker import seconds_ago
from visionagents_runner.signals import session_ended
from visionagents_runner.store import database, session_limits, session_rows, worker_rows
from visionagents_runner.worker.current import current_worker
from visionagents_runner.worker.worker import AgentWorker


def the_worker() -> AgentWorker:
    worker = current_worker()
    assert worker is not None
    return worker


async def worker_row() -> Worker:
    return await database.read(Worker.objects.get)


async def test_a_worker_is_a_row_while_it_runs_and_says_goodbye(launch: Any) -> None:
    launcher = await launch(max_concurrent_sessions=7)
    row = await worker_row()
    assert (row.pk, row.state, row.capacity) == (the_worker().id, WorkerState.RUNNING, 7)
    await launcher.stop()
    row = await worker_row()
    assert row.state == WorkerState.STOPPED
    assert row.stopped_at is not None


async def test_the_heartbeat_is_told_by_the_databases_clock(launch: Any) -> None:
    await launch()
    await database.write(Worker.objects.update, heartbeat_at=seconds_ago(25))
    before = (await worker_row()).heartbeat_at
    await the_worker()._beat()
    assert (await worker_row()).heartbeat_at > before
    assert not await database.read(Worker.objects.silent(20).exists)


async def test_a_launcher_runs_once(launch: Any) -> None:
    launcher = await launch()
    with pytest.raises(RuntimeError, match="already running"):
        await launcher.start()


async def test_launchers_of_one_process_share_its_worker(launch: Any) -> None:
    first, second = await launch(), await launch()
    sessions = [await launcher.start_session("call") for launcher in (first, second)]
    assert [session.agent_name for session in sessions] == ["default", "default-2"]
    assert await database.read(Worker.objects.count) == 1
    await second.stop()
    assert (await row_of(sessions[1])).end_reason == "drained"
    assert (sessions[0].finished, first.ready, second.running) == (False, True, False)
    await first.stop()
    assert (await row_of(sessions[0])).end_reason == "drained"


async def test_a_second_worker_in_one_process_is_refused(launch: Any) -> None:
    await launch()
    other = AgentLauncher(create_agent, join_call)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="has a worker already"):
        await AgentWorker({"other": other}).start()
    assert not other.running


async def test_what_stops_for_newer_code_leaves_behind_who_takes_long_to_close(launch: Any) -> None:
    hang = [False]
    launcher = await launch(lambda: StubAgent(close_hangs=hang[0]), close_timeout=3600)
    hang[0] = True
    session = await launcher.start_session("call")
    async with asyncio.timeout(60):
        await the_worker().stop_for_code()
    row = await row_of(session)
    assert (row.end_reason, row.status) == ("cancelled", "closed")
    assert "agent.close() did not end before the close was forced" in row.error
    closing = await database.read(SessionEvent.objects.get, session_id=row.pk, kind="close_requested")
    assert closing.data["by"] == "reload"


async def test_a_drain_goes_on_when_its_caller_is_cancelled(launch: Any) -> None:
    release = asyncio.Event()

    class Slow(StubAgent):
        async def close(self) -> None:
            if self.joined_at:
                await release.wait()
            await super().close()

    launcher = await launch(Slow)
    session = await launcher.start_session("call")
    caller = asyncio.ensure_future(launcher.stop())
    await until(lambda: session.closing)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    release.set()
    async with asyncio.timeout(10):
        await the_worker().stop()
    assert (await row_of(session)).end_reason == "drained"
    assert current_worker() is None


async def test_a_heartbeat_waits_for_nobody_else(launch: Any, settings: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("visionagents_runner.worker.worker._LAST_SECONDS", 0.5)
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "HEARTBEAT_INTERVAL": 0.01}
    release = threading.Event()

    async def hanging(**kwargs: Any) -> None:
        await asyncio.Event().wait()

    session_ended.connect(hanging)
    try:
        launcher = await launch()
        session = await launcher.start_session("call")
        agent_of(session).end()
        await session.wait()
        blocked = asyncio.ensure_future(database.write(release.wait, 20))
        first = (await worker_row()).heartbeat_at
        while (await worker_row()).heartbeat_at == first:  # noqa: ASYNC110 - the test's own timeout bounds it
            await asyncio.sleep(0.01)
    finally:
        session_ended.disconnect(hanging)
        release.set()
        await blocked


async def test_a_periodic_task_that_is_cancelled_from_inside_goes_on(launch: Any, monkeypatch: Any) -> None:
    await launch()
    worker, calls = the_worker(), []
    twice = asyncio.Event()

    async def work() -> None:
        calls.append(1)
        if len(calls) > 1:
            twice.set()
        raise asyncio.CancelledError

    worker._every(0.001, work, name="test")
    async with asyncio.timeout(10):
        await twice.wait()


async def test_who_is_told_of_an_end_is_told_before_the_worker_stops(launch: Any) -> None:
    told: list[str] = []

    async def slow(session_id: str, end_reason: str, **kwargs: Any) -> None:
        await asyncio.sleep(0.05)
        told.append(end_reason)

    session_ended.connect(slow)
    try:
        launcher = await launch()
        await launcher.start_session("call")
        await launcher.stop()
    finally:
        session_ended.disconnect(slow)
    assert told == ["drained"]


async def test_a_session_that_others_ended_is_told_of_by_them_and_only_once(launch: Any) -> None:
    told: list[str] = []

    def receiver(session_id: str, end_reason: str, **kwargs: Any) -> None:
        told.append(end_reason)

    launcher = await launch()
    session = await launcher.start_session("call")
    session_ended.connect(receiver)
    try:
        await database.write(lambda: AgentSession.objects.finish(EndReason.WORKER_LOST))
        agent_of(session).end()
        await session.wait()
        await launcher.stop()
    finally:
        session_ended.disconnect(receiver)
    assert told == []
    assert session.end_reason == EndReason.WORKER_LOST


async def test_a_start_while_the_database_is_away_says_so(launch: Any, monkeypatch: Any) -> None:
    launcher = await launch()

    def away(*args: Any) -> None:
        raise OperationalError("could not connect to server")

    monkeypatch.setattr(session_limits, "_admit", away)
    with pytest.raises(NotReady, match="database does not answer"):
        await launcher.start_session("call")


async def test_a_row_that_lands_too_late_does_not_stay_live(launch: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(
        "visionagents_runner.worker.launcher._ADMIT_SECONDS", 0.5
    )  # long enough for the thread to begin
    launcher = await launch()
    release, admit = threading.Event(), session_limits._admit

    def slow(*args: Any) -> None:
        release.wait(20)
        admit(*args)

    monkeypatch.setattr(session_limits, "_admit", slow)
    with pytest.raises(NotReady, match="database does not answer"):
        await launcher.start_session("call")
    release.set()
    await launcher.stop()
    row = await database.read(AgentSession.objects.get)
    assert (row.status, row.end_reason) == ("failed", "create_failed")
    assert "too late" in row.error


async def test_a_close_request_of_this_process_takes_effect_at_once(launch: Any, settings: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "POLL_INTERVAL": 3600}
    launcher = await launch()
    session = await launcher.start_session("call")
    assert await session_rows.request_close(session.id, by="operator")
    async with asyncio.timeout(10):
        await session.wait()
    row = await row_of(session)
    assert (row.status, row.end_reason) == ("closed", "requested")


async def test_a_close_request_of_another_process_takes_effect_at_the_next_poll(launch: Any) -> None:
    launcher = await launch()
    session = await launcher.start_session("call")
    await database.write(AgentSession.objects.request_close, by="elsewhere")
    assert (await row_of(session)).status == "closing"
    await the_worker()._poll()
    await session.wait()
    assert (await row_of(session)).end_reason == "requested"


async def test_force_ends_the_session_of_a_worker_that_is_gone(launch: Any) -> None:
    await launch()

    def session_of_nobody() -> uuid.UUID:
        worker = Worker.objects.create(hostname="gone", pid=1)
        session = AgentSession(call_id="call", worker=worker, status="starting")
        session.insert()
        Worker.objects.filter(pk=worker.pk).update(heartbeat_at=seconds_ago(45))
        return session.pk

    pk = await database.write(session_of_nobody)
    await session_rows.request_close(pk)
    assert (await database.read(AgentSession.objects.get)).is_live
    await session_rows.request_close(pk, force=True)
    row = await database.read(AgentSession.objects.get)
    assert (row.status, row.end_reason) == ("closed", "requested")


async def test_a_drain_lets_calls_go_on_and_closes_the_rest_when_its_time_is_over(launch: Any) -> None:
    launcher = await launch()
    first, second = [await launcher.start_session(f"call-{n}") for n in range(2)]
    worker = the_worker()
    draining = asyncio.ensure_future(worker.drain(3600))
    await until(lambda: worker.draining)
    assert not worker.ready
    assert worker.not_ready_reason().retry_after >= 1  # type: ignore[union-attr]
    assert not first.closing
    agent_of(first).end()
    await first.wait()
    assert (await row_of(first)).end_reason == "finished"
    worker.hurry()
    await draining
    assert (await row_of(second)).end_reason == "drained"
    assert agent_of(second).closed


async def test_a_drain_ends_when_the_last_call_does(launch: Any) -> None:
    launcher = await launch()
    session = await launcher.start_session("call")
    draining = asyncio.ensure_future(the_worker().drain(3600))
    await until(lambda: not launcher.ready)
    agent_of(session).end()
    async with asyncio.timeout(10):
        await draining
    assert (await row_of(session)).end_reason == "finished"


async def test_a_second_drain_closes_the_rest(launch: Any) -> None:
    launcher = await launch()
    session = await launcher.start_session("call")
    worker = the_worker()
    first = asyncio.ensure_future(worker.drain(3600))
    await until(lambda: worker.draining)
    await worker.drain()
    await first
    assert (await row_of(session)).end_reason == "drained"


async def test_a_session_that_cannot_be_ended_is_ended_on_its_row(launch: Any, monkeypatch: Any) -> None:
    launcher = await launch()
    session = await launcher.start_session("call")
    worker = the_worker()

    async def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    monkeypatch.setattr(worker, "close_sessions", nothing)
    await worker.stop()
    row = await row_of(session)
    assert (row.status, row.end_reason) == ("closed", "drained")
    agent_of(session).end()
    await session.wait()


async def test_warming_up_is_tried_again_until_it_works(launch: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("visionagents_runner.worker.worker._WARM_UP_RETRY_SECONDS", (0.0,))
    failures = [ValueError("no key"), ValueError("no key")]

    async def create() -> StubAgent:
        if failures:
            raise failures.pop()
        return StubAgent()

    launcher = AgentLauncher(create, join_call)  # type: ignore[arg-type]
    worker = AgentWorker({"default": launcher})
    await worker.start()
    assert "warming up" in str(worker.not_ready_reason())
    await worker.wait_warm()
    assert worker.ready
    await worker.stop()


async def test_the_end_of_a_session_waits_for_a_database_that_is_away(launch: Any, monkeypatch: Any) -> None:
    launcher = await launch()
    session = await launcher.start_session("call")
    away, finish = [True], AgentSession.finish
    tried = asyncio.Event()
    loop = asyncio.get_running_loop()

    def unreachable(self: AgentSession, *args: Any, **kwargs: Any) -> bool:
        if away[0]:
            loop.call_soon_threadsafe(tried.set)
            raise OperationalError("the database system is shutting down")
        return finish(self, *args, **kwargs)

    monkeypatch.setattr(AgentSession, "finish", unreachable)
    agent_of(session).end()
    await tried.wait()
    assert not session.finished
    assert agent_of(session).closed
    away[0] = False
    await session.wait()
    assert (await row_of(session)).end_reason == "finished"


async def test_metrics_are_kept_on_the_row_when_they_change(launch: Any) -> None:
    launcher = await launch()
    session = await launcher.start_session("call")
    await the_worker()._save_metrics()
    first = await row_of(session)
    assert first.metrics == {"llm_input_tokens__total": 0, "llm_latency_ms__avg": None}
    await the_worker()._save_metrics()
    assert (await row_of(session)).metrics_at == first.metrics_at


async def test_an_agent_is_closed_in_time_while_the_database_is_away(launch: Any, monkeypatch: Any) -> None:
    launcher = await launch()
    session = await launcher.start_session("call")
    away, joined = [True], AgentSession.mark_joined

    def unreachable(self: AgentSession, *args: Any, **kwargs: Any) -> bool:
        if away[0]:
            raise OperationalError("the database system is shutting down")
        return joined(self, *args, **kwargs)

    monkeypatch.setattr(AgentSession, "mark_joined", unreachable)
    await agent_of(session).joined.wait()
    session.check_limits()
    await launcher.close_session(session.id)
    await until(lambda: agent_of(session).closed)
    assert not session.finished
    away[0] = False
    await session.wait()
    row = await row_of(session)
    assert (row.end_reason, row.joined_at is not None) == ("requested", True)


@pytest.mark.django_db(transaction=True)
def test_a_heartbeat_that_is_late_does_not_bring_back_a_worker_that_has_stopped() -> None:
    worker = Worker.objects.create(hostname="host", pid=1)
    worker_rows._stop(worker)
    assert worker_rows._beat(worker, True, {})
    worker.refresh_from_db()
    assert worker.state == WorkerState.STOPPED
