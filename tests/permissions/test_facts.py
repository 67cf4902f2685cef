"""What a request, or the handshake of a WebSocket, says of where it comes from."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import RequestFactory

import tests.agents
from tests.asgi_client import LOOPBACK
from visionagents_runner import ServeOptions
from visionagents_runner.locality import Facts, origin_allowed, why_not_local
from visionagents_runner.mount import LeanRequest


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


def test_middleware_that_knows_the_true_peer_is_believed() -> None:
    request = LeanRequest(scope())
    assert why_not_local(Facts.of(request), tests.agents.runner) is None
    request.META["REMOTE_ADDR"] = "203.0.113.7"
    assert why_not_local(Facts.of(request), tests.agents.runner) is not None


def test_one_host_is_named_not_two() -> None:
    facts = Facts.of_scope(scope(headers=[(b"host", b"localhost"), (b"host", b"localhost")]))
    assert why_not_local(facts, tests.agents.runner) is not None
    facts = Facts.of_scope(scope(headers=[]))
    assert why_not_local(facts, tests.agents.runner) is not None


def test_two_origins_are_none_of_ours() -> None:
    headers = [(b"host", b"localhost:8000"), *[(b"origin", b"http://localhost:8000")] * 2]
    assert why_not_local(Facts.of_scope(scope(headers=headers)), tests.agents.runner) is not None


def test_under_wsgi_the_same_rule_holds() -> None:
    factory = RequestFactory(headers={"host": "localhost"})
    assert why_not_local(Facts.of(factory.get("/")), tests.agents.runner) is None
    for changes in (
        {"REMOTE_ADDR": "203.0.113.7"},
        {"REMOTE_ADDR": ""},
        {"HTTP_HOST": "agents.example"},
        {"HTTP_X_FORWARDED_FOR": "127.0.0.1"},
        {"HTTP_VIA": "1.1 proxy"},
        {"HTTP_ORIGIN": "http://evil.example"},
    ):
        assert why_not_local(Facts.of(factory.get("/", **changes)), tests.agents.runner) is not None


def test_a_websocket_handshake_is_judged_alike() -> None:
    headers = [(b"host", b"localhost:8000"), (b"origin", b"http://localhost:8000")]
    facts = Facts.of_scope(scope(type="websocket", scheme="ws", headers=headers))
    assert why_not_local(facts, tests.agents.runner) is None
    facts = Facts.of_scope(scope(type="websocket", scheme="wss", headers=headers))
    assert why_not_local(facts, tests.agents.runner) is not None


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
