"""Whether a mail client may go on: how much it sends, what blocklists say of its address (RFC 5782), and whether the
domain of its sender could be answered (RFC 7505 §4.2).

Asked at MAIL and at RCPT, before any data. Trusted networks and signed-in users are not asked about blocklists.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from twisted.internet import defer
from twisted.logger import Logger

from gatewayd.address import Domain
from gatewayd.core.networks import Network, around, within
from gatewayd.core.rate import Buckets
from gatewayd.interfaces.dns import IResolver, ResolutionFailed
from gatewayd.outcome import NO_SUCH_SENDER, NULL_MX_SENDER, Deferred, Refused

MAX_REMEMBERED = 1000  # clients of which it is known whether they are trusted
LISTED = ipaddress.ip_network("127.0.0.0/8")  # an answer from here is a listing (RFC 5782 §2.1)
ERRORS = ipaddress.ip_network("127.255.255.0/24")  # "you may not ask", say the large lists


@dataclass(frozen=True, slots=True)
class Rates:
    """So many a minute, and as many at once; 0: any number."""

    per_address: int = 0
    per_network: int = 0
    per_domain: int = 0  # of the reverse-path
    per_account: int = 0  # recipients elsewhere


class Admission:
    log = Logger()

    def __init__(
        self, resolver: IResolver, steady: Callable[[], float], *, rates: Rates = Rates(),
        blocklists: Sequence[str] = (), trusted: Sequence[str] = (), refused: Sequence[str] = (),
        senders_exist: bool = False,
    ) -> None:  # fmt: skip
        """`trusted` are networks, `refused` networks and domains. `senders_exist`: else nothing is taken of them."""
        self._resolver = resolver
        self._blocklists = blocklists
        self._senders_exist = senders_exist
        self._refused_networks = [found for text in refused if (found := network(text)) is not None]
        self._refused_domains = {Domain.parse(text).name for text in refused if network(text) is None}
        networks = [ipaddress.ip_network(text) for text in trusted]
        self.trusts = lru_cache(MAX_REMEMBERED)(partial(within, networks=networks))  # asked several times for a message
        self._addresses = Buckets(rates.per_address, steady)
        self._networks = Buckets(rates.per_network, steady)
        self._domains = Buckets(rates.per_domain, steady)
        self._accounts = Buckets(rates.per_account, steady)

    async def client(self, address: str, domain: Domain | None) -> Deferred | Refused | None:
        """A client that has not signed in begins a message; None: it may."""
        if self.trusts(address):
            return None
        if within(address, self._refused_networks):
            return Refused("5.7.1", f"No mail is taken from {address} here")
        if domain is not None and (refused := self.refuses(domain)):
            return refused
        kinds = [(self._addresses, address), (self._networks, around(address))]
        if domain is not None:
            kinds.append((self._domains, domain.name))
        for buckets, key in kinds:
            wait = buckets.take(key)
            if wait:
                self.log.info("{key} sends too much", key=key)
                return Deferred("4.7.1", f"Too many messages from {key}; try again in {wait:.0f} s", int(wait) + 1)
        if domain is not None and self._senders_exist and (refused := await self._nowhere(domain)):
            return refused
        answers = [defer.Deferred.fromCoroutine(self._listed(address, zone)) for zone in self._blocklists]
        for reason in await defer.gatherResults(answers):
            if reason is not None:
                self.log.info("refused {client}: {reason}", client=address, reason=reason)
                return Refused("5.7.1", reason)
        return None

    async def _nowhere(self, domain: Domain) -> Refused | None:
        """Nobody there could be told what became of the mail. While the DNS does not say, it is taken."""
        try:
            exchanges = await self._resolver.mx(domain)
            if exchanges.exists:
                return None if exchanges.records else NULL_MX_SENDER
            if (await self._resolver.addresses(domain.name)).exists:
                return None
            if (await self._resolver.srv(f"_parley._tcp.{domain}")).exists:
                return None
        except ResolutionFailed:
            return None
        return NO_SUCH_SENDER

    def refuses(self, domain: Domain) -> Refused | None:
        """As the operator wishes: the domain, or one above it."""
        if self._refused_domains:
            labels = domain.name.split(".")
            if any(".".join(labels[i:]) in self._refused_domains for i in range(len(labels))):
                return Refused("5.7.1", f"No mail is taken from {domain} here")
        return None

    @property
    def counts_accounts(self) -> bool:
        return self._accounts.limited

    def account(self, name: str, recipients: int) -> Deferred | None:
        """A user of ours writes to recipients elsewhere; None: he may."""
        wait = self._accounts.take(name, recipients)
        if not wait:
            return None
        self.log.warn("{name} writes to too many", name=name)
        return Deferred("4.7.1", f"You have written to too many recipients; try again in {wait:.0f} s", int(wait) + 1)

    async def _listed(self, address: str, zone: str) -> str | None:
        """Why, if it is. A list that cannot be asked lists nobody."""
        client = ipaddress.ip_address(address)
        name = client.reverse_pointer.rpartition(".in-addr.arpa")[0] or client.reverse_pointer.removesuffix(".ip6.arpa")
        try:
            found = await self._resolver.addresses(f"{name}.{zone}")
            codes = [ipaddress.ip_address(str(record)) for record in found.records]
            if not any(code in LISTED and code not in ERRORS for code in codes if code.version == 4):
                return None
            texts = (await self._resolver.txt(f"{name}.{zone}")).records
        except ResolutionFailed as error:
            self.log.debug("{zone} cannot be asked: {error}", zone=zone, error=error)
            return None
        said = next((text.decode("ascii", "replace") for text in texts if isinstance(text, bytes)), "")
        return f"{client} is listed by {zone}" + (f": {said[:200]}" if said else "")


def network(text: str) -> Network | None:
    """None for what is a name."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None
