"""Values and texts that nobody expects, and changes to what is expected."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

TEXTS = (
    "", " ", "\0", "a\0b", "..", ".", "/", "%2F", "../../etc/passwd", "\ud800", "\u202eabc", "\x1b[31m", "\r\nX: y",
    "\U0001f600" * 100, "e\u0301" * 500, "\u0130" * 300, "{{7*7}}", "<script>", "' OR 1=1 --", "null", "NaN", "a" * 255,
    "a" * 256, "a" * 4001, "\ufeff", "\u2028", "\uffff", "%s%n%x", "0" * 5000,
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**400, 1e308, -1e308, 1e-320, 0.1, True, False,
)  # fmt: skip


def text(rng: Random) -> str:
    if rng.random() < 0.7:
        return rng.choice(TEXTS)
    return "".join(chr(rng.choice((rng.randrange(0x20), rng.randrange(0x110000)))) for _ in range(rng.randrange(400)))


def value(rng: Random, depth: int = 3) -> Any:
    kind = rng.randrange(7 if depth else 4)
    if kind == 0:
        return text(rng)
    if kind == 1:
        return rng.choice(NUMBERS)
    if kind == 2:
        return None
    if kind == 3:
        return rng.random()
    if kind == 4:
        return [value(rng, depth - 1) for _ in range(rng.randrange(6))]
    if kind == 5:
        return {text(rng)[:50]: value(rng, depth - 1) for _ in range(rng.randrange(6))}
    return large(rng)


def large(rng: Random) -> Any:
    """Something that is much of one sort, some ten kilobytes."""
    number = rng.randrange(100, 4000)
    return rng.choice(
        (
            lambda: [[] for _ in range(number)],
            lambda: [{} for _ in range(number)],
            lambda: list(range(number)),
            lambda: {str(each): each for each in range(number)},
            lambda: "x" * number * 10,
            lambda: nested(number, "["),
            lambda: [0.1] * number,
            lambda: {"a" * number: 1},
        )
    )()


def nested(depth: int, opening: str) -> Any:
    found: Any = 0
    for _ in range(min(depth, 200)):
        found = [found] if opening == "[" else {"a": found}
    return found


def mutated(rng: Random, message: dict[str, Any]) -> dict[str, Any]:
    """A message with some fields that are different, missing, or more."""
    changed = dict(message)
    for _ in range(rng.randrange(1, 4)):
        if changed and rng.random() < 0.8:
            name = rng.choice(list(changed))
            if rng.random() < 0.25:
                del changed[name]
            else:
                changed[name] = value(rng)
        else:
            changed[text(rng)[:30]] = value(rng)
    return changed


def mangled(rng: Random, data: bytes) -> bytes:
    """Bytes with some flipped, cut, repeated or put in."""
    found = bytearray(data)
    for _ in range(rng.randrange(1, 8)):
        if not found:
            break
        at = rng.randrange(len(found))
        kind = rng.randrange(5)
        if kind == 0:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del found[at : at + rng.randrange(1, 20)]
        elif kind == 2:
            found[at:at] = rng.randbytes(rng.randrange(1, 20))
        elif kind == 3:
            piece = found[at : at + rng.randrange(1, 40)]
            found[at:at] = piece * rng.randrange(1, 30)
        else:
            del found[at:]
    return bytes(found)


def dump(message: Any) -> str:
    """As JSON, with what JSON has no words for, too."""
    return json.dumps(message, allow_nan=True, ensure_ascii=True)


# Bodies that are much work for a parser, by size in bytes


def repeated_names(size: int) -> bytes:
    count = size // 10
    return ("{" + ",".join(f'"{each}":0' for each in range(count)) + f',"{count - 1}":0' + "}").encode()


def empty_lists(size: int) -> bytes:
    return b"[" + b"[]," * (size // 3 - 1) + b"[]]"


def empty_objects(size: int) -> bytes:
    return b"[" + b"{}," * (size // 3 - 1) + b"{}]"


def deep_lists(size: int) -> bytes:
    return b"[" * (size // 2) + b"]" * (size // 2)


def deep_objects(size: int) -> bytes:
    return b'{"a":' * (size // 6) + b"0" + b"}" * (size // 6)


def long_number(size: int) -> bytes:
    return b'{"call_id":' + b"9" * size + b"}"


def long_text(size: int) -> bytes:
    return b'{"call_id":"' + b"x" * size + b'"}'


def escapes(size: int) -> bytes:
    return b'{"call_id":"' + b"\\ud83d\\ude00" * (size // 12) + b'"}'


def many_names(size: int) -> bytes:
    return ('{"call_id":"x","metadata":{' + ",".join(f'"{each}":{{}}' for each in range(size // 12)) + "}}").encode()


def colliding_numbers(size: int) -> bytes:
    """Numbers that share a hash, as values: they must not become keys."""
    return b"[" + b",".join(str(each * (2**61 - 1)).encode() for each in range(size // 22)) + b"]"


def floats(size: int) -> bytes:
    return b"[" + b"1e308," * (size // 6) + b"0]"


def same_text(size: int) -> bytes:
    return b'{"call_id":"x","agent":' + b"[" + b'"aaaaaaaa",' * (size // 11) + b'""]}'


FORM, PARTS = "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"


def form(fields: int) -> bytes:
    return b"&".join(b"%d=x" % each for each in range(fields))


def parts(number: int) -> bytes:
    one = '--b\r\nContent-Disposition: form-data; name="{}"\r\n\r\nx\r\n'
    return "".join(one.format(each) for each in range(number)).encode() + b"--b--\r\n"


BODIES: tuple[Callable[[int], bytes], ...] = (
    repeated_names, empty_lists, empty_objects, deep_lists, deep_objects, long_number, long_text, escapes, many_names,
    colliding_numbers, floats, same_text,
)  # fmt: skip
