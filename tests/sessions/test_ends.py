"""Every way in which a session can end: what its row says, and that task and agent are gone."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from django.db import OperationalError

from tests.agents import StubAgent, create_agent, join_call
from tests.conftest import agent_of, row_of, until
from visionagents_runner import StartFailed, StartTimeout
from visionagents_runner.models import AgentSession, EndReason, SessionEvent
from visionagents_runner.sessions.session import LiveSession
from visionagents_runner.store import database, session_rows
from visionagents_runner.worker.current import current_worker


async def assert_ended(session: LiveSession, status: str, reason: str, *, error: str = "") -> AgentSession:
    """The row has one end, the task is done, nothing of the session is left in memory."""
    async with asyncio.timeout(20):
        await asyncio.wait({asyncio.ensure_future(session.wait())})
    row = await row_of(session)
    assert (row.status, row.end_reason) == (status, reason), row.error
    assert row.ended_at is not None
    assert error in row.error if error else row.error == ""
    assert session.finished
    assert session.task is None or session.task.done()
    assert (worker := current_worker()) is None or worker.get_session(session.id) is None
    ends = await database.read(lambda: SessionEvent.objects.filter(session=row, kind="ended").count())
    assert ends == 1
    return row


async def joined(session: LiveSession) -> None:
    """Wait until the runner has noticed that the agent joined: a stub has no events, so it is asked for."""
    await agent_of(session).joined.wait()
    session.check_limits()
    await until(lambda: session.joined_at is not None)


async def only_row() -> AgentSession:
    return await database.read(AgentSession.objects.get)


async def test_a_join_call_that_returns_closes_the_session_as_finished(launch: Any) -> None:
    launcher = await launch()
    session = await launcher.start_session("call")
    await joined(session)
    agent_of(session).end()
    row = await assert_ended(session, "closed", "finished")
    assert agent_of(session).closed
    assert row.created_at <= row.started_at <= row.joined_at <= row.ended_at


async def test_the_history_has_a_line_for_each_step_in_order(launch: Any) -> None:
    launcher = await launch()
    session = await launcher.start_session("call")
    await joined(session)
    await launcher.close_session(session.id, wait=True)
    lines = await database.read(lambda: list(SessionEvent.objects.values_list("seq", "kind")))
    assert lines == [(1, "requested"), (2, "started"), (3, "joined"), (4, "close_requested"), (5, "ended")]


async def test_an_exception_in_create_agent_fails_the_session_and_keeps_the_traceback(launch: Any) -> None:
    calls = []

    async def create() -> StubAgent:
        calls.append(1)
        if len(calls) > 1:
            raise ValueError("no key in the environment: postgresql://me:hunter22@db\x1b[2J")
        return StubAgent()

    launcher = await launch(create)
    with pytest.raises(StartFailed, match="Failed to start agent") as caught:
        await launcher.start_session("call")
    row = await only_row()
    assert str(row.pk) == caught.value.session_id
    await until(lambda: not launcher.sessions)
    row = await only_row()
    assert (row.status, row.end_reason, row.started_at) == ("failed", "create_failed", None)
    assert "no key in the environment" in row.error
    assert "Traceback" in row.error
    assert "hunter22" not in row.error
    assert row.error.rstrip().endswith("me:***@db\\x1b[2J")


async def test_an_exception_before_the_join_fails_the_session_as_join_failed(launch: Any) -> None:
    async def join(agent: StubAgent, call_type: str, call_id: str) -> None:
        raise ConnectionError("the edge does not answer")

    launcher = await launch(join=join)
    session = await launcher.start_session("call")
    with pytest.raises(ConnectionError):
        await session.wait()
    await assert_ended(session, "failed", "join_failed", error="the edge does not answer")
    assert agent_of(session).closed


async def test_an_exception_after_the_join_fails_the_session_as_error(launch: Any) -> None:
    async def join(agent: StubAgent, call_type: str, call_id: str) -> None:
        agent.join()
        await agent.ended.wait()
        raise RuntimeError("in the middle of the call")

    launcher = await launch(join=join)
    session = await launcher.start_session("call")
    await joined(session)
    agent_of(session).end()
    await assert_ended(session, "failed", "error", error="in the middle of the call")
    assert agent_of(session).closed


async def test_an_exception_in_close_is_kept_and_the_session_still_ends_as_it_did(launch: Any) -> None:
    launcher = await launch(lambda: StubAgent(close_error=OSError("socket gone")))
    session = await launcher.start_session("call")
    agent_of(session).end()
    await assert_ended(session, "closed", "finished", error="socket gone")
    assert agent_of(session).close_calls == 1


async def test_a_close_that_hangs_is_left_behind_after_the_close_timeout(launch: Any) -> None:
    hang = [False]
    launcher = await launch(lambda: StubAgent(close_hangs=hang[0]), close_timeout=0.05)
    hang[0] = True
    session = await launcher.start_session("call")
    await launcher.close_session(session.id)
    await assert_ended(session, "closed", "requested", error="agent.close() did not end within 0.05 s")


async def test_a_join_call_that_ignores_its_cancellation_is_left_behind(launch: Any) -> None:
    release = asyncio.Event()

    async def stubborn(agent: StubAgent, call_type: str, call_id: str) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    launcher = await launch(join=stubborn, close_timeout=0.05)
    session = await launcher.start_session("call")
    session.request_close()
    async with asyncio.timeout(10):
        await session.wait()
    row = await row_of(session)
    assert (row.status, row.end_reason) == ("closed", "requested")
    assert "join_call did not end" in row.error
    assert agent_of(session).closed
    release.set()
    await until(lambda: session.task is not None and session.task.done())


async def test_force_does_not_wait_for_an_agent_that_takes_its_time(launch: Any) -> None:
    hang = [False]
    launcher = await launch(lambda: StubAgent(close_hangs=hang[0]), close_timeout=3600)
    hang[0] = True
    session = await launcher.start_session("call")
    session.request_close()
    await until(lambda: agent_of(session).close_calls == 1)
    assert not session.finished
    session.request_close(force=True)
    await assert_ended(session, "closed", "requested", error="before the close was forced")
    launcher.close_timeout = 1.0


async def test_a_close_request_while_starting_ends_the_build(launch: Any) -> None:
    building = asyncio.Event()

    async def create(session: LiveSession | None) -> StubAgent:
        if session is not None:
            building.set()
            await asyncio.Event().wait()
        return StubAgent()

    launcher = await launch(create)
    start = asyncio.ensure_future(launcher.start_session("call"))
    await building.wait()
    (session,) = launcher.sessions.values()
    assert (await row_of(session)).status == "starting"
    session.request_close(by="tester")
    with pytest.raises(StartFailed, match="closed while its agent was being built"):
        await start
    row = await assert_ended(session, "closed", "requested")
    assert row.started_at is None


async def test_a_close_request_at_the_end_of_the_build_still_closes_the_agent(launch: Any) -> None:
    built: list[StubAgent] = []

    async def create(session: LiveSession | None) -> StubAgent:
        agent = StubAgent()
        if session is not None:
            built.append(agent)
            session.request_close()
            with suppress(asyncio.CancelledError):  # as code does that sees nothing to clean up yet
                await asyncio.sleep(0)
        return agent

    launcher = await launch(create)
    with pytest.raises(StartFailed):
        await launcher.start_session("call")
    await until(lambda: not launcher.sessions)
    row = await only_row()
    assert (row.status, row.end_reason) == ("closed", "requested")
    assert built[0].closed


async def test_a_client_that_vanishes_while_starting_leaves_a_session_that_can_be_closed(launch: Any) -> None:
    building, go_on = asyncio.Event(), asyncio.Event()

    async def create(session: LiveSession | None) -> StubAgent:
        if session is not None:
            building.set()
            await go_on.wait()
        return StubAgent()

    launcher = await launch(create)
    client = asyncio.ensure_future(launcher.start_session("call"))
    await building.wait()
    client.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client
    go_on.set()
    (session,) = launcher.sessions.values()
    await session.wait_started()
    assert (await row_of(session)).status == "active"
    assert await launcher.close_session(session.id, wait=True)
    await assert_ended(session, "closed", "requested")
    assert agent_of(session).closed


async def test_a_create_agent_over_the_start_timeout_is_cancelled(launch: Any, settings: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "START_TIMEOUT": 0.05}
    cancelled = asyncio.Event()

    async def create(session: LiveSession | None) -> StubAgent:
        if session is not None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
        return StubAgent()

    launcher = await launch(create)
    with pytest.raises(StartTimeout, match=r"took longer than 0\.05 s"):
        await launcher.start_session("call")
    await cancelled.wait()
    await until(lambda: not launcher.sessions)
    row = await only_row()
    assert (row.status, row.end_reason) == ("failed", "create_failed")
    assert row.error.startswith("create_agent took longer than")  # what workers before codes look for
    assert "START_TIMEOUT" in row.error


async def test_an_agent_that_is_built_too_late_is_closed(launch: Any, settings: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "START_TIMEOUT": 0.05}
    late, go_on = StubAgent(), asyncio.Event()

    async def create(session: LiveSession | None) -> StubAgent:
        if session is None:
            return StubAgent()
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            await go_on.wait()
        return late

    launcher = await launch(create)
    with pytest.raises(StartTimeout):
        await launcher.start_session("call")
    go_on.set()
    await until(lambda: late.closed)


async def test_everybody_left_closes_the_session_as_idle(launch: Any) -> None:
    launcher = await launch(agent_idle_timeout=0.01, maintenance_interval=0.01)
    session = await launcher.start_session("call")
    await agent_of(session).joined.wait()
    session.had_participant = True
    agent_of(session).idle_since = agent_of(session).joined_at
    await assert_ended(session, "closed", "idle")


async def test_nobody_yet_is_not_idle_but_has_a_limit_of_its_own(launch: Any) -> None:
    launcher = await launch(agent_idle_timeout=0.01, no_participant_timeout=0, maintenance_interval=3600)
    session = await launcher.start_session("call")
    await agent_of(session).joined.wait()
    agent_of(session).idle_since = agent_of(session).joined_at - 5
    session.check_limits()
    assert not session.closing
    launcher.no_participant_timeout = 0.0001
    agent_of(session).joined_at -= 1
    session.check_limits()
    row = await assert_ended(session, "closed", "idle")
    asked = await database.read(lambda: SessionEvent.objects.get(session=row, kind="close_requested"))
    assert asked.data["by"] == "no_participant_timeout"


async def test_an_edge_that_does_not_tell_who_comes_is_understood_by_when_it_grows_idle(launch: Any) -> None:
    launcher = await launch(agent_idle_timeout=1, maintenance_interval=3600)
    session = await launcher.start_session("call")
    await agent_of(session).joined.wait()
    agent_of(session).joined_at -= 100
    session.check_limits()
    agent_of(session).idle_since = agent_of(session).joined_at
    session.check_limits()
    await assert_ended(session, "closed", "idle")


async def test_the_maximum_duration_closes_the_session(launch: Any) -> None:
    launcher = await launch(max_session_duration_seconds=0.01, maintenance_interval=0.01)
    session = await launcher.start_session("call")
    await assert_ended(session, "closed", "max_duration")


async def test_a_join_that_never_comes_fails_the_session(launch: Any) -> None:
    async def stuck(agent: StubAgent, call_type: str, call_id: str) -> None:
        await asyncio.Event().wait()

    launcher = await launch(join=stuck, join_timeout=0.01, maintenance_interval=0.01)
    session = await launcher.start_session("call")
    await assert_ended(session, "failed", "join_failed", error="join_timeout")
    assert agent_of(session).closed


async def test_an_agent_whose_idle_for_raises_harms_one_session_only(launch: Any) -> None:
    class Exploding(StubAgent):
        def idle_for(self) -> float:
            raise ZeroDivisionError

    agents = iter([StubAgent(), Exploding(), StubAgent()])
    launcher = await launch(lambda: next(agents), agent_idle_timeout=0.01, maintenance_interval=0.01)
    exploding = await launcher.start_session("call")
    other = await launcher.start_session("call")
    other.had_participant = True
    await agent_of(other).joined.wait()
    agent_of(other).idle_since = agent_of(other).joined_at
    await assert_ended(other, "closed", "idle")
    assert not exploding.closing


async def test_a_task_that_its_own_code_cancels_ends_as_cancelled(launch: Any) -> None:
    launcher = await launch()
    session = await launcher.start_session("call")
    assert session.task is not None
    session.task.cancel()
    await assert_ended(session, "closed", "cancelled")
    assert agent_of(session).closed


async def test_stopping_the_launcher_drains_every_session(launch: Any) -> None:
    launcher = await launch()
    sessions = [await launcher.start_session(f"call-{number}") for number in range(3)]
    await launcher.stop()
    for session in sessions:
        await assert_ended(session, "closed", "drained")
        assert agent_of(session).closed


@pytest.mark.django_db(transaction=True)
def test_a_loop_that_ends_without_a_drain_still_writes_the_end() -> None:
    from visionagents_runner import AgentLauncher

    seen: list[LiveSession] = []

    async def main() -> None:
        launcher = AgentLauncher(create_agent, join_call)  # type: ignore[arg-type]
        await launcher.start()
        seen.append(await launcher.start_session("call"))

    asyncio.run(main())  # as a server does that knows no lifespan: whatever still runs is cancelled
    row = AgentSession.objects.get()
    assert (row.status, row.end_reason) == ("closed", "cancelled")
    assert agent_of(seen[0]).closed
    _forget_worker()


def _forget_worker() -> None:
    from visionagents_runner.worker.current import set_current_worker

    set_current_worker(None)


async def test_an_end_is_final(launch: Any) -> None:
    launcher = await launch()
    session = await launcher.start_session("call")
    await launcher.close_session(session.id, wait=True)
    row = await row_of(session)
    ended_at = row.ended_at
    assert not await database.write(row.finish, EndReason.ERROR, error="too late")
    assert not await database.write(row.mark_active, agent_id="x")
    assert not await session_rows.request_close(row.pk)
    row = await assert_ended(session, "closed", "requested")
    assert row.ended_at == ended_at


async def test_an_ended_session_is_garbage(launch: Any) -> None:
    launcher = await launch()
    session = await launcher.start_session("call")
    agent_of(session).end()
    await session.wait()
    supervisor = session._supervisor
    await until(supervisor.done)
    reference = weakref.ref(session)
    del supervisor
    before = len(asyncio.all_tasks())
    del session
    await asyncio.sleep(0)
    gc.collect()
    assert reference() is None
    assert len(asyncio.all_tasks()) <= before


@pytest.mark.parametrize(
    "error", [RuntimeError("name \udc80 of a file"), RuntimeError("a\x00b"), RuntimeError("x" * 200_000)]
)
async def test_an_error_of_any_text_is_written_down(launch: Any, error: Exception) -> None:
    async def join(agent: StubAgent, call_type: str, call_id: str) -> None:
        raise error

    launcher = await launch(join=join, max_concurrent_sessions=1)
    session = await launcher.start_session("call")
    async with asyncio.timeout(10):
        await session.wait_ended()
    row = await row_of(session)
    assert (row.status, row.end_reason) == ("failed", "join_failed")
    assert "RuntimeError" in row.error
    assert len(row.error) < 70_000
    again = await launcher.start_session("call")
    await again.wait_ended()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), Decimal("1.5"), object(), "text"])
async def test_a_metric_that_is_no_number_does_not_keep_a_session_live(launch: Any, value: Any) -> None:
    class Metrics:
        def to_dict(self) -> dict[str, Any]:
            return {"good": 1, "odd": value}

    launcher = await launch()
    session = await launcher.start_session("call")
    agent_of(session).metrics = Metrics()  # type: ignore[assignment]
    agent_of(session).end()
    row = await assert_ended(session, "closed", "finished")
    assert row.metrics == {"good": 1, "odd": 1.5 if isinstance(value, Decimal) else None}


async def test_an_end_that_cannot_be_written_whole_is_written_bare(launch: Any, monkeypatch: Any) -> None:
    finish = AgentSession.finish

    def picky(self: AgentSession, reason: EndReason, *, error: str, **kwargs: Any) -> bool:
        if "unspeakable" in error:
            raise ValueError("cannot be written")
        return finish(self, reason, error=error, **kwargs)

    async def join(agent: StubAgent, call_type: str, call_id: str) -> None:
        raise RuntimeError("unspeakable")

    monkeypatch.setattr(AgentSession, "finish", picky)
    launcher = await launch(join=join)
    session = await launcher.start_session("call")
    await session.wait_ended()
    row = await row_of(session)
    assert (row.status, row.error) == ("failed", "The end could not be written whole: see the log.")


async def test_an_agent_is_closed_while_its_start_cannot_be_written(launch: Any, monkeypatch: Any) -> None:
    away, active = [True], AgentSession.mark_active

    def unreachable(self: AgentSession, *args: Any, **kwargs: Any) -> bool:
        if away[0]:
            raise OperationalError("the database system is shutting down")
        return active(self, *args, **kwargs)

    monkeypatch.setattr(AgentSession, "mark_active", unreachable)
    launcher = await launch()
    starting = asyncio.ensure_future(launcher.start_session("call"))
    await until(lambda: bool(launcher.sessions))
    (session,) = launcher.sessions.values()
    await until(lambda: session.task is not None)
    session.request_close()
    await until(lambda: agent_of(session).closed)
    away[0] = False
    await starting
    await session.wait()
    row = await row_of(session)
    assert (row.end_reason, row.started_at is not None) == ("requested", True)


async def test_a_session_that_was_unreachable_while_it_started_is_active_when_it_is_back(launch: Any) -> None:
    building, go_on = asyncio.Event(), asyncio.Event()

    async def create(session: LiveSession | None) -> StubAgent:
        if session is not None:
            building.set()
            await go_on.wait()
        return StubAgent()

    launcher = await launch(create)
    starting = asyncio.ensure_future(launcher.start_session("call"))
    await building.wait()
    await database.write(AgentSession.objects.mark_unreachable)
    go_on.set()
    session = await starting
    row = await row_of(session)
    assert (row.status, row.started_at is not None) == ("unreachable", True)
    await database.write(AgentSession.objects.mark_reachable)
    assert (await row_of(session)).status == "active"


async def test_an_agent_that_cannot_tell_its_times_still_has_its_limits(launch: Any) -> None:
    class Mute(StubAgent):
        def on_call_for(self) -> float:
            raise ZeroDivisionError

    launcher = await launch(Mute, join_timeout=0.001, maintenance_interval=0.01)
    session = await launcher.start_session("call")
    await assert_ended(session, "failed", "join_failed", error="join_timeout")


@pytest.mark.django_db(transaction=True)
def test_a_loop_can_end_while_the_database_is_away(monkeypatch: Any) -> None:
    from visionagents_runner import AgentLauncher

    monkeypatch.setattr("visionagents_runner.sessions.session._LAST_WRITE_SECONDS", 0.0)

    def away(*args: Any, **kwargs: Any) -> bool:
        raise OperationalError("the database system is shutting down")

    async def main() -> None:
        launcher = AgentLauncher(create_agent, join_call, close_timeout=0.05)  # type: ignore[arg-type]
        await launcher.start()
        await launcher.start_session("call")
        monkeypatch.setattr(AgentSession, "finish", away)

    asyncio.run(main())
    assert AgentSession.objects.get().is_live  # the next worker declares it lost
    _forget_worker()
