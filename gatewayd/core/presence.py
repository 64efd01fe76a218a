"""Signals: presence and typing, passed on to who is connected now and never stored (docs/parley.rst §7.6).

They go between people who know each other (core/consent.py): the sender's server passes on only to those whom the
sender knows, the recipient's server only from those whom the recipient knows. What cannot be passed on at once is
dropped: whoever sent it says it again before its lease ends.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from twisted.internet import defer
from twisted.logger import Logger

from gatewayd.address import Address, Domain
from gatewayd.core.consent import knows
from gatewayd.core.rate import Buckets
from gatewayd.interfaces.routes import Parley, Route
from gatewayd.interfaces.store import IStore

USER_RATE, USER_BURST = 600, 20  # signals a minute and at once, each recipient counts
PEER_RATE, PEER_BURST = 30_000, 1000
UNDER_WAY = 8  # to one domain at once
UNREACHABLE = 30.0  # seconds that a domain is left in peace after it could not be reached
MAX_KNOWN = 10_000  # domains whose failure is remembered

Push = Callable[["Signal"], None]


@dataclass(frozen=True, slots=True)
class Signal:
    sender: Address
    kind: str  # "presence", "typing"
    state: str
    lease: int  # seconds after which it no longer holds
    about: bytes = b""  # the id of the first object of a conversation


class TooOften(Exception):
    """More signals than are passed on; none of these were."""


class Carrier(Protocol):
    async def signal(self, route: Parley, signal: Signal, to: Sequence[Address]) -> None:
        """To a peer domain, at once or never. Raises OSError when it could not be reached."""


class Presence:
    log = Logger()

    def __init__(
        self, store: IStore, route: Callable[[Domain], Awaitable[Route]], carrier: Carrier, steady: Callable[[], float]
    ) -> None:
        self._store = store
        self._route = route
        self._carrier = carrier
        self._steady = steady
        self._connected: dict[int, list[Push]] = defaultdict(list)  # a set takes four times as much for one
        self._under_way: Counter[Domain] = Counter()
        self._unreachable: dict[Domain, float] = {}
        self._users = Buckets(USER_RATE, steady, USER_BURST)
        self._peers = Buckets(PEER_RATE, steady, PEER_BURST)

    def connect(self, account_id: int, push: Push) -> Callable[[], None]:
        """A client of this account listens. Returns what ends it."""
        self._connected[account_id].append(push)
        return partial(self._end, account_id, push)

    def _end(self, account_id: int, push: Push) -> None:
        with suppress(ValueError):  # it has ended
            self._connected[account_id].remove(push)
        if not self._connected[account_id]:
            del self._connected[account_id]

    async def from_user(self, account_id: int, signal: Signal, to: Sequence[Address]) -> list[Address]:
        """Returns those whom the user does not know, and who got nothing. Raises TooOften, StoreError."""
        if self._users.take(account_id, len(to)):
            raise TooOften
        known = [address for address in to if await knows(self._store, account_id, address)]
        ours = await self._store.domains()
        await self._deliver(signal, [address for address in known if address.domain in ours])
        remote: dict[Domain, list[Address]] = defaultdict(list)
        for address in known:
            if address.domain not in ours:
                remote[address.domain].append(address)
        for domain, addresses in remote.items():
            if self._under_way[domain] < UNDER_WAY and self._unreachable.get(domain, 0.0) <= self._steady():
                self._under_way[domain] += 1
                defer.Deferred.fromCoroutine(self._carry(domain, signal, addresses))
        return [address for address in to if address not in known]

    async def from_peer(self, signal: Signal, to: Sequence[Address]) -> None:
        """Says nothing of who got it: presence is nobody's business but theirs. Raises TooOften, StoreError."""
        if self._peers.take(signal.sender.domain, len(to)):
            raise TooOften
        await self._deliver(signal, to)

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _deliver(self, signal: Signal, to: Iterable[Address]) -> None:
        for address in to:
            account = await self._store.account(address)
            if account is None or account.account_id not in self._connected:
                continue
            if await knows(self._store, account.account_id, signal.sender):
                for push in list(self._connected.get(account.account_id, ())):
                    push(signal)

    async def _carry(self, domain: Domain, signal: Signal, to: Sequence[Address]) -> None:
        try:
            route = await self._route(domain)
            if isinstance(route, Parley):
                await self._carrier.signal(route, signal, to)
        except OSError as error:
            self.log.debug("signals for {domain} are dropped: {error}", domain=domain, error=error)
            if len(self._unreachable) >= MAX_KNOWN:
                self._unreachable.clear()
            self._unreachable[domain] = self._steady() + UNREACHABLE
        except Exception:
            self.log.failure("a signal failed")
        finally:
            self._under_way[domain] -= 1
            if not self._under_way[domain]:
                del self._under_way[domain]
