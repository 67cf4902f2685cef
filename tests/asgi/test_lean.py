"""The lean mount as a server: bodies, hosts, CORS, methods, middleware, and what it leaves out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured, MiddlewareNotUsed, PermissionDenied
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.utils.decorators import sync_and_async_middleware

import tests.agents
from tests.api.fixtures import Serve
from tests.asgi_client import REMOTE, Client
from visionagents_runner import ServeOptions
from visionagents_runner.asgi.lean import LeanAPI, lean_api
from visionagents_runner.conf.settings import foreign_middleware
from visionagents_runner.models import AgentSession

ORIGIN = {"origin": "https://app.example"}
HERE = "tests.asgi.test_lean"


@pytest.fixture
def lean(allow_local: None) -> Client:
    """A client of the lean mount alone, where no worker runs."""
    return Client(LeanAPI(tests.agents.runner))


# Both mounts


async def test_a_method_that_is_not_there_is_refused_with_those_that_are(client: Client) -> None:
    for path, allowed in (
        ("/sessions", "GET, HEAD, POST"),
        ("/health/", "GET, HEAD"),
        ("/calls/a/sessions/b/close", "POST"),
        ("/sessions/00000000-0000-4000-8000-000000000000", "DELETE, GET, HEAD"),
    ):
        for method in ("PUT", "PATCH", "OPTIONS", "TRACE", "BREW"):
            answer = await client.request(method, path)
            assert answer.status == 405
            assert answer.headers["allow"] == allowed
            assert method in answer.detail


async def test_head_is_get_without_the_body(client: Client) -> None:
    answer = await client.request("HEAD", "/health")
    assert answer.status == 200
    assert (await client.request("HEAD", "/sessions/unknown")).status == 404


async def test_a_host_that_is_not_allowed_is_refused(serve: Serve, settings: Any) -> None:
    client = await serve(work=False)
    settings.ALLOWED_HOSTS = ["agents.example", ".friends.example"]
    for host in ("evil.example", "localhost", ""):
        answer = await client.like(host=host).get("/health")
        assert answer.status == 400
    for host in ("agents.example", "agents.example:8000", "a.friends.example", "AGENTS.EXAMPLE"):
        assert (await client.like(host=host).get("/health")).status == 200
    settings.ALLOWED_HOSTS = []
    settings.DEBUG = True
    assert (await client.like(host="localhost:8000").get("/health")).status == 200
    assert (await client.like(host="agents.example").get("/health")).status == 400


async def test_an_unexpected_error_is_a_500_in_json_that_is_logged(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, settings: Any
) -> None:
    def explode(*args: Any) -> Any:
        raise RuntimeError("secret")

    monkeypatch.setattr("visionagents_runner.api.status._measure", explode)
    for debug in (True, False):
        settings.DEBUG = debug
        answer = await client.get("/metrics")
        assert (answer.status, answer.json()) == (500, {"detail": "Internal Server Error"})
    assert "RuntimeError: secret" in caplog.text


async def test_a_database_that_does_not_answer_is_a_503(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db import OperationalError

    def explode(*args: Any) -> Any:
        raise OperationalError("gone")

    with monkeypatch.context() as patch:
        patch.setattr("visionagents_runner.api.sessions.list_page", explode)
        answer = await client.get("/sessions")
    assert (answer.status, answer.detail) == (503, "The database does not answer")
    assert answer.headers["retry-after"]


# Bodies


async def test_a_large_body_is_refused_while_it_streams_in(lean: Client) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 65536
            yield b"x" * 65536

    answer = await lean.request("POST", "/sessions", body=endless())
    assert answer.status == 413
    assert answer.headers["connection"] == "close"
    assert sent <= 1024 * 1024 + 65536

    sent = 0
    answer = await lean.request("POST", "/sessions", body=endless(), headers={"content-length": "10000000"})
    assert (answer.status, sent) == (413, 0)


async def test_a_client_that_leaves_while_it_sends_its_body_is_not_answered(lean: Client) -> None:
    async def broken_off() -> AsyncIterator[bytes]:
        yield b'{"call_'

    messages: list[Any] = []
    scope = lean.scope("POST", "/sessions", [(b"host", b"localhost")])
    parts = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(parts)

    async def send(message: Any) -> None:
        messages.append(message)

    await lean.app(scope, receive, send)
    assert messages == []


async def unread(client: Client, method: str, path: str, *headers: tuple[bytes, bytes]) -> tuple[int, bool]:
    """Return the status of the answer to a request whose body must not be read, and whether the connection ends."""

    async def receive() -> Any:
        raise AssertionError("it was read")

    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    await client.app(client.scope(method, path, [(b"host", client.host.encode()), *headers]), receive, send)
    return messages[0]["status"], (b"Connection", b"close") in messages[0]["headers"]


async def test_no_body_is_read_where_none_is_needed(lean: Client) -> None:
    assert await unread(lean, "GET", "/health") == (200, False)
    assert await unread(lean, "POST", "/calls/a/sessions/b/close") == (404, False)
    # Nor that of somebody who may not send one; what is not worth waiting for ends the connection.
    stranger = lean.like(peer=REMOTE, host="agents.example")
    for path in ("/sessions", "/calls/a/sessions", "/sessions/unknown/say", "/sessions/unknown/invitations"):
        assert await unread(stranger, "POST", path, (b"content-length", b"100")) == (401, False)
    assert await unread(stranger, "POST", "/sessions", (b"content-length", b"100000")) == (401, True)
    assert await unread(stranger, "POST", "/sessions", (b"content-length", b"9999999")) == (413, True)
    assert await unread(stranger, "POST", "/sessions", (b"transfer-encoding", b"chunked")) == (401, True)
    assert await unread(stranger, "POST", "/sessions", (b"content-length", "²".encode("latin1"))) == (401, True)


# What it leaves out


async def test_it_sends_no_request_signals_and_hops_to_no_thread(lean: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("not here")

    with monkeypatch.context() as patch:
        patch.setattr("asgiref.sync.SyncToAsync.__call__", refuse)
        patch.setattr("django.dispatch.Signal.send", refuse)
        patch.setattr("django.dispatch.Signal.asend", refuse)
        assert (await lean.get("/health")).status == 200
        assert (await lean.get("/metrics")).status == 200


async def test_answers_have_a_length_and_a_fixed_type(lean: Client) -> None:
    answer = await lean.get("/health")
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    answer = await lean.request("HEAD", "/health")
    assert answer.body == b""
    assert int(answer.headers["content-length"]) > 0


# CORS


def cors(**options: Any) -> Client:
    from visionagents_runner import Runner

    return Client(LeanAPI(Runner(tests.agents.runner.launchers["default"], ServeOptions(**options))))


async def preflight(client: Client, **headers: str) -> Any:
    wanted = {**ORIGIN, "access-control-request-method": "DELETE", **headers}
    return await client.request("OPTIONS", "/sessions", headers=wanted)


async def test_cors_is_closed_unless_opened(lean: Client) -> None:
    answer = await preflight(lean)
    assert answer.status == 405
    answer = await lean.get("/health", headers=ORIGIN)
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_cors_answers_listed_origins() -> None:
    client = cors(cors_allow_origins={"https://app.example"}, cors_allow_credentials=True)
    answer = await preflight(client)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert answer.headers["access-control-allow-credentials"] == "true"
    answer = await preflight(client, origin="https://evil.example")
    assert answer.status == 400
    assert "origin" in answer.detail
    assert "access-control-allow-origin" not in answer.headers
    # Errors too can be read by the page.
    for path in ("/health", "/sessions", "/sessions?limit=0"):
        answer = await client.like(peer=REMOTE).get(path, headers=ORIGIN)
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "Retry-After" in answer.headers["access-control-expose-headers"]
        assert "Origin" in answer.headers["vary"]


async def test_a_star_answers_everybody_without_credentials() -> None:
    client = cors(cors_allow_origins={"*"})
    answer = await client.get("/health", headers=ORIGIN)
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


# Which projects get it


def test_it_is_on_where_all_middleware_is_djangos(settings: Any) -> None:
    assert foreign_middleware() == []
    assert lean_api(tests.agents.runner) is not None
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "acme.Guard", "acme.Other"]
    assert foreign_middleware() == ["acme.Guard", "acme.Other"]
    assert lean_api(tests.agents.runner) is None
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "API_MIDDLEWARE": ["acme.Guard"]}
    assert foreign_middleware() == ["acme.Other"]


@pytest.mark.parametrize("wanted", [True, False])
def test_the_setting_has_the_last_word(settings: Any, wanted: bool) -> None:
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "LEAN_API": wanted}
    settings.MIDDLEWARE = ["acme.Guard"] if wanted else []
    assert (lean_api(tests.agents.runner) is not None) is wanted


# API_MIDDLEWARE

seen: list[str] = []
Handler = Callable[[HttpRequest], Any]


class SyncMiddleware:
    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> Any:
        seen.append("sync in")
        response = self.get_response(request)
        seen.append("sync out")
        response["X-Sync"] = "1"
        return response


class AsyncMiddleware:
    sync_capable = False
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Awaitable[Any]]) -> None:
        from asgiref.sync import markcoroutinefunction

        self.get_response = get_response
        markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> Any:
        seen.append("async in")
        response = await self.get_response(request)
        seen.append("async out")
        response.set_cookie("seen", "yes")
        return response


@sync_and_async_middleware
def both(get_response: Handler) -> Handler:
    from asgiref.sync import iscoroutinefunction

    if iscoroutinefunction(get_response):

        async def middleware(request: HttpRequest) -> Any:
            seen.append("both async")
            return await get_response(request)

    else:

        def middleware(request: HttpRequest) -> Any:  # type: ignore[misc]
            seen.append("both sync")
            return get_response(request)

    return middleware


def unused(get_response: Handler) -> Handler:
    raise MiddlewareNotUsed


class Guard:
    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> Any:
        if "x-deny" in request.headers:
            raise PermissionDenied("Denied by the guard")
        return self.get_response(request)

    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> HttpResponse | None:
        seen.append(f"view {sorted(kwargs)} {view.csrf_exempt} {view.login_required}")
        return HttpResponse("stopped", status=418) if "x-stop" in request.headers else None


def streaming(get_response: Handler) -> Handler:
    def middleware(request: HttpRequest) -> Any:
        async def parts() -> AsyncIterator[bytes]:
            for part in (b"a", b"b"):
                await asyncio.sleep(0)
                yield part

        return StreamingHttpResponse(parts())

    return middleware


@pytest.fixture
def around(settings: Any, allow_local: None) -> Iterator[Callable[..., Client]]:
    def build(*names: str) -> Client:
        paths = [name if "." in name else f"{HERE}.{name}" for name in names]
        settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "API_MIDDLEWARE": paths}
        return Client(LeanAPI(tests.agents.runner))

    seen.clear()
    yield build
    seen.clear()


async def test_named_middleware_runs_outermost_first_sync_or_async(around: Callable[..., Client]) -> None:
    answer = await around("AsyncMiddleware", "SyncMiddleware", "unused", "both").get("/metrics")
    assert answer.status == 200
    assert answer.headers["x-sync"] == "1"
    assert answer.headers["set-cookie"].startswith("seen=yes")
    assert [each for each in seen if "both" not in each] == ["async in", "sync in", "sync out", "async out"]
    seen.clear()
    answer = await around("SyncMiddleware", "AsyncMiddleware").get("/metrics")
    assert seen == ["sync in", "async in", "async out", "sync out"]
    seen.clear()
    await around("AsyncMiddleware", "both").get("/metrics")
    assert seen == ["async in", "both async", "async out"]


async def test_requests_behind_sync_middleware_do_not_wait_for_each_other(around: Callable[..., Client]) -> None:
    client = around("SyncMiddleware")
    answers = await asyncio.gather(*(client.get("/metrics") for _ in range(5)))
    assert {answer.status for answer in answers} == {200}


async def test_middleware_guards_what_it_guards(around: Callable[..., Client]) -> None:
    client = around("Guard")
    answer = await client.get("/metrics", headers={"x-deny": "1"})
    assert (answer.status, answer.detail) == (403, "Denied by the guard")
    assert (await client.get("/metrics", headers={"x-stop": "1"})).status == 418
    assert (await client.get("/calls/%00/sessions/x")).status == 422
    assert seen[-1] == "view ['call_id', 'session_id'] True False"


async def test_middleware_may_stream(around: Callable[..., Client]) -> None:
    assert (await around("streaming").get("/metrics")).body == b"ab"


async def test_djangos_own_middleware_will_do(around: Callable[..., Client], transactional_db: None) -> None:
    client = around(
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    )
    answer = await client.get("/sessions")
    assert (answer.status, answer.json()["items"]) == (200, [])
    assert answer.headers["x-frame-options"] == "DENY"
    assert (await client.request("POST", "/sessions", body=b"x")).status == 422


def test_middleware_that_cannot_be_imported_is_named(around: Callable[..., Client]) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"acme\.Guard"):
        around("acme.Guard")


# The include mount


@pytest.mark.parametrize("mount", ["include"], indirect=True)
async def test_the_hosts_settings_do_not_break_the_included_api(
    serve: Serve, allow_local: None, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import connections

    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    client = await serve()
    answer = await client.post("/sessions", {"call_id": "a"})
    assert answer.status == 201
    assert await AgentSession.objects.acount() == 1
    assert (await client.like(peer=REMOTE).get("/sessions")).status == 401
    assert (await client.get("/docs")).status == 200


@pytest.mark.django_db(transaction=True)
def test_under_wsgi_a_start_says_why_it_cannot(allow_local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.test import Client as DjangoClient

    client = DjangoClient(headers={"host": "localhost"})
    answer = client.post("/sessions", {"call_id": "a"}, content_type="application/json")
    assert answer.status_code == 503
    assert "WSGI" in answer.json()["detail"]
    assert answer["Retry-After"]
    assert client.get("/sessions").json() == {"items": [], "next": None}
    row = AgentSession.objects.create(call_id="a/b", status="active")
    assert client.get(f"/calls/a/b/sessions/{row.pk}").status_code == 200
    assert client.delete(f"/sessions/{row.pk}").json() == {"success": True}
    row.refresh_from_db()
    assert row.close_requested_at is not None


async def test_a_runner_that_cannot_be_loaded_is_a_503_that_keeps_its_reason(settings: Any) -> None:
    from django.core.handlers.asgi import ASGIHandler

    settings.VISIONAGENTS_RUNNER = {"RUNNER": "nowhere.runner"}
    answer = await Client(ASGIHandler()).get("/health")
    assert answer.status == 503
    assert "nowhere" not in answer.detail


@pytest.mark.slow
def test_loading_the_urls_imports_neither_runner_nor_api() -> None:
    import subprocess
    import sys

    code = """
import django, sys
django.setup()
from django.core.management import call_command
call_command("check")
ours = {"tests.agents", "vision_agents"} | {f"visionagents_runner.{name}" for name in ("api", "registry", "runner")}
assert not ours & set(sys.modules), ours & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
