"""Webhooks that are sent, to a real server: what it gets, what it may answer, and what it cannot do to others."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError
from django.db.models.functions import Now
from django.utils.http import http_date

from tests.webhooks.conftest import delivery, ended
from tests.webhooks.receiver import SECRET, Receiver, Reply
from visionagents_runner.models import AgentSession, EndReason, SessionEvent, WebhookDelivery
from visionagents_runner.store import database
from visionagents_runner.webhooks import transport
from visionagents_runner.webhooks.sender import Tally, WebhookSender

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

OTHER_SECRET = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldY"


async def send() -> Tally:
    """Send what is due."""
    sender = WebhookSender()
    try:
        return await sender.send_due()
    finally:
        await sender.abandon()


async def end(reason: EndReason = EndReason.FINISHED, **values: Any) -> AgentSession:
    return await database.write(lambda: ended(reason, **values))


async def row() -> WebhookDelivery:
    return await database.read(delivery)


async def due_now() -> None:
    await database.write(lambda: WebhookDelivery.objects.filter(state="pending").update(next_attempt_at=Now()))


def resolve(monkeypatch: Any, names: dict[str, list[str]]) -> list[str]:
    """Have these names lead to these addresses. Returns what was looked up, as it goes on."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        asked.append(host)
        if host not in names:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in names[host]]

    monkeypatch.setattr(transport.socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.fixture
def one(receiver: Receiver, configure: Any) -> Receiver:
    configure(receiver.entry())
    return receiver


# What is sent


async def test_what_arrives_is_signed_and_says_what_the_api_says(one: Receiver, client: Any) -> None:
    session = await end(EndReason.REQUESTED, call_id="a/b", metadata={"order": "7 é\u2028"})

    def happen() -> None:
        kinds = ["message", "message", "turn", "tool_started", "tool_ended", "error", "custom"]
        SessionEvent.objects.bulk_create(
            SessionEvent(session=session, seq=seq, kind=kind, data={"text": "spoken"})
            for seq, kind in enumerate(kinds, 3)
        )
        AgentSession.objects.filter(pk=session.pk).update(event_seq=9)

    await database.write(happen)
    assert await send() == Tally(delivered=1)
    [request] = one.requests
    assert request.is_signed()
    assert not request.is_signed(OTHER_SECRET)
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"].startswith("visionagents-runner/")
    body = request.json
    assert body["type"] == "session.ended"
    data = body["data"]
    assert body["timestamp"] == data["ended_at"]
    assert data.pop("counts") == {"events": 9, "messages": 2, "turns": 1, "tool_calls": 1, "errors": 1}
    assert data["metadata"] == {"order": "7 é\u2028"}
    assert b"spoken" not in request.body

    from django.http import HttpRequest

    from visionagents_runner.api.lookup import Found, detail
    from visionagents_runner.auth.permissions import Access

    ended_row = await database.read(lambda: AgentSession.objects.get(pk=session.pk))
    assert data == await detail(HttpRequest(), Found(ended_row), Access())
    sent = await row()
    assert (sent.state, sent.attempts, sent.last_status, sent.last_error) == ("delivered", 1, 200, "")
    assert sent.delivered_at is not None
    assert await send() == Tally()


async def test_a_session_that_failed_is_told_of_without_its_traceback(one: Receiver) -> None:
    await end(EndReason.CREATE_FAILED)
    await send()
    [request] = one.requests
    assert (request.json["data"]["status"], request.json["data"]["end_reason"]) == ("failed", "create_failed")
    assert b"Traceback" not in request.body
    assert b"secret" not in request.body


async def test_of_a_session_that_was_lost_it_says_which_one_goes_on_for_it(one: Receiver) -> None:
    session = await end(EndReason.WORKER_LOST, restartable=True)
    successor = await database.read(lambda: AgentSession.objects.get(restart_of=session))
    await send()
    assert one.requests[0].json["data"]["restarted_as"] == str(successor.pk)
    await database.write(successor.finish, EndReason.EXPIRED)
    await send()
    data = one.requests[1].json["data"]
    assert (data["restart_of"], data["restarted_as"]) == (str(session.pk), None)
    assert data["due_at"] is not None


async def test_while_a_secret_changes_both_sign(receiver: Receiver, configure: Any) -> None:
    configure(receiver.entry(SECRET=[OTHER_SECRET, SECRET]))
    await end()
    await send()
    assert receiver.requests[0].is_signed(SECRET)
    assert receiver.requests[0].is_signed(OTHER_SECRET)


async def test_the_library_of_the_specification_accepts_it(one: Receiver) -> None:
    from standardwebhooks import Webhook

    await end()
    await send()
    [request] = one.requests
    assert Webhook(SECRET).verify(request.body, request.headers)["type"] == "session.ended"


# What may be answered


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_every_2xx_is_success(one: Receiver, status: int) -> None:
    one.reply = lambda number, request: Reply(status, body=b"")
    await end()
    assert await send() == Tally(delivered=1)


async def test_a_failed_attempt_is_made_again_with_the_same_id_and_body(one: Receiver) -> None:
    one.reply = lambda number, request: Reply([500, 404, 200][number])
    await end()
    assert await send() == Tally(to_be_tried_again=1)
    first = await row()
    assert (first.state, first.attempts, first.last_status, first.last_error) == ("pending", 1, 500, "Answered 500")
    assert await send() == Tally()  # not yet
    await due_now()
    await send()
    await due_now()
    assert await send() == Tally(delivered=1)
    assert len({request.id for request in one.requests}) == 1
    assert len({request.body for request in one.requests}) == 1
    assert all(request.is_signed() for request in one.requests)
    assert (await row()).attempts == 3


async def test_it_is_given_up_in_the_end_and_that_is_logged(
    one: Receiver, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("visionagents_runner.webhooks.backoff.MAX_ATTEMPTS", 2)
    one.reply = lambda number, request: Reply(500)
    await end()
    await send()
    await due_now()
    with caplog.at_level(logging.ERROR):
        assert await send() == Tally(given_up=1)
    assert "given up after 2 attempts: Answered 500" in caplog.text
    assert (await row()).state == "failed"
    await due_now()
    assert await send() == Tally()


async def test_gone_is_gone(one: Receiver) -> None:
    one.reply = lambda number, request: Reply(410)
    await end()
    assert await send() == Tally(given_up=1)
    assert (await row()).last_status == 410


@pytest.mark.parametrize(
    ("status", "value", "least", "most"),
    [
        (429, "600", 599, 601),
        (503, "600", 599, 601),
        (503, 3600, 3500, 3700),
        (429, "99999999999999999999", 21599, 21601),
        (429, "soon", 0, 10),
        (429, "Mon, 01 Jan 99999999999 00:00:00 GMT", 0, 10),
        (429, "-5", 0, 10),
        (429, -3600, 0, 10),
        (500, "600", 0, 10),
    ],
)
async def test_a_receiver_may_say_when(one: Receiver, status: int, value: str | int, least: int, most: int) -> None:
    if isinstance(value, int):  # a date, so many seconds from now
        value = http_date(time.time() + value)
    one.reply = lambda number, request: Reply(status, {"retry-after": value})
    await end()
    await send()
    after = await database.read(
        lambda: WebhookDelivery.objects.filter(
            next_attempt_at__gt=Now() + timedelta(seconds=least - 2),
            next_attempt_at__lt=Now() + timedelta(seconds=most),
        ).count()
    )
    assert after == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(one: Receiver, status: int) -> None:
    one.reply = lambda number, request: Reply(status, {"location": one.url("/elsewhere")})
    await end()
    assert await send() == Tally(to_be_tried_again=1)
    assert [request.path for request in one.requests] == ["/hook"]
    assert "redirects are not followed" in (await row()).last_error


async def test_an_answer_without_end_is_left_half_read(one: Receiver, monkeypatch: Any) -> None:
    monkeypatch.setattr(transport, "_BODY_SECONDS", 0.2)
    one.reply = lambda number, request: Reply(200, drip=True)
    await end()
    assert await send() == Tally(delivered=1)


async def test_a_huge_answer_is_left_half_read(one: Receiver) -> None:
    one.reply = lambda number, request: Reply(200, body=b"x" * 8_000_000)
    await end()
    assert await send() == Tally(delivered=1)


async def test_what_is_no_http_is_a_failure(configure: Any) -> None:
    async def gibberish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\x01 nonsense\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(gibberish, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        configure({"URL": f"http://127.0.0.1:{port}/", "SECRET": SECRET, "ALLOW_PRIVATE": True})
        await end()
        assert await send() == Tally(to_be_tried_again=1)
    assert (await row()).last_error.startswith("No connection: ")


async def test_a_closed_port_is_a_failure(receiver: Receiver, configure: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configure(receiver.entry(URL=f"http://127.0.0.1:{port}/"))
    await end()
    assert await send() == Tally(to_be_tried_again=1)
    refused = await row()
    assert refused.last_status is None
    assert "Connect call failed" in refused.last_error


async def test_a_receiver_that_hangs_is_left(one: Receiver, monkeypatch: Any) -> None:
    monkeypatch.setattr(transport, "TOTAL_SECONDS", 0.3)
    release = threading.Event()
    one.reply = lambda number, request: Reply(wait=release)
    await end()
    assert await send() == Tally(to_be_tried_again=1)
    assert (await row()).last_error == "Timed out waiting for an answer"
    release.set()


# Where nothing is sent to


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["93.184.215.14", "127.0.0.1"], ["::ffff:127.0.0.1"]])
async def test_a_name_that_leads_inside_is_refused(
    receiver: Receiver, configure: Any, monkeypatch: Any, addresses: list[str]
) -> None:
    asked = resolve(monkeypatch, {"hooks.example": addresses})
    configure(receiver.entry(URL=receiver.url(host="hooks.example", scheme="https"), ALLOW_PRIVATE=False))
    await end()
    assert await send() == Tally(to_be_tried_again=1)
    assert asked == ["hooks.example"]
    error = (await row()).last_error
    assert error.startswith("Refused: hooks.example leads to ")
    assert "a loopback address" in error
    assert receiver.requests == []


async def test_the_address_that_was_looked_at_is_the_one_that_is_connected_to(
    receiver: Receiver, configure: Any, monkeypatch: Any
) -> None:
    """A name that changes its mind is asked once."""
    asked = resolve(monkeypatch, {"hooks.example": ["127.0.0.1"]})
    configure(receiver.entry(URL=receiver.url(host="hooks.example")))
    await end()
    assert await send() == Tally(delivered=1)
    assert asked == ["hooks.example"]
    assert receiver.requests[0].headers["host"] == f"hooks.example:{receiver.port}"


async def test_the_next_address_is_tried_where_one_does_not_answer(
    receiver: Receiver, configure: Any, monkeypatch: Any
) -> None:
    resolve(monkeypatch, {"hooks.example": ["127.0.0.2", "127.0.0.1"]})
    configure(receiver.entry(URL=receiver.url(host="hooks.example")))
    await end()
    assert await send() == Tally(delivered=1)


async def test_without_tls_nothing_goes_to_the_public(receiver: Receiver, configure: Any, monkeypatch: Any) -> None:
    resolve(monkeypatch, {"hooks.example": ["93.184.215.14"]})
    configure(receiver.entry(URL="http://hooks.example/"))
    await end()
    await send()
    assert "use https://" in (await row()).last_error


async def test_a_name_that_leads_nowhere_is_a_failure(receiver: Receiver, configure: Any, monkeypatch: Any) -> None:
    resolve(monkeypatch, {})
    configure(receiver.entry(URL="https://hooks.example/"))
    await end()
    await send()
    assert (await row()).last_error == "No connection: hooks.example has no address (Name or service not known)"


async def test_proxies_of_the_environment_are_not_asked(one: Receiver, monkeypatch: Any) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    await end()
    assert await send() == Tally(delivered=1)


# Others meanwhile


async def test_an_endpoint_that_hangs_holds_up_no_other(configure: Any, receiver: Receiver) -> None:
    slow, release = Receiver(), threading.Event()
    slow.reply = lambda number, request: Reply(wait=release)
    try:
        configure(slow.entry(NAME="slow"), receiver.entry(NAME="quick"))
        for number in range(8):
            await end(call_id=str(number))
        sender = WebhookSender(poll_seconds=0.05)
        sender.start()
        async with asyncio.timeout(20):
            while len(receiver.requests) < 8:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert len(slow.requests) == transport.PARALLEL
        release.set()
        await sender.close(10)
        assert sender.tally == Tally(delivered=16)
    finally:
        release.set()
        slow.close()


async def test_what_is_under_way_at_the_end_is_finished_or_left_to_others(one: Receiver) -> None:
    release = threading.Event()
    one.reply = lambda number, request: Reply(wait=release if number else None)
    await end()
    await end()
    sender = WebhookSender()
    sender.start()
    before = time.monotonic()
    await sender.close(1.0)
    assert time.monotonic() - before < 5
    release.set()
    states = await database.read(lambda: sorted(WebhookDelivery.objects.values_list("state", "claim")))
    assert states == [("delivered", None), ("pending", None)]
    one.reply = lambda number, request: Reply()
    assert await send() == Tally(delivered=1)
    assert len({request.id for request in one.requests}) == 2


async def test_a_database_that_is_away_is_waited_for(
    one: Receiver, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([OperationalError("gone"), OperationalError("gone")])
    real = database.read

    async def read(*args: Any, **kwargs: Any) -> Any:
        if (error := next(answers, None)) is not None:
            raise error
        return await real(*args, **kwargs)

    await end()
    monkeypatch.setattr(database, "read", read)
    sender = WebhookSender(poll_seconds=0.01)
    sender.start()
    async with asyncio.timeout(10):
        while not one.requests:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await sender.close(5)
    assert sender.tally == Tally(delivered=1)
    assert "Webhooks wait: the database does not answer" in caplog.text


async def test_what_was_delivered_while_the_database_was_away_is_noted_when_it_is_back(
    one: Receiver, monkeypatch: Any
) -> None:
    failures = [OperationalError("gone")]
    real = WebhookDelivery.mark_delivered

    def mark(self: WebhookDelivery, status: int) -> bool:
        if failures:
            raise failures.pop()
        return real(self, status)

    monkeypatch.setattr(WebhookDelivery, "mark_delivered", mark)
    await end()
    assert await send() == Tally(delivered=1)
    assert len(one.requests) == 1


async def test_a_session_that_was_deleted_meanwhile_is_forgotten(one: Receiver, monkeypatch: Any) -> None:
    await end()
    real = WebhookDelivery.objects.claim

    def claim(room: Any) -> Any:
        claimed = real(room)
        AgentSession.objects.all().delete()
        return claimed

    monkeypatch.setattr(type(WebhookDelivery.objects), "claim", lambda self, room: claim(room))
    assert await send() == Tally()
    assert one.requests == []


async def test_what_cannot_be_built_counts_as_a_failure(one: Receiver, monkeypatch: Any) -> None:
    def broken(*args: Any) -> bytes:
        raise TypeError("no JSON")

    monkeypatch.setattr("visionagents_runner.webhooks.sender.build_body", broken)
    await end()
    assert await send() == Tally(to_be_tried_again=1)
    assert (await row()).last_error == "Not sent: TypeError, see the log"


async def test_an_endpoint_that_is_configured_no_more_gets_nothing(one: Receiver, configure: Any) -> None:
    await end()
    configure(one.entry(NAME="another"))
    assert await send() == Tally()
    assert (await row()).state == "pending"
    configure(one.entry())
    assert await send() == Tally(delivered=1)
