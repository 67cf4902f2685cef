"""An answer in the bytes of HTTP, for a connection that no framework answers."""

from __future__ import annotations

import json
from http import HTTPStatus


def answer(status: int, detail: str) -> bytes:
    """Return an answer for a connection that is closed after it."""
    body = json.dumps({"detail": detail}).encode()
    return b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (
        status,
        HTTPStatus(status).phrase.encode(),
        len(body),
        body,
    )
