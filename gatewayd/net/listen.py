"""Listeners: one factory for every protocol, with limits on connections in all, for each address and network."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory

from gatewayd.core.admission import NETWORK
from gatewayd.net.protocol import LinkProtocol, server_options
from gatewayd.net.proxy_protocol import Network, ProxyFactory
from gatewayd.session.link import Engine, Session

BACKLOG = 1024  # Twisted's 50 loses connections in a burst


class Limits:
    """Connections now open, over all listeners of a service."""

    def __init__(self, connections: int, per_address: int, per_network: int | None = None) -> None:
        self._connections = connections
        self._per_address = per_address
        self._per_network = 4 * per_address if per_network is None else per_network
        self.open: Counter[str] = Counter()  # by address, and by network
        self.total = 0

    def admit(self, address: str) -> bool:
        network = network_of(address)
        if self.total >= self._connections or self.open[address] >= self._per_address:
            return False
        if self.open[network] >= self._per_network:
            return False
        self.total += 1
        self.open.update((address, network))
        return True

    def release(self, address: str) -> None:
        self.total -= 1
        for key in (address, network_of(address)):
            self.open[key] -= 1
            if not self.open[key]:
                del self.open[key]


def network_of(address: str) -> str:
    """The /24 or the IPv6 /64 that is taken for one client; what is no IP address is a network of its own."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return f"{address}/"
    return str(ipaddress.ip_network((found, NETWORK[found.version]), strict=False))


class LinkFactory(Factory):
    """Makes a link with a fresh engine and session for each connection."""

    noisy = False
    log = Logger()

    def __init__(
        self, reactor: Any, make: Callable[[], tuple[Engine, Session]], limits: Limits, *,
        implicit_tls: bool, starttls: SSL.Context | None,
    ) -> None:  # fmt: skip
        self._reactor = reactor
        self._make = make
        self._limits = limits
        self._implicit_tls = implicit_tls
        self._starttls = None if starttls is None else server_options(starttls)

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        address = getattr(addr, "host", "")
        if not self._limits.admit(address):
            self.log.warn("too many connections; refused {address}", address=address)
            return None
        engine, session = self._make()
        return LinkProtocol(
            engine,
            session,
            self._reactor,
            implicit_tls=self._implicit_tls,
            starttls=self._starttls,
            on_closed=lambda: self._limits.release(address),
        )


def listen(
    reactor: Any, host: str, port: int, make: Callable[[], tuple[Engine, Session]], limits: Limits, *,
    tls: SSL.Context | None = None, starttls: SSL.Context | None = None, proxies: Collection[Network] = (),
) -> IListeningPort:  # fmt: skip
    """`tls` from the first byte, or `starttls` when the client asks. Connections from `proxies` say whose they are.
    Raises CannotListenError."""
    factory: Any = LinkFactory(reactor, make, limits, implicit_tls=tls is not None, starttls=starttls)
    if tls is not None:
        factory = TLSMemoryBIOFactory(server_options(tls), False, factory, reactor)
        factory.noisy = False
    if proxies:
        factory = ProxyFactory(reactor, factory, proxies)
    return cast(IListeningPort, reactor.listenTCP(port, factory, backlog=BACKLOG, interface=host))
