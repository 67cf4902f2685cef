"""What one user, key or address may ask of the API, and what whoever asks for more is told."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial
from typing import Any

import pytest

from tests.api.fixtures import Serve, allow_local, client, mount, serve
from tests.api.test_sessions import elsewhere, start
from tests.asgi_client import REMOTE, Answer, Client
from tests.auth.keys.fixtures import present, with_key
from tests.auth.permissions.test_users import ALL, ORIGIN, sign_in
from tests.conftest import until
from visionagents_runner import ServeOptions, quotas
from visionagents_runner.api import history
from visionagents_runner.auth import keys, permissions
from visionagents_runner.models import AgentSession, EndReason
from visionagents_runner.quotas import holdings
from visionagents_runner.store import database
from visionagents_runner.websockets.handshake import HandshakeRequest

__all__ = ["allow_local", "client", "mount", "serve"]

ELSEWHERE = ("198.51.100.9", 50000)

lean = pytest.mark.parametrize("mount", ["lean"], indirect=True)


def refused(answer: Answer, words: str) -> None:
    assert answer.status == 429, answer.body
    assert words in answer.detail
    assert int(answer.headers["retry-after"]) >= 1


async def test_one_key_starts_only_so_many_and_others_go_on(serve: Serve, limit: Any) -> None:
    limit(starts_per_identity="1/m burst 2")
    client = await serve()
    mine, _ = await with_key(client, "start")
    other, _ = await with_key(client, "start", name="other")
    for path in ("/sessions", "/calls/my-call/sessions"):
        assert (await mine.post(path, {"call_id": "my-call"})).status == 201
    for path in ("/sessions", "/calls/my-call/sessions"):
        refused(await mine.post(path, {"call_id": "my-call"}), "starts: one key may have no more than 1/m burst 2")
    assert await AgentSession.objects.acount() == 2
    assert (await other.post("/sessions", {"call_id": "my-call"})).status == 201
    assert quotas.refused()["starts", "key"] == 2


@lean
async def test_one_user_is_counted_however_many_cookies_and_addresses_they_have(serve: Serve, limit: Any) -> None:
    limit(starts_per_identity="1/m burst 1")
    client, _ = await sign_in(await serve(), *ALL)
    assert (await client.post("/sessions", {"call_id": "one"}, headers=ORIGIN)).status == 201
    moved = client.like(peer=ELSEWHERE)
    refused(await moved.post("/sessions", {"call_id": "two"}, headers=ORIGIN), "one user")


@lean
async def test_where_nobody_need_prove_anything_the_address_counts(serve: Serve, limit: Any) -> None:
    limit(starts_per_address="1/m burst 1")
    client = (await serve(ServeOptions(can_start_session=lambda: True))).like(peer=REMOTE)
    assert (await client.post("/sessions", {"call_id": "one"})).status == 201
    refused(await client.post("/sessions", {"call_id": "two"}), "one address")
    assert (await client.like(peer=ELSEWHERE).post("/sessions", {"call_id": "two"})).status == 201


@lean
async def test_credentials_that_mean_nothing_do_not_help_past_the_address(serve: Serve, limit: Any) -> None:
    limit(starts_per_address="1/m burst 1")
    client = (await serve(ServeOptions(can_start_session=lambda: True))).like(peer=REMOTE)
    assert (await present(client, "mine").post("/sessions", {"call_id": "one"})).status == 201
    answer = await client.post("/sessions", {"call_id": "two"}, headers={"authorization": "Bearer another"})
    refused(answer, "one address")


@lean
async def test_nobody_takes_from_the_share_of_a_key_by_its_prefix(serve: Serve, limit: Any) -> None:
    limit(starts_per_identity="1/m burst 1")
    client = await serve(ServeOptions(can_start_session=lambda: True))
    mine, key = await with_key(client, "start")
    pretended = present(client, f"va_{key.prefix}_{'x' * 43}")
    for status in (201, 429):
        assert (await pretended.post("/sessions", {"call_id": "one"})).status == status
    assert (await mine.post("/sessions", {"call_id": "two"})).status == 201


@lean
async def test_this_machine_itself_is_limited_by_what_the_worker_takes(client: Client, limit: Any) -> None:
    limit(starts_per_address="1/m burst 1", starts_per_identity="1/m burst 1", starts_per_worker="1/m burst 2")
    for call_id in ("one", "two"):
        await start(client, call_id)
    refused(await client.post("/sessions", {"call_id": "three"}), "this server takes no more")


@lean
async def test_requests_to_close_have_a_limit(client: Client, serve: Serve, limit: Any) -> None:
    limit(closes_per_identity="1/m burst 3")
    mine, _ = await with_key(client, "close", "view")
    row = await elsewhere()
    assert (await mine.delete(f"/sessions/{row.pk}")).status == 200
    assert (await mine.delete(f"/calls/my-call/sessions/{row.pk}")).status == 202
    assert (await mine.post(f"/calls/my-call/sessions/{row.pk}/close")).status == 202
    refused(await mine.delete(f"/sessions/{row.pk}"), "requests to close")


@lean
async def test_what_is_said_over_rest_is_a_turn_like_what_is_typed(client: Client, limit: Any) -> None:
    limit(turns_per_identity="1/m burst 2", turns_per_call="1/m burst 3")
    first, second = await elsewhere(call_id="one"), await elsewhere(call_id="two")
    for row in (first, second):
        await database.write(row.finish, EndReason.FINISHED)
    mine, _ = await with_key(client, "speak", "view")
    other, _ = await with_key(client, "speak", "view", name="other")
    for kind in ("say", "respond"):
        assert (await mine.post(f"/sessions/{first.pk}/{kind}", {"text": "hello"})).status == 409  # it has ended
    refused(await mine.post(f"/sessions/{first.pk}/say", {"text": "hello"}), "typed turns: one key")
    assert (await mine.post(f"/sessions/{second.pk}/say", {"text": "hello"})).status == 409
    assert (await other.post(f"/sessions/{first.pk}/say", {"text": "hello"})).status == 409
    refused(await other.post(f"/sessions/{first.pk}/say", {"text": "hello"}), "typed turns: one call")


@lean
async def test_one_key_makes_only_so_many_invitations(client: Client, limit: Any) -> None:
    limit(invitations_per_identity="1/m burst 1")
    row = await elsewhere()
    mine, _ = await with_key(client, "start", "view")
    assert (await mine.post(f"/sessions/{row.pk}/invitations")).status == 201
    refused(await mine.post(f"/sessions/{row.pk}/invitations"), "invitations")


@lean
async def test_long_reads_of_one_do_not_keep_the_database_from_others(
    client: Client, limit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(reads_per_identity=2)
    row = await elsewhere()
    mine, key = await with_key(client, "view", "transcript")
    go_on = threading.Event()

    def slowly(read: Any) -> Any:
        def wait(*args: Any) -> Any:
            assert go_on.wait(30)
            return read(*args)

        return wait

    for name in ("_events", "_transcript"):
        monkeypatch.setattr(history, name, slowly(getattr(history, name)))
    paths = [f"/sessions/{row.pk}/events?limit=1000", f"/sessions/{row.pk}/transcript?limit=1000"]
    try:
        waiting = [asyncio.create_task(mine.get(path)) for path in paths]
        await until(lambda: holdings.held("reads", "identity", f"key:{key.prefix}") == 2)
        for path in paths:
            refused(await mine.get(path), "reads of history at once: one key")
        assert (await client.get(f"/sessions/{row.pk}")).status == 200  # one of the store's two threads is free
    finally:
        go_on.set()
    assert [(await each).status for each in waiting] == [200, 200]


@lean
async def test_guesses_at_keys_are_refused_before_the_database_is_asked(
    serve: Serve, limit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(credentials_per_address="1/m burst 4")
    client = await serve()
    mine, _ = await with_key(client, "view")
    assert (await mine.get("/sessions")).status == 200
    asked: list[str] = []
    look_up = keys._look_up

    def counted(prefix: str, digest: str) -> Any:
        asked.append(prefix)
        return look_up(prefix, digest)

    monkeypatch.setattr(keys, "_look_up", counted)
    monkeypatch.setattr(keys, "CACHE_SECONDS", 0.0)
    guesses = [present(client, f"va_{number:010d}_{'x' * 43}") for number in range(20)]
    answers = [await guess.get("/sessions") for guess in guesses]
    assert [answer.status for answer in answers] == [401] * 3 + [429] * 17
    refused(answers[-1], "unknown credentials: one address")
    assert len(asked) == 3
    keys.forget()
    assert (await mine.get("/sessions")).status == 200  # a key that counted lately is looked up anew at any time
    assert (await guesses[-1].like(peer=ELSEWHERE).get("/sessions")).status == 401


@lean
async def test_guesses_at_cookies_are_refused_too(serve: Serve, limit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(credentials_per_address="1/m burst 3")
    client, _ = await sign_in(await serve(), *ALL)
    assert (await client.get("/sessions")).status == 200
    asked: list[str] = []
    find = permissions._user_of_session

    def counted(key: str, *args: Any) -> Any:
        asked.append(key)
        return find(key, *args)

    monkeypatch.setattr(permissions, "_user_of_session", counted)
    answers = [await client.get("/sessions", headers={"cookie": f"sessionid=made-up-{n}"}) for n in range(9)]
    assert [answer.status for answer in answers] == [401] * 2 + [429] * 7
    assert len(asked) == 2
    assert (await client.get("/sessions")).status == 200


@lean
async def test_guesses_from_everywhere_keep_nobody_out_who_has_just_signed_in(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = await sign_in(await serve(), *ALL)  # not known to this process
    at_once, most = 0, 0
    find = permissions._user_of_session

    def counted(*args: Any) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            return find(*args)
        finally:
            at_once -= 1

    monkeypatch.setattr(permissions, "_user_of_session", counted)
    guesser = client.like(headers={})

    async def guess(number: int) -> int:
        guess = guesser.like(peer=(f"198.51.{number // 250}.{number % 250}", 1))
        return (await guess.get("/sessions", headers={"cookie": f"sessionid=made-up-{number}"})).status

    guesses = [asyncio.ensure_future(guess(number)) for number in range(300)]
    await until(lambda: most > 0)
    assert (await client.get("/sessions")).status == 200
    assert {*await asyncio.gather(*guesses)} <= {401, 429}
    assert most == 1, "a thread is left for who is known"


@lean
async def test_guesses_that_wait_are_bounded(serve: Serve, limit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(credentials_per_worker=2)
    client = (await serve()).like(peer=REMOTE)
    go_on = threading.Event()
    monkeypatch.setattr(permissions, "_user_of_session", lambda *args: go_on.wait(10) and None)
    try:
        get = partial(client.get, "/sessions")
        guesses = [asyncio.ensure_future(get(headers={"cookie": f"sessionid={number}"})) for number in range(2)]
        await until(lambda: holdings.held("credentials", "worker") == 2)
        refused(await get(headers={"cookie": "sessionid=2"}), "unknown credentials: this server takes no more than 2")
    finally:
        go_on.set()
    assert [answer.status for answer in await asyncio.gather(*guesses)] == [401, 401]


@pytest.mark.django_db(transaction=True)
async def test_who_is_asked_about_again_is_not_taken_for_one_who_guesses(limit: Any) -> None:
    limit(credentials_per_address="1/m burst 2")
    scope = {
        "path": "/",
        "client": REMOTE,
        "headers": [(b"host", b"agents.example"), (b"cookie", b"sessionid=of-nobody-who-is-signed-in")],
    }

    async def ask(since: float | None = None) -> bool:
        request = HandshakeRequest(scope, since)
        permissions.provide_user(request)
        return bool((await request.auser()).is_anonymous)

    assert await ask()
    for _ in range(5):
        assert await ask(time.monotonic())
