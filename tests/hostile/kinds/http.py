"""HTTP: bodies, headers, paths, queries, methods, clients that are slow or leave."""

from __future__ import annotations

import asyncio
import json
import uuid
from contextlib import suppress
from random import Random
from typing import Any
from urllib.parse import quote

from ..clients import connected, exchange, read_answer, request
from . import Attacker, junk, source

_SIZES = (1_000, 50_000, 200_000, 400_000, 1_000_000, 1_048_570, 1_100_000)
_METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "FOO", "get", "A" * 300)


def _headers(attacker: Attacker, rng: Random) -> dict[str, str]:
    """Those of somebody: anonymous, a user, a program, or somebody who lies."""
    target = attacker.target
    who = rng.randrange(6)
    if who < 3:
        return {"Authorization": f"Bearer {target.key}"}
    if who == 3:
        return {}
    if who == 4:
        cookie = rng.choice((target.starter, target.nobody))
        return {"Cookie": f"sessionid={cookie}", "Origin": f"http://127.0.0.1:{target.port}"}
    return {"Authorization": rng.choice(("Bearer va_x", "Bearer ", "Basic AAAA", "Bearer " + "a" * 5000))}


def _paths(attacker: Attacker) -> tuple[str, ...]:
    session = attacker.target.attentive
    return (
        "/sessions",
        "/sessions/",
        f"/sessions/{session}",
        f"/sessions/{session}/events",
        f"/sessions/{session}/transcript",
        f"/sessions/{session}/metrics",
        f"/sessions/{session}/say",
        f"/sessions/{session}/respond",
        f"/sessions/{session}/invitations",
        "/calls/x/sessions",
        f"/calls/x/sessions/{session}/close",
        "/health",
        "/ready",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/",
        "/call/",
        "/call/default/attacked/",
        "/admin/login/",
        "/admin/",
        "/static/visionagents_runner/call.js",
        "/nowhere",
        f"/sessions/{uuid.uuid4()}",
        "/favicon.ico",
    )


_POSTED = (
    "/sessions",
    "/calls/x/sessions",
    "{session}/say",
    "{session}/respond",
    "{session}/invitations",
    "/call/",
    "/admin/login/",
    "/nowhere",
)


def _posted(attacker: Attacker, rng: Random) -> str:
    return str(rng.choice(_POSTED)).replace("{session}", f"/sessions/{attacker.target.attentive}")


async def a_body_that_is_work(attacker: Attacker, rng: Random) -> None:
    body = rng.choice(junk.BODIES)(rng.choice(_SIZES))
    path = _posted(attacker, rng) if rng.random() < 0.5 else "/sessions"
    headers = {**_headers(attacker, rng), "Content-Type": "application/json"}
    attacker.tally.answered(
        await request(attacker.target.port, "POST", path, headers=headers, body=body, source=source(rng))
    )


async def fields_that_are_wrong(attacker: Attacker, rng: Random) -> None:
    for _ in range(8):
        message: dict[str, Any] = {
            "call_id": "nowhere",
            "call_type": "default",
            "agent": "no-such",
            "metadata": {"a": 1},
        }
        path = _posted(attacker, rng)
        if path.endswith(("say", "respond")):
            message = {"text": "hello", "interrupt": False}
        elif path.endswith("invitations"):
            message = {"role": "speaker", "name": "", "expires_in": 60}
        body = junk.dump(junk.mutated(rng, message)).encode()
        if rng.random() < 0.3:
            body = junk.mangled(rng, body)
        headers = _headers(attacker, rng)
        attacker.tally.answered(
            await request(attacker.target.port, "POST", path, headers=headers, body=body, source=source(rng))
        )


