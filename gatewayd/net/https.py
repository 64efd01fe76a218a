"""What other domains publish by HTTPS, and reports to them: a good certificate, no redirects, no more octets than are
needed (RFC 8461 §3.3, RFC 8460 §5.4)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from io import BytesIO
from typing import Any, cast
from urllib.parse import urlsplit

from OpenSSL import SSL
from twisted.internet import defer, endpoints, ssl
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Cooperator
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    FileBodyProducer,
    HTTPConnectionPool,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from gatewayd.address import AddressError, Domain
from gatewayd.core.mta_sts import FetchFailed
from gatewayd.interfaces.dns import IResolver, ResolutionFailed
from gatewayd.net.tls import Trust

TIMEOUT = 60.0  # seconds for all of it, §3.3
MAX_SIZE = 64 * 1024  # octets
_FAILED = (ResponseFailed, RequestGenerationFailed, RequestTransmissionFailed)
END = b"-----END CERTIFICATE-----\n"


class HTTPS:
    """Asks the hosts of other domains. `reachable` says at which addresses: at none that is inside, else a domain could
    have us knock at our own doors."""

    def __init__(
        self, reactor: Any, resolver: IResolver, trust: Trust, port: int = 443,
        reachable: Callable[[str], bool] = lambda address: ipaddress.ip_address(address).is_global,
    ) -> None:  # fmt: skip
        self._reactor = reactor
        self._resolver = resolver
        self._trust = trust
        self._port = port
        self._reachable = reachable

    async def fetch(self, domain: Domain) -> bytes:
        """The octets of the domain's MTA-STS policy file (RFC 8461 §3.3). Raises FetchFailed."""
        host = f"mta-sts.{domain}"
        code, kind, octets = await self._ask(b"GET", host, b"/.well-known/mta-sts.txt")
        if code != 200:  # "HTTP 3xx redirects MUST NOT be followed"
            raise FetchFailed(f"{host}: it answers {code}")
        if kind != b"text/plain":
            raise FetchFailed(
                f"{host}: its media type is {kind.decode('ascii', 'replace') or 'not said'}, not text/plain"
            )
        return octets

    async def post(self, url: str, octets: bytes, media_type: str) -> None:
        """A report to where a domain wants it (RFC 8460 §5.4): on the usual port alone. Raises FetchFailed."""
        try:
            if not url.isascii() or not url.isprintable() or " " in url:  # before urlsplit forgives it
                raise ValueError
            parts = urlsplit(url)
            if parts.scheme.lower() != "https" or not parts.hostname or parts.port not in {None, 443} or parts.username:
                raise ValueError
            host = Domain.parse(parts.hostname).name
            target = parts._replace(scheme="", netloc="", path=parts.path or "/", fragment="").geturl().encode()
        except (ValueError, AddressError):
            raise FetchFailed(f"{url[:200]!r} is no place to report to") from None
        code, _, _ = await self._ask(b"POST", host, target, octets, media_type)
        if code // 100 != 2:
            raise FetchFailed(f"{host}: it answers {code}")

    async def _ask(
        self, method: bytes, host: str, target: bytes, octets: bytes | None = None, media_type: str = ""
    ) -> tuple[int, bytes, bytes]:
        """Status, media type and body. Raises FetchFailed."""
        try:
            addresses = [str(address) for address in (await self._resolver.addresses(host)).records]
        except ResolutionFailed as error:
            raise FetchFailed(str(error)) from None
        why = f"{host} has no address"
        for address in addresses:
            if not self._reachable(address):
                why = f"{host} [{address}] is no address in the open internet"
                continue
            work = defer.Deferred.fromCoroutine(self._exchange(method, host, address, target, octets, media_type))
            try:
                return await work.addTimeout(TIMEOUT, self._reactor)
            except (ConnectError, *_FAILED, SSL.Error, OSError, defer.TimeoutError, FetchFailed) as error:
                why = f"{host} [{address}]: {_reason(error)}"
        raise FetchFailed(why)

    async def _exchange(
        self, method: bytes, host: str, address: str, target: bytes, octets: bytes | None, media_type: str
    ) -> tuple[int, bytes, bytes]:
        place = _Place(self._reactor, address, self._port, host, self._trust)
        agent = Agent.usingEndpointFactory(self._reactor, place, HTTPConnectionPool(self._reactor, persistent=False))
        headers = Headers({"Content-Type": [media_type]} if media_type else {})
        body = (
            None if octets is None else FileBodyProducer(BytesIO(octets), cooperator=Cooperator(scheduler=self._later))
        )
        response: Any = await agent.request(method, f"https://{host}".encode() + target, headers, body)
        answer: defer.Deferred[bytes] = defer.Deferred()
        response.deliverBody(_Body(answer))
        kind = b"".join(response.headers.getRawHeaders(b"content-type", [])[:1]).partition(b";")[0].strip().lower()
        return response.code, kind, await answer

    def _later(self, step: Any) -> Any:
        return self._reactor.callLater(0, step)


def _reason(error: Exception) -> str:
    if isinstance(error, _FAILED):
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
            self._done.errback(FetchFailed(f"it sends more than {MAX_SIZE} octets"))
            cast(Any, self.transport).abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._done.called:
            return
        if reason.check(ResponseDone):
            self._done.callback(self._octets)
        else:
            self._done.errback(FetchFailed(f"cut off: {reason.getErrorMessage()}"))
