"""IResolver by dnspython: its resolver and its cache (positive and negative, by TTL), in threads.

RFC 2782 (SRV), RFC 5321 §5.1 and RFC 7505 (MX), RFC 6698 (TLSA), RFC 6840 §5.7 (the AD bit in a query).
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from random import Random, SystemRandom
from typing import Any

import dns.exception
import dns.flags
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver
from twisted.internet import defer
from zope.interface import implementer

from gatewayd.address import Domain
from gatewayd.crypto.dane import TLSA
from gatewayd.dns.selection import SRV, alternate, order_mx, order_srv
from gatewayd.interfaces.dns import Answer, Endpoint, IResolver, ResolutionFailed

CACHE = 10_000  # answers kept
HASTE = 2.0  # seconds that a look-up takes at most while the DNS gives no sign of life
PAYLOAD = 1232  # octets of a UDP answer that never fragment (DNS flag day 2020)


def nameserver(text: str) -> dns.nameserver.Nameserver:
    """ "192.0.2.1", "192.0.2.1:5353", "2001:db8::1" or "[2001:db8::1]:5353". Raises ValueError."""
    host, port = text, 53
    if text.startswith("[") or text.count(":") == 1:
        host, _, digits = text.rpartition(":")
        host, port = host.strip("[]"), int(digits)
    return dns.nameserver.Do53Nameserver(str(ipaddress.ip_address(host)), port)


@implementer(IResolver)
class Resolver:
    """`nameservers` None is what the system uses. `trust_ad`: the way to them is safe, so their AD bit is believed."""

    def __init__(
        self,
        in_thread: Callable[..., Awaitable[Any]],
        nameservers: Sequence[str] | None = None,
        *,
        trust_ad: bool = False,
        timeout: float = 10.0,
        random: Random | None = None,
    ) -> None:
        self._in_thread = in_thread
        self._trust_ad = trust_ad
        self._random = random or SystemRandom()
        self._resolver = dns.resolver.Resolver(configure=nameservers is None)
        if nameservers is not None:
            self._resolver.nameservers = [nameserver(text) for text in nameservers]
        self._heard = _Cache(CACHE)
        self._resolver.cache = self._heard
        self._resolver.use_edns(0, dns.flags.DO, PAYLOAD)
        self._resolver.flags = dns.flags.RD | dns.flags.AD
        self._hasty = copy(self._resolver)
        for one, lifetime in ((self._resolver, timeout), (self._hasty, min(timeout, HASTE))):
            one.lifetime, one.timeout = lifetime, lifetime / 3  # leaves time for a second server, or a second try
        self._gave_up = 0.0  # when a look-up did, while no other had an answer: seconds of the steady clock

    @property
    def silent(self) -> bool:
        """Nobody has had an answer since a look-up was in vain: until somebody has, none is waited for as long."""
        return self._gave_up > self._heard.latest

    async def srv(self, name: str) -> Answer:
        found = await self._ask(name, "SRV")
        records = [SRV(r.priority, r.weight, r.port, _host(r.target)) for r in found.records]  # type: ignore[attr-defined]
        ordered = tuple(Endpoint(record.target, record.port) for record in order_srv(records, self._random))
        return Answer(ordered, found.secure, found.exists)

    async def mx(self, domain: Domain) -> Answer:
        found = await self._ask(domain.name, "MX")
        records = [(r.preference, _host(r.exchange)) for r in found.records]  # type: ignore[attr-defined]
        return Answer(tuple(order_mx(records, self._random)), found.secure, found.exists)

    async def addresses(self, host: str) -> Answer:
        try:
            return Answer((str(ipaddress.ip_address(host)),), exists=True)
        except ValueError:
            pass
        kinds = [defer.Deferred.fromCoroutine(self._ask(host, kind)) for kind in ("AAAA", "A")]
        found: list[Answer] = []
        failed: Exception | None = None
        for kind in kinds:  # both are under way
            try:
                found.append(await kind)
            except ResolutionFailed as error:
                failed = error
        every = [r.address for answer in found for r in answer.records]  # type: ignore[attr-defined]
        six, four = ([a for a in every if (":" in a) == wide] for wide in (True, False))
        records = alternate(six, four)
        if failed is not None and not records:  # one kind alone is enough to reach the host; none is not absence
            raise failed
        return Answer(records, all(answer.secure for answer in found), bool(records))

    async def txt(self, name: str) -> Answer:
        found = await self._ask(name, "TXT")
        texts = tuple(b"".join(r.strings) for r in found.records)  # type: ignore[attr-defined]
        return Answer(texts, found.secure, found.exists, found.ttl)

    async def tlsa(self, name: str) -> Answer:
        found = await self._ask(name, "TLSA")
        records = tuple(TLSA(r.usage, r.selector, r.mtype, r.cert) for r in found.records)  # type: ignore[attr-defined]
        return Answer(records, found.secure, found.exists)

    def lookup(self, name: str, kind: str) -> list[Any]:
        """Blocking, for libraries that are called in threads. TXT: tuples of bytes; A, AAAA, PTR: str;
        MX: (preference, host). Raises ResolutionFailed."""
        try:
            found = self._lookup(dns.name.from_text(name), kind).records
        except dns.exception.DNSException:
            return []
        match kind:
            case "TXT":
                return [r.strings for r in found]  # type: ignore[attr-defined]
            case "MX":
                return [(r.preference, _host(r.exchange)) for r in found]  # type: ignore[attr-defined]
            case "PTR":
                return [_host(r.target) for r in found]  # type: ignore[attr-defined]
        return [r.address for r in found]  # type: ignore[attr-defined]

    async def _ask(self, name: str, kind: str) -> Answer:
        try:
            absolute = dns.name.from_text(name)
        except dns.exception.DNSException:
            return Answer()  # too long to be a name (RFC 1035 §2.3.4): it cannot exist
        answer: Answer = await self._in_thread(self._lookup, absolute, kind)
        return answer

    def _lookup(self, name: dns.name.Name, kind: str) -> Answer:
        """In a thread."""
        began = time.monotonic()
        try:
            resolver = self._hasty if self.silent else self._resolver
            found = resolver.resolve(name, kind, raise_on_no_answer=False, search=False)
        except dns.resolver.NXDOMAIN as absent:
            return Answer(secure=all(self._secure(response) for response in absent.responses().values()))  # type: ignore[no-untyped-call]
        except dns.exception.Timeout as error:
            if self._heard.latest < began:
                self._gave_up = time.monotonic()
            raise ResolutionFailed(f"{name} {kind}: {error}") from None
        except (dns.exception.DNSException, OSError) as error:
            self._heard.latest = time.monotonic()
            raise ResolutionFailed(f"{name} {kind}: {error}") from None
        if found.rrset is None:
            return Answer(secure=self._secure(found.response))
        ttl = max(0.0, found.expiration - time.time())  # dnspython has no other clock
        return Answer(tuple(found.rrset), self._secure(found.response), True, ttl)

    def _secure(self, response: Any) -> bool:
        return self._trust_ad and bool(response.flags & dns.flags.AD)


class _Cache(dns.resolver.LRUCache):
    """Without what would be kept for longer than its TTL since the clock was set back. Knows when the `latest` answer
    came, by the steady clock."""

    latest = 0.0

    def put(self, key: Any, value: dns.resolver.Answer) -> None:
        super().put(key, value)
        self.latest = time.monotonic()

    def get(self, key: Any) -> dns.resolver.Answer | None:
        found = super().get(key)
        if found is None or found.expiration - time.time() > found.chaining_result.minimum_ttl:
            return None
        return found


def _host(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()
