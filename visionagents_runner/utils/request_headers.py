"""What a request's headers say, read within bounds: servers take up to 64 KB of them, or as many as come."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MAX_HEADERS = 256
MAX_BYTES = 64 * 1024
"""Of all names and values."""
MAX_BACKSLASHES = 2000
"""In cookies: before Python 3.11.10 and 3.12.6 the standard library takes the square of their number to unquote one."""

_MAX_COOKIE_LENGTH = 8 * 1024


def why_refused(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """Return what is too much about a request's headers, None if nothing is."""
    if len(headers) > MAX_HEADERS:
        return f"The request has more than {MAX_HEADERS} headers"
    size = backslashes = 0
    for name, value in headers:
        size += len(name) + len(value)
        if name == b"cookie":
            backslashes += value.count(b"\\")
    if size > MAX_BYTES:
        return f"The headers of the request have more than {MAX_BYTES} bytes"
    if backslashes > MAX_BACKSLASHES:
        return f"The cookies of the request have more than {MAX_BACKSLASHES} backslashes"
    return None


def find_cookie(headers: Iterable[str], name: str) -> str | None:
    """Return the last cookie of that name in the values of Cookie headers, without unquoting more than its ends."""
    found = None
    for header in headers:
        for part in header.split(";"):
            key, equals, value = part.partition("=")
            if equals and key.strip() == name:
                found = value.strip()
    if found is None or len(found) > _MAX_COOKIE_LENGTH:
        return None
    return found[1:-1] if len(found) > 1 and found[0] == found[-1] == '"' else found
