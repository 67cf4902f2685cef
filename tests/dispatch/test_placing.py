"""`POST /sessions` where this process cannot host the session: another worker does, and the client waits for it."""

from __future__ import annotations

import asyncio
import re
import signal
import uuid
from typing import Any

import pytest
from django.test import Client

from tests.dispatch.conftest import hosting, until_row
from tests.processes import Child, child, freeze
from tests.telemetry.metrics.scrape import scrape
from visionagents_runner.dispatch.remote_start import place
from visionagents_runner.exceptions import MaxSessionsExceeded, MaxSessionsPerCallExceeded, NoWorker, StartTimeout
from visionagents_runner.models import AgentSession, EndReason, SessionStatus
from visionagents_runner.store import database, errors, queued_rows, session_rows
from visionagents_runner.worker.current import current_worker

pytestmark = pytest.mark.slow

FAILING = """
    import tests.agents
    from visionagents_runner.worker.process import ensure_worker
    built = []
    async def create():
        built.append(1)
        if len(built) > 1:
            raise ZeroDivisionError("no key")
        return StubAgent()
    tests.agents.runner = Runner(launcher=AgentLauncher(create, join_call))
    worker = await ensure_worker(tests.agents.runner)
    await worker.wait_warm()
    say(str(worker.id))
    await asyncio.to_thread(wait)
    await worker.stop()
"""


async def start(client: Any, call_id: str = "call", **body: Any) -> Any:
    return await client.post("/sessions", {"call_id": call_id, **body})


def end(*children: Child) -> None:
    for each in children:
        each.tell()
        assert each.end() == 0


async def test_a_full_worker_has_another_one_start_the_session(serve: Any, allow_local: None) -> None:
    client = await serve(max_concurrent_sessions=1)
    with child(hosting(max_concurrent_sessions=1)) as other:
        elsewhere = other.hear()
        here = (await start(client)).json()["session_id"]
        answer = await start(client, "second", metadata={"a": 1})
        assert answer.status == 201
        told = answer.json()
        row = await until_row(told["session_id"], lambda row: True)
        assert (str(row.worker_id), row.status, row.metadata) == (elsewhere, "active", {"a": 1})
        assert (told["call_id"], told["status"], told["metadata"]) == ("second", "active", {"a": 1})
        assert told["started_at"]
        assert str((await until_row(here, lambda row: True)).worker_id) != elsewhere

        full = await start(client, "third")
        assert (full.status, full.detail) == (429, "Reached maximum number of concurrent sessions")
        assert full.headers["retry-after"]
        assert await database.read(AgentSession.objects.count) == 2
        page = await scrape(client)
        assert page("starts_total", agent="default", outcome="limit_reached") == 2
        assert page("starts_placed_total", agent="default") == 1
        await asyncio.to_thread(end, other)


async def test_one_full_worker_alone_answers_429_and_leaves_nothing(serve: Any, allow_local: None) -> None:
    client = await serve(max_concurrent_sessions=1)
    await start(client)
    answers = await asyncio.gather(*(start(client, f"call-{number}") for number in range(10)))
    assert {answer.status for answer in answers} == {429}
    assert await database.read(AgentSession.objects.count) == 1


async def test_a_start_that_no_worker_takes_in_time_is_withdrawn(
    serve: Any, allow_local: None, settings: Any, transactional_db: None
) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "PLACE_TIMEOUT": 0.5}
    client = await serve(max_concurrent_sessions=1)
    await start(client)
    with child(hosting(max_concurrent_sessions=1)) as other:
        other.hear()
        freeze(other.process)  # its heartbeat is fresh, and it takes nothing
        try:
            answer = await start(client, "second")
        finally:
            other.process.send_signal(signal.SIGCONT)
        assert answer.status == 429
        assert await database.read(AgentSession.objects.count) == 1
        await asyncio.to_thread(end, other)


