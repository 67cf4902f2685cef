from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError

from visionagents_runner.models import AgentSession, EndReason, EventLine, SessionEvent, bulk
from visionagents_runner.observe import Observed
from visionagents_runner.sessions.recorder import Recorder
from visionagents_runner.store import database, session_rows

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True, params=["by JSON", "by the ORM"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "by the ORM":
        monkeypatch.setattr(bulk, "_statement", lambda using, statements: None)


@asynccontextmanager
async def recording(settings: Any, **options: Any) -> AsyncIterator[Recorder]:
    settings.VISIONAGENTS_RUNNER = {"FLUSH_INTERVAL": 0.02, **options}
    recorder = Recorder()
    recorder.start()
    try:
        yield recorder
    finally:
        await recorder.close(5)


async def new_session() -> AgentSession:
    row = AgentSession(call_id="recorded")
    await database.write(row.insert)
    return row


def event(kind: str, number: int = 0, **data: Any) -> Observed:
    return Observed(kind, {"number": number, **data}, time.time())


async def history(row: AgentSession) -> list[tuple[int, str, dict[str, Any]]]:
    rows = SessionEvent.objects.filter(session=row).order_by("seq")
    return await database.read(lambda: list(rows.values_list("seq", "kind", "data")))


class Broken:
    """Makes the store's writes fail, before they reach the database or after they did."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before = False
        self.after = 0
        self.tries = 0
        self.tried = asyncio.Event()
        original = session_rows.record

        async def record(*args: Any, **kwargs: Any) -> dict[uuid.UUID, int]:
            self.tries += 1
            self.tried.set()
            if self.before:
                raise OperationalError("the server closed the connection unexpectedly")
            result = await original(*args, **kwargs)
            if self.after:
                self.after -= 1
                raise OperationalError("the connection broke at the commit")
            return result

        monkeypatch.setattr(session_rows, "record", record)


async def test_events_are_written_in_order_behind_the_lines_of_the_session(settings: Any) -> None:
    row = await new_session()
    async with recording(settings) as recorder:
        for number in range(1200):
            recorder.record(row.pk, event("message", number))
        await recorder.settle(row.pk)
        await database.write(row.finish, EndReason.FINISHED)
    lines = await history(row)
    assert [seq for seq, _, _ in lines] == list(range(1, 1203))
    assert [data["number"] for _, kind, data in lines if kind == "message"] == list(range(1200))
    assert (lines[0][1], lines[-1][1]) == ("requested", "ended")
    assert recorder.written == 1200


async def test_an_event_keeps_the_time_at_which_it_happened(settings: Any) -> None:
    row = await new_session()
    async with recording(settings) as recorder:
        recorder.record(row.pk, Observed("message", {}, 1_700_000_000.123456))
        await recorder.settle(row.pk)
    written = await database.read(SessionEvent.objects.get, session=row, kind="message")
    assert written.at.timestamp() == pytest.approx(1_700_000_000.123456, abs=1e-6)


async def test_events_and_lifecycle_lines_written_at_once_leave_no_gap(settings: Any) -> None:
    rows = [await new_session() for _ in range(5)]

    async def flood(recorder: Recorder, row: AgentSession) -> None:
        for number in range(200):
            recorder.record(row.pk, event("message", number))
            if number % 20 == 0:
                await asyncio.sleep(0.005)

    def elsewhere() -> None:
        for _ in range(20):
            for row in rows:
                AgentSession.objects.filter(pk=row.pk).mark_unreachable()
                AgentSession.objects.filter(pk=row.pk).mark_reachable()

    async with recording(settings) as recorder:
        await asyncio.gather(sync_to_async(elsewhere)(), *(flood(recorder, row) for row in rows))
        await asyncio.gather(*(recorder.settle(row.pk) for row in rows))
    for row in rows:
        lines = await history(row)
        assert [seq for seq, _, _ in lines] == list(range(1, 242))
        assert [data["number"] for _, kind, data in lines if kind == "message"] == list(range(200))


async def test_partial_words_reach_viewers_and_are_not_kept(settings: Any) -> None:
    row = await new_session()
    seen: list[str] = []
    async with recording(settings) as recorder:
        undo = recorder.subscribe(row.pk, lambda event: seen.append(event.kind))
        recorder.subscribe(uuid.uuid4(), lambda event: seen.append("another session"))
        recorder.record(row.pk, event("partial"))
        recorder.record(row.pk, event("message"))
        undo()
        recorder.record(row.pk, event("message"))
        await recorder.settle(row.pk)
    assert seen == ["partial", "message"]
    assert [kind for _, kind, _ in await history(row)] == ["requested", "message", "message"]


async def test_a_viewer_that_explodes_harms_nobody(settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    row = await new_session()

    def explode(event: Observed) -> None:
        raise RuntimeError("boom")

    async with recording(settings) as recorder:
        recorder.subscribe(row.pk, explode)
        recorder.record(row.pk, event("message"))
        await recorder.settle(row.pk)
    assert len(await history(row)) == 2


async def test_a_database_that_is_away_loses_and_repeats_nothing(
    settings: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    row, broken = await new_session(), Broken(monkeypatch)
    async with recording(settings) as recorder:
        recorder.record(row.pk, event("message", 0))
        await recorder.settle(row.pk)
        recorder.record(row.pk, event("message", 1))
        broken.before = True
        broken.tried.clear()
        await broken.tried.wait()
        for number in range(2, 800):
            recorder.record(row.pk, event("message", number))
        settling = asyncio.create_task(recorder.settle(row.pk))
        broken.tried.clear()
        await broken.tried.wait()
        assert not settling.done()
        assert recorder.waiting == 799
        broken.before = False
        await settling
    assert [data["number"] for _, kind, data in await history(row) if kind == "message"] == list(range(800))


async def test_a_write_that_succeeded_without_an_answer_is_not_repeated(
    settings: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, broken = await new_session(), await new_session(), Broken(monkeypatch)
    async with recording(settings) as recorder:
        for number in range(6):
            broken.after = 1
            for row in (first, second):
                recorder.record(row.pk, event("message", number))
            await recorder.settle(second.pk)
    for row in (first, second):
        lines = await history(row)
        assert [seq for seq, _, _ in lines] == list(range(1, 8))
        assert [data["number"] for _, kind, data in lines if kind == "message"] == list(range(6))


async def test_on_overload_the_least_valuable_go_first_and_are_counted(
    settings: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    row, broken = await new_session(), Broken(monkeypatch)
    async with recording(settings, EVENT_QUEUE_SIZE=10) as recorder:
        broken.before = True
        recorder.record(row.pk, event("turn", -1))
        await broken.tried.wait()  # with the first one in its hands
        for number in range(10):
            recorder.record(row.pk, event("custom", number))
        for number in range(6):
            recorder.record(row.pk, event("tool_started", number))
        for number in range(8):
            recorder.record(row.pk, event("message", number))
        recorder.record(row.pk, event("custom", 10))
        assert recorder.waiting == 11
        broken.before = False
        await recorder.settle(row.pk)
    lines = await history(row)
    assert [data["number"] for _, kind, data in lines if kind == "message"] == list(range(8))
    assert [data["number"] for _, kind, data in lines if kind == "tool_started"] == [4, 5]
    assert lines[-1][1:] == ("dropped", {"kinds": {"custom": 11, "tool_started": 4}, "reason": "overload"})
    assert recorder.dropped == 15
    assert "EVENT_QUEUE_SIZE" in caplog.text


async def test_what_could_not_be_redacted_is_counted_in_the_history(settings: Any) -> None:
    row = await new_session()
    async with recording(settings) as recorder:
        for _ in range(3):
            recorder.record(row.pk, Observed("dropped", {"kinds": {"message": 1}, "reason": "REDACT failed"}, 1.0))
        await recorder.settle(row.pk)
    assert [data for _, kind, data in await history(row) if kind == "dropped"] == [
        {"kinds": {"message": 3}, "reason": "REDACT failed"}
    ]


async def test_one_event_that_the_database_refuses_does_not_hold_up_the_others(
    settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    row = await new_session()
    async with recording(settings) as recorder:
        for number in range(20):
            recorder.record(row.pk, event("message", number, extra={1, 2} if number == 7 else None))
        await recorder.settle(row.pk)
        recorder.record(row.pk, event("message", 20))
        await recorder.settle(row.pk)
    lines = await history(row)
    assert [seq for seq, _, _ in lines] == list(range(1, len(lines) + 1))
    assert [data["number"] for _, kind, data in lines if kind == "message"] == [*range(7), *range(8, 21)]


async def test_events_of_a_session_that_was_deleted_hold_up_nothing(settings: Any) -> None:
    gone, row = await new_session(), await new_session()
    await database.write(AgentSession.objects.filter(pk=gone.pk).delete)
    async with recording(settings) as recorder:
        for number in range(3):
            recorder.record(gone.pk, event("message", number))
            recorder.record(row.pk, event("message", number))
        await recorder.settle(gone.pk)
        await recorder.settle(row.pk)
    assert len(await history(row)) == 4


async def test_a_process_that_must_stop_says_what_it_could_not_write(
    settings: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    row, broken = await new_session(), Broken(monkeypatch)
    broken.before = True
    async with recording(settings) as recorder:
        for number in range(3):
            recorder.record(row.pk, event("message", number))
        await recorder.close(0.2)
    assert "3 events of sessions could not be written" in caplog.text
    assert recorder.dropped == 3


async def test_settling_waits_neither_for_the_interval_nor_for_other_sessions(settings: Any) -> None:
    row = await new_session()
    async with recording(settings, FLUSH_INTERVAL=60) as recorder:
        await recorder.settle(uuid.uuid4())
        recorder.record(row.pk, event("message"))
        async with asyncio.timeout(5):
            await recorder.settle(row.pk)
    assert len(await history(row)) == 2


async def test_nothing_of_a_settled_session_is_remembered(settings: Any) -> None:
    row = await new_session()
    async with recording(settings) as recorder:
        before = {name: len(value) for name, value in vars(recorder).items() if hasattr(value, "__len__")}
        recorder.subscribe(row.pk, lambda event: None)
        for number in range(100):
            recorder.record(row.pk, event("message", number))
        await recorder.settle(row.pk)
        assert {name: len(value) for name, value in vars(recorder).items() if hasattr(value, "__len__")} == before
        assert not any(recorder._ranks)


async def test_a_second_try_of_lines_that_were_not_written_writes_them(settings: Any) -> None:
    row = await new_session()
    [when] = await database.read(lambda: list(SessionEvent.objects.filter(session=row).values_list("at", flat=True)))
    lines = [EventLine(row.pk, "message", when, {"number": number}) for number in range(2)]
    assert await session_rows.record(lines, after={}) == {row.pk: 3}
    assert await session_rows.record(lines, after={row.pk: 3}) == {row.pk: 5}
    assert await session_rows.record(lines, after={row.pk: 3}) == {row.pk: 5}
    assert len(await history(row)) == 5


def test_every_kind_that_is_kept_has_a_value() -> None:
    from visionagents_runner.models.event import KINDS_WITHOUT_WORDS, LIFECYCLE_KINDS
    from visionagents_runner.sessions.recorder import _RANK, _VALUE

    assert len(_RANK) == sum(map(len, _VALUE))
    assert KINDS_WITHOUT_WORDS - LIFECYCLE_KINDS - {"dropped"} <= set(_RANK)
