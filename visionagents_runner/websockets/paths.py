"""What the paths of WebSockets name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from django.conf import settings

from ..exceptions import InvalidInput
from ..utils.paths import encode_path, raw_suffix
from ..utils.validation import clean_call_part

CALL = "visionagents_runner.call"
"""Key of a scope under which `AgentsApplication` leaves the call that it found: type and id."""
FEED = "visionagents_runner.feed"
"""The same for the feed: the id of a session, "" for the list."""
_PATH = b"ws/calls/"
_FEEDS = b"ws/sessions/"


def match_call(scope: Mapping[str, Any], prefixes: Iterable[str]) -> tuple[str, str] | None:
    """Return the call that the path of a WebSocket names under one of ``prefixes``; None if it names none."""
    for rest in _after(_PATH, scope, prefixes):
        if (call := _split(rest)) is not None:
            return call
    return None


def match_feed(scope: Mapping[str, Any], prefixes: Iterable[str]) -> str | None:
    """Return the id of the session whose feed the path of a WebSocket names, "" for the list; None for no feed."""
    for rest in _after(_FEEDS, scope, prefixes):
        segment = rest.removesuffix(b"/")
        # An id is text that needs no encoding; anything else is none, whatever the database would make of it.
        if b"/" not in segment and segment.isascii() and (segment or not rest):
            return segment.decode()
    return None


def _after(path: bytes, scope: Mapping[str, Any], prefixes: Iterable[str]) -> Iterator[bytes]:
    """Yield what follows ``path`` in the path of a WebSocket, as it was sent, under each of ``prefixes``."""
    raw: bytes | None = scope.get("raw_path")
    if raw is None:
        raw = encode_path(scope["path"])
    raw = raw.partition(b"?")[0]
    script = settings.FORCE_SCRIPT_NAME or scope.get("root_path")
    if script:
        raw = raw.removeprefix(script.encode())
    for prefix in prefixes:
        start = encode_path("/" + prefix) + path
        if raw.startswith(start):
            yield raw[len(start) :]


def feed_of(scope: Mapping[str, Any]) -> str | None:
    """Return the id of the session whose feed a WebSocket is for, "" for the list."""
    feed: str | None = scope.get(FEED)
    if feed is None and "url_route" in scope:
        feed = scope["url_route"]["kwargs"].get("session_id") or ""
    return feed


def call_of(scope: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return type and id of the call that a WebSocket is for; None if they cannot be such."""
    call = scope.get(CALL)
    if call is None:
        rest: str = scope.get("url_route", {}).get("kwargs", {}).get("rest", "")
        raw = raw_suffix(scope, rest)
        if raw is None:
            # A server that tells no raw path: the type has no slash then, the id all the others.
            call_type, _, call_id = rest.removesuffix("/").partition("/")
            call = call_type, call_id
        else:
            call = _split(raw)
    if call is None:
        return None
    try:
        return clean_call_part("call_type", call[0]), clean_call_part("call_id", call[1])
    except InvalidInput:
        return None


def _split(raw: bytes) -> tuple[str, str] | None:
    """Return the two percent-encoded segments of ``raw``, decoded; None if there are more or fewer."""
    segments = raw.removesuffix(b"/").split(b"/")
    if len(segments) != 2 or not all(segments):
        return None
    call_type, call_id = (unquote_to_bytes(each).decode("utf-8", "surrogateescape") for each in segments)
    return call_type, call_id
