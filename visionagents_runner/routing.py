"""Where the WebSockets of calls are: ``ws/calls/<call_type>/<call_id>/``, beside the REST API.

The application of `asgi` serves them by itself wherever the project's URLconf includes the API. A project that routes
WebSockets with Channels alone mounts `websocket_urlpatterns` instead::

    URLRouter([path("agents/", URLRouter(visionagents_runner.routing.websocket_urlpatterns))])

No middleware of Channels is needed around them: who asks is found out here, as for REST.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.urls import re_path

from .exceptions import InvalidInput
from .identifiers import clean_call_part

CALL = "visionagents_runner.call"
"""Key of a scope under which `AgentsApplication` leaves the call that it found: type and id."""

_PATH = b"ws/calls/"


async def serve_call(scope: Any, receive: Any, send: Any) -> None:
    # Imported late, so that a project's asgi.py may import this module before Django is set up.
    from .consumers import CallConsumer

    await CallConsumer()(scope, receive, send)


websocket_urlpatterns = [re_path(r"^ws/calls/(?P<rest>(?s:.+))$", serve_call)]  # type: ignore[arg-type]


def match_call(scope: Mapping[str, Any], prefixes: Iterable[str]) -> tuple[str, str] | None:
    """Return the call that the path of a WebSocket names under one of ``prefixes``; None if it names none."""
    from django.conf import settings

    from .api.paths import encode_path

    raw = scope.get("raw_path")
    if raw is None:
        raw = encode_path(scope["path"])
    raw = raw.partition(b"?")[0]
    script = settings.FORCE_SCRIPT_NAME or scope.get("root_path")
    if script:
        raw = raw.removeprefix(script.encode())
    for prefix in prefixes:
        start = encode_path("/" + prefix) + _PATH
        if raw.startswith(start) and (call := _split(raw[len(start) :])) is not None:
            return call
    return None


def call_of(scope: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return type and id of the call that a WebSocket is for; None if they cannot be such."""
    call = scope.get(CALL)
    if call is None:
        from .api.paths import raw_suffix

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
    from urllib.parse import unquote_to_bytes

    segments = raw.removesuffix(b"/").split(b"/")
    if len(segments) != 2 or not all(segments):
        return None
    call_type, call_id = (unquote_to_bytes(each).decode("utf-8", "surrogateescape") for each in segments)
    return call_type, call_id
