"""Values as JSON that every database takes and that has a bound."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

MAX_BYTES = 16 * 1024
_MAX_DEPTH = 8
_MAX_ITEMS = 500
_MAX_KEY = 200
_CUT = "…"


def json_safe(data: Mapping[str, Any], *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Return ``data`` as a new dict of JSON values that takes at most ``max_bytes`` as UTF-8 JSON.

    What is too long is cut and ends with "…"; what JSON cannot say is told in words. NUL and lone surrogates, which
    PostgreSQL refuses, go.
    """
    return _Walk(max_bytes - 2).mapping(data, 0)


class _Walk:
    """``left`` counts down the bytes that may still be written, punctuation included."""

    def __init__(self, left: int) -> None:
        self.left = left

    def value(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            self.left -= 5
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, int):
            return self.number(int(value))
        if isinstance(value, float):
            return self.number(float(value)) if math.isfinite(value) else self.text(str(value))
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self.text(f"<{len(value)} bytes>")
        if depth >= _MAX_DEPTH:
            return self.text(_CUT)
        if isinstance(value, Mapping):
            return self.mapping(value, depth)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
            return self.mapping(fields, depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            return self.items(value, depth)
        return self.text(_in_words(value))

    def mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        self.left -= 4
        result: dict[str, Any] = {}
        for number, (key, item) in enumerate(value.items()):
            if number >= _MAX_ITEMS or self.left <= 0:
                result[_CUT] = _CUT
                break
            name = _clean(key if isinstance(key, str) else _in_words(key))[:_MAX_KEY]
            self.left -= _size(name) + 4
            result[name] = self.value(item, depth + 1)
        return result

    def items(self, value: Iterable[Any], depth: int) -> list[Any]:
        self.left -= 4
        result: list[Any] = []
        for number, item in enumerate(value):
            if number >= _MAX_ITEMS or self.left <= 0:
                result.append(_CUT)
                break
            self.left -= 2
            result.append(self.value(item, depth + 1))
        return result

    def number(self, value: float) -> float | str:
        if isinstance(value, int) and value.bit_length() > 63:
            return self.text(str(value) if value.bit_length() < 4096 else "<a huge number>")
        self.left -= 24
        return value

    def text(self, value: str) -> str:
        room = max(self.left, 0)
        clean = _clean(value if len(value) <= room else value[: room + 1])
        self.left -= 4
        if (size := _size(clean)) > room:
            room -= len(_CUT.encode())
            while clean and (size := _size(clean)) > room:
                clean = clean[: min(len(clean) - 1, len(clean) * max(room, 0) // size)]
            clean += _CUT
            size = _size(clean)
        self.left -= size
        return clean


def _clean(text: str) -> str:
    if text.isascii():
        return text.replace("\0", "")
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _size(text: str) -> int:
    """The bytes of ``text`` as JSON without ``ensure_ascii``, quotes included."""
    if text.isascii() and text.isprintable():
        return len(text) + text.count('"') + text.count("\\") + 2
    return len(json.dumps(text, ensure_ascii=False).encode())


def _in_words(value: Any) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"
