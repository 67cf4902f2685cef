"""Who may follow what, and when they no longer may."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.http import HttpRequest

from tests.api.test_sessions import elsewhere
from tests.asgi_client import REMOTE
from tests.auth.keys.fixtures import make_key
from tests.conftest import until
from tests.websockets.calls.conftest import Serve, Server
from tests.websockets.feeds.conftest import ask, cookie, feed, feed_list
from visionagents_runner import ServeOptions
from visionagents_runner.auth import keys, recheck
from visionagents_runner.models import KINDS_WITHOUT_WORDS, EndReason, EventLine, SessionEvent
from visionagents_runner.store import database

pytestmark = pytest.mark.slow

ORIGIN = "http://localhost:8000"


def signed_in(cookie: str, origin: str = ORIGIN) -> dict[str, Any]:
    return {"peer": REMOTE, "headers": {"cookie": cookie, "origin": origin}}


def by_key(plain: str) -> dict[str, Any]:
    return {"peer": REMOTE, "headers": {"authorization": f"Bearer {plain}"}}


@pytest.fixture
def quick_rechecks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recheck, "RECHECK_SECONDS", 0.1)


async def talk(server: Server) -> Any:
    session = await server.start()
    await ask(session, "hello")
    await until(lambda: server.runner.launcher().recorder.waiting == 0)  # type: ignore[union-attr]
    return session


async def test_nobody_follows_anything_without_signing_in(serve: Serve) -> None:
    server = await serve()
    row = await elsewhere()
    for target in (row.pk, uuid.uuid4(), "nothing", ""):
        async with feed(server, target) if target else feed_list(server) as viewer:
            viewer.send("hello", v=1)
            assert await viewer.end() == ("sign_in", 4401)


async def test_who_may_only_view_gets_no_words_partial_ones_neither(serve: Serve) -> None:
    server = await serve()
    session = await talk(server)
    _, sent = await cookie("view_agentsession")
    async with feed(server, session.id, **signed_in(sent)) as viewer:
        assert (await viewer.hello())["words"] is False
        await viewer.hear("live")
        await ask(session, "a secret")
        session.request_close()
        await viewer.hear("ended")
        assert "secret" not in str(viewer.received)
    async with feed(server, session.id, **signed_in(sent)) as viewer:
        messages = await viewer.all()
        kinds = {message["kind"] for message in messages if message["type"] == "event"}
        assert kinds <= KINDS_WITHOUT_WORDS
        assert {"turn", "ended"} <= kinds
        assert not [message for message in messages if message["type"] == "partial"]
    _, sent = await cookie("view_agentsession", "view_transcript", name="reader")
    async with feed(server, session.id, **signed_in(sent)) as viewer:
        assert "hello" in str(await viewer.all())


async def test_what_an_error_says_goes_with_the_words(serve: Serve) -> None:
    server = await serve()
    row = await elsewhere()
    line = EventLine(row.pk, "error", datetime.now(UTC), {"component": "llm", "type": "E", "message": "a secret"})
    await sync_to_async(SessionEvent.objects.append)([line])
    for codenames, message in ((["view_agentsession"], None), (["view_agentsession", "view_transcript"], "a secret")):
        _, sent = await cookie(*codenames, name=codenames[-1])
        async with feed(server, row.pk, **signed_in(sent)) as viewer:
            await viewer.hello()
            data = (await viewer.hear("event", kind="error"))["data"]
            assert (data["type"], data.get("message")) == ("E", message)


async def test_people_without_rights_follow_what_they_started_and_the_rest_does_not_exist(serve: Serve) -> None:
    server = await serve()
    user, sent = await cookie()
    mine, other = await elsewhere(started_by=user), await elsewhere()
    async with feed(server, mine.pk, **signed_in(sent)) as viewer:
        await viewer.hello()
    answers = []
    for target in (other.pk, uuid.uuid4(), "nothing", f"{{{mine.pk}}}"):
        async with feed(server, target, **signed_in(sent)) as viewer:
            viewer.send("hello", v=1)
            assert await viewer.end() == ("not_found", 4404)
            answers.append(viewer.received[-1]["detail"].replace(str(target), "ID"))
    assert set(answers[:2]) == {"Session with id 'ID' not found"}


async def test_the_page_of_another_site_gets_nothing(serve: Serve) -> None:
    server = await serve()
    row = await elsewhere()
    _, sent = await cookie("view_agentsession")
    for target in (
        feed(server, row.pk, **signed_in(sent, "https://evil.example")),
        feed_list(server, **signed_in(sent, "https://evil.example")),
    ):
        async with target as viewer:
            viewer.send("hello", v=1)
            assert await viewer.end() == ("not_allowed", 4403)


async def test_a_key_counts_with_its_scopes(serve: Serve) -> None:
    server = await serve()
    session = await talk(server)
    for scopes, words in ((("view",), False), (("view", "transcript"), True)):
        _, plain = await sync_to_async(make_key)(*scopes)
        async with feed(server, session.id, **by_key(plain)) as viewer:
            assert (await viewer.hello())["words"] is words
            await viewer.hear("live")
    _, plain = await sync_to_async(make_key)("metrics")
    for target in (feed(server, session.id, **by_key(plain)), feed_list(server, **by_key(plain))):
        async with target as viewer:
            viewer.send("hello", v=1)
            assert await viewer.end() == ("not_allowed", 4403)


async def test_a_key_that_is_revoked_ends_its_feeds(serve: Serve, quick_rechecks: None) -> None:
    server = await serve()
    row = await elsewhere()
    key, plain = await sync_to_async(make_key)("view")
    async with feed(server, row.pk, **by_key(plain)) as one, feed_list(server, **by_key(plain)) as many:
        await one.hello()
        await many.hello()
        await sync_to_async(keys.revoke_key)(key, by="operator")
        assert await one.end() == ("sign_in", 4401)
        assert await many.end() == ("sign_in", 4401)


async def test_a_permission_that_is_taken_away_ends_the_feed(serve: Serve, quick_rechecks: None) -> None:
    server = await serve()
    row = await elsewhere()
    user, sent = await cookie("view_agentsession", "view_transcript")
    async with feed(server, row.pk, **signed_in(sent)) as viewer:
        assert (await viewer.hello())["words"] is True
        await sync_to_async(user.user_permissions.remove)(await user.user_permissions.aget(codename="view_transcript"))
        assert await viewer.end() == ("not_allowed", 4403)
    async with feed(server, row.pk, **signed_in(sent)) as viewer:
        assert (await viewer.hello())["words"] is False
        await sync_to_async(user.user_permissions.clear)()
        assert await viewer.end() == ("not_found", 4404)


async def test_a_callable_of_the_project_decides_and_is_asked_again(serve: Serve, quick_rechecks: None) -> None:
    allowed = {"one"}

    def can_view(request: HttpRequest, session_id: str | None, call_id: str | None) -> bool:
        return session_id is None or call_id in allowed

    server = await serve(ServeOptions(can_view_session=can_view))
    one, other = await elsewhere(call_id="one"), await elsewhere(call_id="other")
    async with feed(server, other.pk, peer=REMOTE) as viewer:
        viewer.send("hello", v=1)
        assert await viewer.end() == ("not_allowed", 4403)
    async with feed(server, one.pk, peer=REMOTE) as viewer, feed_list(server, peer=REMOTE) as many:
        assert (await viewer.hello())["words"] is True
        await many.hello()
        assert len((await many.hear("page"))["sessions"]) == 2
        allowed.clear()
        assert await viewer.end() == ("not_allowed", 4403)


async def test_a_viewer_goes_on_while_the_database_is_away(
    serve: Serve, allow_local: None, quick_rechecks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import OperationalError

    server = await serve()
    row = await elsewhere()
    async with feed(server, row.pk) as viewer:
        await viewer.hello()
        await viewer.hear("live")
        real = database.read
        away = True

        async def read(*args: Any, **kwargs: Any) -> Any:
            if away:
                raise OperationalError("the server closed the connection")
            return await real(*args, **kwargs)

        monkeypatch.setattr(database, "read", read)
        await database.write(row.finish, EndReason.FINISHED)
        await until(lambda: True)
        away = False
        assert (await viewer.hear("ended"))["end_reason"] == "finished"
