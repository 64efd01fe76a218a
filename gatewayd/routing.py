"""Where a domain is reached: here, by Parley, by mail, or behind us as a bridge (docs/parley.rst; RFC 5321 §5.1), and
what the DNS says of how it proves itself there (TLSA by SRV: RFC 7673; by MX: RFC 7672).

There is no way down: a domain that publishes Parley, or is remembered to, is never reached by mail instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice

from gatewayd.address import Domain
from gatewayd.crypto.dane import TLSA
from gatewayd.errors import StoreError
from gatewayd.interfaces.dns import Answer, Endpoint, IResolver, ResolutionFailed
from gatewayd.interfaces.routes import Bridged, Local, Mail, Parley, Route
from gatewayd.interfaces.store import IStore
from gatewayd.outcome import NO_MAIL_SERVICE, STORE_FAILED, Deferred, Refused

KNOWN_FOR = 1.0  # seconds that a route is good for the next messages: the DNS is in another thread
MAX_KNOWN = 1000
MOST = 10  # hosts of a domain that are looked up, and addresses that are tried: it may name thousands, and not its own

NO_SUCH_DOMAIN = Refused("5.1.2", "Bad destination domain")
NO_MAIL_HOST = Refused("5.4.4", "The domain's mail hosts have no address")
LOOPS_BACK = Refused("5.4.6", "The domain's best mail host is this one, but the domain is not served here")
DNS_FAILED = Deferred("4.4.3", "The DNS did not answer for the domain")
NO_SMART_HOST = Deferred("4.4.4", "The smart host has no address")
PARLEY_HIDDEN = Deferred("4.4.3", "The domain spoke Parley, but its record cannot be seen now")
NO_PARLEY_HOST = Deferred("4.4.4", "The domain's Parley hosts have no address")


class Router:
    """Endpoints come out as IP literals, in the order in which to try them. `hostname` is our own name as an MX.
    With a `smart_host` all mail goes there; Parley does not."""

    def __init__(
        self,
        store: IStore,
        resolver: IResolver,
        steady: Callable[[], float],
        now: Callable[[], float],
        smtp_port: int = 25,
        bridges: Mapping[Domain, Bridged] | None = None,
        hostname: Domain | None = None,
        smart_host: Endpoint | None = None,
    ) -> None:
        self._store = store
        self._resolver = resolver
        self._steady = steady
        self._now = now
        self._smtp_port = smtp_port
        self._bridges = bridges or {}
        self._hostname = hostname
        self._smart_host = smart_host
        self._known: dict[Domain, tuple[float, Route]] = {}  # until when, by `steady`

    async def route(self, domain: Domain) -> Route:
        """Never raises for what the DNS or the store did; an Outcome says that there is no route, and why."""
        seconds = self._steady()
        until, known = self._known.get(domain, (0.0, None))
        if known is not None and seconds < until:
            return known
        if known is not None and seconds < until + KNOWN_FOR:
            self._known[domain] = seconds + KNOWN_FOR, known  # for the others, while this one asks anew
        route = await self._find(domain)
        if isinstance(route, Local | Parley | Mail | Bridged):
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[domain] = seconds + KNOWN_FOR, route
        else:
            self._known.pop(domain, None)
        return route

    async def _find(self, domain: Domain) -> Route:
        try:
            if domain in self._bridges:
                return self._bridges[domain]
            if domain in await self._store.domains():
                return Local()
            return await self._parley(domain) or await self._mail(domain)
        except ResolutionFailed:
            return DNS_FAILED
        except StoreError:
            return STORE_FAILED

    async def _parley(self, domain: Domain) -> Route | None:
        service = await self._resolver.srv(f"_parley._tcp.{domain}")
        if service.records:
            services = [record for record in service.records if isinstance(record, Endpoint)]
            endpoints = await located(self._resolver, services, secure=service.secure)
            return Parley(domain, endpoints) if endpoints else NO_PARLEY_HOST
        peer = await self._store.peer(domain)
        if peer is not None and peer.parley_until > self._now():
            return PARLEY_HIDDEN  # a forged absence must not lead to mail
        return None

    async def _mail(self, domain: Domain) -> Route:
        if self._smart_host is not None:
            endpoints = await located(self._resolver, [self._smart_host])
            return Mail(Domain(self._smart_host.host), endpoints) if endpoints else NO_SMART_HOST
        exchanges = await self._resolver.mx(domain)
        if not exchanges.exists:  # RFC 5321 §5.1: the implicit MX
            endpoints = await located(self._resolver, [Endpoint(domain.name, self._smtp_port)], secure=exchanges.secure)
            return Mail(domain, endpoints) if endpoints else NO_SUCH_DOMAIN
        if not exchanges.records:
            return NO_MAIL_SERVICE
        hosts = self._before_us(exchanges)
        if not hosts:
            return LOOPS_BACK
        places = [Endpoint(host, self._smtp_port) for host in hosts]
        endpoints = await located(self._resolver, places, secure=exchanges.secure)
        return Mail(domain, endpoints) if endpoints else NO_MAIL_HOST

    def _before_us(self, exchanges: Answer) -> list[str]:
        """RFC 5321 §5.1: where we are an MX ourselves, only better ones are tried, or the mail would go in circles."""
        ranked = [record for record in exchanges.records if isinstance(record, tuple)]
        ours = [preference for preference, host in ranked if self._hostname and host == self._hostname.name]
        return [host for preference, host in ranked if not ours or preference < min(ours)]


async def located(resolver: IResolver, endpoints: Iterable[Endpoint], *, secure: bool = False) -> tuple[Endpoint, ...]:
    """With addresses for names. One host that cannot be resolved is passed over while another can; if none can, raises
    ResolutionFailed. No more than MOST. `secure`: DNSSEC has proved that these are the domain's hosts, so their TLSA
    records count, if those are proved too."""
    found: list[Endpoint] = []
    failed: ResolutionFailed | None = None
    for endpoint in islice(endpoints, MOST):
        if len(found) >= MOST:
            break
        try:
            answer = await resolver.addresses(endpoint.host)
            # RFC 7672 §2.2.2: where the addresses are insecure no TLSA record can be secure, and none is asked for
            tlsa = await _tlsa(resolver, endpoint) if secure and answer.secure else ()
        except ResolutionFailed as error:  # bogus ones too: a host whose records are withheld is not dialled
            failed = error
            continue
        found += [Endpoint(str(address), endpoint.port, endpoint.host, tlsa) for address in answer.records]
    if failed is not None and not found:
        raise failed
    return tuple(found[:MOST])


async def _tlsa(resolver: IResolver, endpoint: Endpoint) -> tuple[TLSA, ...]:
    found = await resolver.tlsa(f"_{endpoint.port}._tcp.{endpoint.host}")
    return tuple(record for record in found.records if isinstance(record, TLSA)) if found.secure else ()
