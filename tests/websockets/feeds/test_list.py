"""The feed of the list of sessions."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from tests.api.test_sessions import elsewhere
from tests.asgi_client import REMOTE
from tests.websockets.calls.conftest import Serve, Server
from tests.websockets.feeds.conftest import cookie, feed_list, tasks
from visionagents_runner.exceptions import StartFailed
from visionagents_runner.models import AgentSession, EndReason
from visionagents_runner.store import database
from visionagents_runner.websockets.feeds import queries
from visionagents_runner.websockets.feeds.list_hub import get_list_hub

pytestmark = pytest.mark.slow


async def test_a_viewer_sees_sessions_start_change_and_end(server: Server) -> None:
    before = await elsewhere()
    async with feed_list(server) as viewer:
        assert (await viewer.hello())["all"] is True
        page = await viewer.hear("page")
        assert [session["session_id"] for session in page["sessions"]] == [str(before.pk)]
        session = await server.start("new-call")
        while not (seen := (await viewer.hear("session"))["session"])["joined_at"]:
            pass
        assert (seen["call_id"], seen["status"]) == ("new-call", "active")
        await viewer.hear("counts", live=2, active=2)
        session.request_close()
        while (ended := (await viewer.hear("session"))["session"])["status"] != "closed":
            pass
        assert ended["end_reason"] == "requested"
        await viewer.hear("counts", live=1, failed_24h=0)
    assert get_list_hub().viewers == 0
    assert not tasks()


async def test_a_session_that_fails_to_start_is_counted(serve: Serve, allow_local: None) -> None:
    fails = False

    async def create() -> Any:
        if fails:
            raise ValueError("no model")
        from visionagents_runner.testing import stub_agent

        return stub_agent()

    server = await serve(create=create)
    fails = True
    async with feed_list(server) as viewer:
        await viewer.hello()
        await viewer.hear("counts", failed_24h=0)
        with pytest.raises(StartFailed):
            await server.runner.launcher().start_session("call")
        while (await viewer.hear("session"))["session"]["status"] != "failed":
            pass
        await viewer.hear("counts", live=0, failed_24h=1)


async def test_people_see_and_count_only_what_they_may_see(serve: Serve, polls_only: Any) -> None:
    server = await serve()
    user, sent = await cookie()
    mine = await elsewhere(started_by=user)
    await elsewhere(call_id="hidden")
    headers = {"cookie": sent, "origin": "http://localhost:8000"}
    async with feed_list(server, peer=REMOTE, headers=headers) as viewer:
        assert (await viewer.hello())["all"] is False
        assert len((await viewer.hear("page"))["sessions"]) == 1
        await viewer.hear("counts", live=1)
        hidden = await elsewhere(call_id="hidden")
        await database.write(hidden.finish, EndReason.FINISHED)
        await database.write(mine.finish, EndReason.FINISHED)
        changed = await viewer.hear("session")
        assert changed["session"]["session_id"] == str(mine.pk)
        await viewer.hear("counts", live=0)
        assert "hidden" not in str(viewer.received)


async def test_what_others_write_is_found_by_looking(server: Server, polls_only: Any) -> None:
    async with feed_list(server) as viewer:
        await viewer.hello()
        await viewer.hear("page", sessions=[])
        row = await elsewhere()
        assert (await viewer.hear("session"))["session"]["session_id"] == str(row.pk)
        await database.write(AgentSession.objects.filter(pk=row.pk).mark_unreachable)
        assert (await viewer.hear("session"))["session"]["status"] == "unreachable"
        await database.write(row.finish, EndReason.WORKER_LOST)
        assert (await viewer.hear("session"))["session"]["status"] == "lost"


async def test_a_session_that_waits_for_a_worker_is_listed_and_counted(server: Server) -> None:
    async with feed_list(server) as viewer:
        await viewer.hello()
        await viewer.hear("counts", live=0, queued=0)
        row = await AgentSession.objects.adispatch("later", at=timedelta(hours=1))
        seen = (await viewer.hear("session"))["session"]
        assert (seen["session_id"], seen["status"], seen["started_at"]) == (str(row.pk), "queued", None)
        await viewer.hear("counts", live=1, queued=1, active=0)
        await database.write(AgentSession.objects.filter(pk=row.pk).update, expires_at=row.created_at)
        await database.write(AgentSession.objects.expire)
        seen = (await viewer.hear("session"))["session"]
        assert (seen["status"], seen["end_reason"]) == ("failed", "expired")
        await viewer.hear("counts", live=0, queued=0, failed_24h=1)


async def test_counts_stop_at_a_limit(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "COUNT_LIMIT", 3)
    for _ in range(5):
        await elsewhere()
    async with feed_list(server) as viewer:
        await viewer.hello()
        await viewer.hear("counts", live=3, limit=3)


async def test_a_page_is_bounded(server: Server) -> None:
    for _ in range(3):
        await elsewhere()
    async with feed_list(server) as viewer:
        await viewer.hello(limit=2)
        page = await viewer.hear("page")
        assert len(page["sessions"]) == 2
        assert page["next"]
    for limit in (0, 101, "1", True):
        async with feed_list(server) as viewer:
            viewer.send("hello", v=1, limit=limit)
            assert await viewer.end() == ("bad_message", 4400)


async def test_a_viewer_that_is_too_slow_gets_the_latest_of_each_session_or_a_new_page(server: Server) -> None:
    async with feed_list(server) as viewer:
        await viewer.hello()
        await viewer.hear("page")
        viewer.frozen = True

        def many() -> None:
            for _ in range(600):
                row = AgentSession(call_id="many")
                row.insert()
                row.finish(EndReason.FINISHED)

        await database.write(many)
        await asyncio.sleep(0.3)
        assert viewer.count < 100
        viewer.frozen = False
        viewer.ack()
        await viewer.hear("page")
