"""The feed of one session: history, then what happens, without a gap and nothing twice."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.api.test_sessions import elsewhere
from tests.conftest import until
from tests.websockets.calls.conftest import Server
from tests.websockets.feeds.conftest import Feed, ask, feed, numbers, tasks
from visionagents_runner.models import AgentSession, EndReason, EventLine, SessionEvent
from visionagents_runner.observe import Observed
from visionagents_runner.store import database
from visionagents_runner.websockets.feeds import queries, session_viewer
from visionagents_runner.websockets.feeds.session_hub import REMEMBERED, get_hub
from visionagents_runner.worker.current import current_worker

pytestmark = pytest.mark.slow


async def append(row: AgentSession, count: int, kind: str = "custom", **data: Any) -> None:
    lines = [EventLine(row.pk, kind, datetime.now(UTC), {"number": number, **data}) for number in range(count)]
    await database.write(SessionEvent.objects.append, lines)


async def test_a_viewer_gets_the_history_then_what_happens_then_the_end(server: Server) -> None:
    session = await server.start()
    async with feed(server, session.id) as session_viewer:
        welcome = await session_viewer.hello()
        assert welcome["session"]["session_id"] == session.id
        assert welcome["words"] is True
        await session_viewer.event("requested", seq=1)
        await until(lambda: session_viewer.is_live)
        await ask(session, "hello")
        partial = await session_viewer.hear("partial")
        assert "seq" not in partial
        said = await session_viewer.event("message")
        assert said["data"]["text"] == "hello"
        assert (await session_viewer.event("message"))["data"]["text"] == "You said: hello"
        session.request_close(by="operator")
        assert (await session_viewer.event("close_requested"))["data"]["by"] == "operator"
        ended = await session_viewer.hear("ended")
        assert (ended["status"], ended["end_reason"]) == ("closed", "requested")
        assert await session_viewer.end() == ("", 1000)
    async with feed(server, session.id) as session_viewer:
        messages = await session_viewer.all()
        assert numbers(messages) == list(range(1, ended["seq"] + 1))
        assert messages[-1] == ended
    assert not tasks()
    assert get_hub().watched == 0


async def test_who_comes_back_gets_exactly_what_it_lacks(server: Server) -> None:
    session = await server.start()
    async with feed(server, session.id) as session_viewer:
        await session_viewer.hello()
        last = (await session_viewer.event("agent_joined"))["seq"]
    await ask(session, "hello")
    session.request_close()
    await session.wait_ended()
    async with feed(server, session.id) as session_viewer:
        messages = await session_viewer.all(after=last)
        end = messages[-1]["seq"]
        assert numbers(messages) == list(range(last + 1, end + 1))
    async with feed(server, session.id) as session_viewer:
        assert numbers(await session_viewer.all(after=end)) == []
    async with feed(server, session.id) as session_viewer:
        assert (await session_viewer.all(after=10**6))[0]["after"] == end


async def test_a_long_history_comes_whole_as_fast_as_the_viewer_takes_it(server: Server) -> None:
    row = await elsewhere()
    await append(row, 1500)
    await database.write(row.finish, EndReason.FINISHED)
    async with feed(server, row.pk) as session_viewer:
        messages = await session_viewer.all()
        assert numbers(messages) == list(range(1, 1502))
        assert [message["type"] for message in messages[:1] + messages[-1:]] == ["welcome", "ended"]


async def test_a_viewer_that_is_too_slow_goes_without_partial_words_and_catches_up(server: Server) -> None:
    session = await server.start()
    worker = current_worker()
    assert worker is not None
    async with feed(server, session.id) as slow:
        await slow.hello()
        await slow.hear("live")
        slow.frozen = True
        before = slow.count
        for number in range(5 * REMEMBERED):
            worker.recorder.record(session.uuid, Observed("custom", {"data": {"n": number}}, 1.0))
            worker.recorder.record(session.uuid, Observed("partial", {"message_id": "m", "text": "x" * number}, 1.0))
            if number % 100 == 0:
                await asyncio.sleep(0.01)
        await until(lambda: worker.recorder.waiting == 0)
        async with feed(server, session.id) as quick:
            await quick.hello()
            await quick.hear("event", seq=5 * REMEMBERED)
        assert slow.count - before <= session_viewer.UNACKED + 25
        assert sum(1 for each in slow.received if each["type"] == "partial") <= 20
        slow.frozen = False
        slow.ack()
        await until(lambda: any(each["type"] == "resync" for each in slow.received), 30)
        session.request_close()
        await slow.end()
        seqs = numbers(slow.received)
        assert seqs == list(range(seqs[0], slow.received[-1]["seq"] + 1))
        resync = next(each for each in slow.received if each["type"] == "resync")
        assert resync["after"] in seqs


async def test_many_viewers_of_a_session_share_one_subscription_and_one_look(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await server.start()
    worker = current_worker()
    assert worker is not None
    looks = 0
    pages = 0

    def counting_news(after: Any) -> Any:
        nonlocal looks
        looks += 1
        return real_news(after)

    def counting_page(*args: Any) -> Any:
        nonlocal pages
        pages += 1
        return real_page(*args)

    real_news, real_page = queries.news_of, queries.events_after
    async with AsyncExitStack() as stack:
        viewers: list[Feed] = [await stack.enter_async_context(feed(server, session.id)) for _ in range(200)]
        for each in viewers:
            await each.hello(after=1)
            await each.hear("live")
        monkeypatch.setattr(queries, "news_of", counting_news)
        monkeypatch.setattr(session_viewer.queries, "events_after", counting_page)
        assert len(worker.recorder._viewers[session.uuid]) == 1
        assert get_hub().watched == 1
        await ask(session, "hello")
        for each in viewers:
            said = [await each.event("message") for _ in range(2)]
            assert [message["data"]["text"] for message in said] == ["hello", "You said: hello"]
        assert looks < 15
        assert pages < 15  # those of `news_of`
    assert get_hub().watched == 0
    assert session.uuid not in worker.recorder._viewers
    assert not tasks()


async def test_what_other_processes_write_is_found_by_looking(server: Server, polls_only: Any) -> None:
    row = await elsewhere()
    await append(row, 2)
    async with feed(server, row.pk) as session_viewer:
        await session_viewer.hello()
        await session_viewer.hear("live")
        await append(row, 3)
        assert (await session_viewer.hear("event", seq=3))["data"]["number"] == 0
        await session_viewer.hear("event", seq=5)
        await database.write(row.mark_closing, by="operator")
        await session_viewer.hear("status", status="closing")
        assert (await session_viewer.hear("event"))["kind"] == "close_requested"
        await database.write(row.finish, EndReason.WORKER_LOST)
        assert (await session_viewer.hear("ended"))["status"] == "lost"


async def test_a_session_that_is_deleted_meanwhile_ends_its_feed(server: Server, polls_only: Any) -> None:
    row = await elsewhere()
    async with feed(server, row.pk) as session_viewer:
        await session_viewer.hello()
        await session_viewer.hear("live")
        await database.write(AgentSession.objects.filter(pk=row.pk).delete)
        assert await session_viewer.end() == ("not_found", 4404)


async def test_a_viewer_that_vanishes_in_the_middle_of_a_history_leaves_nothing(server: Server) -> None:
    row = await elsewhere()
    await append(row, 500)
    async with feed(server, row.pk) as session_viewer:
        session_viewer.frozen = True
        await session_viewer.hello()
        await session_viewer.hear("event", seq=20)
    async with feed(server, row.pk) as session_viewer:
        session_viewer.send("hello", v=1)
    assert get_hub().watched == 0
    assert not tasks()


@pytest.mark.parametrize(
    "hello",
    [
        {"type": "hello"},
        {"type": "hello", "v": 2},
        {"type": "hello", "v": 1, "after": -1},
        {"type": "hello", "v": 1, "after": "1"},
        {"type": "hello", "v": 1, "after": True},
        {"type": "hello", "v": 1, "after": 1.5},
        {"type": "say", "text": "hello"},
    ],
)
async def test_a_hello_that_makes_no_sense_ends_the_connection(server: Server, hello: dict[str, Any]) -> None:
    row = await elsewhere()
    async with feed(server, row.pk) as session_viewer:
        session_viewer.send(hello.pop("type"), **hello)
        assert await session_viewer.end() == ("bad_message", 4400)


async def test_a_feed_takes_no_words_and_no_audio(server: Server) -> None:
    row = await elsewhere()
    for send in (lambda each: each.send("say", text="hi"), lambda each: each.send_bytes(bytes(1920))):
        async with feed(server, row.pk) as session_viewer:
            await session_viewer.hello()
            send(session_viewer)
            assert await session_viewer.end() == ("bad_message", 4400)


async def test_a_server_that_goes_away_says_so(server: Server) -> None:
    row = await elsewhere()
    session_viewer = feed(server, row.pk)
    await session_viewer.__aenter__()
    await session_viewer.hello()
    session_viewer.task.cancel()
    assert await session_viewer.end() == ("going_away", 4503)
    await asyncio.gather(session_viewer.task, return_exceptions=True)
    assert not tasks()