async def a_body_that_streams(attacker: Attacker, rng: Random) -> None:
    """Too much, in chunks or by its length, on any path."""
    path = rng.choice((*_paths(attacker), _posted(attacker, rng)))
    method = rng.choice(("POST", "PUT", "GET", "DELETE"))
    headers = _headers(attacker, rng)
    size = rng.choice((2_000_000, 8_000_000))
    if rng.random() < 0.5:
        body = b"".join(b"10000\r\n" + bytes(65536) + b"\r\n" for _ in range(size // 65536)) + b"0\r\n\r\n"
        headers["Transfer-Encoding"] = "chunked"
    else:
        body = bytes(size)
    attacker.tally.answered(
        await request(attacker.target.port, method, path, headers=headers, body=body, source=source(rng))
    )


async def a_form_with_many_fields(attacker: Attacker, rng: Random) -> None:
    path = rng.choice(("/admin/login/", "/call/", "/sessions", "/"))
    if rng.random() < 0.5:
        body, kind = junk.form(rng.choice((1000, 100_000))), junk.FORM
    else:
        body, kind = junk.parts(rng.choice((500, 10_000))), junk.PARTS
    headers = {**_headers(attacker, rng), "Content-Type": kind}
    attacker.tally.answered(
        await request(attacker.target.port, "POST", path, headers=headers, body=body, source=source(rng))
    )


async def headers_that_are_many(attacker: Attacker, rng: Random) -> None:
    number, size = rng.choice(((50, 100), (400, 10), (5000, 5), (3, 15_000), (1, 60_000), (90, 160)))
    name = rng.choice(
        ("X-A{}", "Cookie", "Accept", "X-Forwarded-For", "Host", "Content-Length", "Authorization", "Forwarded")
    )
    value = rng.choice(("x", ",", "a=b; ", "1", ";q=0,", '"', "\\")) * (size // 2 + 1)
    pairs = [*_headers(attacker, rng).items(), *((name.format(each), value[:size]) for each in range(number))]
    path = rng.choice(_paths(attacker))
    attacker.tally.answered(await request(attacker.target.port, "GET", path, headers=pairs, source=source(rng)))


async def headers_that_are_odd(attacker: Attacker, rng: Random) -> None:
    for _ in range(6):
        name = rng.choice(
            (
                "Content-Type",
                "Content-Length",
                "Transfer-Encoding",
                "Host",
                "Accept",
                "Accept-Language",
                "Cookie",
                "Range",
                "Origin",
                "X-Request-ID",
                "Traceparent",
                "Expect",
                "Upgrade",
                "If-Modified-Since",
                "Authorization",
                "Accept-Encoding",
            )
        )
        value = rng.choice(
            (
                junk.text(rng),
                "-1",
                "1e9",
                "0x10",
                "chunked, chunked",
                "*/*;q=" + "9" * 500,
                "en," * 2000,
                "99999999999999",
            )
        )
        value = value.replace("\r", "").replace("\n", "")[:8000]
        method, path = rng.choice(("GET", "POST")), rng.choice(_paths(attacker))
        pairs = [*_headers(attacker, rng).items(), (name, value)]
        body = b"{}" if method == "POST" else b""
        answer = await request(
            attacker.target.port, method, path, headers=pairs, body=body, source=source(rng), seconds=2
        )
        attacker.tally.answered(answer)


async def paths_and_methods(attacker: Attacker, rng: Random) -> None:
    for _ in range(12):
        path = rng.choice(_paths(attacker))
        kind = rng.randrange(6)
        if kind == 0:
            path += rng.choice(("/", "//", "/..", "/%2e%2e/", "%00", ";x", "/" * 500, "%", "%zz", "%c0%ae"))
        elif kind == 1:
            path = f"/sessions/{quote(junk.text(rng), errors='replace')[:3000]}"
        elif kind == 2:
            path = f"/call{rng.choice(('', 's'))}/{quote(junk.text(rng), errors='replace')[:2000]}/sessions"
        elif kind == 3:
            path = "/" + "a/" * rng.randrange(3000)
        elif kind == 4:
            path = "/static/" + quote(junk.text(rng), errors="replace")[:500]
        method = rng.choice(_METHODS)
        headers = _headers(attacker, rng)
        attacker.tally.answered(
            await request(attacker.target.port, method, path, headers=headers, source=source(rng), seconds=5)
        )


async def queries(attacker: Attacker, rng: Random) -> None:
    for _ in range(6):
        path = rng.choice(_paths(attacker)[:5])
        name = rng.choice(("status", "agent", "call_id", "limit", "cursor", "after", "format", "x"))
        kind = rng.randrange(4)
        if kind == 0:
            query = f"{name}={quote(junk.text(rng), errors='replace')[:4000]}"
        elif kind == 1:
            query = "&".join(f"{name}={each}" for each in range(rng.choice((100, 3000))))
        elif kind == 2:
            query = f"{name}={rng.choice(junk.NUMBERS)}"[:5000]
        else:
            query = "&".join(f"{each}" for each in range(2000))
        attacker.tally.answered(
            await request(
                attacker.target.port, "GET", f"{path}?{query}", headers=_headers(attacker, rng), source=source(rng)
            )
        )


async def long_history(attacker: Attacker, rng: Random) -> None:
    path = rng.choice(
        ("events?limit=1000", "events?limit=200", "transcript", "transcript?format=text", "transcript?format=vtt")
    )
    headers = {"Authorization": f"Bearer {attacker.target.key}"}
    clients = rng.choice((1, 3))
    answers = await asyncio.gather(
        *(
            request(attacker.target.port, "GET", f"/sessions/{attacker.target.long}/{path}", headers=headers)
            for _ in range(clients)
        )
    )
    for answer in answers:
        attacker.tally.answered(answer)


async def ten_clients_ask(attacker: Attacker, rng: Random) -> None:
    """Anonymously, for the dearest that there is."""
    path = rng.choice(
        ("/openapi.json", "/docs", "/", "/call/default/attacked/", "/admin/login/", "/health", "/metrics", "/nowhere")
    )
    addresses = [source(rng) for _ in range(10)]

    async def ask(address: str) -> None:
        for _ in range(3):
            attacker.tally.answered(await request(attacker.target.port, "GET", path, source=address))

    await asyncio.gather(*map(ask, addresses))


async def pipelined(attacker: Attacker, rng: Random) -> None:
    path, number = rng.choice(("/health", "/ready", "/sessions", "/openapi.json", "/nowhere")), rng.choice((5, 60))
    one = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    with suppress(OSError, asyncio.IncompleteReadError, ValueError, TimeoutError):
        async with asyncio.timeout(5), connected(attacker.target.port, source(rng)) as (reader, writer):
            writer.write(one * number)
            for _ in range(number):
                attacker.tally.answered(await read_answer(reader))


async def lines_that_are_no_http(attacker: Attacker, rng: Random) -> None:
    for _ in range(8):
        good = b"POST /sessions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{}"
        raw = rng.choice(
            (
                rng.randbytes(rng.randrange(1, 3000)),
                junk.mangled(rng, good),
                b"GET / HTTP/9.9\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + rng.randbytes(500),
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(100),
                b"GET " + b"/" * 70_000 + b" HTTP/1.1\r\n\r\n",
                b"GET / HTTP/1.1\r\n" + b"A" * 70_000,
                b"\r\n" * 5000,
                b"POST /sessions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 2000 + b"1\r\nx",
                b"POST /sessions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 3000,
            )
        )
        attacker.tally.answered(await exchange(attacker.target.port, raw, source=source(rng), seconds=1))


async def clients_that_leave(attacker: Attacker, rng: Random) -> None:
    """In the middle of what they send, or of what they are sent."""
    for _ in range(10):
        attacker.tally.sent()
        body = junk.empty_lists(rng.choice((100, 300_000)))
        head = f"POST {_posted(attacker, rng)} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        raw = head.encode() + body
        with suppress(OSError):
            async with connected(attacker.target.port, source(rng)) as (_, writer):
                writer.write(raw[: rng.randrange(1, len(raw))])
                await asyncio.sleep(rng.choice((0, 0.01, 0.1)))
        attacker.tally.came("left")


async def clients_that_are_slow(attacker: Attacker, rng: Random) -> None:
    """Some that stay until this attacker goes, a byte now and then."""
    waiting = attacker.kept.setdefault("slow", [])
    if len(waiting) >= 20:
        return
    with suppress(OSError):
        _, writer = await attacker.stack.enter_async_context(connected(attacker.target.port, source(rng)))
        waiting.append(writer)
        writer.write(
            rng.choice(
                (
                    b"",
                    b"G",
                    b"GET /health HTTP/1.1\r\nHost: a\r\n",
                    b"POST /sessions HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{",
                )
            )
        )
        attacker.tally.sent()
        attacker.tally.came("waits")
    for writer in waiting:
        with suppress(OSError):
            writer.write(b"a")


async def sessions_that_start_and_end(attacker: Attacker, rng: Random) -> None:
    answer = attacker.tally.answered(
        await attacker.target.ask(
            "POST",
            "/sessions",
            {"call_id": f"short-{rng.randrange(3)}", "agent": "attentive", "metadata": {"a": junk.large(rng)}},
        )
    )
    if answer.status == 201:
        session = json.loads(answer.body)["session_id"]
        await attacker.target.ask("POST", f"/sessions/{session}/respond", {"text": junk.text(rng)[:3000] or "x"})
        attacker.tally.answered(await attacker.target.ask("DELETE", f"/sessions/{session}"))


ATTACKS = (
    a_body_that_is_work,
    a_body_that_is_work,
    a_body_that_is_work,
    fields_that_are_wrong,
    a_body_that_streams,
    a_form_with_many_fields,
    headers_that_are_many,
    headers_that_are_odd,
    paths_and_methods,
    queries,
    long_history,
    ten_clients_ask,
    pipelined,
    lines_that_are_no_http,
    clients_that_leave,
    clients_that_are_slow,
    sessions_that_start_and_end,
)
