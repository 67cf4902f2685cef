"""Headers that bound what a page of ours may do, load and be put into; what the host has set before stands."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

from django.http.response import HttpResponseBase
from django.templatetags.static import static

NO_PAGE = "default-src 'none'; frame-ancestors 'none'"
"""The policy of what is no page: a browser that is led to it runs and loads nothing."""

ADMIN = "base-uri 'self'; form-action 'self'; frame-ancestors 'self'; object-src 'none'"
"""That of the admin's pages, whose scripts and styles are also the host's, and its theme's."""

_NOTHING = "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"
_CALL = "camera=(self), display-capture=(), geolocation=(), microphone=(self), payment=(), usb=()"


def page_policy(*, inline_styles: bool = False) -> str:
    """Return the policy of a page of ours: it loads what this server serves, and its static files wherever they are."""
    place = urlsplit(static("visionagents_runner/"))
    files = "'self'"
    if place.netloc:
        files += f" {place.scheme}://{place.netloc}" if place.scheme else f" {place.netloc}"
    styles = f"{files} 'unsafe-inline'" if inline_styles else files
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {files}",
            f"style-src {styles}",
            f"img-src {files} data: blob:",
            f"media-src {files} blob:",
            "connect-src 'self'",
            f"font-src {files}",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'self'",
        )
    )


def guard(response: HttpResponseBase, policy: str, *, microphone: bool = False) -> None:
    """Give ``response`` the headers of a page with ``policy``; the microphone and the camera are for pages of calls."""
    headers = {
        "Content-Security-Policy": policy,
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": _CALL if microphone else _NOTHING,
        "Referrer-Policy": "no-referrer" if microphone else "same-origin",
        "X-Content-Type-Options": "nosniff",
    }
    for name, value in headers.items():
        response.headers.setdefault(name, value)


def guarded(view: Callable[..., Any], policy: str) -> Callable[..., Any]:
    """Return ``view``, a synchronous one, with `guard` around its answers."""

    @wraps(view)
    def answer(*args: Any, **kwargs: Any) -> Any:
        response = view(*args, **kwargs)
        guard(response, policy)
        return response

    return answer
