"""JSON from outside, refused by count, depth and length before it is parsed: looking costs a tenth of parsing.

`json.loads` holds the interpreter, and with it the event loop, also in a thread: 44 ms for 1 MiB of ``[[],[],...]``,
and what walks the outcome takes seconds. So what is parsed is bounded by what it holds, not only by its size.
"""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 32
"""Levels of nesting: what MariaDB stores in a JSON column, less one for the column itself."""
MAX_NUMBER_CHARS = 1000

_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_OPENING = frozenset(b"[{")


class Malformed(ValueError):
    """What was given is refused; the text says why, as what follows "it"."""


def loads(data: bytes, *, max_values: int) -> Any:
    """Return what ``data`` says. It takes a few milliseconds a MiB, and some 0.5 ms per thousand values.

    It must be UTF-8 with at most ``max_values`` values (a list or object may count twice, a key does not count) in
    `MAX_DEPTH` levels, and without a number of more than `MAX_NUMBER_CHARS` characters, NaN or infinity by name, or a
    key that is twice in one object.

    Raises:
        Malformed: it is not.
    """
    _check_shape(data, max_values)
    try:
        return json.loads(
            data.decode("utf-8-sig"),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except Malformed:
        raise
    except UnicodeDecodeError:
        raise Malformed("is not valid JSON: it must be UTF-8") from None
    except ValueError as error:
        raise Malformed(f"is not valid JSON: {error}") from None


def _check_shape(data: bytes, max_values: int) -> None:
    """Refuse what the parser would find too much in, at the speed of a search for single bytes.

    It need not be JSON: as far as the parser gets in it, both agree on what is a string.
    """
    openings = data.count(b"[") + data.count(b"{")
    if openings <= MAX_DEPTH and openings + data.count(b",") < max_values:
        return  # most are done here
    bare = _without_strings(data, max_values)
    brackets = bare.translate(None, _NO_BRACKETS)
    depth = 0
    for bracket in brackets[: 2 * max_values]:
        depth += 1 if bracket in _OPENING else -1
        if depth > MAX_DEPTH:
            raise Malformed(f"is nested more than {MAX_DEPTH} levels deep")
    # Each value is the first of all, the first of its container, or comes after a comma.
    if len(brackets) > 2 * max_values or bare.count(b",") + bare.count(b"[") + bare.count(b"{") >= max_values:
        raise _too_many(max_values)


def _without_strings(data: bytes, max_values: int) -> bytes:
    unescaped = data.replace(rb"\\", b"").replace(rb"\"", b"")
    # Two for each string, which is a value or the key of one.
    if unescaped.count(b'"') > 4 * max_values:
        raise _too_many(max_values)
    return b"".join(unescaped.split(b'"')[::2])


def _too_many(max_values: int) -> Malformed:
    return Malformed(f"holds more than {max_values} values")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names: set[str] = set()
        for name, _ in pairs:
            if name in names:
                raise Malformed(f"is not valid JSON: {name[:100]!r} is given twice")
            names.add(name)
    return found


def _refuse_constant(name: str) -> Any:
    raise Malformed(f"is not valid JSON: {name} is not allowed")


def _integer(digits: str) -> int:
    return int(_short(digits))


def _float(digits: str) -> float:
    return float(_short(digits))


def _short(digits: str) -> str:
    if len(digits) > MAX_NUMBER_CHARS:
        raise Malformed(f"is not valid JSON: a number has more than {MAX_NUMBER_CHARS} characters")
    return digits
