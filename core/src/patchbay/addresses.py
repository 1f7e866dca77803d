"""Addresses of clients, as what limits count by."""

from __future__ import annotations

import ipaddress


def network_of(address: str) -> str:
    """What one client may well have all addresses of: for IPv6 its /64, else the address, or whatever the text is."""
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return address if parsed.ipv4_mapped else str(ipaddress.IPv6Network((parsed, 64), strict=False))
