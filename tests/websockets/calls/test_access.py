"""Who may join a call: each rule alone, what is refused alike, and that nothing tells whether there is such a call."""

from __future__ import annotations

import time
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core import signing
from django.core.exceptions import PermissionDenied
from django.http import Http404
from django.utils import timezone

from tests.asgi_client import REMOTE, Client
from tests.auth.permissions.test_users import sign_in
from tests.conftest import until
from tests.websockets.calls.client import Socket
from tests.websockets.calls.conftest import Serve, Server
from visionagents_runner import ServeOptions
from visionagents_runner.auth.tokens import VoidToken, make_join_token, read_join_token
from visionagents_runner.edge import find_room
from visionagents_runner.exceptions import InvalidInput
from visionagents_runner.models import AgentSession, Worker
from visionagents_runner.websockets.calls.client import _warn_of_no_way

pytestmark = pytest.mark.slow

SITE = "https://agents.example"
EVIL = "https://evil.example"
NOWHERE = "/ws/calls/default/no-such-call/"


async def as_user(server: Server, *permissions: str, name: str = "caller", **fields: Any) -> tuple[dict[str, Any], Any]:
    """Return how a new user's browser opens sockets (its page is of this site), and the user."""
    client, user = await sign_in(Client(None), *permissions, name=name, **fields)
    headers = {"cookie": client.headers["cookie"], "origin": SITE}
    return {"peer": REMOTE, "host": "agents.example", "scheme": "wss", "headers": headers}, user


def remote(**headers: str) -> dict[str, Any]:
    return {"peer": REMOTE, "host": "agents.example", "scheme": "wss", "headers": headers}


async def refusal(server: Server, target: str = "/ws/calls/default/my-call/", **how: Any) -> tuple[str, int]:
    hello = how.pop("hello", {})
    async with server.socket(target, **how) as socket:
        return await socket.refused(**hello)


async def refused_everywhere(server: Server, answer: tuple[str, int], **how: Any) -> None:
    """Alike on a call with sessions and on one that does not exist, to the word."""
    words = []
    for target in ("/ws/calls/default/my-call/", NOWHERE):
        async with server.socket(target, **how) as socket:
            assert await socket.refused() == answer
            words.append(socket.received[-1]["detail"])
    assert words[0] == words[1]


# Local


async def test_a_local_client_may_do_everything(server: Server) -> None:
    async with server.socket() as socket:
        welcome = await socket.hello()
    assert (welcome["role"], welcome["may_start"]) == ("speaker", True)
    assert welcome["user_id"].startswith("local-")


async def test_a_page_of_another_origin_is_not_local(server: Server) -> None:
    for origin in (EVIL, "null", "http://localhost:9999", "https://localhost:8000"):
        assert await refusal(server, headers={"origin": origin}) == ("sign_in", 4401)
    async with server.socket(headers={"origin": "http://localhost:8000"}) as socket:
        await socket.hello()


async def test_what_came_through_a_proxy_is_not_local(server: Server) -> None:
    assert await refusal(server, headers={"x-forwarded-for": "127.0.0.1"}) == ("sign_in", 4401)


async def test_nothing_is_local_unless_allowed(serve: Serve) -> None:
    assert await refusal(await serve()) == ("sign_in", 4401)


async def test_daphne_tells_no_scheme_and_the_same_origin_counts_all_the_same(server: Server) -> None:
    async with server.socket(scheme=None, headers={"origin": "http://localhost:8000"}) as socket:
        await socket.hello()


# Users


async def test_nobody_is_asked_to_sign_in(serve: Serve) -> None:
    server = await serve()
    await server.start()
    for headers in ({}, {"origin": SITE}, {"cookie": "sessionid=made-up", "origin": SITE}):
        await refused_everywhere(server, ("sign_in", 4401), **remote(**headers))


async def test_a_user_who_may_start_sessions_speaks(serve: Serve) -> None:
    server = await serve()
    how, user = await as_user(server, "start_agentsession")
    await server.start(started_by_id=user.pk)
    async with server.socket(**how) as socket:
        welcome = await socket.hello(name="  Me\tmyself\x07 ")
        assert (welcome["role"], welcome["may_start"]) == ("speaker", True)
        assert (welcome["user_id"], welcome["name"]) == (str(user.pk), "Me myself")
        assert welcome["sessions"][0]["metadata"] == {}
    async with server.socket(NOWHERE, **how) as socket:
        assert (await socket.hello())["name"] == "caller"


