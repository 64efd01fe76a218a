"""Domains of ours whose mailboxes stand on a server behind us: whom it has, and which clients send for them.

Before mail is taken the server is asked by RCPT whether it would take it, and its answer is remembered. While it is
down, who was there lately is still taken, and the mail waits here; of others nothing is known, and they come again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from gatewayd.address import Address, Domain
from gatewayd.core.networks import Network, within
from gatewayd.interfaces.routes import Bridged
from gatewayd.outcome import RECIPIENT_OK, Deferred, Delivered, Outcome

KNOWN_FOR = 3600.0  # seconds that a yes is believed
UNKNOWN_FOR = 300.0  # and a no: the mailbox may be made any minute
REMEMBERED_FOR = 7 * 86400.0  # that a yes helps while the server is down
MAX_REMEMBERED = 50_000

Probe = Callable[[Bridged, Address], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class Behind:
    """One domain's server, and the networks from which it sends."""

    route: Bridged
    clients: tuple[Network, ...] = ()


class Bridges:
    """`probe` asks a server whether it takes mail for an address."""

    def __init__(self, servers: Mapping[Domain, Behind], probe: Probe, steady: Callable[[], float]) -> None:
        self._servers = servers
        self._probe = probe
        self._steady = steady
        self._answers: dict[Address, tuple[Outcome, float]] = {}

    def __contains__(self, domain: object) -> bool:
        return domain in self._servers

    def sent_by(self, client: str) -> frozenset[Domain]:
        """The domains for which this IP address speaks."""
        return frozenset(domain for domain, one in self._servers.items() if within(client, one.clients))

    async def verify(self, address: Address) -> Outcome:
        """Whether the server takes mail for it: Delivered, Refused, or Deferred when that cannot be known now."""
        seconds = self._steady()
        known, when = self._answers.get(address, (None, 0.0))
        if known is not None and seconds - when < (KNOWN_FOR if known.ok else UNKNOWN_FOR):
            return known
        answer = await self._probe(self._servers[address.domain].route, address)
        if isinstance(answer, Deferred):
            if known is not None and known.ok and seconds - when < REMEMBERED_FOR:
                return known
            return Deferred("4.4.1", f"The server of {address.domain} cannot say now whether it takes this address")
        if isinstance(answer, Delivered):
            answer = RECIPIENT_OK
        if len(self._answers) >= MAX_REMEMBERED:
            self._answers.clear()
        self._answers[address] = answer, seconds
        return answer


def authors_domain(authors: Sequence[Address | None], ours: frozenset[Domain]) -> Domain | None:
    """Of those who wrote it, the first that is of such a domain."""
    return next((author.domain for author in authors if author is not None and author.domain in ours), None)
