"""How large a request's body may be, by its path; and the refusal of larger ones while they stream in."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes

from django.conf import settings
from django.urls import Resolver404, get_resolver

from .. import urls
from ..conf.settings import foreign_middleware, get_settings
from ..telemetry.connections import refused
from ..utils.http_answer import answer


def small_limit() -> int:
    """Return how many bytes may come wherever they go."""
    limits = get_settings()
    return min(limits.MAX_BODY_BYTES, limits.MAX_PROJECT_BODY_BYTES or limits.MAX_BODY_BYTES)


def limit_of(path: bytes, *, only_django: bool) -> int | None:
    """Return how many bytes the body of a request for ``path`` may have; None if any number.

    It looks for the view, which takes a tenth of a millisecond: ask for bodies over `small_limit` only.
    ``only_django``: whether what is not in the URLconf is nowhere.
    """
    limits = get_settings()
    text = unquote_to_bytes(path.partition(b"?")[0]).decode(errors="replace")
    text = text.removeprefix((settings.FORCE_SCRIPT_NAME or "").rstrip("/"))
    try:
        view = get_resolver().resolve(text).func
    except Resolver404:
        # Middleware may choose another URLconf.
        nowhere = only_django and not foreign_middleware()
        return small_limit() if nowhere else limits.MAX_PROJECT_BODY_BYTES
    ours = any(view is getattr(pattern, "callback", None) for pattern in urls.urlpatterns)
    return limits.MAX_BODY_BYTES if ours else limits.MAX_PROJECT_BODY_BYTES


def refusal(limit: int) -> bytes:
    """Return the whole answer to a body that is too large, and count it."""
    refused["too_large"] += 1
    return answer(413, _words(limit))


async def within_limit(application: Any, scope: Any, receive: Any, send: Any, *, only_django: bool) -> None:
    """Run ``application``, which is given no more of the body than the path's limit; above it the answer is 413."""
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"")
    declared = int(length[:20]) if length.isdigit() else None
    bodiless = not length and b"transfer-encoding" not in headers and scope["http_version"].startswith("1")
    if bodiless or (declared is not None and declared <= small_limit()):
        await application(scope, receive, send)
        return
    body = _Body(scope, receive, send, only_django=only_django)
    if declared is not None and body.is_too_large(declared):
        await body.refuse()
        return
    await application(scope, body.receive, body.send)


class _Body:
    """A body that is counted while it comes in."""

    def __init__(self, scope: Any, receive: Any, send: Any, *, only_django: bool) -> None:
        self._only_django = only_django
        self._path: bytes = scope.get("raw_path") or scope["path"].encode()
        self._limit: int | None = small_limit()
        self._looked = False
        self._size = 0
        self._answered = self._refused = False
        self._receive, self._send = receive, send

    def is_too_large(self, size: int) -> bool:
        if self._limit is not None and size > self._limit and not self._looked:
            self._looked = True
            self._limit = limit_of(self._path, only_django=self._only_django)
        return self._limit is not None and size > self._limit

    async def receive(self) -> Any:
        if self._refused:
            return {"type": "http.disconnect"}
        message = await self._receive()
        self._size += len(message.get("body", b""))
        if self.is_too_large(self._size):
            await self.refuse()
            return {"type": "http.disconnect"}
        return message

    async def send(self, message: Any) -> None:
        if not self._refused:
            self._answered = True
            await self._send(message)

    async def refuse(self) -> None:
        self._refused = True
        refused["too_large"] += 1
        if self._answered:
            return  # the application ends what it has begun, or the server does
        body = answer(413, _words(self._limit or 0)).partition(b"\r\n\r\n")[2]
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        await self._send({"type": "http.response.start", "status": 413, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def _words(limit: int) -> str:
    return f"The request body is larger than {limit} bytes"