@pytest.mark.parametrize("origin", [None, EVIL, "null", "http://agents.example", f"{SITE}:8443"])
async def test_a_cookie_counts_only_for_pages_of_this_site(serve: Serve, origin: str | None) -> None:
    server = await serve()
    how, user = await as_user(server, "start_agentsession", "view_agentsession", "view_transcript")
    await server.start(started_by_id=user.pk)
    del how["headers"]["origin"]
    if origin is not None:
        how["headers"]["origin"] = origin
    await refused_everywhere(server, ("not_allowed", 4403), **how)


async def test_a_listed_origin_is_as_good(serve: Serve) -> None:
    server = await serve(ServeOptions(cors_allow_origins={EVIL}))
    how, _ = await as_user(server, "start_agentsession")
    how["headers"]["origin"] = EVIL
    async with server.socket(**how) as socket:
        await socket.hello()


async def test_a_call_with_a_session_that_they_may_not_see_is_closed_to_them(serve: Serve) -> None:
    server = await serve()
    how, user = await as_user(server, "start_agentsession")
    _, other = await as_user(server, name="other")
    mine = await server.start(started_by_id=user.pk)
    await server.start(started_by_id=other.pk)
    async with server.socket(**how) as socket:
        await socket.hello()  # nobody is locked out of a call whose session is their own
    mine.request_close()
    await mine.wait_ended()
    assert await refusal(server, **how) == ("not_allowed", 4403)
    how, _ = await as_user(server, "start_agentsession", "view_agentsession", name="viewer of all")
    async with server.socket(**how) as socket:
        assert (await socket.hello())["role"] == "speaker"


async def test_who_may_view_and_read_what_is_said_listens(serve: Serve) -> None:
    server = await serve()
    how, user = await as_user(server, "view_agentsession", "view_transcript")
    assert await refusal(server, **how) == ("not_allowed", 4403)  # there is nothing to listen to
    await server.start()
    async with server.socket(**how) as socket:
        welcome = await socket.hello()
        assert (welcome["role"], welcome["may_start"], welcome["agents"]) == ("listener", False, [])
        assert welcome["user_id"] == str(user.pk)


async def test_who_started_a_session_and_may_read_what_is_said_listens_to_that_one(serve: Serve) -> None:
    server = await serve()
    how, user = await as_user(server, "view_transcript")
    mine = await server.start(started_by_id=user.pk)
    await server.start()
    async with server.socket(**how) as socket:
        assert (await socket.hello())["role"] == "listener"
    mine.request_close()
    await mine.wait_ended()
    assert await refusal(server, **how) == ("not_allowed", 4403)


@pytest.mark.parametrize("permissions", [["view_agentsession"], ["view_transcript"], []])
async def test_who_may_only_view_or_only_read_is_refused_whatever_the_call(
    serve: Serve, permissions: list[str]
) -> None:
    server = await serve()
    how, _ = await as_user(server, *permissions)
    await server.start()
    await refused_everywhere(server, ("not_allowed", 4403), **how)


async def test_a_user_who_was_switched_off_is_nobody(serve: Serve) -> None:
    server = await serve()
    how, user = await as_user(server, "start_agentsession")
    user.is_active = False
    await sync_to_async(user.save)()
    await refused_everywhere(server, ("sign_in", 4401), **how)


async def test_an_unknown_host_gets_no_answer_at_all(serve: Serve, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["agents.example"]
    server = await serve()
    async with server.socket(host="rebound.example") as socket:
        assert (socket.accepted, socket.closed) == (False, 4404)


# The project's own rules


async def test_the_projects_rule_for_starts_decides(serve: Serve) -> None:
    asked: list[Any] = []

    def can_start_session(request: Any, call_id: str, body: Any) -> bool:
        asked.append((request.headers.get("x-key"), call_id, body.call_type, str(request.user)))
        return request.headers.get("x-key") == "right"

    def can_view_session() -> bool:
        return True

    server = await serve(ServeOptions(can_start_session=can_start_session, can_view_session=can_view_session))
    await server.start()
    async with server.socket(**remote(**{"x-key": "right"})) as socket:
        assert (await socket.hello())["may_start"]
    assert asked == [("right", "my-call", "default", "AnonymousUser")]
    async with server.socket(**remote(**{"x-key": "wrong"})) as socket:
        assert (await socket.hello())["role"] == "listener"  # their rule for viewing allows it
    assert await refusal(server, NOWHERE, **remote(**{"x-key": "wrong"})) == ("not_allowed", 4403)


async def test_the_projects_rule_for_viewing_is_asked_about_each_session(serve: Serve, allow_local: None) -> None:
    hidden: set[str] = set()

    async def can_view_session(request: Any, session_id: str | None, call_id: str) -> bool:
        assert call_id == "my-call"
        return session_id not in hidden

    server = await serve(ServeOptions(can_view_session=can_view_session))
    session = await server.start()
    async with server.socket() as socket:
        await socket.hello()
    hidden.add(session.id)
    assert await refusal(server) == ("not_allowed", 4403)


async def test_a_rule_with_a_bug_is_an_error_of_the_server(serve: Serve, caplog: Any) -> None:
    def can_start_session() -> bool:
        raise ZeroDivisionError

    server = await serve(ServeOptions(can_start_session=can_start_session))
    assert await refusal(server) == ("server_error", 4500)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("error", "words"), [(PermissionDenied("Not on Sundays"), "Not on Sundays"), (Http404, "Not Found")]
)
async def test_a_rule_may_refuse_as_views_of_django_do(serve: Serve, error: Exception, words: str, caplog: Any) -> None:
    def can_start_session() -> None:
        raise error

    async def can_view_session(session_id: str | None) -> None:
        if session_id == hidden.id:
            raise error

    server = await serve(ServeOptions(can_start_session=can_start_session, can_view_session=can_view_session))
    hidden = await server.start()
    async with server.socket() as socket:
        assert await socket.refused() == ("not_allowed", 4403)
        assert socket.received[-1]["detail"] == words
    assert await refusal(server, f"/ws/sessions/{hidden.id}/") in {("not_allowed", 4403), ("not_found", 4404)}
    assert not caplog.records


