"""Malformed input: 422 says which field and why, 413 the limit, and nothing is created."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.asgi_client import Client
from visionagents_runner.api import bodies
from visionagents_runner.models import AgentSession

DEEP = b"[" * 100_000 + b"]" * 100_000


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = {"a": value}
    return value


MALFORMED = [
    (b"", [], "JSON"),
    (b"{", [], "JSON"),
    (b"\xff\xfe\x00", [], "JSON"),
    (b"null", [], "object"),
    (b'"text"', [], "object"),
    (b"[]", [], "object"),
    (b"{}", ["call_id"], "required"),
    (b'{"call_id": null}', ["call_id"], "string"),
    (b'{"call_id": 5}', ["call_id"], "string"),
    (b'{"call_id": ["a"]}', ["call_id"], "string"),
    (b'{"call_id": ""}', ["call_id"], "empty"),
    (b'{"call_id": "."}', ["call_id"], '"."'),
    (b'{"call_id": ".."}', ["call_id"], '".."'),
    (b'{"call_id": "a\\u0000"}', ["call_id"], "control"),
    (b'{"call_id": "a\\n"}', ["call_id"], "control"),
    (b'{"call_id": "a\nb"}', [], "JSON"),
    (b'{"call_id": "\\ud800"}', ["call_id"], "surrogate"),
    (b'{"call_id": "a", "call_type": "\\udfff"}', ["call_type"], "surrogate"),
    (json.dumps({"call_id": "x" * 256}).encode(), ["call_id"], "255"),
    (b'{"call_id": "a", "call_type": null}', ["call_type"], "string"),
    (b'{"call_id": "a", "call_type": ""}', ["call_type"], "empty"),
    (b'{"call_id": "a", "agent": "nobody"}', ["agent"], "nobody"),
    (b'{"call_id": "a", "agent": ""}', ["agent"], "at least 1"),
    (b'{"call_id": "a", "agent": 1}', ["agent"], "string"),
    (b'{"call_id": "a", "agent": "\\ud800"}', ["agent"], "unicode"),
    (json.dumps({"call_id": "a", "agent": "x" * 100_000}).encode(), ["agent"], "100"),
    (b'{"call_id": "a", "metadata": []}', ["metadata"], "dictionary"),
    (b'{"call_id": "a", "metadata": "x"}', ["metadata"], "dictionary"),
    (b'{"call_id": "a", "metadata": {"a": "\\u0000"}}', ["metadata"], "NUL"),
    (b'{"call_id": "a", "metadata": {"\\u0000": 1}}', ["metadata"], "NUL"),
    (b'{"call_id": "a", "metadata": {"a": "\\ud800"}}', ["metadata"], "surrogate"),
    (b'{"call_id": "a", "metadata": {"\\udc00": 1}}', ["metadata"], ""),
    (b'{"call_id": "a", "metadata": {"a": NaN}}', [], "NaN"),
    (b'{"call_id": "a", "metadata": {"a": -Infinity}}', [], "Infinity"),
    (b'{"call_id": "a", "metadata": {"a": 1e999}}', ["metadata"], "JSON"),
    (b'{"call_id": "a", "metadata": {"a": ' + b"9" * 5000 + b"}}", [], "JSON"),
    (json.dumps({"call_id": "a", "metadata": {"a": "x" * 16_400}}).encode(), ["metadata"], "16384"),
    (json.dumps({"call_id": "a", "metadata": nested(60)}).encode(), [], "deep"),
    (b'{"call_id": "a", "metadata": {"a": ' + DEEP + b"}}", [], "deep"),
    (DEEP, [], "deep"),
    (b'{"call_id": "a", "call_id": "b"}', [], "twice"),
    (b'{"call_id": "a", "metadata": {"x": 1, "x": 2}}', [], "twice"),
    (b'{"call_id": "a", "\\ud800": 1, "\\ud800": 1}', [], "twice"),
    (b"{" + b",".join(b'"%d":0' % number for number in [*range(60_000), 59_999]) + b"}", [], "12000 values"),
    (b'{"call_id": "a", "x": [' + b"[]," * 340_000 + b"[]]}", [], "12000 values"),
    (
        b'{"call_id": "a", "metadata": {' + b",".join(b'"\\ud800%d":0' % n for n in range(9000)) + b"}}",
        ["metadata"],
        "",
    ),
    ('{"call_id": "a"}'.encode("utf-16"), [], "UTF-8"),
]


async def test_a_malformed_start_is_refused_with_field_and_reason(client: Client) -> None:
    for body, field, reason in MALFORMED:
        answer = await client.request("POST", "/sessions", body=body)
        assert answer.status == 422, answer.body
        answer.body.decode("ascii")
        assert b"\\ud" not in answer.body.replace(b"\\\\ud", b"")  # strict parsers refuse lone surrogates
        problem = answer.detail[0]
        assert problem["loc"][: 1 + len(field)] == ["body", *field]
        assert reason in problem["msg"]
        assert not await AgentSession.objects.aexists()


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        None,
        {"🦊": "é"},
        nested(30),
        {"a": "x" * 16_000},
        {"a": "🦊" * 4000},
        {"a": [[]] * 4090},
        {"big": 2**70, "small": 1e-300},
    ],
)
async def test_metadata_within_the_limits_is_kept(client: Client, metadata: Any) -> None:
    answer = await client.post("/sessions", {"call_id": "a", "metadata": metadata})
    assert answer.status == 201
    row = await AgentSession.objects.aget(pk=answer.json()["session_id"])
    assert row.metadata == (metadata or {})


async def test_as_many_values_as_metadata_may_hold_can_be_sent(client: Client) -> None:
    body = b'{"call_id": "a", "metadata": {"a": [' + b"[]," * 5450 + b"[]]}}"
    assert "bytes as JSON" in (await client.request("POST", "/sessions", body=body)).detail[0]["msg"]


async def test_no_more_than_a_few_problems_are_told(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_PROBLEMS", 2)
    body = {"call_id": 1, "call_type": 1, "agent": 1, "metadata": 1}
    assert len((await client.post("/sessions", body)).detail) == 2


async def test_what_is_large_is_read_beside_the_loop(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    parse = bodies._parse

    def parse_and_tell(*args: Any) -> Any:
        threads.append(threading.current_thread().name)
        return parse(*args)

    monkeypatch.setattr(bodies, "_parse", parse_and_tell)
    for length in (10, 100_000):
        assert (await client.post("/sessions", {"call_id": "a", "padding": "x" * length})).status == 201
    assert threads == [threading.current_thread().name, "visionagents-compute_0"]


CONTENT_TYPES = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x"]


async def test_json_is_read_whatever_the_content_type(client: Client) -> None:
    for content_type in CONTENT_TYPES:
        answer = await client.post("/sessions", {"call_id": "a"}, headers={"content-type": content_type})
        assert answer.status == 201


async def test_keys_that_are_not_known_are_ignored(client: Client) -> None:
    assert (await client.post("/sessions", {"call_id": "a", "colour": "red"})).status == 201


@pytest.mark.parametrize("path", ["/sessions", "/calls/my-call/sessions"])
async def test_a_body_over_the_limit_is_refused(client: Client, path: str, settings: Any) -> None:
    body = json.dumps({"call_id": "a", "padding": "x" * (10 * 1024 * 1024)}).encode()
    answer = await client.request("POST", path, body=body)
    assert answer.status == 413
    assert "1048576" in answer.detail

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    answer = await client.request("POST", path, body=pieces())
    assert answer.status == 413
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "MAX_BODY_BYTES": 10}
    assert (await client.request("POST", path, body=b'{"call_id":"abc"}')).status == 413
    settings.VISIONAGENTS_RUNNER = {**settings.VISIONAGENTS_RUNNER, "MAX_BODY_BYTES": 5 * 1024 * 1024}
    big = json.dumps({"call_id": "a", "padding": "x" * (4 * 1024 * 1024)}).encode()
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 100
    assert (await client.request("POST", path, body=big)).status == 201


MALFORMED_FILTERS = [
    "limit=0",
    "limit=201",
    "limit=-1",
    "limit=x",
    "limit=99999999999999999999999",
    "status=nonsense",
    "status=",
    "cursor=%00",
    "cursor=abc",
    "cursor=🦊",
    "cursor=MjAyNi0wMS0wMSB4",
    "cursor=MDAwMS0wMS0wMVQwMDowMDowMCsyMzo1OSA",
    "agent=%00",
    "agent=%ED%A0%80%00",
    "call_id=%00",
    "call_id=" + "x" * 256,
]


async def test_malformed_filters_are_refused(client: Client) -> None:
    for query in MALFORMED_FILTERS:
        from urllib.parse import quote

        answer = await client.get(f"/sessions?{quote(query, safe='=%')}")
        assert answer.status == 422
        assert answer.detail[0]["loc"] == ["query", query.partition("=")[0]]


async def test_query_strings_without_measure_are_refused(client: Client) -> None:
    answer = await client.get("/sessions?" + "&".join(f"a{number}=" for number in range(1001)))
    assert (answer.status, answer.detail) == (400, "The query string has too many parameters")
    answer = await client.get("/sessions?agent=" + "x" * 8192)
    assert (answer.status, answer.detail) == (414, "The query string is longer than 8192 bytes")


async def test_paths_without_measure_are_not_found(client: Client) -> None:
    for path in ("/sessions" + "/" * 60_000, "/sessions/" + "%2F" * 20_000, "/calls/" + "a/" * 9000):
        assert (await client.get(path)).status == 404


async def test_a_host_with_a_port_without_measure_is_no_error(client: Client) -> None:
    answer = await client.get("/sessions", headers={"host": "localhost:" + "9" * 5000})
    assert answer.status in {400, 401}


async def test_a_query_string_that_is_not_utf8_is_a_bad_request(client: Client) -> None:
    assert (await client.get("/sessions?agent=\xff")).status == 400
