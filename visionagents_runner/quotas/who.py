"""`Who`: whose share something is taken from, and from which address they come."""

from __future__ import annotations

import functools
import ipaddress
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.http import HttpRequest

from ..conf.settings import SETTING, get_settings

logger = logging.getLogger(__name__)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PRIVATE = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16"),
        *("fc00::/7", "fe80::/10"),
    )
)
"""Where proxies are; `ipaddress` calls more than these private."""
_FORWARDING = frozenset({b"x-forwarded-for", b"forwarded", b"x-real-ip", b"via"})
_MOST_HOPS = 32
_LONGEST = 100
"""Of an address with zone and port: what is longer is none, and is not remembered."""


@dataclass(frozen=True, slots=True)
class Who:
    """Somebody who asks for something."""

    identity: str | None = None
    """What they proved to be: ``user:<pk>``, ``key:<prefix>`` or ``invitation:<digest>``; None if nothing."""
    address: str | None = None
    """Where they come from, see `address_of`."""


def address_of(scope: Mapping[str, Any]) -> str | None:
    """Return the address of the client of a request or a WebSocket: of IPv6 the /64, which is one household.

    None where it tells nobody apart: this machine's own, which is a proxy's or that of somebody who has it anyway, and
    that of a proxy which nobody named in TRUSTED_PROXIES, behind which everybody is. Then the limits of addresses do
    not hold, and those of identities and of the worker do.
    """
    host, port = (scope.get("client") or (None, None))[:2]
    peer = _address(host or "")
    if peer is None or peer.is_unspecified:
        return None  # a Unix socket, or a server that does not know
    headers = scope.get("headers", ())
    if _is_trusted(peer):
        return _named(_before(headers))
    if peer.is_loopback:
        return None
    # uvicorn has put the client in place of a proxy that it trusts (FORWARDED_ALLOW_IPS), without a port.
    named = port == 0 or not any(name in _FORWARDING for name, _ in headers)
    if named or not any(peer in network for network in _PRIVATE):
        return _named(peer)
    _warn_of_proxy(str(peer))
    return None


def address_of_request(request: HttpRequest) -> str | None:
    scope = getattr(request, "scope", None)
    return address_of_meta(request.META) if scope is None else address_of(scope)


def address_of_meta(meta: Mapping[str, Any]) -> str | None:
    """`address_of` for a request under WSGI."""
    names = ("x-forwarded-for", "forwarded", "x-real-ip", "via")
    headers = [(name, meta.get("HTTP_" + name.upper().replace("-", "_"))) for name in names]
    sent = [(name.encode(), value.encode("latin1", "replace")) for name, value in headers if value]
    return address_of({"client": (meta.get("REMOTE_ADDR"), None), "headers": sent})


def find_networks(entries: Any) -> list[Network]:
    """Return the setting TRUSTED_PROXIES as networks.

    Raises:
        ValueError: an entry is neither an address nor a network; it says which.
    """
    return [ipaddress.ip_network(entry, strict=False) for entry in entries]


def _before(headers: Any) -> Address | None:
    """Return the last address that proxies of ours saw and that is no proxy: what stands before it may be made up."""
    for text in _hops(headers):
        address = _address(text)
        if address is None:
            return None
        if not _is_trusted(address):
            return address
    return None


def _hops(headers: Any) -> Iterator[str]:
    """Yield what the proxies wrote, the last one first."""
    for wanted in (b"x-forwarded-for", b"forwarded"):
        values = [value for name, value in headers if name == wanted]
        if values:
            hops = b",".join(values).decode("latin1").rsplit(",", _MOST_HOPS)[-_MOST_HOPS:]
            for hop in reversed(hops):
                yield hop if wanted == b"x-forwarded-for" else _for_of(hop)
            return


def _for_of(element: str) -> str:
    """Return who an element of Forwarded (RFC 7239) is ``for``."""
    for part in element.split(";"):
        name, _, value = part.strip().partition("=")
        if name.lower() == "for":
            return value.strip('"')
    return ""


def _address(text: str) -> Address | None:
    return _parse(text) if len(text) <= _LONGEST else None


@lru_cache(maxsize=4096)
def _parse(text: str) -> Address | None:
    """Return an address as proxies write it, with or without a port; an IPv4 one inside IPv6 as what it is."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=4096)
def _text_of(address: Address) -> str:
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)


def _named(address: Address | None) -> str | None:
    return None if address is None else _text_of(address)


def _is_trusted(address: Address) -> bool:
    entries = get_settings().TRUSTED_PROXIES
    return bool(entries) and any(address in network for network in _networks(entries))


@lru_cache(maxsize=8)
def _networks(entries: tuple[str, ...]) -> tuple[Network, ...]:
    try:
        return tuple(find_networks(entries))
    except ValueError as error:
        logger.error("%s['TRUSTED_PROXIES'] counts for nothing: %s", SETTING, error)
        return ()


@functools.cache
def _warn_of_proxy(address: str) -> None:
    """Tell whoever can do something about it, once."""
    logger.warning(
        "Clients come through the proxy %s, so that none can be told from another by its address, and the limits of "
        "addresses do not hold: name it in %s['TRUSTED_PROXIES'] if it is yours",
        address,
        SETTING,
    )