async def test_a_cookie_is_checked_for_its_origin_before_the_projects_rule(serve: Serve) -> None:
    server = await serve(ServeOptions(can_start_session=lambda: True, can_view_session=lambda: True))
    how, _ = await as_user(server)
    how["headers"]["origin"] = EVIL
    await refused_everywhere(server, ("not_allowed", 4403), **how)


# Tokens


def join(server: Server, token: str, target: str = "/ws/calls/default/my-call/", **headers: str) -> Socket:
    return server.socket(target, **remote(**headers))


async def test_a_token_lets_anybody_in_from_anywhere(serve: Serve) -> None:
    server = await serve()
    session = await server.start()
    token = make_join_token(session, name="A guest\n")
    for headers in ({}, {"origin": EVIL}, {"cookie": "sessionid=x", "origin": EVIL}):
        async with join(server, token, **headers) as socket:
            welcome = await socket.hello(token=token, name="Somebody else")
            assert (welcome["role"], welcome["may_start"], welcome["name"]) == ("speaker", False, "A guest")
            assert welcome["user_id"].startswith("guest-")
            assert "metadata" not in welcome["sessions"][0]
            assert "metadata" not in (await socket.hear("presence", is_agent=True))["session"]


async def test_a_guest_without_a_name_says_one(serve: Serve) -> None:
    server = await serve()
    token = make_join_token(await server.start())
    async with join(server, token) as socket:
        assert (await socket.hello(token=token, name="Me"))["name"] == "Me"
    async with join(server, token) as socket:
        assert (await socket.hello(token=token))["name"] == "Guest"


async def test_a_token_of_another_call_is_refused(serve: Serve) -> None:
    server = await serve()
    await server.start()
    token = make_join_token(await server.start("another"))
    assert await refusal(server, **remote(), hello={"token": token}) == ("not_allowed", 4403)
    assert await refusal(server, NOWHERE, **remote(), hello={"token": token}) == ("not_allowed", 4403)


