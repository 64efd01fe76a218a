"""The PROXY protocol, versions 1 and 2: a proxy in front says whose connection it passes on.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt. Connections from the configured networks have to begin with
its header, before any TLS; those from elsewhere never do (§2: "the receiver MUST NOT try to guess").
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from gatewayd.core.networks import Network, within

TIMEOUT = 10.0  # seconds until the header has to be there
_V2 = b"\r\n\r\n\x00\r\nQUIT\n"
_V1 = re.compile(r"PROXY (TCP4|TCP6) (\S+) (\S+) (\d{1,5}) (\d{1,5})\Z")
_MAX_V1 = 107  # octets, its CRLF included
_MAX_V2 = 4096  # octets behind the fixed 16: addresses, and TLVs that are skipped


class ProxyError(ValueError):
    """What came is no such header."""


@dataclass(frozen=True, slots=True)
class Header:
    address: str | None  # the client's; None: the connection is the proxy's own (UNKNOWN, LOCAL)
    port: int
    size: int  # octets of the header


def read(octets: bytes) -> Header | None:
    """None: more is needed. Raises ProxyError."""
    if _V2.startswith(octets[:12]) and octets[:1] == b"\r":
        return _version_2(octets) if len(octets) >= 16 else None
    if not octets.startswith(b"PROXY "[: len(octets)]):
        raise ProxyError("the connection does not begin with a PROXY header")
    end = octets.find(b"\r\n")
    if end < 0 or end + 2 > _MAX_V1:
        if len(octets) >= _MAX_V1:
            raise ProxyError("a PROXY line without end")
        return None
    line = octets[:end].decode("ascii", "replace")
    if line == "PROXY UNKNOWN" or line.startswith("PROXY UNKNOWN "):
        return Header(None, 0, end + 2)
    found = _V1.match(line)
    if found is None:
        raise ProxyError("not a PROXY line")
    try:
        address = ipaddress.ip_address(found[2])
        ipaddress.ip_address(found[3])
    except ValueError:
        raise ProxyError("not an address") from None
    if address.version != int(found[1][3]) or int(found[4]) > 65535:
        raise ProxyError("not an address of that family")
    return Header(str(address), int(found[4]), end + 2)


def _version_2(octets: bytes) -> Header | None:
    command, family, size = octets[12], octets[13], int.from_bytes(octets[14:16], "big")
    if command >> 4 != 2 or command & 15 > 1:
        raise ProxyError("neither LOCAL nor PROXY of version 2")
    if size > _MAX_V2:
        raise ProxyError("a PROXY header too large")
    if len(octets) < 16 + size:
        return None
    width = {1: 4, 2: 16}.get(family >> 4)
    if command & 15 == 0 or width is None:  # LOCAL, or a family without an address for us
        return Header(None, 0, 16 + size)
    if size < 2 * width + 4:
        raise ProxyError("a PROXY header too short for its addresses")
    port = int.from_bytes(octets[16 + 2 * width : 18 + 2 * width], "big")
    return Header(str(ipaddress.ip_address(octets[16 : 16 + width])), port, 16 + size)


class ProxyFactory(Factory):
    """Stands before a listener's own factory."""

    noisy = False

    def __init__(self, reactor: Any, factory: Any, networks: Collection[Network]) -> None:
        self._reactor = reactor
        self._factory = factory
        self._networks = networks

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        if within(getattr(addr, "host", ""), self._networks):
            return _Awaiting(self._reactor, self._factory)
        return cast("Protocol | None", self._factory.buildProtocol(addr))


class _Awaiting(Protocol):
    """Reads the header, then gives the connection to the protocol that it was meant for."""

    log = Logger()

    def __init__(self, reactor: Any, factory: Any) -> None:
        self._factory = factory
        self._octets = b""
        self._timer = reactor.callLater(TIMEOUT, self._refuse, "no PROXY header in time")

    def dataReceived(self, data: bytes) -> None:
        self._octets += data
        try:
            header = read(self._octets)
        except ProxyError as error:
            self._refuse(str(error))
            return
        if header is None:
            return
        self._timer.cancel()
        transport: Any = self.transport
        if header.address is not None:
            family = IPv6Address if ":" in header.address else IPv4Address
            client = family("TCP", header.address, header.port)
            transport.getPeer = lambda: client
        protocol = self._factory.buildProtocol(transport.getPeer())
        if protocol is None:
            transport.abortConnection()
            return
        transport.protocol = protocol
        protocol.makeConnection(transport)
        if rest := self._octets[header.size :]:
            protocol.dataReceived(rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._timer.active():
            self._timer.cancel()

    def _refuse(self, why: str) -> None:
        transport: Any = self.transport
        self.log.warn("{peer}: {why}", peer=transport.getPeer().host, why=why)
        transport.abortConnection()
