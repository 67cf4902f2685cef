"""Signed-in users: the model permissions, one's own sessions, and the Origin of what changes something."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client as DjangoClient

from tests.api.fixtures import Serve
from tests.api.test_sessions import elsewhere
from tests.asgi_client import REMOTE, Client
from visionagents_runner import ServeOptions
from visionagents_runner.models import AgentSession

pytestmark = pytest.mark.slow

ORIGIN = {"origin": "https://agents.example"}
ALL = ("start_agentsession", "close_agentsession", "view_agentsession", "view_metrics")


@sync_to_async
def sign_in(client: Client, *permissions: str, name: str = "caller", **fields: Any) -> tuple[Client, Any]:
    """Return ``client`` on another machine, signed in as a new user with these permissions, and the user."""
    user = get_user_model().objects.create_user(name, password="secret", **fields)  # type: ignore[attr-defined]
    user.user_permissions.set(
        Permission.objects.filter(content_type__app_label="visionagents_runner", codename__in=permissions)
    )
    browser = DjangoClient()
    browser.force_login(user)
    cookie = "; ".join(f"{morsel.key}={morsel.value}" for morsel in browser.cookies.values())
    return client.like(peer=REMOTE, host="agents.example", scheme="https", headers={"cookie": cookie}), user


async def test_nobody_is_asked_to_sign_in(serve: Serve) -> None:
    client = (await serve()).like(peer=REMOTE, host="agents.example")
    row = await elsewhere()
    for method, path in (
        ("POST", "/sessions"),
        ("POST", "/calls/my-call/sessions"),
        ("GET", "/sessions"),
        ("GET", "/calls/my-call/sessions"),
        ("GET", f"/sessions/{row.pk}"),
        ("GET", "/sessions/unknown"),
        ("DELETE", f"/sessions/{row.pk}"),
        ("DELETE", "/sessions/unknown"),
        ("GET", f"/calls/my-call/sessions/{row.pk}"),
        ("GET", f"/calls/my-call/sessions/{row.pk}/metrics"),
        ("POST", f"/calls/my-call/sessions/{row.pk}/close"),
        ("DELETE", "/calls/my-call/sessions/unknown"),
        ("GET", "/metrics"),
    ):
        for cookie in ("", "sessionid=made-up", "sessionid=", "sessionid=../../etc"):
            answer = await client.request(method, path, headers={"cookie": cookie})
            assert (answer.status, answer.detail[:7]) == (401, "Sign in"), (method, path)


async def test_a_user_with_the_permissions_may_do_everything(serve: Serve) -> None:
    client, user = await sign_in(await serve(), *ALL)
    answer = await client.post("/sessions", {"call_id": "my-call"}, headers=ORIGIN)
    assert answer.status == 201
    row = await AgentSession.objects.aget(pk=answer.json()["session_id"])
    assert row.started_by_id == user.pk
    assert (await client.get(f"/sessions/{row.pk}")).status == 200
    assert (await client.get("/metrics")).status == 200
    assert (await client.delete(f"/sessions/{row.pk}", headers=ORIGIN)).status == 200


@pytest.mark.parametrize(
    ("method", "path", "permission"),
    [
        ("POST", "/sessions", "start_agentsession"),
        ("POST", "/calls/my-call/sessions", "start_agentsession"),
        ("DELETE", "/sessions/{}", "close_agentsession"),
        ("DELETE", "/calls/my-call/sessions/{}", "close_agentsession"),
        ("POST", "/calls/my-call/sessions/{}/close", "close_agentsession"),
        ("GET", "/metrics", "view_metrics"),
        ("GET", "/calls/my-call/sessions/{}/metrics", "view_metrics"),
    ],
)
async def test_what_is_missing_is_named(serve: Serve, method: str, path: str, permission: str) -> None:
    others = [each for each in ALL if each != permission]
    client, _ = await sign_in(await serve(), *others)
    row = await elsewhere()
    for session_id in (row.pk, "unknown"):
        answer = await client.request(method, path.format(session_id), data={"call_id": "a"}, headers=ORIGIN)
        assert answer.status == 403
        assert f"visionagents_runner.{permission}" in answer.detail
    await row.arefresh_from_db()
    assert row.close_requested_at is None


async def test_without_the_view_permission_only_ones_own_sessions_exist(serve: Serve) -> None:
    serving = await serve()
    client, user = await sign_in(serving, "start_agentsession", "close_agentsession", "view_metrics")
    other = await elsewhere()
    nobodys = await elsewhere(started_by=None)
    mine = await elsewhere(started_by=user)
    live = (await client.post("/sessions", {"call_id": "my-call"}, headers=ORIGIN)).json()["session_id"]

    listed = (await client.get("/sessions")).json()["items"]
    assert {item["session_id"] for item in listed} == {live, str(mine.pk)}
    listed = (await client.get("/calls/my-call/sessions")).json()["items"]
    assert {item["session_id"] for item in listed} == {live, str(mine.pk)}
    for session_id in (live, mine.pk):
        assert (await client.get(f"/sessions/{session_id}")).status == 200
        assert (await client.get(f"/calls/my-call/sessions/{session_id}/metrics")).status == 200
    for row in (other, nobodys):
        for method, path in (
            ("GET", f"/sessions/{row.pk}"),
            ("DELETE", f"/sessions/{row.pk}"),
            ("GET", f"/calls/my-call/sessions/{row.pk}"),
            ("GET", f"/calls/my-call/sessions/{row.pk}/metrics"),
            ("DELETE", f"/calls/my-call/sessions/{row.pk}"),
        ):
            answer = await client.request(method, path, headers=ORIGIN)
            assert (answer.status, answer.detail) == (404, f"Session with id '{row.pk}' not found")
    await other.arefresh_from_db()
    assert other.close_requested_at is None

    stranger, _ = await sign_in(serving, name="guest")
    assert (await stranger.get(f"/sessions/{live}")).status == 404
    assert (await stranger.get("/sessions")).json()["items"] == []
    viewer, _ = await sign_in(serving, "view_agentsession", name="viewer")
    assert (await viewer.get(f"/sessions/{live}")).status == 200
    assert len((await viewer.get("/sessions")).json()["items"]) == 4


async def test_what_changes_something_by_a_cookie_needs_the_same_or_a_listed_origin(serve: Serve) -> None:
    serving = await serve(ServeOptions(cors_allow_origins={"https://app.example", "*"}))
    client, _ = await sign_in(serving, *ALL)
    row = await elsewhere()
    for origin in (None, "null", "https://evil.example", "http://agents.example", "https://agents.example:8443", "*"):
        headers = {} if origin is None else {"origin": origin}
        for method, path in (
            ("POST", "/sessions"),
            ("DELETE", f"/sessions/{row.pk}"),
            ("POST", f"/calls/my-call/sessions/{row.pk}/close"),
        ):
            answer = await client.request(method, path, data={"call_id": "a"}, headers=headers)
            assert answer.status == 403
            assert "rigin" in answer.detail
        assert (await client.get(f"/sessions/{row.pk}", headers=headers)).status == 200
    assert await AgentSession.objects.acount() == 1
    for origin in ("https://agents.example", "https://agents.example:443", "https://app.example"):
        assert (await client.post("/sessions", {"call_id": "a"}, headers={"origin": origin})).status == 201


async def test_a_local_start_keeps_who_is_signed_in(client: Client) -> None:
    signed_in, user = await sign_in(client)
    local = client.like(headers=signed_in.headers)
    answer = await local.post("/sessions", {"call_id": "a"})
    assert answer.status == 201
    assert (await AgentSession.objects.aget(pk=answer.json()["session_id"])).started_by_id == user.pk
    assert (await client.post("/sessions", {"call_id": "a"})).status == 201


async def test_a_session_that_is_no_longer_valid_is_nobodys(serve: Serve, settings: Any) -> None:
    serving = await serve()
    client, user = await sign_in(serving, *ALL)
    user.is_active = False
    await user.asave()
    assert (await client.get("/sessions")).status == 401
    user.is_active = True
    await user.asave()
    assert (await client.get("/sessions")).status == 200
    user.set_password("another")
    await user.asave()
    assert (await client.get("/sessions")).status == 401

    client, user = await sign_in(serving, *ALL, name="guest")
    settings.AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.AllowAllUsersModelBackend"]
    assert (await client.get("/sessions")).status == 401
    settings.AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.ModelBackend"]
    await user.adelete()
    assert (await client.get("/sessions")).status == 401


async def test_a_session_signed_with_a_former_secret_stays_signed_in(serve: Serve, settings: Any) -> None:
    client, _ = await sign_in(await serve(), *ALL)
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "a new secret"
    for _ in range(2):
        assert (await client.get("/sessions")).status == 200


@pytest.mark.parametrize("engine", ["signed_cookies", "cached_db", "file"])
async def test_any_session_engine_will_do(serve: Serve, settings: Any, engine: str, tmp_path: Any) -> None:
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    settings.SESSION_FILE_PATH = str(tmp_path)
    settings.SESSION_COOKIE_NAME = "elsewhere"
    client, _ = await sign_in(await serve(), *ALL)
    assert "elsewhere=" in client.headers["cookie"]
    assert (await client.get("/sessions")).status == 200


async def test_a_superuser_needs_no_permission(serve: Serve) -> None:
    client, _ = await sign_in(await serve(), is_superuser=True)
    assert (await client.post("/sessions", {"call_id": "a"}, headers=ORIGIN)).status == 201
