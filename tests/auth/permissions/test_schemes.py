"""A page of http:// is never one of a site under https, nor the other way round: on each server, HTTP and WebSocket."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import tests.agents
from tests.api.fixtures import Serve
from tests.asgi_client import REMOTE, Client
from tests.auth.permissions.test_users import sign_in
from tests.websockets.calls.client import Socket
from visionagents_runner.asgi.application import AgentsApplication

PROXY = {"x-forwarded-proto": "https"}
BELIEVED = {"SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https")}

# Whether the server itself ends TLS, what a proxy writes, settings: whether the site is under https.
SITES: list[tuple[bool, dict[str, str], dict[str, Any], bool]] = [
    (False, {}, {}, False),
    (True, {}, {}, True),
    (False, PROXY, {}, True),
    (False, PROXY, BELIEVED, True),
    (False, {"x-forwarded-proto": "http"}, BELIEVED, False),
    (False, {"x-forwarded-proto": "https, http"}, {}, True),
    (False, {}, {"SESSION_COOKIE_SECURE": True}, True),
    (False, {}, {"SECURE_HSTS_SECONDS": 60}, True),
    (False, {}, {"SECURE_SSL_REDIRECT": True}, True),
]


@pytest.fixture
def mount() -> str:
    """The scheme is found in the same way under both."""
    return "lean"


@pytest.mark.parametrize(("tls", "headers", "more", "is_https"), SITES)
async def test_an_origin_is_the_same_only_under_the_sites_own_scheme(
    serve: Serve,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    tls: bool,
    headers: dict[str, str],
    more: dict[str, Any],
    is_https: bool,
) -> None:
    signed_in, _ = await sign_in(await serve(), "start_agentsession")
    for name, value in more.items():
        setattr(settings, name, value)
    monkeypatch.setattr("visionagents_runner.auth.local_requests._tls_ports", {8000: tls})
    monkeypatch.setitem(sys.modules, "twisted.internet.reactor", object())
    application = AgentsApplication(tests.agents.runner)
    application.managed = True
    for origin, allowed in (("https://agents.example", is_https), ("http://agents.example", not is_https)):
        sent = {**signed_in.headers, **headers, "origin": origin}
        scheme = "https" if tls else "http"
        # A redirect would come first, where Django is to send plain HTTP to https.
        if not (more.get("SECURE_SSL_REDIRECT") and not tls):
            client = Client(signed_in.app, peer=REMOTE, host="agents.example", scheme=scheme)
            answer = await client.post("/sessions", {"call_id": f"{scheme}-{origin[:5]}"}, headers=sent)
            assert answer.status == (201 if allowed else 403), (origin, answer.body)
        for server in ("uvicorn", "daphne"):
            told: str | None = {"https": "wss", "http": "ws"}[scheme]
            if server == "daphne":
                told = None
            how: dict[str, Any] = {"peer": REMOTE, "host": "agents.example", "scheme": told, "headers": sent}
            async with Socket(application, "/ws/sessions/", **how) as socket:
                if allowed:
                    await socket.hello()
                else:
                    assert (await socket.refused())[0] == "not_allowed", (origin, server)
