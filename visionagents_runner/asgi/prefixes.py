"""Where the project's URLconf includes the API."""

from __future__ import annotations

from typing import Any

from django.urls import Resolver404, URLResolver, get_resolver
from django.urls.resolvers import RegexPattern, RoutePattern

from .. import urls

UUID_LENGTH = 36


def included_prefixes() -> list[str]:
    """Return the fixed prefixes, such as ``"agents/"``, under which the project's URLconf includes this API.

    One that depends on the request (a parameter, a language) is left out: there Django serves it.
    """
    found: list[str] = []

    def look(resolver: URLResolver, prefix: str) -> None:
        if resolver.urlconf_module is urls:
            found.append(prefix)
            return
        for child in resolver.url_patterns:
            if isinstance(child, URLResolver) and (part := _fixed_part(child.pattern)) is not None:
                look(child, prefix + part)

    look(get_resolver(), "")
    return list(dict.fromkeys(found))


def _fixed_part(pattern: Any) -> str | None:
    if isinstance(pattern, RoutePattern):
        route = str(pattern)
        return None if "<" in route else route
    if isinstance(pattern, RegexPattern) and str(pattern) in {"", "^", "^/"}:
        return ""
    return None


def is_ours(prefix: str, route: str) -> bool:
    """Whether Django gives this route to the API itself: not to a pattern before it, nor to a view around it."""
    sample = "/".join("0" * UUID_LENGTH if part.startswith("{") else part for part in route.split("/"))
    try:
        found = get_resolver().resolve(f"/{prefix}{sample}").func
    except Resolver404:
        return False
    return any(found is getattr(pattern, "callback", None) for pattern in urls.urlpatterns)
