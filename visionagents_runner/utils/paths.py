"""Which route a path names.

An id in a path is one percent-encoded segment and may hold any character, ``/`` included. Servers decode ``%2F`` in
``path``, so segments are cut from ``raw_path``, in both mounts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

from django.http import HttpRequest

MAX_PATH_BYTES = 8 * 1024
"""Two ids, the most that a path of ours holds, take 6,120 bytes at most."""


class Match(NamedTuple):
    route: str
    """As it was registered, for example ``calls/{call_id}/sessions``."""
    parameters: dict[str, str]
    """Decoded. Bytes that are not UTF-8 are lone surrogates, which no id may hold."""


class Matcher:
    """Matches paths, given without their prefix, against routes with ``{parameters}``; a trailing slash is ignored."""

    def __init__(self, routes: Iterable[str]) -> None:
        self._by_length: dict[int, list[tuple[str, list[tuple[int, str]], list[tuple[int, str]]]]] = {}
        self.routes = tuple(dict.fromkeys(route.strip("/") for route in routes))
        for route in self.routes:
            segments = route.split("/")
            literals = [(i, segment) for i, segment in enumerate(segments) if not segment.startswith("{")]
            names = [(i, segment[1:-1]) for i, segment in enumerate(segments) if segment.startswith("{")]
            self._by_length.setdefault(len(segments), []).append((route, literals, names))

    def match(self, raw: bytes) -> Match | None:
        """Return what ``raw``, percent-encoded, names; None if it is no route."""
        if len(raw) > MAX_PATH_BYTES:
            return None
        if b"%" in raw or not raw.isascii():
            segments = [unquote_to_bytes(part).decode("utf-8", "surrogateescape") for part in raw.split(b"/")]
        else:
            segments = raw.decode("ascii").split("/")
        if len(segments) > 1 and not segments[-1]:
            segments.pop()
        return self._find(segments)

    def match_decoded(self, path: str) -> Match | None:
        """Like `match`, for a server that gives no raw path: the first id takes all the slashes there may be."""
        if len(path) > MAX_PATH_BYTES:
            return None
        segments = path.removesuffix("/").split("/")
        if (found := self._find(segments)) is not None:
            return found
        for length in sorted(self._by_length, reverse=True):
            extra = len(segments) - length
            if extra > 0 and length > 2:
                merged = [segments[0], "/".join(segments[1 : extra + 2]), *segments[extra + 2 :]]
                if (found := self._find(merged)) is not None:
                    return found
        return None

    def _find(self, segments: list[str]) -> Match | None:
        for route, literals, names in self._by_length.get(len(segments), ()):
            for i, literal in literals:
                if segments[i] != literal:
                    break
            else:
                return Match(route, {name: segments[i] for i, name in names})
        return None


def raw_suffix(scope: Mapping[str, object], suffix: str) -> bytes | None:
    """Return the part of ``raw_path`` of which ``suffix``, an end of ``path``, is the decoded form.

    None if the server gives no raw path, or one that does not belong to ``path``.
    """
    raw, path = scope.get("raw_path"), scope.get("path")
    if not isinstance(raw, bytes) or not isinstance(path, str) or not path.endswith(suffix):
        return None
    raw = raw.partition(b"?")[0]
    if len(raw) > MAX_PATH_BYTES:
        return None  # no ids are that long: what is decoded names nothing either
    prefix = path[: len(path) - len(suffix)]
    root = str(scope.get("root_path") or "")
    # Servers differ in whether the raw path begins with the root path.
    for expected in dict.fromkeys((prefix, prefix.removeprefix(root))):
        end = _encoded_length(raw, expected.encode("utf-8", "surrogateescape"))
        if end is not None and _decoded(raw[end:]) == suffix:
            return raw[end:]
    return None


def encode_path(path: str) -> bytes:
    """Return ``path`` percent-encoded as a client would send it."""
    return quote(path, safe="/~:@!$&'()*+,;=").encode()


def scope_of(request: HttpRequest) -> Mapping[str, object] | None:
    """Return the ASGI scope of a request; None under WSGI."""
    return getattr(request, "scope", None)


def _encoded_length(raw: bytes, decoded: bytes) -> int | None:
    """Return how many bytes of ``raw`` decode to exactly ``decoded``."""
    if raw.startswith(decoded) and b"%" not in decoded:
        return len(decoded)
    position = 0
    for byte in decoded:
        piece = raw[position : position + 3] if raw[position : position + 1] == b"%" else raw[position : position + 1]
        if unquote_to_bytes(piece) != bytes((byte,)):
            return None
        position += len(piece)
    return position


def _decoded(raw: bytes) -> str:
    """Decode like servers do for ``path``, which turns what is not UTF-8 into U+FFFD."""
    return unquote_to_bytes(raw).decode("utf-8", "replace")
