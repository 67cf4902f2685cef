"""Where a request comes from: this machine, the page that sent it, or elsewhere."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest

from .conf import get_settings

if TYPE_CHECKING:
    from .options import ServeOptions
    from .runner import Runner

_FORWARDING = frozenset({"forwarded", "via", "x-real-ip"})
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def origin_allowed(origin: str | None, scheme: str, host: str | None, options: ServeOptions) -> bool:
    """Whether ``origin`` is the one that serves ``scheme`` and ``host``, or is listed by name. None never is.

    For an HTTP request as for a WebSocket handshake, where ws counts as http and wss as https.
    """
    if not origin or origin == "null":
        return False
    if origin != "*" and origin in options.cors_allow_origins:
        return True
    mine = _split_host(host)
    try:
        parts = urlsplit(origin)
        theirs = (parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme))
    except ValueError:
        return False
    if mine is None or parts.path or parts.query or parts.fragment or parts.username is not None:
        return False
    scheme = {"ws": "http", "wss": "https"}.get(scheme, scheme)
    return parts.scheme == scheme and theirs == (mine[0], mine[1] or _DEFAULT_PORTS.get(scheme))


@dataclass(slots=True)
class Facts:
    """What a request says of where it comes from."""

    scheme: str
    peers: list[str | None] = field(default_factory=list)
    host: str | None = None
    origin: str | None = None
    forwarded: bool = False

    @classmethod
    def of(cls, request: HttpRequest) -> Facts:
        scope = getattr(request, "scope", None)
        if scope is None:
            return cls._of_wsgi(request)
        facts = cls.of_scope(scope)
        if "META" in request.__dict__:
            # Middleware that knows the true peer writes it there; then it knows better than the socket.
            facts.peers.append(request.META.get("REMOTE_ADDR"))
        return facts

    @classmethod
    def of_scope(cls, scope: Mapping[str, Any]) -> Facts:
        """Also for the scope of a WebSocket."""
        facts = cls(scope.get("scheme") or "http", [(scope.get("client") or (None,))[0]])
        for name, value in scope["headers"]:
            if name == b"host":
                facts.host = value.decode("latin1") if facts.host is None else f"{facts.host},"
            elif name == b"origin":
                facts.origin = value.decode("latin1") if facts.origin is None else "null"
            elif name[:1] in b"fvxFVX" and _is_forwarding(name.decode("latin1")):
                facts.forwarded = True
        return facts

    @classmethod
    def _of_wsgi(cls, request: HttpRequest) -> Facts:
        meta = request.META
        return cls(
            request.scheme or "http",
            [meta.get("REMOTE_ADDR")],
            meta.get("HTTP_HOST"),
            meta.get("HTTP_ORIGIN"),
            any(key.startswith("HTTP_") and _is_forwarding(key[5:]) for key in meta),
        )


def why_not_local(facts: Facts, runner: Runner) -> str | None:
    """Return None if this is a local request that needs no sign-in; else the end of a sentence, often empty.

    It says what is in the way only where a local request would count.
    """
    allow = get_settings().ALLOW_LOCAL
    if allow is False or not (allow or runner.standalone or settings.DEBUG):
        return ""
    if not all(map(_is_loopback_address, facts.peers)):
        return ", or ask from the machine that this server runs on"
    if facts.forwarded:
        return ": it comes through a proxy, so it is not known to be a local request"
    if not _names_loopback(facts.host):
        return ", or use localhost in the address: its Host header names another machine"
    if facts.origin is not None and not origin_allowed(facts.origin, facts.scheme, facts.host, runner.options):
        return ": it was sent by a page of another origin, which cors_allow_origins does not list"
    return None


def _is_forwarding(name: str) -> bool:
    name = name.lower().replace("_", "-")
    return name in _FORWARDING or name.startswith("x-forwarded-")


@lru_cache(maxsize=1024)
def _is_loopback_address(address: str | None) -> bool:
    if not address:
        return False
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback


@lru_cache(maxsize=1024)
def _names_loopback(host: str | None) -> bool:
    parts = _split_host(host)
    return parts is not None and (parts[0] == "localhost" or _is_loopback_address(parts[0]))


@lru_cache(maxsize=1024)
def _split_host(host: str | None) -> tuple[str, int | None] | None:
    """Return name and port of a Host header, the name in lower case and without brackets; None if it is malformed."""
    from django.http.request import host_validation_re

    match = host_validation_re.fullmatch(host.lower()) if host else None
    if match is None:
        return None
    name, port = match.groups()
    if port is not None and (len(port) > 5 or int(port) > 65535):
        return None
    return name.strip("[]"), None if port is None else int(port)
