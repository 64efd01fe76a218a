"""Clients by their IP address: the network that is taken for one of them, and the networks that the operator names."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PREFIX = {4: 24, 6: 64}


def around(address: str) -> str:
    """The /24 or the IPv6 /64 that is taken for one client; what is no IP address is a network of its own."""
    client = _parse(address)
    if client is None:
        return f"{address}/"
    return str(ipaddress.ip_network((client, PREFIX[client.version]), strict=False))


def within(address: str, networks: Iterable[Network]) -> bool:
    """What is no IP address is nowhere."""
    client = _parse(address)
    return client is not None and any(client in network for network in networks)


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Without its zone (RFC 4007 §11), which says something to one host only. None: it is none."""
    try:
        return ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
