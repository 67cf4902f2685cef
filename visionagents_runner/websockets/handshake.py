"""A WebSocket's handshake as a request."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

from django.core.handlers.asgi import ASGIRequest

from ..auth.local_requests import unsaid_scheme


class HandshakeRequest(ASGIRequest):
    """A WebSocket's handshake as the request that permission rules take.

    ``since``: see `permissions.judged_since`.
    """

    def __init__(self, scope: Mapping[str, Any], since: float | None = None) -> None:
        self.judged_since = since
        # CONNECT is what a handshake is over HTTP/2. As no safe method, it needs an Origin where a cookie counts:
        # browsers let the page of any site open a WebSocket, and send the cookie along.
        headers = scope.get("headers", ())
        super().__init__(
            {
                "query_string": b"",
                **scope,
                "type": "http",
                "method": "CONNECT",
                "scheme": _http_scheme(scope),
                "headers": headers,
            },
            BytesIO(),
        )


def _http_scheme(scope: Mapping[str, Any]) -> str:
    scheme = scope.get("scheme")
    if scheme is not None:
        return {"ws": "http", "wss": "https"}.get(scheme, str(scheme))
    return unsaid_scheme(scope)  # daphne does not tell
