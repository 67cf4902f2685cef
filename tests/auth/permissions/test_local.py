"""A local request needs no sign-in, where it counts; each condition alone makes it an ordinary one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.fixtures import Serve
from tests.asgi_client import REMOTE, Client
from visionagents_runner import ServeOptions

pytestmark = pytest.mark.slow

START = {"call_id": "my-call"}


async def test_a_local_request_may_do_everything(client: Client) -> None:
    answer = await client.post("/sessions", START)
    assert answer.status == 201
    session_id = answer.json()["session_id"]
    assert (await client.get("/sessions")).status == 200
    assert (await client.get(f"/sessions/{session_id}")).status == 200
    assert (await client.get("/metrics")).status == 200
    assert (await client.delete(f"/sessions/{session_id}")).status == 200


LOOPBACK_PEERS = [("127.0.0.1", 1), ("127.8.9.10", 1), ("::1", 1), ("::ffff:127.0.0.1", 1), ("0:0:0:0:0:0:0:1", 1)]


async def test_any_loopback_peer_is_local(client: Client) -> None:
    for peer in LOOPBACK_PEERS:
        assert (await client.like(peer=peer).get("/sessions")).status == 200


OTHER_PEERS = [
    REMOTE,
    ("10.0.0.1", 1),
    ("::2", 1),
    ("::ffff:10.0.0.1", 1),
    ("localhost", 1),
    ("", 1),
    ("0.0.0.0", 1),
    None,
]


async def test_any_other_peer_is_not(client: Client) -> None:
    for peer in OTHER_PEERS:
        for method, path in (
            ("GET", "/sessions"),
            ("POST", "/sessions"),
            ("DELETE", "/sessions/x"),
            ("GET", "/metrics"),
        ):
            answer = await client.like(peer=peer).request(method, path, data=START if method == "POST" else None)
            assert (answer.status, answer.detail[:7]) == (401, "Sign in")


LOOPBACK_HOSTS = ["localhost", "localhost:8000", "LOCALHOST:1", "127.0.0.1", "127.1.2.3:9000", "[::1]", "[::1]:8000"]


async def test_a_host_that_names_loopback_is_local(client: Client) -> None:
    for host in LOOPBACK_HOSTS:
        assert (await client.like(host=host).get("/sessions")).status == 200


OTHER_HOSTS = [
    "agents.example",
    "localhost.example",
    "127.0.0.1.example",
    "10.0.0.1:8000",
    "[::2]",
    "localhost.evil:8000",
]


async def test_any_other_host_is_not(client: Client) -> None:
    for host in OTHER_HOSTS:
        assert (await client.like(host=host).get("/sessions")).status == 401


MALFORMED_HOSTS = ["", "localhost:x", "user@localhost", "local host", "localhost,localhost", "::1"]


async def test_a_malformed_host_is_refused(client: Client) -> None:
    for host in MALFORMED_HOSTS:
        assert (await client.like(host=host).get("/sessions")).status in {400, 401}


FORWARDING_HEADERS = [
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Anything",
    "X-Real-IP",
    "Via",
    "x_forwarded_for",
    "CF-Connecting-IP",
    "True-Client-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "X-Original-Host",
    "Client-IP",
    "X-Amzn-Trace-Id",
    "X-Request-Start",
]


async def test_a_forwarded_request_is_not_local(client: Client) -> None:
    for header in FORWARDING_HEADERS:
        answer = await client.get("/sessions", headers={header: "127.0.0.1"})
        assert answer.status == 401
        assert "proxy" in answer.detail


SAME_ORIGINS = ["http://localhost:8000", "HTTP://LOCALHOST:8000"]


async def test_a_page_of_the_same_origin_is_local(client: Client) -> None:
    for origin in SAME_ORIGINS:
        assert (await client.post("/sessions", START, headers={"origin": origin})).status == 201


OTHER_ORIGINS = [
    "http://localhost:3000",
    "https://localhost:8000",
    "http://127.0.0.1:8000",
    "http://evil.example",
    "http://localhost:8000.evil.example",
    "http://localhost:8000@evil.example",
    "http://localhost:8000/path",
    "http://localhost:99999",
    "http://[",
    "null",
    "*",
    "",
]


async def test_a_page_of_another_origin_is_not(client: Client) -> None:
    for origin in OTHER_ORIGINS:
        for method in ("GET", "POST"):
            answer = await client.request(method, "/sessions", body=b'{"call_id": "a"}', headers={"origin": origin})
            assert answer.status == 401


async def test_default_ports_need_not_be_named(client: Client) -> None:
    plain = client.like(host="localhost:80")
    assert (await plain.get("/sessions", headers={"origin": "http://localhost"})).status == 200
    secure = client.like(host="localhost", scheme="https")
    assert (await secure.get("/sessions", headers={"origin": "https://localhost:443"})).status == 200
    assert (await secure.get("/sessions", headers={"origin": "http://localhost"})).status == 401


async def test_a_page_of_a_listed_origin_is_local(serve: Serve, allow_local: None) -> None:
    client = await serve(ServeOptions(cors_allow_origins={"https://app.example"}))
    assert (await client.post("/sessions", START, headers={"origin": "https://app.example"})).status == 201
    assert (await client.post("/sessions", START, headers={"origin": "https://other.example"})).status == 401


@pytest.mark.parametrize("origin", ["https://app.example", "null", "*"])
async def test_a_star_lists_nobody(serve: Serve, allow_local: None, origin: str) -> None:
    client = await serve(ServeOptions(cors_allow_origins={"*", "null"}))
    assert (await client.post("/sessions", START, headers={"origin": origin})).status == 401


@pytest.mark.parametrize(
    ("allow", "debug", "standalone", "status"),
    [
        (None, False, False, 401),
        (None, True, False, 200),
        (None, False, True, 200),
        (True, False, False, 200),
        (False, True, True, 401),
    ],
)
async def test_where_a_local_request_counts(
    serve: Serve, settings: Any, allow: bool | None, debug: bool, standalone: bool, status: int
) -> None:
    import tests.agents

    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "ALLOW_LOCAL": allow}
    settings.DEBUG = debug
    client = await serve(work=False)
    tests.agents.runner.standalone = standalone
    answer = await client.get("/sessions")
    assert answer.status == status
    if status == 401:
        # Where it does not count, nothing tells what would make a request local.
        assert answer.detail == "Sign in, or send an API key, to view agent sessions"
