"""Where a request comes from: a program of this user on this machine, the page that sent it, or elsewhere."""

from __future__ import annotations

import ipaddress
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest
from django.http.request import host_validation_re

from ..conf.settings import get_settings
from ..utils.request_headers import find_cookie
from . import local_processes
from .local_token import COOKIE, PAGE, is_local_cookie, is_local_token, token_file

if TYPE_CHECKING:
    from ..options import ServeOptions
    from ..registry import AgentRegistry

logger = logging.getLogger(__name__)

# What proxies, tunnels and networks in front of servers write of whom they speak for.
_FORWARDING = frozenset(
    {
        *("forwarded", "via", "x-real-ip", "client-ip", "true-client-ip", "x-client-ip", "x-cluster-client-ip"),
        *("x-remote-addr", "x-remote-ip", "x-proxyuser-ip", "x-host", "fly-client-ip", "fastly-client-ip", "cdn-loop"),
        *("x-request-start", "x-amzn-trace-id", "x-cloud-trace-context", "x-arr-log-id", "x-arr-ssl"),
        "proxy-connection",
    }
)
_FORWARDING_PREFIXES = ("x-forwarded", "x-original-", "x-envoy-", "x-azure-", "x-appengine-", "cf-", "ngrok-")
_WITH_TOKEN = f". Open the page {PAGE} beside the API, or send the token that this server told of at its start"
_COOKIE = COOKIE.encode()
_LONGEST_NAME = 300
"""Of a host, an origin, a header: what is longer is none that counts, and is not remembered."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def origin_allowed(origin: str | None, scheme: str, host: str | None, options: ServeOptions) -> bool:
    """Whether ``origin`` is the one that serves ``scheme`` and ``host``, or is listed by name. None never is.

    For an HTTP request as for a WebSocket handshake, where ws counts as http and wss as https.
    """
    if not origin or origin == "null" or len(origin) > _LONGEST_NAME:
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


def site_scheme(request: HttpRequest) -> str:
    """Return the scheme of the pages of this site, by which an Origin is known to be the same.

    A proxy that ends TLS does not always tell in a way that Django believes. What it says of itself, and settings that
    make sense under https only, are enough for this: a page of http:// must not pass for one of an https site, and
    whoever has a page open in somebody else's browser writes neither.
    """
    if request.is_secure() or "https" in request.META.get("HTTP_X_FORWARDED_PROTO", "").lower():
        return "https"
    for_https = settings.SECURE_SSL_REDIRECT or settings.SECURE_HSTS_SECONDS or settings.SESSION_COOKIE_SECURE
    return "https" if for_https and not _names_loopback(request.get_host()) else "http"


def unsaid_scheme(scope: Mapping[str, Any]) -> str:
    """Return http or https for a WebSocket of whose scheme the server says nothing, as daphne: by its port."""
    reactor: Any = sys.modules.get("twisted.internet.reactor")
    port = (scope.get("server") or (None, None))[1]
    if reactor is None or port is None:
        return "http"
    if port not in _tls_ports:
        for reader in reactor.getReaders():
            if getattr(reader, "_realPortNumber", None) == port:
                _tls_ports[port] = type(reader.factory).__name__ == "TLSMemoryBIOFactory"
    return "https" if _tls_ports.get(port) else "http"


_tls_ports: dict[int, bool] = {}


@dataclass(slots=True)
class Facts:
    """What a request says of where it comes from."""

    scheme: str
    peers: list[str | None] = field(default_factory=list)
    host: str | None = None
    origin: str | None = None
    forwarded: bool = False
    cookies: list[str] = field(default_factory=list)
    """Headers with a cookie of `auth.local_token`: to parse them all would cost each request something."""

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
            elif name == b"cookie":
                if _COOKIE in value:
                    facts.cookies.append(value.decode("latin1"))
            elif len(name) <= _LONGEST_NAME and _is_forwarding(name):
                facts.forwarded = True
        if scope.get("http_version") == "1.0":
            facts.forwarded = True  # nginx asks so unless told otherwise; curl and browsers have not for long
        return facts

    @classmethod
    def _of_wsgi(cls, request: HttpRequest) -> Facts:
        meta = request.META
        return cls(
            request.scheme or "http",
            [meta.get("REMOTE_ADDR")],
            meta.get("HTTP_HOST"),
            meta.get("HTTP_ORIGIN"),
            any(key.startswith("HTTP_") and _is_forwarding(key[5:].encode()) for key in meta)
            or meta.get("SERVER_PROTOCOL") == "HTTP/1.0",
            [meta.get("HTTP_COOKIE", "")],
        )


def local_counts(runner: AgentRegistry) -> bool:
    """Whether a local request needs no sign-in here."""
    allow = get_settings().ALLOW_LOCAL
    return bool(allow or (allow is None and (runner.standalone or settings.DEBUG)))


async def why_not_local(request: HttpRequest, runner: AgentRegistry, *, with_token: bool = False) -> str | None:
    """Return None if this is a local request that needs no sign-in; else the end of a sentence, often empty.

    It says what is in the way only where a local request would count. Whoever shows the token of this machine (see
    `auth.local_token`), in a cookie or ``with_token``, needs to come neither by loopback nor from a program that the
    kernel names; the rest is asked of them, too.
    """
    if not local_counts(runner):
        return ""
    facts = Facts.of(request)
    if facts.forwarded:
        return ": it comes through a proxy, so it is not known to be a local request"
    if not _names_loopback(facts.host):
        return ", or use localhost in the address: its Host header names another machine"
    if facts.origin is not None and not origin_allowed(facts.origin, facts.scheme, facts.host, runner.options):
        return ": it was sent by a page of another origin, which cors_allow_origins does not list"
    if with_token:
        return None
    if facts.cookies and is_local_cookie(find_cookie(facts.cookies, COOKIE) or ""):
        # No page of another site has a browser send it, but one of another port of localhost does.
        if request.method in SAFE_METHODS or facts.origin is not None:
            return None
        return ": a request that is allowed by a cookie needs an Origin header"
    if not all(map(is_loopback_address, facts.peers)):
        return f", or ask from the machine that this server runs on{_WITH_TOKEN}"
    doubt = await local_processes.doubt(getattr(request, "scope", {}))
    return None if doubt is None else f": {doubt}, so it is not known to be a local request{_WITH_TOKEN}"


def is_token_of_this_machine(credential: str | None, runner: AgentRegistry) -> bool:
    """Whether what a request presents in place of an API key makes it a local one here."""
    return credential is not None and local_counts(runner) and is_local_token(credential)


@lru_cache(maxsize=1024)
def _is_forwarding(header: bytes) -> bool:
    name = header.decode("latin1").lower().replace("_", "-")
    return name in _FORWARDING or name.startswith(_FORWARDING_PREFIXES)


def is_loopback_address(address: str | None) -> bool:
    return address is not None and len(address) <= _LONGEST_NAME and _is_loopback(address)


@lru_cache(maxsize=1024)
def _is_loopback(address: str) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return bool((mapped or ip).is_loopback)


def _names_loopback(host: str | None) -> bool:
    parts = _split_host(host)
    return parts is not None and (parts[0] == "localhost" or is_loopback_address(parts[0]))


def _split_host(host: str | None) -> tuple[str, int | None] | None:
    """Return name and port of a Host header, the name in lower case and without brackets; None if it is malformed."""
    return _split(host) if host and len(host) <= _LONGEST_NAME else None


@lru_cache(maxsize=1024)
def _split(host: str) -> tuple[str, int | None] | None:
    match = host_validation_re.fullmatch(host.lower())
    if match is None:
        return None
    name, port = match.groups()
    if port is not None and (len(port) > 5 or int(port) > 65535):
        return None
    return name.strip("[]"), None if port is None else int(port)


def warn_of_local_requests(runner: AgentRegistry, address: str | None = None) -> None:
    """Say in the log that local requests count, where others may reach this server or it seems to be no laptop.

    ``address`` is what it listens on, None if that is not known. The token itself is in no log.
    """
    if runner.options.api is not None or not local_counts(runner):
        return
    here = address is not None and is_loopback_address(address)
    allowed = get_settings().ALLOW_LOCAL
    if here and not allowed:
        return
    why = "ALLOW_LOCAL is True" if allowed else "DEBUG is True" if settings.DEBUG else "there is no project"
    where = (
        "" if here else ", and others may reach this server" if address is None else f", and it listens on {address}"
    )
    logger.warning(
        "Requests from this machine need no sign-in, because %s%s: set ALLOW_LOCAL = False in VISIONAGENTS_RUNNER "
        "unless this is your own machine. Where it cannot be told who asks, the token in %s counts",
        why,
        where,
        token_file(),
    )
