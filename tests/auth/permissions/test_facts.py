"""What a request, or the handshake of a WebSocket, says of where it comes from."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import RequestFactory

import tests.agents
from tests.asgi_client import LOOPBACK
from visionagents_runner import ServeOptions
from visionagents_runner.asgi.lean import LeanRequest
from visionagents_runner.auth import local_requests
from visionagents_runner.auth.local_requests import origin_allowed, why_not_local
from visionagents_runner.websockets.handshake import HandshakeRequest


def scope(**changes: Any) -> dict[str, Any]:
    base = {
        "type": "http",
        "method": "GET",
        "path": "/sessions",
        "query_string": b"",
        "scheme": "http",
        "headers": [(b"host", b"localhost:8000")],
        "client": LOOPBACK,
        "server": ("127.0.0.1", 8000),
    }
    return {**base, **changes}


@pytest.fixture(autouse=True)
def local_counts(allow_local: None) -> None:
    """ALLOW_LOCAL is set."""


async def is_local(request: Any) -> bool:
    if isinstance(request, dict):
        request = HandshakeRequest(request) if request["type"] == "websocket" else LeanRequest(request)
    return await why_not_local(request, tests.agents.runner) is None


async def test_middleware_that_knows_the_true_peer_is_believed() -> None:
    request = LeanRequest(scope())
    assert await is_local(request)
    request.META["REMOTE_ADDR"] = "203.0.113.7"
    assert not await is_local(request)


async def test_one_host_is_named_not_two() -> None:
    assert not await is_local(scope(headers=[(b"host", b"localhost"), (b"host", b"localhost")]))
    assert not await is_local(scope(headers=[]))


async def test_two_origins_are_none_of_ours() -> None:
    headers = [(b"host", b"localhost:8000"), *[(b"origin", b"http://localhost:8000")] * 2]
    assert not await is_local(scope(headers=headers))


async def test_under_wsgi_the_same_rule_holds() -> None:
    factory = RequestFactory(headers={"host": "localhost"})
    assert await is_local(factory.get("/"))
    for changes in (
        {"REMOTE_ADDR": "203.0.113.7"},
        {"REMOTE_ADDR": ""},
        {"HTTP_HOST": "agents.example"},
        {"HTTP_X_FORWARDED_FOR": "127.0.0.1"},
        {"HTTP_VIA": "1.1 proxy"},
        {"HTTP_ORIGIN": "http://evil.example"},
        {"SERVER_PROTOCOL": "HTTP/1.0"},
    ):
        assert not await is_local(factory.get("/", **changes))


async def test_what_asks_by_http_1_0_is_a_proxy() -> None:
    assert await is_local(scope(http_version="1.1"))
    assert not await is_local(scope(http_version="1.0"))


async def test_what_is_too_long_for_a_name_is_neither_taken_nor_remembered() -> None:
    known = [cached.cache_info().currsize for cached in (local_requests._split, local_requests._is_forwarding)]
    long = b"a" * 10_000
    assert not await is_local(scope(headers=[(b"host", b"localhost" + long)]))
    assert not await is_local(scope(headers=[(b"host", b"localhost"), (b"origin", b"http://" + long)]))
    assert not await is_local(scope(client=("1" * 10_000, 1)))
    assert await is_local(scope(headers=[(b"host", b"localhost"), (b"x-" + long, b"1")]))
    assert local_requests._split.cache_info().currsize <= known[0] + 1
    assert local_requests._is_forwarding.cache_info().currsize <= known[1]


async def test_a_websocket_handshake_is_judged_alike() -> None:
    headers = [(b"host", b"localhost:8000"), (b"origin", b"http://localhost:8000")]
    assert await is_local(scope(type="websocket", scheme="ws", headers=headers))
    assert not await is_local(scope(type="websocket", scheme="wss", headers=headers))


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://agents.example", True),
        ("https://agents.example:443", True),
        ("https://listed.example", True),
        ("https://LISTED.example", False),
        ("http://agents.example", False),
        ("https://agents.example:444", False),
        ("https://agents.example/", False),
        ("https://user@agents.example", False),
        ("https://agents.example?x", False),
        ("https://", False),
        ("agents.example", False),
        ("null", False),
        ("*", False),
        ("", False),
        (None, False),
    ],
)
@pytest.mark.parametrize("scheme", ["https", "wss"])
def test_origins(origin: str | None, allowed: bool, scheme: str) -> None:
    options = ServeOptions(cors_allow_origins={"https://listed.example", "*", "null"})
    assert origin_allowed(origin, scheme, "agents.example", options) is allowed
