from __future__ import annotations

import json
import time
from typing import Any

import pytest

from visionagents_runner.observe.jsonsafe import MAX_BYTES, json_safe

_LOOP: list[Any] = []
_LOOP.append(_LOOP)


@pytest.mark.parametrize(
    "data",
    [
        {"text": "é" * 100_000},
        {"text": '"\\\n\x01' * 10_000},
        {"many": ["word" * 10] * 100_000},
        {"deep": _LOOP},
        {"number": 10**400, "nan": float("nan"), "inf": float("-inf"), "bytes": b"abc", "object": object()},
        {"keys": {f"key {number}" * 100: number for number in range(10_000)}},
        {("a", "tuple"): {1, 2, 3}},
        {"nested": {"a": ["x" * 9000, {"b": "y" * 9000}, "z" * 9000]}},
    ],
)
def test_whatever_comes_is_json_within_the_bound(data: Any) -> None:
    began = time.perf_counter()
    safe = json_safe(data)
    assert time.perf_counter() - began < 0.05
    assert len(json.dumps(safe, ensure_ascii=False, allow_nan=False).encode()) <= MAX_BYTES


def test_what_is_ordinary_stays_as_it_is() -> None:
    data = {"text": "Grüße, 世界", "list": [1, 2.5, None, True, {"a": "b"}]}
    assert json_safe(data) == data


def test_what_databases_refuse_goes() -> None:
    assert json_safe({"text": "a\0b\ud800c"}) == {"text": "ab?c"}


def test_an_object_that_cannot_even_be_printed_is_named() -> None:
    class Silent:
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert json_safe({"it": Silent()}) == {"it": "<Silent>"}
