"""Fetching an MTA-STS policy file: HTTPS with a good certificate, no redirects, no more than a policy needs (RFC 8461
§3.3)."""

from __future__ import annotations

from typing import Any, cast

from OpenSSL import SSL
from twisted.internet import defer, endpoints, ssl
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone, ResponseFailed
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from gatewayd.address import Domain
from gatewayd.core.mta_sts import FetchFailed
from gatewayd.interfaces.dns import IResolver, ResolutionFailed
from gatewayd.net.tls import Trust

TIMEOUT = 60.0  # seconds for all of it, §3.3
MAX_SIZE = 64 * 1024  # octets
END = b"-----END CERTIFICATE-----\n"


class PolicyFetcher:
    def __init__(self, reactor: Any, resolver: IResolver, trust: Trust, port: int = 443) -> None:
        self._reactor = reactor
        self._resolver = resolver
        self._trust = trust
        self._port = port

    async def fetch(self, domain: Domain) -> bytes:
        """The octets of the policy file. Raises FetchFailed."""
        host = f"mta-sts.{domain}"
        try:
            addresses = [str(address) for address in (await self._resolver.addresses(host)).records]
        except ResolutionFailed as error:
            raise FetchFailed(str(error)) from None
        why = f"{host} has no address"
        for address in addresses:
            work = defer.Deferred.fromCoroutine(self._fetch(host, address))
            try:
                return await work.addTimeout(TIMEOUT, self._reactor)
            except (ConnectError, ResponseFailed, SSL.Error, OSError, defer.TimeoutError, FetchFailed) as error:
                why = f"{host} [{address}]: {_reason(error)}"
        raise FetchFailed(why)

    async def _fetch(self, host: str, address: str) -> bytes:
        place = _Place(self._reactor, address, self._port, host, self._trust)
        agent = Agent.usingEndpointFactory(self._reactor, place, HTTPConnectionPool(self._reactor, persistent=False))
        url = f"https://{host}/.well-known/mta-sts.txt".encode()
        response: Any = await agent.request(b"GET", url)
        body: defer.Deferred[bytes] = defer.Deferred()
        response.deliverBody(_Body(body))
        octets = await body
        if response.code != 200:  # "HTTP 3xx redirects MUST NOT be followed"
            raise FetchFailed(f"it answers {response.code}")
        kind = b"".join(response.headers.getRawHeaders(b"content-type", [])[:1]).partition(b";")[0].strip().lower()
        if kind != b"text/plain":
            raise FetchFailed(f"its media type is {kind.decode('ascii', 'replace') or 'not said'}, not text/plain")
        return octets


def _reason(error: Exception) -> str:
    if isinstance(error, ResponseFailed):
        return "; ".join(failure.getErrorMessage() for failure in error.reasons)
    return str(error) or type(error).__name__


@implementer(IAgentEndpointFactory)
class _Place:
    """One address, whatever the URI says; its certificate has to name the URI's host."""

    def __init__(self, reactor: Any, address: str, port: int, host: str, trust: Trust) -> None:
        self._reactor = reactor
        self._address = address
        self._port = port
        self._host = host
        self._trust = trust

    def endpointForURI(self, uri: object) -> IStreamClientEndpoint:
        kind = endpoints.TCP6ClientEndpoint if ":" in self._address else endpoints.TCP4ClientEndpoint
        root = None
        if self._trust.authorities is not None:
            pem = self._trust.authorities.read_bytes()
            root = ssl.trustRootFromCertificates(
                [ssl.Certificate.loadPEM(part + END) for part in pem.split(END)[:-1]]
            )  # fmt: skip
        creator = ssl.optionsForClientTLS(self._host, trustRoot=root)
        return endpoints.wrapClientTLS(creator, kind(self._reactor, self._address, self._port, 30))


class _Body(Protocol):
    """Collects no more than MAX_SIZE."""

    def __init__(self, done: defer.Deferred[bytes]) -> None:
        self._done = done
        self._octets = b""

    def dataReceived(self, data: bytes) -> None:
        self._octets += data
        if len(self._octets) > MAX_SIZE and not self._done.called:
            self._done.errback(FetchFailed(f"its policy has more than {MAX_SIZE} octets"))
            cast(Any, self.transport).abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._done.called:
            return
        if reason.check(ResponseDone):
            self._done.callback(self._octets)
        else:
            self._done.errback(FetchFailed(f"cut off: {reason.getErrorMessage()}"))
