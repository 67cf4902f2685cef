"""Whoever loses a right while they use it is out a moment later, with words."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.contrib.sessions.models import Session
from django.db import OperationalError
from django.db.models.functions import Now
from ninja.errors import HttpError

from tests.auth.keys.fixtures import afresh, make_key
from tests.conftest import until
from tests.websockets.calls.client import PATH
from tests.websockets.calls.conftest import Serve
from tests.websockets.calls.test_access import as_user, refusal, remote
from visionagents_runner import ServeOptions
from visionagents_runner.auth import keys, recheck
from visionagents_runner.auth.tokens import make_join_token
from visionagents_runner.models import AgentKey, AgentSession
from visionagents_runner.store import database

pytestmark = pytest.mark.slow

__all__ = ["afresh"]

SIGN_IN, SHUT, VOID = ("sign_in", 4401), ("not_allowed", 4403), ("void_token", 4410)


@pytest.fixture(autouse=True)
def quick_rechecks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recheck, "RECHECK_SECONDS", 0.05)


def test_a_round_and_what_it_takes_are_under_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    # What was looked up at the beginning of a round may count to its end.
    assert recheck.RECHECK_SECONDS + 2 * recheck.SPREAD_SECONDS <= 4.0


def permission(codename: str) -> Permission:
    return Permission.objects.get(codename=codename)


# Users


def delete_session(user: Any) -> None:
    Session.objects.all().delete()


def change_password(user: Any) -> None:
    user.set_password("another")
    user.save()


def switch_off(user: Any) -> None:
    type(user).objects.filter(pk=user.pk).update(is_active=False)


def take_permission(user: Any) -> None:
    user.user_permissions.remove(permission("start_agentsession"))


def take_sight(user: Any) -> None:
    user.user_permissions.remove(permission("view_agentsession"))


USERS: dict[str, tuple[Callable[[Any], Any], tuple[str, int], str]] = {
    "signed out": (delete_session, SIGN_IN, "Sign in"),
    "password changed": (change_password, SIGN_IN, "Sign in"),
    "deactivated": (switch_off, SIGN_IN, "Sign in"),
    "deleted": (lambda user: user.delete(), SIGN_IN, "Sign in"),
    "permission taken away": (take_permission, SHUT, "You need the permission"),
    "sight taken away": (take_sight, SHUT, "You may not see every session of this call"),
}


@pytest.mark.parametrize("how_lost", USERS)
async def test_a_user_who_loses_a_right_leaves_calls_and_feeds(serve: Serve, how_lost: str) -> None:
    lose, answer, words = USERS[how_lost]
    server = await serve()
    session = await server.start()
    how, user = await as_user(server, "start_agentsession", "view_agentsession")
    feed = f"/ws/sessions/{session.id}/"
    async with server.socket(**how) as socket, server.socket(feed, **how) as follower:
        await socket.hello()
        await follower.hello()
        await rounds(2)  # from the second on they are compared with what was known of them
        await sync_to_async(lose)(user)
        assert await socket.end() == answer
        assert words in socket.received[-1]["detail"]
        if how_lost == "sight taken away":
            assert await follower.end() == ("not_found", 4404)
        elif answer == SIGN_IN:
            assert await follower.end() == answer


async def test_a_group_that_loses_its_permission_takes_its_people_along(serve: Serve) -> None:
    server = await serve()
    how, user = await as_user(server)
    group = await Group.objects.acreate(name="callers")
    await group.permissions.aadd(await Permission.objects.aget(codename="start_agentsession"))
    await user.groups.aadd(group)
    async with server.socket(**how) as socket, server.socket(**how) as another:
        await socket.hello()
        await another.hello()
        await rounds(2)
        await group.permissions.aclear()
        assert await socket.end() == SHUT
        assert await another.end() == SHUT


async def test_a_superuser_who_is_one_no_more_leaves(serve: Serve) -> None:
    server = await serve()
    await server.start()
    how, user = await as_user(server, is_superuser=True)
    async with server.socket(**how) as socket:
        await socket.hello()
        await rounds(2)
        await get_user_model().objects.filter(pk=user.pk).aupdate(is_superuser=False)
        assert await socket.end() == SHUT


async def test_who_may_only_listen_from_now_on_does_not_go_on_speaking(serve: Serve) -> None:
    server = await serve()
    await server.start()
    how, user = await as_user(server, "start_agentsession", "view_agentsession", "view_transcript")
    async with server.socket(**how) as socket:
        await socket.hello()
        await sync_to_async(take_permission)(user)
        assert await socket.end() == SHUT
        assert socket.received[-1]["detail"] == "You may only listen on this call now: join again to do that"
    async with server.socket(**how) as socket:
        assert (await socket.hello())["role"] == "listener"
        await user.user_permissions.aclear()
        assert await socket.end() == SHUT


# Keys


def revoke_elsewhere(row: AgentKey) -> None:
    AgentKey.objects.filter(pk=row.pk).revoke("another process")


KEYS: dict[str, tuple[Callable[[AgentKey], Any], tuple[str, int], str]] = {
    "revoked": (revoke_elsewhere, SIGN_IN, "This API key was revoked"),
    "expired": (lambda row: AgentKey.objects.filter(pk=row.pk).update(expires_at=Now()), SIGN_IN, "has expired"),
    "deleted": (lambda row: AgentKey.objects.filter(pk=row.pk).delete(), SIGN_IN, "not valid"),
    "owner deactivated": (lambda row: switch_off(row.owner), SIGN_IN, "its owner's account is not active"),
    "scope taken away": (
        lambda row: AgentKey.objects.filter(pk=row.pk).update(scopes=["metrics"]),
        SHUT,
        "needs the scope start",
    ),
}


@pytest.mark.parametrize("how_lost", KEYS)
async def test_who_came_with_a_key_leaves_when_it_counts_no_more(serve: Serve, how_lost: str) -> None:
    lose, answer, words = KEYS[how_lost]
    server = await serve()
    session = await server.start()
    row, plain = await sync_to_async(make_key)("start", "view")
    how = remote(authorization=f"Bearer {plain}")
    async with server.socket(**how) as socket, server.socket(f"/ws/sessions/{session.id}/", **how) as follower:
        await socket.hello()
        await follower.hello()
        await keys.verify(plain)  # a request remembers it for other requests
        await sync_to_async(lose)(row)
        assert await socket.end() == answer
        assert words in socket.received[-1]["detail"]
        assert await follower.end() == answer


# The project's rules


async def test_a_rule_that_refuses_by_now_ends_calls_with_its_words(serve: Serve) -> None:
    refusal_now: HttpError | None = None

    def can_start_session() -> None:
        if refusal_now is not None:
            raise refusal_now

    server = await serve(ServeOptions(can_start_session=can_start_session, can_view_session=lambda: True))
    async with server.socket(**remote()) as socket:
        await socket.hello()
        refusal_now = HttpError(401, "Your time is over")
        # Their rule for viewing would let them listen: who spoke is told so.
        assert await socket.end() == SHUT
        assert "You may only listen" in socket.received[-1]["detail"]
    shown = True
    refusal_now = None
    server.runner.options.__dict__["can_view_session"] = lambda: shown
    async with server.socket(**remote()) as socket:
        await socket.hello()
        refusal_now, shown = HttpError(401, "Your time is over"), False
        assert await socket.end() == SIGN_IN
        assert socket.received[-1]["detail"] == "Your time is over"


# Guests


MAKERS: dict[str, Callable[[Any], Any]] = {
    "deactivated": switch_off,
    "permission taken away": take_permission,
    "deleted": lambda user: user.delete(),
}


@pytest.mark.parametrize("how_lost", MAKERS)
async def test_the_invited_leave_when_whoever_made_their_session_may_not_be_there(serve: Serve, how_lost: str) -> None:
    server = await serve()
    _, user = await as_user(server, "start_agentsession")
    session = await server.start(started_by_id=user.pk, source="api")
    token = make_join_token(session)
    async with server.socket(**remote()) as socket:
        await socket.hello(token=token)
        await sync_to_async(MAKERS[how_lost])(user)
        assert await socket.end() == VOID
        assert socket.received[-1]["detail"].startswith("Whoever started the session of this invitation may not")
    assert await refusal(server, **remote(), hello={"token": token}) == VOID


async def test_an_invitation_counts_by_any_key_of_its_maker_and_for_whomever_code_started_it(serve: Serve) -> None:
    server = await serve()
    row, _ = await sync_to_async(make_key)("start")
    by_key = await server.start(started_by_id=row.owner_id, source=f"api key va_{row.prefix}")
    by_code = await server.start("another-call", started_by_id=row.owner_id, source="code")
    async with (
        server.socket(**remote()) as socket,
        server.socket(PATH.replace("my-call", "another-call"), **remote()) as other,
    ):
        await socket.hello(token=make_join_token(by_key))
        await other.hello(token=make_join_token(by_code))
        await sync_to_async(make_key)("transcript")
        await sync_to_async(revoke_elsewhere)(row)
        await rounds(3)
        assert (socket.closed, other.closed) == (None, None)
        await AgentKey.objects.all().aupdate(revoked_at=Now())
        assert await socket.end() == VOID
        await rounds(3)
        assert other.closed is None
        await sync_to_async(lambda: switch_off(row.owner))()
        assert await other.end() == VOID


async def rounds(count: int) -> None:
    """Wait until so many rounds have been made."""
    for _ in range(count):
        made = asyncio.Event()

        async def check(since: float, made: asyncio.Event = made) -> None:
            made.set()

        end = recheck.get_rechecks().keep(check, lambda error: None)
        await made.wait()
        end()


# Who stays


async def test_who_joined_by_an_invitation_that_expires_stays_and_so_do_all_others(serve: Serve) -> None:
    server = await serve()
    how, _ = await as_user(server, "start_agentsession")
    listening, _ = await as_user(server, "view_agentsession", "view_transcript", name="listener")
    session = await server.start(source="code")
    token = make_join_token(session, expires_in=1)
    async with server.socket(**remote()) as guest, server.socket(**listening) as listener:
        await guest.hello(token=token)
        await listener.hello()
        await until(lambda: _is_void(token))
        await rounds(2)
        assert (guest.closed, listener.closed) == (None, None)
        session.request_close()
        assert await guest.end() == VOID
        await rounds(2)
        assert listener.closed is None  # an empty call hides nothing, and the agent may come again
    async with server.socket("/ws/calls/default/empty/", **how) as waiting:
        await waiting.hello()
        await rounds(2)
        assert waiting.closed is None


def _is_void(token: str) -> bool:
    from visionagents_runner.auth.tokens import VoidToken, read_join_token

    try:
        read_join_token(token)
    except VoidToken:
        return True
    return False


async def test_everybody_stays_while_the_database_does_not_answer(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await serve()
    how, user = await as_user(server, "start_agentsession")
    async with server.socket(**how) as socket:
        await socket.hello()
        real = database.read
        asked = 0
        away = True

        async def read(*args: Any, **kwargs: Any) -> Any:
            nonlocal asked
            if not away:
                return await real(*args, **kwargs)
            asked += 1
            raise OperationalError("the server closed the connection")

        monkeypatch.setattr(database, "read", read)
        await until(lambda: asked > 3)
        assert socket.closed is None
        await sync_to_async(switch_off)(user)
        away = False
        assert await socket.end() == SIGN_IN


async def test_a_round_looks_up_once_what_people_have_in_common(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recheck, "RECHECK_SECONDS", 3600.0)
    server = await serve()
    session = await server.start()
    how, user = await as_user(server, "start_agentsession", "view_transcript")
    await AgentSession.objects.filter(pk=session.id).aupdate(started_by=user)
    looks: list[str] = []
    real = database.read

    async def read(fn: Any, *args: Any, **kwargs: Any) -> Any:
        looks.append(getattr(fn, "__name__", str(fn)))
        return await real(fn, *args, **kwargs)

    sockets = [server.socket(**how) for _ in range(4)]
    for socket in sockets:
        await socket.__aenter__()
        await socket.hello()
    monkeypatch.setattr(database, "read", read)
    monkeypatch.setattr(recheck, "RECHECK_SECONDS", 0.01)
    checks = recheck.get_rechecks()
    assert len(checks._kept) == 4
    since = asyncio.get_running_loop().time()
    for kept in checks._kept.values():
        kept.begin(since)
    await until(lambda: all(kept._task is not None and kept._task.done() for kept in checks._kept.values()))
    assert sorted(looks) == ["_look", "_present_on"]
    looks.clear()
    since = asyncio.get_running_loop().time()
    for kept in checks._kept.values():
        kept.begin(since)
    await until(lambda: all(kept._task is not None and kept._task.done() for kept in checks._kept.values()))
    assert sorted(looks) == ["_present_on", "_stamps"]  # nothing has changed: nobody is looked at whole
    assert not [socket for socket in sockets if socket.closed is not None]
    for socket in sockets:
        await socket.__aexit__(None, None, None)
