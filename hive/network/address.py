"""Addresses in digits: whether one is this machine's, and which count as one."""
from __future__ import annotations

import ipaddress
from typing import Optional, Union


def parse(address: str) -> Optional[Union[ipaddress.IPv4Address, ipaddress.IPv6Address]]:
    """An address in digits, None for anything else. IPv4 that was wrapped in IPv6 is IPv4."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def is_local(address: str) -> bool:
    """Is it this machine?"""
    found = parse(address)
    return found is not None and found.is_loopback


def household(address: str) -> str:
    """What counts as one address: with IPv6 everybody has 2^64 of them at least."""
    found = parse(address)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
    return str(found or address)
