"""JSON from outside: bounded by what it holds, and otherwise read as json reads it."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from visionagents_runner.utils import boundedjson
from visionagents_runner.utils.boundedjson import MAX_DEPTH, Malformed, loads

MIB = 1024 * 1024
PIECES = ['"', "\\", '\\"', "\\\\", "[", "]", "{", "}", ",", ":", "1", " ", "x", "é", "🦊", "\\u0022", "null"]


def size(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(size, value.values()))
    return 1 + sum(map(size, value)) if isinstance(value, list) else 1


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return int(isinstance(value, (dict, list))) + max(map(depth, inner), default=0)


def made_up(chance: random.Random, level: int = 0) -> Any:
    kind = chance.randrange(6 if level < 5 else 3)
    if kind < 3:
        text = "".join(chance.choices(PIECES, k=chance.randrange(6)))
        return chance.choice([text, chance.randrange(-5, 10**6), chance.random(), None, True])
    many = [made_up(chance, level + 1) for _ in range(chance.randrange(8))]
    return many if kind < 5 else {f"{number}{chance.choice(PIECES)}": value for number, value in enumerate(many)}


def test_what_is_within_the_bounds_is_read_as_json_reads_it() -> None:
    chance = random.Random(10)
    for _ in range(300):
        value = made_up(chance)
        data = json.dumps(value, ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, 1])).encode()
        assert loads(data, max_values=max(40, 2 * size(value))) == value


@pytest.mark.slow
def test_what_is_read_is_within_the_bounds_however_the_text_is_broken() -> None:
    chance = random.Random(11)
    read = 0
    for _ in range(3000):
        data = bytearray(json.dumps(made_up(chance), ensure_ascii=False).encode())
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(data) + 1)
            data[at : at + chance.randrange(3)] = chance.choice(PIECES).encode()
        try:
            value = loads(bytes(data), max_values=50)
        except Malformed:
            continue
        read += 1
        assert value == json.loads(bytes(data))
        assert size(value) <= 50
    assert read > 500


LARGE = {
    "lists": b"[" + b"[]," * (MIB // 3) + b"[]]",
    "objects": b"[" + b"{}," * (MIB // 3) + b"{}]",
    "numbers": b"[" + b"0," * (MIB // 2) + b"0]",
    "strings": b"[" + b'"",' * (MIB // 3) + b"0]",
    "keys": b"{" + b",".join(b'"%d":0' % number for number in range(100_000)) + b"}",
    "escapes": b"[[" + b'"\\",\\\\",' * (MIB // 9) + b"0]]",
    "beside strings": b'{"' + b"," * MIB + b'":[' + b"1," * 9000 + b"1]}",
}


@pytest.mark.parametrize("data", LARGE.values(), ids=LARGE.keys())
def test_what_holds_too_much_is_never_parsed(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundedjson.json, "loads", None)
    with pytest.raises(Malformed, match="holds more than 5000 values"):
        loads(data, max_values=5000)


@pytest.mark.parametrize("data", [b"[" * MIB, b'{"a":' * 40, b'[{"a":' * 17, b'["]]]]",' + b"[" * 32])
def test_what_is_too_deep_is_never_parsed(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundedjson.json, "loads", None)
    with pytest.raises(Malformed, match="more than 32 levels"):
        loads(data, max_values=5000)


def test_brackets_and_commas_in_strings_do_not_count() -> None:
    text = '[{,\\"' * 10_000
    assert loads(json.dumps({"a": [text, text]}).encode(), max_values=10) == {"a": [text, text]}
    deepest = b"[" * MAX_DEPTH + b'"[[["' + b"]" * MAX_DEPTH
    assert depth(loads(deepest, max_values=100)) == MAX_DEPTH


class Counted(str):
    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return super().__eq__(other)

    __hash__ = str.__hash__


def test_the_search_for_a_key_that_is_twice_looks_at_each_key_once() -> None:
    names = [Counted(number) for number in range(5000)]
    pairs = [(name, 0) for name in [*names, Counted(4999)]]
    with pytest.raises(Malformed, match="'4999' is given twice"):
        boundedjson._object(pairs)
    assert Counted.compared < 100  # equal hashes alone make two keys be compared


REFUSED = [
    (b"", "not valid JSON"),
    (b"{", "not valid JSON"),
    (b"]" * MIB, "not valid JSON"),
    (b'"' * MIB, "not valid JSON"),
    (b'"' + b"\\" * MIB, "not valid JSON"),
    (b'["\xff"]', "UTF-8"),
    (b'["\xed\xa0\x80"]', "UTF-8"),
    ('{"a": 1}'.encode("utf-16"), "UTF-8"),
    ('{"a": 1}'.encode("utf-16-le"), "not valid JSON"),
    (b"[NaN]", "NaN"),
    (b"[-Infinity]", "Infinity"),
    (b"[" + b"9" * 1001 + b"]", "1000 characters"),
    (b"[0." + b"9" * MIB + b"]", "1000 characters"),
    (b'{"a": {"b": 1, "b": 2}}', "'b' is given twice"),
    (b'{"' + b"x" * MIB + b'": 1, "' + b"x" * MIB + b'": 2}', "xxx' is given twice"),
]


def test_what_is_refused_is_refused_in_few_words() -> None:
    for data, words in REFUSED:
        with pytest.raises(Malformed, match=words) as refusal:
            loads(data, max_values=1000)
        assert len(str(refusal.value)) < 200


def test_a_byte_order_mark_and_numbers_of_any_kind_are_taken() -> None:
    assert loads(b'\xef\xbb\xbf{"a": [1e-300, 1E5, -0, %d]}' % 2**3000, max_values=10) == {
        "a": [1e-300, 1e5, 0, 2**3000]
    }
