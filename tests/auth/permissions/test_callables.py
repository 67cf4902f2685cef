"""The callables of ServeOptions, which replace the default rule."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from ninja.errors import HttpError

from tests.api.fixtures import Serve
from tests.api.test_sessions import elsewhere, start
from tests.asgi_client import REMOTE, Client
from tests.auth.permissions.test_users import sign_in
from visionagents_runner import ServeOptions
from visionagents_runner.models import AgentSession

pytestmark = pytest.mark.slow


def remote(client: Client) -> Client:
    return client.like(peer=REMOTE, host="agents.example", scheme="https")


def allow() -> None:
    """Takes nothing: like the default of vision-agents."""


async def test_a_callable_that_returns_none_or_true_opens_its_action_and_no_other(serve: Serve) -> None:
    client = remote(await serve(ServeOptions(can_start_session=allow, can_view_session=lambda request: True)))
    session_id = await start(client)
    assert (await client.get(f"/sessions/{session_id}")).status == 200
    assert len((await client.get("/sessions")).json()["items"]) == 1
    assert (await client.delete(f"/sessions/{session_id}")).status == 401
    assert (await client.get("/metrics")).status == 401


async def test_it_is_told_what_it_names(serve: Serve) -> None:
    told: list[dict[str, Any]] = []

    def can_start(request: HttpRequest, call_id: str, body: Any) -> None:
        told.append({"call_id": call_id, "call_type": body.call_type, "metadata": body.metadata})

    async def can_view(request: HttpRequest, *, session_id: str | None, **kwargs: Any) -> None:
        told.append({"session_id": session_id, "kwargs": kwargs})

    def can_close(call_id: str) -> None:
        told.append({"call_id": call_id})

    client = remote(
        await serve(ServeOptions(can_start_session=can_start, can_view_session=can_view, can_close_session=can_close))
    )
    session_id = await start(client, "a", metadata={"x": 1})
    assert told.pop() == {"call_id": "a", "call_type": "default", "metadata": {"x": 1}}
    await client.post("/calls/b%2Fc/sessions", {"call_type": "t"})
    assert told.pop() == {"call_id": "b/c", "call_type": "t", "metadata": None}
    await client.get(f"/sessions/{session_id}")
    assert told.pop() == {"session_id": session_id, "kwargs": {}}
    await client.get("/sessions")
    assert told.pop() == {"session_id": None, "kwargs": {}}
    # The path does not tell the call here; a rule about calls must hold all the same.
    await client.delete(f"/sessions/{session_id}")
    assert told.pop() == {"call_id": "a"}
    row = await elsewhere(call_id="d")
    await client.delete(f"/sessions/{row.pk}")
    assert told.pop() == {"call_id": "d"}
    await client.delete("/sessions/unknown")
    assert told.pop() == {"call_id": None}


async def test_it_knows_a_session_by_one_id_however_that_was_written(serve: Serve) -> None:
    hidden: set[str | None] = set()

    def can_view(session_id: str | None) -> bool:
        return session_id not in hidden

    client = remote(await serve(ServeOptions(can_start_session=allow, can_view_session=can_view)))
    session_id = await start(client)
    paths = [f"/sessions/{session_id.upper()}{rest}" for rest in ("", "/events", "/transcript")]
    assert [(await client.get(path)).status for path in paths] == [200, 200, 200]
    hidden.add(session_id)
    assert [(await client.get(path)).status for path in paths] == [403, 403, 403]


@pytest.mark.parametrize("path", ["/sessions/{}", "/sessions/unknown", "/calls/my-call/sessions/{}"])
async def test_refusing_comes_before_looking_up(serve: Serve, path: str, allow_local: None) -> None:
    def refuse(request: HttpRequest) -> bool:
        return False

    client = await serve(ServeOptions(can_view_session=refuse, can_close_session=refuse))
    row = await elsewhere()
    for method in ("GET", "DELETE"):
        assert (await client.request(method, path.format(row.pk))).status == 403


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (HttpError(402, "Pay first"), 402, "Pay first"),
        (PermissionDenied("Not on Sundays"), 403, "Not on Sundays"),
        (RuntimeError("broken"), 500, "Internal Server Error"),
    ],
)
@pytest.mark.parametrize("is_async", [True, False])
async def test_what_it_raises_refuses(
    serve: Serve, allow_local: None, error: Exception, status: int, detail: str, is_async: bool
) -> None:
    def refuse() -> None:
        raise error

    async def refuse_async() -> None:
        raise error

    client = await serve(ServeOptions(can_start_session=refuse_async if is_async else refuse))
    answer = await client.post("/sessions", {"call_id": "a"})
    assert (answer.status, answer.detail) == (status, detail)
    assert not await AgentSession.objects.aexists()


@pytest.mark.parametrize("answer", [0, 1, "", "yes", {}, object()])
async def test_an_answer_that_means_nothing_refuses(
    serve: Serve, allow_local: None, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = await serve(ServeOptions(can_view_session=lambda: answer), work=False)
    assert (await client.get("/sessions")).status == 500
    assert "return None or True" in caplog.text


async def test_a_sync_callable_may_query_and_an_async_one_stays_on_the_loop(serve: Serve) -> None:
    threads: list[int] = []

    def can_view() -> bool:
        threads.append(threading.get_ident())
        return AgentSession.objects.count() == 0

    async def can_start() -> bool:
        threads.append(threading.get_ident())
        return await AgentSession.objects.acount() == 0

    client = remote(await serve(ServeOptions(can_view_session=can_view, can_start_session=can_start)))
    assert (await client.get("/sessions")).status == 200
    assert threads.pop() != threading.get_ident()
    await start(client)
    assert threads.pop() == threading.get_ident()
    assert (await client.get("/sessions")).status == 403
    assert (await client.post("/sessions", {"call_id": "a"})).status == 403


async def test_it_finds_the_user_on_the_request_without_middleware(serve: Serve) -> None:
    async def can_view(request: Any) -> bool:
        user = await request.auser()
        return bool(user.is_authenticated and user.username == "caller")

    def can_close(request: HttpRequest) -> bool:
        return request.user.is_authenticated

    serving = await serve(ServeOptions(can_view_session=can_view, can_close_session=can_close, can_start_session=allow))
    caller, user = await sign_in(serving)
    guest, _ = await sign_in(serving, name="guest")
    origin = {"origin": "https://agents.example"}
    answer = await caller.post("/sessions", {"call_id": "a"}, headers=origin)
    session_id = answer.json()["session_id"]
    assert (await AgentSession.objects.aget(pk=session_id)).started_by_id == user.pk
    assert (await caller.get(f"/sessions/{session_id}")).status == 200
    assert (await guest.get(f"/sessions/{session_id}")).status == 403
    assert (await remote(serving).get(f"/sessions/{session_id}")).status == 403
    assert (await remote(serving).delete(f"/sessions/{session_id}")).status == 403
    # A page of another origin must not act by the cookie, whatever the callable thinks of the user.
    for headers in ({}, {"origin": "https://evil.example"}):
        assert (await guest.delete(f"/sessions/{session_id}", headers=headers)).status == 403
    assert (await guest.delete(f"/sessions/{session_id}", headers=origin)).status == 200


async def test_a_callable_object_and_a_method_will_do(serve: Serve) -> None:
    class Rule:
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return False

        async def __call__(self, request: HttpRequest) -> bool:
            return request.headers.get("X-Key") == "k"

        def method(self, request: HttpRequest, session_id: str) -> bool:
            return session_id == "unknown"

    client = remote(await serve(ServeOptions(can_view_session=Rule(), can_close_session=Rule().method), work=False))
    assert (await client.get("/sessions", headers={"x-key": "k"})).status == 200
    assert (await client.get("/sessions")).status == 403
    assert (await client.delete("/sessions/unknown")).status == 404
    assert (await client.delete("/sessions/other")).status == 403


def never(body: Any) -> None:
    raise AssertionError("it was asked")


def never_of_call(call_id: str) -> None:
    raise AssertionError("it was asked")


MALFORMED: list[dict[str, Any]] = [
    {"call_id": 5},
    {"call_id": ".."},
    {"call_id": "a", "call_type": ""},
    {"call_id": "a", "metadata": {"a": "x" * 20_000}},
    {"call_id": "a", "x": [0] * 20_000},
]


@pytest.mark.parametrize("rule", [never, never_of_call])
async def test_what_asks_about_the_body_sees_only_what_is_within_all_bounds(serve: Serve, rule: Any) -> None:
    client = remote(await serve(ServeOptions(can_start_session=rule, can_speak=never), work=False))
    for body in MALFORMED:
        assert (await client.post("/sessions", body)).status == 422
    for body in MALFORMED[2:]:
        if rule is never:
            assert (await client.post("/calls/a/sessions", body)).status == 422
    assert (await client.request("POST", "/calls/%00/sessions")).status == 422
    for text in ("", " ", "x" * 4001, 5):
        assert (await client.post("/sessions/unknown/say", {"text": text})).status == 422


@pytest.mark.parametrize("takes_request", [True, False])
async def test_what_does_not_ask_about_the_body_is_asked_before_it_is_parsed(
    serve: Serve, takes_request: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visionagents_runner.utils.boundedjson.loads", None)

    def refuse() -> bool:
        return False

    def refuse_request(request: HttpRequest) -> bool:
        return False

    rule = refuse_request if takes_request else refuse
    client = remote(await serve(ServeOptions(can_start_session=rule, can_speak=rule), work=False))
    for path in ("/sessions", "/calls/a/sessions", "/sessions/unknown/say", "/sessions/unknown/invitations"):
        assert (await client.request("POST", path, body=b"[" * 100_000)).status == 403
    # Nor is it for somebody whom the rules of this package refuse.
    client = remote(await serve(work=False))
    for path in ("/sessions", "/calls/a/sessions", "/sessions/unknown/say", "/sessions/unknown/invitations"):
        assert (await client.request("POST", path, body=b"[" * 100_000)).status == 401


async def test_what_takes_the_request_may_look_at_its_bytes(serve: Serve) -> None:
    seen: list[bytes] = []

    async def look(request: HttpRequest) -> bool:
        seen.append(request.body)
        return False

    client = remote(await serve(ServeOptions(can_start_session=look, can_close_session=look), work=False))
    for path in ("/sessions", "/calls/a/sessions", "/calls/a/sessions/b/close"):
        assert (await client.request("POST", path, body=b"signed")).status == 403
    assert seen == [b"signed"] * 3


async def test_slow_callables_hold_up_neither_reads_nor_each_other(serve: Serve) -> None:
    ten_there, go_on = threading.Barrier(11), threading.Event()

    def slow() -> None:
        ten_there.wait(20)
        assert go_on.wait(20)

    client = remote(await serve(ServeOptions(can_view_metrics=slow, can_view_session=allow)))
    asking = [asyncio.ensure_future(client.get("/metrics")) for _ in range(10)]
    async with asyncio.timeout(30):
        await asyncio.to_thread(ten_there.wait, 20)
        assert (await client.get("/sessions")).status == 200
        go_on.set()
        assert [answer.status for answer in await asyncio.gather(*asking)] == [200] * 10


async def test_a_callable_that_exits_fails_its_request_alone(serve: Serve) -> None:
    def leave() -> None:
        sys.exit(3)

    async def leave_async() -> None:
        sys.exit(3)

    client = remote(await serve(ServeOptions(can_view_metrics=leave, can_view_session=leave_async)))
    assert (await client.get("/metrics")).status == 500
    assert (await client.get("/sessions")).status == 500
