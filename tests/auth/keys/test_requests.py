"""API keys over REST, in both mounts and both route families."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError
from django.db.models.functions import Now
from django.http import HttpRequest
from django.test import Client as DjangoClient
from django.test import RequestFactory
from ninja.errors import HttpError

import tests.agents
from tests.api.fixtures import Serve
from tests.api.test_sessions import elsewhere, start
from tests.asgi_client import LOOPBACK, REMOTE, Client
from tests.auth.keys.fixtures import make_key, present, user, with_key
from tests.auth.permissions.test_users import ALL, sign_in
from visionagents_runner import ServeOptions
from visionagents_runner.auth import keys, permissions
from visionagents_runner.auth.permissions import Action
from visionagents_runner.models import AgentKey, AgentSession, Scope, SessionEvent
from visionagents_runner.store import database

pytestmark = pytest.mark.slow

ROUTES = [
    ("POST", "/sessions", "start"),
    ("POST", "/calls/my-call/sessions", "start"),
    ("GET", "/sessions", "view"),
    ("GET", "/calls/my-call/sessions", "view"),
    ("GET", "/sessions/{}", "view"),
    ("GET", "/calls/my-call/sessions/{}", "view"),
    ("DELETE", "/sessions/{}", "close"),
    ("DELETE", "/calls/my-call/sessions/{}", "close"),
    ("POST", "/calls/my-call/sessions/{}/close", "close"),
    ("GET", "/metrics", "metrics"),
    ("GET", "/calls/my-call/sessions/{}/metrics", "metrics"),
]


async def test_a_key_starts_views_measures_and_closes(serve: Serve) -> None:
    client, row = await with_key(await serve(), "start", "view", "close", "metrics")
    session_id = await start(client)
    session = await AgentSession.objects.aget(pk=session_id)
    assert session.started_by_id == row.owner_id
    assert (await client.get(f"/sessions/{session_id}")).json()["status"] == "active"
    assert len((await client.get("/sessions")).json()["items"]) == 1
    assert (await client.get("/metrics")).status == 200
    assert (await client.get(f"/calls/my-call/sessions/{session_id}/metrics")).status == 200
    assert (await client.delete(f"/sessions/{session_id}")).json() == {"success": True}

    answer = await client.post("/calls/another/sessions", {})
    assert answer.status == 201
    path = f"/calls/another/sessions/{answer.json()['session_id']}"
    assert (await client.get(path)).status == 200
    assert (await client.delete(path)).status == 202


async def test_the_history_says_which_key_started_and_closed(serve: Serve) -> None:
    client, row = await with_key(await serve(), "start", "close")
    session_id = await start(client)
    await client.delete(f"/sessions/{session_id}")

    async def data_of(kind: str) -> dict[str, Any]:
        return (await SessionEvent.objects.aget(session_id=session_id, kind=kind)).data

    assert await data_of("requested") == {"source": f"api key va_{row.prefix}"}
    async with asyncio.timeout(10):
        while not await SessionEvent.objects.filter(session_id=session_id, kind="close_requested").aexists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert (await data_of("close_requested"))["by"] == f"caller (key va_{row.prefix})"


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES)
async def test_a_scope_that_is_missing_is_named_before_anything_is_looked_up(
    serve: Serve, method: str, path: str, scope: str
) -> None:
    # A key that may start may also look at what its owner started.
    others = [each for each in Scope.values if each != scope and not (scope == "view" and each == "start")]
    client, key = await with_key(await serve(), *others)
    row = await elsewhere(started_by_id=key.owner_id)
    for session_id in (row.pk, "unknown"):
        answer = await client.request(method, path.format(session_id), data={"call_id": "a"})
        assert answer.status == 403
        assert f"va_{key.prefix} needs the scope {scope} " in answer.detail
    await row.arefresh_from_db()
    assert row.close_requested_at is None
    assert await AgentSession.objects.acount() == 1


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES)
async def test_its_scopes_are_enough_and_its_owners_permissions_are_not(
    serve: Serve, method: str, path: str, scope: str
) -> None:
    client, key = await with_key(await serve(), scope)
    row = await elsewhere(started_by_id=key.owner_id)
    answer = await client.request(method, path.format(row.pk), data={"call_id": "a"})
    assert answer.status in {200, 201, 202}

    other = "metrics" if scope != "metrics" else "close"
    client, _ = await with_key(client, other, owner="root")
    root = await sync_to_async(user)("root")
    root.is_superuser = True
    await root.asave()
    answer = await client.request(method, path.format(row.pk), data={"call_id": "a"})
    assert answer.status == 403


@pytest.mark.parametrize("action", list(Action))
async def test_every_action_has_its_scope(transactional_db: None, action: Action) -> None:
    scope = next(scope.value for scope in Scope if scope.permission == action.permission)
    others = [each for each in Scope.values if each not in {scope, "start"}]
    for scopes, allowed in (([scope], True), (others, False)):
        row, plain = await sync_to_async(make_key)(*scopes)
        request = RequestFactory().post("/", headers={"authorization": f"Bearer {plain}"})
        if allowed:
            access = await permissions.authorize(request, tests.agents.runner, action)
            assert access.user_id == row.owner_id
            assert access.sees_all == ("view" in scopes)
        else:
            with pytest.raises(HttpError, match=f"needs the scope {scope} ") as raised:
                await permissions.authorize(request, tests.agents.runner, action)
            assert raised.value.status_code == 403
    await uses_written()


async def test_without_the_scope_view_only_the_owners_sessions_exist(serve: Serve) -> None:
    serving = await serve()
    client, key = await with_key(serving, "start", "close", "metrics")
    other = await elsewhere(started_by=await sync_to_async(user)("guest"))
    nobodys = await elsewhere(started_by=None)
    mine = await elsewhere(started_by_id=key.owner_id)
    live = await start(client)
    for path in ("/sessions", "/calls/my-call/sessions"):
        listed = (await client.get(path)).json()["items"]
        assert {item["session_id"] for item in listed} == {live, str(mine.pk)}
    assert (await client.get(f"/sessions/{live}")).status == 200
    assert (await client.get(f"/calls/my-call/sessions/{mine.pk}")).status == 200
    for row in (other, nobodys):
        for method, path in (
            ("GET", f"/sessions/{row.pk}"),
            ("DELETE", f"/sessions/{row.pk}"),
            ("GET", f"/calls/my-call/sessions/{row.pk}"),
            ("GET", f"/calls/my-call/sessions/{row.pk}/metrics"),
            ("DELETE", f"/calls/my-call/sessions/{row.pk}"),
            ("POST", f"/calls/my-call/sessions/{row.pk}/close"),
        ):
            answer = await client.request(method, path)
            assert (answer.status, answer.detail) == (404, f"Session with id '{row.pk}' not found")
    await other.arefresh_from_db()
    assert other.close_requested_at is None

    # Its owner sees them too, and so does another key of theirs; with the scope, it sees all.
    again, _ = await with_key(serving, "start")
    assert (await again.get(f"/sessions/{live}")).status == 200
    viewer, _ = await with_key(serving, "view", owner="viewer")
    assert (await viewer.get(f"/sessions/{live}")).status == 200
    assert len((await viewer.get("/sessions")).json()["items"]) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "va_",
        "made-up",
        "va_0123456789_" + "x" * 43,
        "va_0123456789_" + "x" * 42,
        "VA_0123456789_" + "x" * 43,
        "va_0123456789_" + "x" * 100_000,
        "va_012345678\N{KELVIN SIGN}_".encode().decode("latin1") + "x" * 43,
    ],
)
async def test_what_is_no_key_is_refused_even_on_the_same_machine(serve: Serve, allow_local: None, wrong: str) -> None:
    local = await serve()
    assert (await local.get("/sessions")).status == 200
    for client in (local.like(headers={"authorization": f"Bearer {wrong}"}), present(local, wrong)):
        for method, path, _ in ROUTES:
            answer = await client.request(method, path.format("unknown"), data={"call_id": "a"})
            assert answer.status == 401
            assert answer.detail.startswith("This API key is not valid")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert wrong[20:] not in answer.detail or not wrong[20:]
    assert not await AgentSession.objects.aexists()


async def test_a_right_prefix_with_a_wrong_secret_is_refused(serve: Serve) -> None:
    serving = await serve()
    row, plain = await sync_to_async(make_key)("view")
    wrong = plain[:-1] + ("0" if plain[-1] != "0" else "1")
    for presented in (wrong, plain.swapcase().replace("VA_", "va_").lower(), f"{plain}x", f"va_{row.prefix}_"):
        if presented != plain:
            assert (await present(serving, presented).get("/sessions")).status == 401
    assert (await present(serving, plain).get("/sessions")).status == 200


async def test_a_revoked_key_counts_no_longer(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client, row = await with_key(await serve(), "view")
    assert (await client.get("/sessions")).status == 200
    assert await sync_to_async(keys.revoke_key)(row, by="operator")
    answer = await client.get("/sessions")
    assert (answer.status, answer.detail) == (401, "This API key was revoked")


async def test_a_revocation_by_another_process_counts_once_the_key_is_looked_up_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, row = await with_key(await serve(), "view")
    clock = Clock(monkeypatch)
    assert (await client.get("/sessions")).status == 200
    await sync_to_async(AgentKey.objects.filter(pk=row.pk).revoke)("operator")
    assert (await client.get("/sessions")).status == 200
    clock.now += keys.CACHE_SECONDS + 0.01
    assert (await client.get("/sessions")).status == 401


async def test_a_key_expires_to_the_moment(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client, row = await with_key(await serve(), "view", expires_in=timedelta(seconds=3))
    clock = Clock(monkeypatch)
    assert (await client.get("/sessions")).status == 200
    # It is remembered for no longer than it lives.
    clock.now += 3.01
    await AgentKey.objects.filter(pk=row.pk).aupdate(expires_at=Now() - timedelta(seconds=0.01))
    answer = await client.get("/sessions")
    assert (answer.status, answer.detail) == (401, "This API key has expired")


async def test_a_key_whose_owner_is_deactivated_or_gone_is_void(serve: Serve) -> None:
    client, _ = await with_key(await serve(), "view")
    owner = await sync_to_async(user)("caller")
    for change in ("deactivated", "back", "gone"):
        owner.is_active = change == "back"
        await owner.asave()
        if change == "gone":
            await owner.adelete()
        keys.forget()
        answer = await client.get("/sessions")
        assert answer.status == (200 if change == "back" else 401)
    assert await AgentKey.objects.acount() == 1


async def test_a_key_counts_alone_on_the_same_machine_and_beside_a_cookie(serve: Serve, allow_local: None) -> None:
    serving = await serve()
    client, _ = await with_key(serving, "metrics")
    local = serving.like(headers=client.headers)
    assert local.peer == LOOPBACK
    assert (await local.get("/metrics")).status == 200
    assert (await local.get("/sessions")).status == 403

    signed_in, _ = await sign_in(serving, *ALL, name="root")
    both = client.like(headers={**client.headers, **signed_in.headers})
    assert (await signed_in.get("/sessions")).status == 200
    assert (await both.get("/metrics")).status == 200
    assert (await both.get("/sessions")).status == 403


async def test_other_schemes_of_authorization_mean_nothing_here(serve: Serve) -> None:
    signed_in, _ = await sign_in(await serve(), *ALL)
    with_basic = signed_in.like(headers={**signed_in.headers, "authorization": "Basic Y2FsbGVyOnNlY3JldA=="})
    assert (await with_basic.get("/sessions")).status == 200


async def test_the_scheme_is_read_in_any_case_and_two_credentials_are_none(serve: Serve) -> None:
    serving = await serve()
    _, plain = await sync_to_async(make_key)("view")
    remote = present(serving, plain)
    for header in (f"bearer {plain}", f"BEARER  {plain} "):
        assert (await remote.like(headers={"authorization": header}).get("/sessions")).status == 200
    for header in (f"Bearer {plain}, Bearer {plain}", f"Bearer {plain} {plain}", "Bearer"):
        assert (await remote.like(headers={"authorization": header}).get("/sessions")).status == 401
    for query in (f"?key={plain}", f"?access_token={plain}"):
        assert (await remote.like(headers={}).get(f"/sessions{query}")).status == 401


async def test_a_key_needs_no_origin_and_cors_lets_a_listed_page_send_it(serve: Serve, mount: str) -> None:
    client, _ = await with_key(await serve(ServeOptions(cors_allow_origins={"https://app.example"})), "start")
    for headers in ({}, {"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "https://app.example"}):
        answer = await client.post("/sessions", {"call_id": "a"}, headers=headers)
        assert answer.status == 201
    if mount == "lean":  # the other one has the host's middleware for it
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        preflight = client.like(headers={"origin": "https://app.example", **asked})
        answer = await preflight.request("OPTIONS", "/sessions")
        assert answer.status == 200
        assert "authorization" in answer.headers["access-control-allow-headers"].lower()
        answer = await preflight.like(headers={"origin": "https://evil.example", **asked}).request(
            "OPTIONS", "/sessions"
        )
        assert "access-control-allow-origin" not in answer.headers


# Callables of ServeOptions


async def test_a_callable_replaces_the_rule_and_may_ask_for_the_key(serve: Serve) -> None:
    async def can_view(request: HttpRequest) -> bool:
        try:
            key = await keys.key_of(request)
        except keys.InvalidKey as error:
            raise HttpError(401, str(error)) from None
        return key is not None and "transcript" in key.scopes

    serving = await serve(ServeOptions(can_view_session=can_view, can_start_session=lambda: True))
    reader, _ = await with_key(serving, "transcript")
    viewer, _ = await with_key(serving, "view")
    assert (await reader.get("/sessions")).status == 200
    assert (await viewer.get("/sessions")).status == 403
    assert (await present(serving, "made-up").get("/sessions")).status == 401
    # Its start rule lets everybody in: who had a key is recorded, and a token of another kind is its own business.
    for client, source in ((viewer, "api key va_"), (present(serving, "header.payload.signature"), "api")):
        session = await AgentSession.objects.aget(pk=await start(client, f"call of {source}"))
        assert session.source.startswith(source)
        assert (session.started_by_id is None) == (source == "api")


async def test_a_key_is_not_the_user_of_a_callable(serve: Serve) -> None:
    def can_view(request: HttpRequest) -> bool:
        return request.user.is_authenticated

    client, _ = await with_key(await serve(ServeOptions(can_view_session=can_view)), "metrics")
    assert (await client.get("/sessions")).status == 403


# The hot path


async def test_a_read_from_memory_with_a_key_neither_queries_nor_leaves_the_loop(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = await with_key(await serve(), "start", "view")
    session_id = await start(client)
    await uses_written()

    async def never(*args: Any) -> Any:
        raise AssertionError("it queried")

    monkeypatch.setattr(database, "read", never)
    monkeypatch.setattr(database, "write", never)
    for _ in range(3):
        assert (await client.get(f"/sessions/{session_id}")).status == 200


async def test_a_key_that_cannot_be_looked_up_is_not_taken_for_a_wrong_one(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = await with_key(await serve(), "metrics")
    read = database.read

    async def down(*args: Any) -> Any:
        raise OperationalError("the database is away")

    monkeypatch.setattr(database, "read", down)
    assert (await client.get("/metrics")).status == 503
    monkeypatch.setattr(database, "read", read)
    assert (await client.get("/metrics")).status == 200


@pytest.mark.parametrize("mount", ["lean"], indirect=True)
async def test_made_up_keys_push_out_none_in_use_and_memory_is_bounded(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_MOST", 8)
    client, _ = await with_key(await serve(), "metrics")
    assert (await client.get("/metrics")).status == 200
    for number in range(50):
        made_up = present(client, f"va_{number:010}_" + "x" * 43)
        assert (await made_up.get("/metrics")).status == 401
    assert len(keys._invalid._entries) == 8
    monkeypatch.setattr(database, "read", None)
    assert (await client.get("/metrics")).status == 200


async def test_the_last_use_is_written_at_most_once_a_minute(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client, row = await with_key(await serve(), "metrics")
    assert row.last_used_at is None
    clock = Clock(monkeypatch)
    await client.get("/metrics")
    await uses_written()
    await row.arefresh_from_db()
    first = row.last_used_at
    assert first is not None
    clock.now += keys.USE_SECONDS - 1
    await client.get("/metrics")
    assert not keys._writing
    # Another process wrote it less than a minute ago.
    clock.now += 2
    await client.get("/metrics")
    await uses_written()
    await row.arefresh_from_db()
    assert row.last_used_at == first
    await AgentKey.objects.aupdate(last_used_at=Now() - timedelta(seconds=61))
    clock.now += keys.USE_SECONDS + 1
    await client.get("/metrics")
    await uses_written()
    await row.arefresh_from_db()
    assert row.last_used_at > first


async def test_a_use_that_cannot_be_written_fails_nobodys_request(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client, row = await with_key(await serve(), "metrics")

    async def broken(*args: Any) -> Any:
        raise OperationalError("the database is away")

    monkeypatch.setattr(database, "write", broken)
    assert (await client.get("/metrics")).status == 200
    await uses_written()
    assert f"The last use of API key va_{row.prefix} was not written down" in caplog.text


async def test_no_log_line_holds_a_secret(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    row, plain = await sync_to_async(make_key)("start")
    client = present(await serve(), plain)
    await start(client)
    await client.get("/metrics")
    await sync_to_async(keys.revoke_key)(row, by="operator")
    await client.get("/metrics")
    await uses_written()
    assert f"API key va_{row.prefix} (backend) of caller was made by test, for start" in caplog.text
    assert f"API key va_{row.prefix} (backend) was revoked by operator" in caplog.text
    assert plain.rpartition("_")[2] not in caplog.text


# Elsewhere than over REST


async def test_a_websocket_handshake_presents_a_key_alike(transactional_db: None) -> None:
    _, plain = await sync_to_async(make_key)("view")
    scope = {"type": "websocket", "headers": [(b"host", b"x"), (b"authorization", f"Bearer {plain}".encode())]}
    credential = keys.bearer_of_scope(scope)
    assert credential == plain
    assert (await keys.verify(credential)).scopes == {"view"}
    assert keys.bearer_of_scope({"headers": []}) is None
    await uses_written()


async def test_under_wsgi_a_key_is_found_in_the_header(transactional_db: None) -> None:
    _, plain = await sync_to_async(make_key)("view")
    request = RequestFactory().get("/", headers={"authorization": f"Bearer {plain}"})
    who = await permissions.identify(request, (Action.VIEW.permission, Action.START.permission))
    assert who is not None
    assert who.permissions == {Action.VIEW.permission}
    await uses_written()


@pytest.mark.django_db(transaction=True)
def test_a_whole_request_under_wsgi_leaves_no_task_behind(caplog: pytest.LogCaptureFixture) -> None:
    _, plain = make_key("view")
    for _ in range(3):
        answer = DjangoClient().get("/sessions", headers={"authorization": f"Bearer {plain}"})
        assert answer.status_code == 200
    assert DjangoClient().get("/sessions", headers={"authorization": f"Bearer {plain}x"}).status_code == 401
    assert not keys._writing
    assert [record.getMessage() for record in caplog.records] == ["Unauthorized: /sessions"]


async def test_the_schema_names_the_bearer_scheme(client: Client) -> None:
    schema = (await client.like(peer=REMOTE).get("/openapi.json")).json()
    scheme = schema["components"]["securitySchemes"]["key"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert {"key": []} in schema["paths"]["/sessions"]["post"]["security"]
    assert "security" not in schema["paths"]["/health"]["get"]


class Clock:
    """The monotonic clock of `keys`, in the hands of a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(keys, "time", SimpleNamespace(monotonic=lambda: self.now))


async def uses_written() -> None:
    await asyncio.gather(*keys._writing)
