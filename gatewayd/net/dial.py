"""Outgoing connections: Parley (TLS 1.3, verified before the session opens) and SMTP (plain, STARTTLS later)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet import defer, endpoints, error, interfaces
from twisted.internet.protocol import Factory, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from gatewayd.address import Domain
from gatewayd.crypto.dane import TLSA, usable
from gatewayd.net.protocol import LinkProtocol
from gatewayd.net.tls import JudgedConnection, Trust, check_listener, client_context
from gatewayd.session.link import Engine, Session

CONNECT_TIMEOUT = 30  # seconds
_WORDS = (  # senders read them
    (error.ConnectionRefusedError, "connection refused"),
    (error.NoRouteError, "no route to it"),
    ((error.TimeoutError, error.TCPTimedOutError), "no answer"),
)


class _DialledLink(LinkProtocol):
    """Says of a handshake that it failed, and why."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._ready is not None and reason.check(SSL.Error):
            reason = Failure(ConnectionError(f"TLS handshake failed: {_tls_reason(reason)}"))
        super().connectionLost(reason)


class _VerifiedLink(_DialledLink):
    """Opens its session only when the listener has passed the `check`, which raises ConnectionError."""

    reads_on = True  # else two sides that both send much could wait for each other for ever
    check: Callable[[SSL.Connection], None]

    def handshakeCompleted(self) -> None:
        try:
            self.check(cast(Any, self.transport).getHandle())
        except ConnectionError as rejected:
            if self._ready is not None:
                ready, self._ready = self._ready, None
                ready.errback(rejected)
            self.abort()
            return
        super().handshakeCompleted()


def _tls_reason(reason: Failure) -> str:
    details = reason.value.args[0] if reason.value is not None and reason.value.args else []
    return "; ".join(str(entry[-1]) for entry in details) or "no reason given"


@implementer(interfaces.IOpenSSLClientConnectionCreator)
class _ClientConnection:
    def __init__(self, context: SSL.Context, name: str | None, faults: list[int]) -> None:
        self._context = context
        self._name = name
        self._faults = faults

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = JudgedConnection(self._context, None)
        connection.faults = self._faults
        if self._name is not None:
            connection.set_tlsext_host_name(self._name.encode("ascii"))
        return connection


def _factory(link: LinkProtocol) -> Any:
    factory = Factory.forProtocol(lambda: link)
    factory.noisy = False  # no line in the log that it starts and stops
    return factory


async def _connect(reactor: Any, host: str, port: int, factory: Any, bind_address: str | None) -> None:
    bind = (bind_address, 0) if bind_address else None
    endpoint: Any
    if ":" in host:
        endpoint = endpoints.TCP6ClientEndpoint(reactor, host, port, CONNECT_TIMEOUT, bind)
    elif host.replace(".", "").isdigit():
        endpoint = endpoints.TCP4ClientEndpoint(reactor, host, port, CONNECT_TIMEOUT, bind)
    else:
        endpoint = endpoints.HostnameEndpoint(reactor, host, port, CONNECT_TIMEOUT, bind)
    try:
        await endpoint.connect(factory)
    except error.ConnectError as failed:
        words = next((words for kind, words in _WORDS if isinstance(failed, kind)), str(failed))
        raise ConnectionError(words) from None


async def dial_parley(
    reactor: Any,
    host: str,
    port: int,
    domain: Domain,
    trust: Trust,
    engine: Engine,
    session: Session,
    *,
    tlsa: Sequence[TLSA] = (),
    bind_address: str | None = None,
) -> None:
    """Returns once `session.opened` was called. `tlsa` are the DNSSEC-secure records of the place that is dialled, if
    any. Raises OSError: unreachable, no TLS 1.3, or not `domain`."""
    ready: defer.Deferred[None] = defer.Deferred()
    link = _VerifiedLink(engine, session, reactor, implicit_tls=True, ready=ready)
    records = usable(tlsa)
    faults: list[int] = []
    link.check = partial(check_listener, domain=domain, tlsa=records, faults=faults)
    creator = _ClientConnection(client_context(trust, parley=True, judged=bool(records)), domain.name, faults)
    factory = TLSMemoryBIOFactory(creator, True, _factory(link), reactor)
    await _connect(reactor, host, port, factory, bind_address)
    await ready


async def dial_smtp(
    reactor: Any,
    host: str,
    port: int,
    engine: Engine,
    session: Session,
    *,
    trust: Trust,
    name: str | None = None,
    bind_address: str | None = None,
    implicit_tls: bool = False,
) -> None:
    """Returns once connected. What the host's certificate is worth, the session judges after the handshake; `name` is
    what it should be called. `implicit_tls`: TLS from the first octet (RFC 8314 §3.3). Raises OSError."""
    ready: defer.Deferred[None] = defer.Deferred()
    faults: list[int] = []
    creator = _ClientConnection(client_context(trust, parley=False, judged=True), name, faults)
    link = _DialledLink(engine, session, reactor, implicit_tls=implicit_tls, starttls=creator, ready=ready)
    link.faults = faults
    factory = TLSMemoryBIOFactory(creator, True, _factory(link), reactor) if implicit_tls else _factory(link)
    await _connect(reactor, host, port, factory, bind_address)
    await ready
