"""Whom a worker asks over ICE before they have asked it.

Nobody, by default: the addresses in an offer are what a stranger wrote, and a worker that asked them would scan its own
network and send to third parties. It waits for the browser's question, which has to know the password of this very
connection, and asks back where that came from (`ice_guard`). Browsers ask at once, so nothing is lost by it.

Only where ``ICE_SERVERS`` is set may the worker be behind a NAT, which lets nobody in before the worker has sent
something out. Then it asks the first few candidates that a browser elsewhere could have: UDP, from port 1024 on, at a
public address, and none of this machine's own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import ifaddr

MOST = 4
_TRANSLATED = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_TYPES = frozenset({"host", "srflx", "relay"})


def first_asked(candidates: Iterable[str]) -> list[str]:
    """The candidates, of those given as in SDP, that may be asked first; written anew, at most `MOST`."""
    found: dict[tuple[str, int], str] = {}
    own = _own_addresses()
    for value in candidates:
        foundation, component, transport, _, host, port, _, kind, *_ = [*value.split(), *[""] * 8][:9]
        if component != "1" or transport.lower() != "udp" or kind not in _TYPES or not foundation.isalnum():
            continue
        if not port.isdecimal() or not port.isascii() or len(port) > 5 or not 1024 <= int(port) < 65536:
            continue
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            continue  # a name that only a query on the local network could resolve
        if _is_public(address) and str(address) not in own:
            found.setdefault((str(address), int(port)), f"{len(found)} 1 udp 1 {address} {int(port)} typ {kind}")
        if len(found) == MOST:
            break
    return list(found.values())


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and (
        address.ipv4_mapped or address.sixtofour or address.teredo or any(address in network for network in _TRANSLATED)
    ):
        return False  # an IPv4 address in disguise
    return address.is_global and not address.is_multicast


def _own_addresses() -> frozenset[str]:
    ips = (ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips)
    return frozenset(str(ipaddress.ip_address(ip if isinstance(ip, str) else ip[0])) for ip in ips)