async def test_a_database_that_is_away_for_a_moment_does_not_fail_a_start_that_waits(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await host(max_concurrent_sessions=1)
    launcher = worker.launchers["default"]
    await launcher.start_session("call")
    real = session_rows.get_session
    looks = []

    async def now_and_then(key: Any) -> Any:
        looks.append(key)
        if len(looks) % 2:
            raise errors.DATABASE_ERRORS[0]("server closed the connection unexpectedly")
        return await real(key)

    with child(hosting(max_concurrent_sessions=1)) as other:
        elsewhere = other.hear()
        monkeypatch.setattr(session_rows, "get_session", now_and_then)
        row = await place(launcher, "second", exclude=worker.id)
        assert str(row.worker_id) == elsewhere
        assert len(looks) >= 2
        await asyncio.to_thread(end, other)


@pytest.mark.parametrize("taken", [False, True], ids=["queued", "taken"])
async def test_a_start_that_cannot_be_followed_is_not_left_behind(
    host: Any, settings: Any, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    # Long enough for it to be taken, or none too long.
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "PLACE_TIMEOUT": 8.0 if taken else 0.5}
    worker = await host(max_concurrent_sessions=1)
    launcher = worker.launchers["default"]
    await launcher.start_session("call")

    async def away(key: Any) -> Any:
        raise errors.DATABASE_ERRORS[0]("server closed the connection unexpectedly")

    with child(hosting(max_concurrent_sessions=1)) as other:
        other.hear()
        if not taken:
            freeze(other.process)
        real = session_rows.get_session
        monkeypatch.setattr(session_rows, "get_session", away)
        with pytest.raises(errors.DATABASE_ERRORS):
            await place(launcher, "second", exclude=worker.id)
        monkeypatch.setattr(session_rows, "get_session", real)
        if not taken:
            other.process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(20):
            while await database.read(AgentSession.objects.live().filter(call_id="second").exists):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert await database.read(AgentSession.objects.filter(call_id="second").count) == int(taken)
        await asyncio.to_thread(end, other)


async def test_a_start_goes_on_with_the_one_that_takes_the_place_of_a_lost_one(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await host(max_concurrent_sessions=1, restart="on-worker-loss")
    launcher = worker.launchers["default"]
    here = await launcher.start_session("call")
    building = """
        import tests.agents
        from visionagents_runner.worker.process import ensure_worker
        async def create():
            if worker is not None:
                say("building")
                await asyncio.Event().wait()
            return StubAgent()
        worker = None
        launcher = AgentLauncher(create, join_call, restart="on-worker-loss", max_concurrent_sessions=1)
        tests.agents.runner = Runner(launcher=launcher)
        starting = await ensure_worker(tests.agents.runner)
        await starting.wait_warm()
        worker = starting
        say("ready")
        await asyncio.Event().wait()
    """
    with child(building) as other:
        assert other.hear() == "ready"
        placing = asyncio.create_task(place(launcher, "second", exclude=worker.id))
        assert await asyncio.to_thread(other.hear) == "building"
        other.process.kill()
        other.process.wait()
        here.request_close()  # there is room here, now
        async with asyncio.timeout(20):
            while not placing.done():
                await worker._look_after_sessions()
                await asyncio.sleep(0.05)
        row = await placing
    assert (row.worker_id, row.source) == (worker.id, "restart")


async def test_an_agent_that_cannot_be_built_elsewhere_answers_as_here(serve: Any, allow_local: None) -> None:
    client = await serve(max_concurrent_sessions=1)
    await start(client)
    with child(FAILING) as other:
        other.hear()
        answer = await start(client, "second")
        assert (answer.status, answer.detail) == (500, "Failed to start agent")
        row = await until_row(answer.json()["session_id"], lambda row: True)
        assert "no key" in row.error
        await asyncio.to_thread(end, other)


async def next_queued() -> AgentSession:
    queued = AgentSession.objects.filter(status=SessionStatus.QUEUED)
    async with asyncio.timeout(20):
        while True:
            if (row := await database.read(queued.first)) is not None:
                return row
            await asyncio.sleep(0.01)


async def test_a_timeout_is_understood_by_its_code_and_by_what_workers_before_codes_wrote(host: Any) -> None:
    worker = await host(max_concurrent_sessions=1)
    launcher = worker.launchers["default"]
    await launcher.start_session("call")
    with child(hosting(max_concurrent_sessions=4)) as other:
        elsewhere = uuid.UUID(other.hear())
        freeze(other.process)  # this test does its work
        try:
            for error, data in (
                ("Any words.", {"cause": "start_timeout"}),
                ("create_agent took longer than 60 s (START_TIMEOUT) and was cancelled.", None),
            ):
                placing = asyncio.create_task(place(launcher, "second", exclude=worker.id))
                row = await next_queued()
                assert await database.write(AgentSession.objects.claim, row.pk, elsewhere)
                await database.write(row.finish, EndReason.CREATE_FAILED, error=error, data=data)
                with pytest.raises(StartTimeout):
                    await placing
        finally:
            other.process.send_signal(signal.SIGCONT)
        await asyncio.to_thread(end, other)


async def test_a_limit_of_the_call_is_understood_by_its_code_and_by_what_workers_before_codes_wrote(host: Any) -> None:
    worker = await host(max_concurrent_sessions=1)
    launcher = worker.launchers["default"]
    await launcher.start_session("call")
    with child(hosting(max_concurrent_sessions=4)) as other:
        other.hear()
        freeze(other.process)  # this test does its work
        try:
            for why, limit, error in (
                ("Any words", "max_sessions_per_call", MaxSessionsPerCallExceeded),
                ("Reached maximum number of sessions for this call (1)", "", MaxSessionsPerCallExceeded),
                ("Reached maximum number of sessions of this agent (1)", "", MaxSessionsExceeded),
            ):
                placing = asyncio.create_task(place(launcher, "second", exclude=worker.id))
                row = await next_queued()
                assert await database.write(AgentSession.objects.postpone, row.pk, 60, why=why, limit=limit)
                with pytest.raises(error, match=re.escape(why)):
                    await placing
        finally:
            other.process.send_signal(signal.SIGCONT)
        await asyncio.to_thread(end, other)


async def test_whoever_asked_and_went_away_leaves_a_session_that_can_be_found(host: Any) -> None:
    worker = await host(max_concurrent_sessions=1)
    launcher = worker.launchers["default"]
    await launcher.start_session("call")
    with child(hosting(max_concurrent_sessions=1)) as other:
        elsewhere = other.hear()
        asking = asyncio.create_task(place(launcher, "second", exclude=worker.id))
        await until_count(2)
        asking.cancel()
        rows = await database.read(lambda: list(AgentSession.objects.filter(call_id="second")))
        row = await until_row(rows[0].pk, lambda row: row.status == SessionStatus.ACTIVE)
        assert str(row.worker_id) == elsewhere
        await asyncio.to_thread(end, other)


async def until_count(number: int) -> None:
    async with asyncio.timeout(20):
        while await database.read(AgentSession.objects.count) < number:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_limit_over_all_workers_is_a_429_wherever_it_is_met(
    serve: Any, allow_local: None, settings: Any
) -> None:
    client = await serve(max_concurrent_sessions=1, max_sessions=2)
    with child(hosting(max_sessions=2)) as other:
        other.hear()
        assert (await start(client)).status == 201
        assert (await start(client, "second")).status == 201
        answer = await start(client, "third")
        assert answer.status == 429
        assert "sessions of this agent" in answer.detail
        assert await database.read(AgentSession.objects.count) == 2
        await asyncio.to_thread(end, other)


async def test_a_user_has_no_more_sessions_than_allowed(serve: Any, settings: Any, django_user_model: Any) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "MAX_SESSIONS_PER_USER": 2, "ALLOW_LOCAL": True}
    await serve()
    worker = current_worker()
    assert worker is not None
    launcher = worker.launchers["default"]
    one, other = [await database.write(django_user_model.objects.create_user, name) for name in ("one", "other")]
    starts = [launcher.start_session(f"call-{n}", started_by_id=one.pk) for n in range(6)]
    results = await asyncio.gather(*starts, return_exceptions=True)
    assert [str(error) for error in results if isinstance(error, Exception)] == [
        "Reached maximum number of sessions for this user (2)"
    ] * 4
    await launcher.start_session("other", started_by_id=other.pk)
    await launcher.start_session("nobody")


# WSGI


@pytest.mark.django_db(transaction=True)
def test_under_wsgi_a_worker_elsewhere_starts_it(allow_local: None) -> None:
    client = Client(headers={"host": "localhost"})
    with child(hosting(max_concurrent_sessions=1)) as other:
        elsewhere = other.hear()
        answer = client.post("/sessions", {"call_id": "a"}, content_type="application/json")
        assert answer.status_code == 201
        row = AgentSession.objects.get(pk=answer.json()["session_id"])
        assert (row.status, str(row.worker_id), row.source) == ("active", elsewhere, "api")
        full = client.post("/sessions", {"call_id": "a"}, content_type="application/json")
        assert full.status_code == 429
        end(other)
    row.refresh_from_db()
    assert row.end_reason == "drained"


@pytest.mark.django_db(transaction=True)
async def test_the_room_that_is_counted_is_that_of_workers_that_live_and_take(host: Any) -> None:
    with pytest.raises(NoWorker, match="default"):
        await queued_rows.headroom_elsewhere("default")
    worker = await host(max_concurrent_sessions=3)
    await worker.launchers["default"].start_session("call")
    assert await queued_rows.headroom_elsewhere("default") == 2
    with pytest.raises(NoWorker):
        await queued_rows.headroom_elsewhere("default", exclude=worker.id)
    with pytest.raises(NoWorker):
        await queued_rows.headroom_elsewhere("coach")
