"""The token that makes a request a local one where the kernel does not tell who sent it."""

from __future__ import annotations

import logging
import stat
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

import tests.agents
from tests.api.fixtures import Serve
from tests.asgi_client import REMOTE, Client
from tests.auth.permissions.test_users import sign_in
from tests.trust import real_doubt
from tests.websockets.calls.client import Socket
from visionagents_runner import ServeOptions
from visionagents_runner.auth import local_processes, local_token
from visionagents_runner.auth.local_token import COOKIE, token_file
from visionagents_runner.models import AgentSession

START = {"call_id": "my-call"}
FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The token, on a machine that does not tell who asks."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(local_processes, "doubt", real_doubt)
    found = local_token.local_token()
    assert found is not None
    return found


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_whoever_shows_it_is_local_and_nobody_else(client: Client, token: str) -> None:
    answer = await client.get("/sessions")
    assert answer.status == 401
    assert "this system does not tell which program sent it" in answer.detail
    assert "local-access" in answer.detail
    assert token not in answer.detail
    assert (await client.get("/sessions", headers=bearer(token))).status == 200
    assert (await client.post("/sessions", START, headers=bearer(token))).status == 201
    for wrong in (token[:-1], token + "x", "", "x" * 10_000, "\u00e9"):
        assert (await client.get("/sessions", headers=bearer(wrong))).status == 401


async def test_it_counts_from_a_container_too_but_not_through_what_says_that_it_is_a_proxy(
    client: Client, token: str
) -> None:
    assert (await client.like(peer=REMOTE).get("/sessions", headers=bearer(token))).status == 200
    for change in ({"x-forwarded-for": "127.0.0.1"}, {"origin": "http://evil.example"}):
        assert (await client.get("/sessions", headers={**bearer(token), **change})).status == 401
    assert (await client.like(host="agents.example").get("/sessions", headers=bearer(token))).status == 401
    old = await client.get("/sessions", headers=bearer(token), http_version="1.0")
    assert old.status == 401


async def test_where_local_requests_do_not_count_it_is_no_key(serve: Serve, token: str) -> None:
    client = await serve(work=False)
    answer = await client.get("/sessions", headers=bearer(token))
    assert (answer.status, answer.detail[:12]) == (401, "This API key")


async def test_who_is_signed_in_besides_starts_in_their_own_name(client: Client, token: str) -> None:
    signed_in, user = await sign_in(client)
    answer = await signed_in.like(host="localhost:8000").post("/sessions", START, headers=bearer(token))
    assert answer.status == 201
    assert (await AgentSession.objects.aget()).started_by_id == user.pk


async def test_a_callable_of_the_project_replaces_the_rule(serve: Serve, allow_local: None, token: str) -> None:
    client = await serve(ServeOptions(can_view_session=lambda request: False), work=False)
    assert (await client.get("/sessions", headers=bearer(token))).status == 403


# The browser's way


async def show(client: Client, token: str, path: str = "/local-access", **headers: str) -> Any:
    return await client.request("POST", path, body=urlencode({"token": token}).encode(), headers={**FORM, **headers})


@pytest.fixture
def django(client: Client) -> Client:
    from django.core.handlers.asgi import ASGIHandler

    return Client(ASGIHandler())


async def test_the_page_gives_a_browser_a_cookie_that_no_script_reads_and_no_other_site_sends(
    client: Client, django: Client, token: str
) -> None:
    answer = await django.get("/local-access")
    assert answer.status == 200
    assert token not in answer.body.decode()
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
    answer = await show(django, token)
    assert (answer.status, answer.headers["location"]) == (302, "/")
    cookie = answer.headers["set-cookie"]
    assert token not in cookie
    assert {"HttpOnly", "Path=/", "SameSite=Strict"} <= set(cookie.split("; "))
    sent = {"cookie": cookie.partition(";")[0]}
    same = {**sent, "origin": "http://localhost:8000"}
    assert (await client.get("/sessions", headers=sent)).status == 200
    assert (await client.post("/sessions", START, headers=same)).status == 201
    for origin in ("http://localhost:3000", "http://evil.example", "null"):
        assert (await client.post("/sessions", START, headers={**sent, "origin": origin})).status == 401
    without = await client.post("/sessions", START, headers=sent)
    assert (without.status, "needs an Origin" in without.detail) == (401, True)
    forged = {**same, "cookie": f"{COOKIE}=local:1xYEH9:x8mx9WOhjIQDUG197zKkhzSk1EMwRo1JnsRiFVcbNNc"}
    assert (await client.get("/sessions", headers=forged)).status == 401


async def test_a_wrong_token_gives_nothing(django: Client, token: str) -> None:
    for wrong in ("", "x", token + "x"):
        answer = await show(django, wrong)
        assert (answer.status, "set-cookie" in answer.headers) == (403, False)
        assert "not the token" in answer.body.decode()


async def test_it_goes_on_within_this_site_only(django: Client, token: str) -> None:
    for then, where in (
        ("/call/default/x/", "/call/default/x/"),
        ("//evil.example/", "/"),
        ("https://evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("javascript:alert(1)", "/"),
    ):
        answer = await show(django, token, f"/local-access?{urlencode({'next': then})}")
        assert answer.headers["location"] == where


async def test_where_local_requests_do_not_count_the_page_says_so(serve: Serve, token: str) -> None:
    from django.core.handlers.asgi import ASGIHandler

    await serve(work=False)
    answer = await show(Client(ASGIHandler()), token)
    assert (answer.status, "set-cookie" in answer.headers) == (403, False)
    assert "everybody signs in" in answer.body.decode()


async def test_a_websocket_takes_the_cookie_from_pages_of_this_site_alone(
    client: Client, django: Client, token: str
) -> None:
    from visionagents_runner.asgi.application import AgentsApplication

    cookie = (await show(django, token)).headers["set-cookie"].partition(";")[0]
    application = AgentsApplication(tests.agents.runner)
    application.managed = True
    for origin, word in (
        ("http://localhost:8000", "welcome"),
        ("http://localhost:3000", "sign_in"),
        (None, "sign_in"),
    ):
        headers = {"cookie": cookie} if origin is None else {"cookie": cookie, "origin": origin}
        async with Socket(application, "/ws/sessions/", headers=headers) as socket:
            if word == "welcome":
                await socket.hello()
            else:
                assert (await socket.refused())[0] == word


# The file


def test_only_its_owner_reads_the_file_and_it_is_made_once(token: str) -> None:
    assert stat.S_IMODE(token_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(token_file().parent.stat().st_mode) == 0o700
    assert local_token.local_token() == token == token_file().read_text()
    assert len(token) >= 43


def test_who_has_no_place_for_it_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert local_token.local_token() is None
    assert not local_token.is_local_token("")
    assert not local_token.is_local_cookie("x")


async def test_it_is_in_no_log(client: Client, django: Client, token: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await client.get("/sessions", headers=bearer(token))
    await client.get("/sessions", headers=bearer(token + "x"))
    await show(django, token)
    assert token not in caplog.text