async def test_a_token_that_expired_or_was_changed_is_void(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await serve()
    session = await server.start()
    token = make_join_token(session, expires_in=60)
    payload = signing.loads(token, salt="visionagents_runner.join")
    forged = signing.dumps(
        [*payload[:3], "speaker", "", payload[5] + 10**6], key="guessed", salt="visionagents_runner.join"
    )
    of_another_purpose = signing.dumps(payload, salt="something.else")
    of_another_shape = signing.dumps(payload[:3], salt="visionagents_runner.join")
    for bad in (token[:-1], "A" + token, forged, of_another_purpose, of_another_shape, "x", "a:b:c"):
        assert await refusal(server, **remote(), hello={"token": bad}) == ("void_token", 4410)
    now = time.time()
    monkeypatch.setattr("visionagents_runner.auth.tokens.time.time", lambda: now + 61)
    assert await refusal(server, **remote(), hello={"token": token}) == ("void_token", 4410)


async def test_a_local_client_with_a_void_token_is_refused(server: Server) -> None:
    assert await refusal(server, hello={"token": "void"}) == ("void_token", 4410)


async def test_a_token_is_void_when_its_session_has_ended(serve: Serve) -> None:
    server = await serve()
    session = await server.start()
    await server.start()  # another one goes on, on the same call
    token = make_join_token(session)
    session.request_close()
    await session.wait_ended()
    assert await refusal(server, **remote(), hello={"token": token}) == ("void_token", 4410)
    row = await AgentSession.objects.aget(pk=session.id)
    assert await refusal(server, **remote(), hello={"token": make_join_token(row)}) == ("void_token", 4410)
    await AgentSession.objects.filter(pk=row.pk).adelete()
    assert await refusal(server, **remote(), hello={"token": token}) == ("void_token", 4410)


async def test_a_guest_leaves_when_the_session_ends_and_others_stay(serve: Serve) -> None:
    server = await serve()
    how, _ = await as_user(server, "start_agentsession", "view_agentsession")
    session = await server.start()
    token = make_join_token(session)
    async with server.socket(**how) as user, join(server, token) as guest:
        await user.hello()
        await guest.hello(token=token)
        session.request_close()
        assert (await guest.hear("session"))["end_reason"] == "requested"
        assert await guest.end() == ("void_token", 4410)
        await user.hear("session")
        assert user.closed is None
        room = find_room("default", "my-call")
        assert room is not None
        await until(lambda: len(room.people) == 1)


async def test_a_listener_is_not_heard(serve: Serve) -> None:
    server = await serve()
    token = make_join_token(await server.start(), role="listener")
    async with join(server, token) as socket:
        assert (await socket.hello(token=token))["role"] == "listener"
        socket.send("say", id="a", text="hello")
        problem = await socket.hear("error", id="a")
        assert (problem["code"], problem["fatal"]) == ("not_allowed", False)
        socket.send("custom", data={"a": 1})
        assert (await socket.hear("error"))["code"] == "not_allowed"
        socket.send_bytes(bytes(1920))
        socket.send("mute", muted=True)
        assert socket.closed is None


def test_a_token_says_what_it_was_made_for_and_makes_sense() -> None:
    session = AgentSession(call_type="t", call_id="a/b \N{WAVING HAND SIGN}")
    token = read_join_token(make_join_token(session, role="listener", name="N", expires_in=10))
    assert (token.session_id, token.call_type, token.call_id) == (str(session.pk), "t", session.call_id)
    assert (token.role, token.name) == ("listener", "N")
    assert 8 < (token.expires_at - timezone.now()).total_seconds() <= 10
    for wrong in ({"role": "host"}, {"name": "n" * 81}, {"expires_in": 0}, {"expires_in": 10**7}):
        with pytest.raises(InvalidInput):
            make_join_token(session, **wrong)  # type: ignore[arg-type]
    with pytest.raises(VoidToken, match="ask for a new one"):
        read_join_token("nonsense")


# Agents in another process


async def elsewhere(**fields: Any) -> AgentSession:
    worker = await Worker.objects.acreate(hostname="another", pid=1)
    return await AgentSession.objects.acreate(call_id="my-call", status="active", worker=worker, **fields)


async def test_an_agent_in_another_process_is_said_to_be_there(server: Server) -> None:
    row = await elsewhere()
    assert await refusal(server) == ("elsewhere", 4409)
    assert await refusal(server, **remote(), hello={"token": make_join_token(row)}) == ("elsewhere", 4409)
    await server.start()
    async with server.socket() as socket:
        assert len((await socket.hello())["sessions"]) == 1


async def test_only_the_log_says_what_the_server_lacks_to_reach_agents_elsewhere(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    _warn_of_no_way.cache_clear()
    await elsewhere()
    for _ in range(2):
        async with server.socket() as socket:
            assert await socket.refused() == ("elsewhere", 4409)
            [problem] = [each for each in socket.received if each["type"] == "error"]
            assert problem["detail"] == "The agent of this call cannot be reached from here: try again in a moment"
    assert caplog.text.count("set CHANNEL_LAYERS to channels_redis") == 1


async def test_an_invitation_to_a_session_that_no_worker_has_taken_yet_says_so(server: Server) -> None:
    row = await AgentSession.objects.acreate(call_id="my-call", status="queued")
    async with server.socket(**remote()) as socket:
        assert await socket.refused(token=make_join_token(row)) == ("elsewhere", 4409)
        [problem] = [each for each in socket.received if each["type"] == "error"]
        assert problem["detail"] == "No worker has taken the session of this invitation yet: try again in a moment"


async def test_who_may_not_join_does_not_learn_of_agents_elsewhere(serve: Serve) -> None:
    server = await serve()
    await elsewhere()
    await refused_everywhere(server, ("sign_in", 4401), **remote())
    how, _ = await as_user(server, "view_agentsession")
    await refused_everywhere(server, ("not_allowed", 4403), **how)


async def test_an_agent_whose_process_is_silent_keeps_nobody_out(server: Server) -> None:
    row = await elsewhere()
    await AgentSession.objects.filter(pk=row.pk).aupdate(status="unreachable")
    async with server.socket() as socket:
        assert (await socket.hello())["sessions"] == []
