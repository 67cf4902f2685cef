"""Which addresses webhooks go to: those of the public internet, and others only where the setting allows them."""

from __future__ import annotations

import ipaddress
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

# Addresses that ``is_global`` lets through, or did in some version of Python.
_INSIDE = (
    (ipaddress.ip_network("168.63.129.16/32"), "a cloud's metadata service"),
    (ipaddress.ip_network("192.0.0.0/24"), "an address of special use"),
    (ipaddress.ip_network("192.88.99.0/24"), "an address of special use"),
    (ipaddress.ip_network("2001::/23"), "an address of special use"),
    (ipaddress.ip_network("3fff::/20"), "an address of special use"),
)
_GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def refusal(address: Address) -> str:
    """Return why ``address`` is not one of the public internet, as the end of a sentence; "" if it is one."""
    if carried := _carried(address):
        address = carried
    if address.is_loopback:
        return "a loopback address"
    if address.is_link_local:
        return "a link-local address"
    if address.is_multicast:
        return "a multicast address"
    if address.version == 6 and address not in _GLOBAL_IPV6:
        return "a private address"
    for network, what in _INSIDE:
        if address.version == network.version and address in network:
            return what
    return "" if address.is_global else "a private address"


def _carried(address: Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address to which an IPv6 one leads in the end, if it is of such a kind."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
