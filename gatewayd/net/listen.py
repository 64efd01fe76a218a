"""Listeners: one factory for every protocol, with limits on connections."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection
from typing import Any

from OpenSSL import SSL
from twisted.internet import tcp
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol

from gatewayd.core.networks import Network
from gatewayd.net.limits import Limits
from gatewayd.net.protocol import LinkProtocol
from gatewayd.net.proxy_protocol import ProxyFactory
from gatewayd.net.quiet import Quiet
from gatewayd.net.tls import ServerConnections
from gatewayd.net.turn import Turn
from gatewayd.session.link import Engine, Session

BACKLOG = 1024  # Twisted's 50 loses connections in a burst


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
        self._turn = Turn(reactor)
        self._quiet = Quiet(reactor)
        self._starttls = None if starttls is None else ServerConnections(starttls)

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        address = getattr(addr, "host", "")
        refused = self._limits.admit(address)
        if refused:
            self.log.warn("{why}; refused {address}", why=refused, address=address)
            return None
        engine, session = self._make()
        return LinkProtocol(
            engine,
            session,
            self._reactor,
            implicit_tls=self._implicit_tls,
            starttls=self._starttls,
            place=self._limits.place(address),
            turn=self._turn,
            quiet=self._quiet,
        )


class _TLSFactory(TLSMemoryBIOFactory):
    """A link writes once a turn: what Twisted gathers until the next turn would only wait."""

    noisy = False
    protocol = TLSMemoryBIOProtocol


class _Server(tcp.Server):
    """Writes at once what the socket takes. Twisted waits for the next turn, and asks the kernel three times instead of
    once: the most of what a small reply costs."""

    def write(self, data: bytes) -> None:
        waits = self.dataBuffer or self._tempDataBuffer
        if data and self.connected and not (self.TLS or waits or self.disconnecting or self._writeDisconnected):
            sent = self.writeSomeData(data)
            if sent == len(data):
                return
            if isinstance(sent, int):  # else the next attempt tells of the error
                data = data[sent:]
        super().write(data)  # type: ignore[no-untyped-call]


class _Port(tcp.Port):
    transport = _Server

    def createInternetSocket(self) -> socket.socket:
        """[::] is IPv6 alone: beside 0.0.0.0 there would be no room for it, and IPv4 clients by another name would be
        strangers to every list of networks."""
        made: socket.socket = super().createInternetSocket()  # type: ignore[no-untyped-call]
        if made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return made


def listen(
    reactor: Any, host: str, port: int, make: Callable[[], tuple[Engine, Session]], limits: Limits, *,
    tls: SSL.Context | None = None, starttls: SSL.Context | None = None, proxies: Collection[Network] = (),
) -> IListeningPort:  # fmt: skip
    """`tls` from the first byte, or `starttls` when the client asks. Connections from `proxies` say whose they are.
    Raises CannotListenError."""
    factory: Any = LinkFactory(reactor, make, limits, implicit_tls=tls is not None, starttls=starttls)
    if tls is not None:
        factory = _TLSFactory(ServerConnections(tls), False, factory, reactor)
    if proxies:
        factory = ProxyFactory(reactor, factory, proxies)
    made = _Port(port, factory, BACKLOG, host, reactor)
    made.startListening()
    return made
