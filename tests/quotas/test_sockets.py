"""How many WebSockets there may be: of one user, key, address, silent ones, and in all; and feeds among them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.asgi_client import REMOTE
from tests.conftest import until
from tests.websockets.calls.client import Socket
from tests.websockets.calls.conftest import Serve, Server, allow_local, serve, server
from tests.websockets.feeds.conftest import cookie, feed, feed_list, nothing_listens_any_more
from visionagents_runner import quotas
from visionagents_runner.auth import permissions
from visionagents_runner.models import AgentSession, EndReason
from visionagents_runner.quotas import holdings
from visionagents_runner.store import database
from visionagents_runner.websockets import share
from visionagents_runner.websockets.feeds import list_hub, queries
from visionagents_runner.websockets.feeds.list_hub import get_list_hub
from visionagents_runner.websockets.share import _silent

pytestmark = pytest.mark.slow

__all__ = ["allow_local", "nothing_listens_any_more", "serve", "server"]

ELSEWHERE = ("198.51.100.9", 50000)


@pytest.fixture(autouse=True)
def all_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "_told", quotas.bucket.Bucket(1e6, 1e6))


async def told(socket: Socket) -> str:
    """Return what a socket that was refused was told."""
    code, close = await socket.end()
    assert (code, close) == ("too_many", 4429)
    return str(socket.received[-1]["detail"])


async def test_this_worker_takes_only_so_many(server: Server, limit: Any) -> None:
    limit(sockets_per_worker=3)
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(server.socket()) for _ in range(3)]
        async with server.socket() as socket:
            assert "this server takes no more than 3" in await told(socket)
        sockets[0].vanish()
        await sockets[0].task
        async with server.socket() as socket:
            await socket.hello()
    assert quotas.refused()["sockets", "worker"] == 1


async def test_an_address_has_only_so_many_of_calls_and_feeds_together(server: Server, limit: Any) -> None:
    limit(sockets_per_address=2)
    async with server.socket(peer=REMOTE), feed_list(server, peer=REMOTE):
        for socket in (server.socket(peer=REMOTE), feed_list(server, peer=REMOTE)):
            async with socket:
                assert "one address may have no more than 2" in await told(socket)
        async with server.socket(peer=ELSEWHERE) as socket:
            assert socket.accepted
        async with server.socket() as socket:  # this machine's own
            await socket.hello()


async def test_an_address_opens_only_so_many_in_a_time(server: Server, limit: Any) -> None:
    limit(openings_per_address="1/m burst 3")
    for _ in range(3):
        async with server.socket(peer=REMOTE) as socket:
            assert socket.closed is None
    async with server.socket(peer=REMOTE) as socket:
        assert "new WebSockets: one address" in await told(socket)


async def test_an_address_has_only_so_many_that_say_nothing(serve: Serve, limit: Any) -> None:
    limit(silent_per_address=2)
    server = await serve()
    _, sent = await cookie()
    known = {"peer": REMOTE, "headers": {"cookie": sent, "origin": "http://localhost:8000"}}
    async with feed_list(server, **known) as first, server.socket(peer=REMOTE) as second:
        async with server.socket(peer=REMOTE) as socket:
            assert "have not said hello" in await told(socket)
        await first.hello()
        async with server.socket(peer=REMOTE) as third:
            assert third.closed is None
            second.vanish()
            await second.task
            async with server.socket(peer=REMOTE) as fourth:
                assert fourth.closed is None


async def test_the_one_that_has_said_nothing_for_longest_makes_room_for_who_comes(server: Server, limit: Any) -> None:
    limit(silent_per_worker=2)
    async with AsyncExitStack() as stack:
        quiet = [await stack.enter_async_context(server.socket()) for _ in range(2)]
        for _ in range(3):
            async with server.socket() as socket:
                await socket.hello()
        assert (await quiet[0].end()) == ("too_many", 4429)
        assert quiet[1].closed is None
    assert quotas.refused()["silent", "worker"] == 1
    assert not _silent


async def test_a_user_has_only_so_many_feeds_and_a_socket_more_is_refused_before_anything_is_asked(
    serve: Serve, limit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(feeds_per_identity=2)
    server = await serve()
    _, sent = await cookie()
    options = {"peer": REMOTE, "headers": {"cookie": sent, "origin": "http://localhost:8000"}}
    asked = 0
    look = permissions._user_of_session

    def counted(*args: Any) -> Any:
        nonlocal asked
        asked += 1
        return look(*args)

    monkeypatch.setattr(permissions, "_user_of_session", counted)
    async with feed_list(server, **options) as first, feed_list(server, **options) as second:
        for viewer in (first, second):
            await viewer.hello()
        before = asked
        for _ in range(5):
            async with feed_list(server, **options) as viewer:
                assert "live feeds: one user may have no more than 2" in await told(viewer)
        assert asked == before
        _, other = await cookie(name="other")
        theirs = {**options, "headers": {**options["headers"], "cookie": other}}  # type: ignore[dict-item]
        async with feed_list(server, **theirs) as viewer:
            await viewer.hello()
    assert quotas.refused()["feeds", "user"] == 5


async def test_who_was_not_known_at_the_door_is_counted_once_they_are(serve: Serve, limit: Any) -> None:
    limit(feeds_per_identity=1)
    server = await serve()
    _, sent = await cookie()
    options = {"peer": REMOTE, "headers": {"cookie": sent, "origin": "http://localhost:8000"}}
    async with feed_list(server, **options) as first, feed_list(server, **options) as second:
        await first.hello()
        assert await second.refused() == ("too_many", 4429)
        assert first.closed is None


async def test_feeds_of_sessions_count_with_those_of_the_list(serve: Serve, limit: Any) -> None:
    limit(feeds_per_identity=1)
    server = await serve()
    user, sent = await cookie()
    session = await server.start(started_by_id=user.pk)
    options = {"peer": REMOTE, "headers": {"cookie": sent, "origin": "http://localhost:8000"}}
    async with feed(server, session.id, **options) as first:
        await first.hello()
        async with feed_list(server, **options) as second:
            assert "live feeds" in await told(second)


async def test_a_flood_of_refusals_is_refused_at_the_handshake(
    server: Server, limit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share, "_told", quotas.bucket.Bucket(0, 1))
    limit(openings_per_address="1/h")
    async with server.socket(peer=REMOTE):
        pass
    async with server.socket(peer=REMOTE) as socket:
        await told(socket)
    for _ in range(3):
        async with server.socket(peer=REMOTE) as socket:
            await socket.end()
            assert not socket.accepted
    answers: list[Any] = []
    socket = server.socket(peer=REMOTE, extensions={"websocket.http.response": {}})
    socket._to_app.put_nowait({"type": "websocket.connect"})

    async def send(event: dict[str, Any]) -> None:
        answers.append(event)

    await server.app(socket.scope, socket._to_app.get, send)
    assert [event["type"] for event in answers] == ["websocket.http.response.start", "websocket.http.response.body"]
    assert answers[0]["status"] == 429
    assert dict(answers[0]["headers"])[b"retry-after"]


# What many feeds cost


async def test_many_feeds_of_one_user_are_looked_at_and_counted_for_once(
    serve: Serve, limit: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(feeds_per_identity=None, openings_per_identity=None, openings_per_address=None, silent_per_address=None)
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "POLL_INTERVAL": 3600.0}
    server = await serve()
    user, sent = await cookie()
    looks = counts = 0
    covered, count = list_hub._covered, queries.counts

    def look(*args: Any) -> Any:
        nonlocal looks
        looks += 1
        return covered(*args)

    def counted(users: Any) -> Any:
        nonlocal counts
        counts += len(set(users))
        return count(users)

    monkeypatch.setattr(list_hub, "_covered", look)
    monkeypatch.setattr(queries, "counts", counted)
    monkeypatch.setattr(list_hub, "COUNTS_SECONDS", 1e9)
    options = {"peer": REMOTE, "headers": {"cookie": sent, "origin": "http://localhost:8000"}}
    async with AsyncExitStack() as stack:
        viewers = [await stack.enter_async_context(feed_list(server, **options)) for _ in range(40)]
        for viewer in viewers:
            await viewer.hello()
            assert (await viewer.hear("counts"))["live"] == 0
        assert (looks, counts) == (1, 1)
        described = 0
        describe = list_hub.describe

        def once(row: Any) -> Any:
            nonlocal described
            described += 1
            return describe(row)

        monkeypatch.setattr(list_hub, "describe", once)
        row = AgentSession(call_id="mine", started_by=user)
        await database.write(row.insert)
        for viewer in viewers:
            assert (await viewer.hear("session"))["session"]["session_id"] == str(row.pk)
        assert described == 1
        await database.write(row.finish, EndReason.FINISHED)
    await until(lambda: get_list_hub().viewers == 0)
    assert not holdings._held


async def test_who_comes_later_has_the_counts_of_now(server: Server) -> None:
    async with feed_list(server) as first:
        await first.hello()
        await first.hear("counts", live=0)
        row = AgentSession(call_id="new")
        await database.write(row.insert)
        await first.hear("counts", live=1)
        async with feed_list(server) as second:
            await second.hello()
            await second.hear("counts", live=1)
            await database.write(row.finish, EndReason.FINISHED)
            for viewer in (first, second):
                await viewer.hear("counts", live=0)
