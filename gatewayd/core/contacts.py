"""What users and peers ask about consent: the methods `consent` and `lookup` (docs/parley.rst §7.7, §7.8, §8.4).

A user's server asks the other domain on the user's behalf. A peer learns whether its user may write, and nothing of who
is here: a stranger, one who was revoked, and one who asks about an address that does not exist get the same answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from gatewayd.address import Address
from gatewayd.core.consent import Consent
from gatewayd.core.delivery import Router
from gatewayd.core.dmarc import organisational
from gatewayd.core.rate import Buckets
from gatewayd.core.recipients import Recipients
from gatewayd.interfaces.records import Account, Contact, ContactState
from gatewayd.interfaces.routes import Bridged, Local, Mail, Parley
from gatewayd.interfaces.store import IStore
from gatewayd.outcome import Deferred

ASKED = 60  # questions a minute to other domains, of one user
ANSWERED = 600  # look-ups a minute, of one domain


Way = Literal["local", "parley", "mail", "none"]  # "none": nobody is there


class NotNow(Exception):
    """A temporary failure; its message says why."""


class TooOften(NotNow):
    pass


class Never(Exception):
    """A permanent one."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How one user stands with another of this gateway or elsewhere."""

    granted: bool  # may write anything; else only an introduction
    introduction: int  # its characters


@dataclass(frozen=True, slots=True)
class Found:
    way: Way
    state: ContactState  # what the asking user has said of the address
    standing: Standing | None = None  # with the other, where that can be known


class Peers(Protocol):
    """Other domains, asked over Parley. Each raises NotNow or Never."""

    async def request(self, route: Parley, author: Address, address: Address) -> None: ...
    async def cancel(self, route: Parley, author: Address, address: Address) -> None: ...
    async def lookup(self, route: Parley, author: Address, address: Address) -> Standing: ...


class Contacts:
    """Every coroutine may raise StoreError."""

    def __init__(
        self, store: IStore, consent: Consent, recipients: Recipients, router: Router, peers: Peers,
        steady: Callable[[], float],
    ) -> None:  # fmt: skip
        self._store = store
        self._consent = consent
        self._recipients = recipients
        self._router = router
        self._peers = peers
        self._asked = Buckets(ASKED, steady)
        self._answered = Buckets(ANSWERED, steady)

    # -- for a user -------------------------------------------------------------------------------------------------

    async def listing(self, account: Account) -> list[Contact]:
        return await self._store.contacts(account.account_id)

    async def contact(self, account: Account, address: Address) -> Contact | None:
        return await self._store.contact(account.account_id, address)

    async def decide(self, account: Account, address: Address, state: ContactState) -> None:
        await self._store.set_contact(account.account_id, address, state)

    async def request(self, account: Account, address: Address) -> None:
        """Asks for consent without a message, and lets the answer in. Raises NotNow, Never."""
        route = await self._route(account, address)
        if isinstance(route, Local):
            return  # no strangers
        if not isinstance(route, Parley):
            raise Never(f"{address.domain} speaks only mail: write to them")
        await self._store.set_contact(account.account_id, address, "granted")
        await self._peers.request(route, account.address, address)

    async def cancel(self, account: Account, address: Address) -> None:
        """They are a stranger again, and a request that was made to them is withdrawn, if they can be told now."""
        await self._store.set_contact(account.account_id, address, "none")
        with contextlib.suppress(NotNow, Never):
            route = await self._route(account, address)
            if isinstance(route, Parley):
                await self._peers.cancel(route, account.address, address)

    async def lookup(self, account: Account, address: Address) -> Found:
        """Raises NotNow, Never."""
        state = await self._consent.state(account.account_id, address)
        route = await self._route(account, address)
        match route:
            case Local():
                there = bool(await self._recipients.find(address))
                return Found("local", state, Standing(True, 0)) if there else Found("none", state)
            case Parley():
                return Found("parley", state, await self._peers.lookup(route, account.address, address))
            case Mail() | Bridged():
                return Found("mail", state)
        return Found("none", state)

    async def _route(self, account: Account, address: Address) -> object:
        if self._asked.take(str(account.account_id)):
            raise TooOften("Too many questions in a minute")
        route = await self._router.route(address.domain)
        if isinstance(route, Deferred):
            raise NotNow(route.text)
        return route

    # -- for a peer domain, about its user --------------------------------------------------------------------------

    async def requested(self, author: Address, address: Address) -> None:
        """Raises TooOften. Each request counts, a repeat too, and one to nobody as one to somebody: what is left of the
        quota tells nothing, and neither do the words."""
        account = await self._account(address)
        if await self._consent.request(account.account_id if account is not None else 0, author, address) is not None:
            raise TooOften("Too many requests for now")

    async def cancelled(self, author: Address, address: Address) -> None:
        account = await self._account(address)
        if account is not None and await self._consent.state(account.account_id, author) == "requested":
            await self._store.set_contact(account.account_id, author, "none")

    async def looked_up(self, author: Address, address: Address) -> Standing:
        """Raises TooOften."""
        if self._answered.take(organisational(author.domain.name)):
            raise TooOften("Too many look-ups in a minute")
        account = await self._account(address)
        state = await self._consent.state(account.account_id if account is not None else 0, author)
        return Standing(state == "granted", self._consent.policy.text)

    async def _account(self, address: Address) -> Account | None:
        """Who decides for the address: its one reader. An alias of several, or that leads away, is open to requests of
        nobody."""
        found = await self._recipients.find(address)
        return found.accounts[0] if len(found.accounts) == 1 and not found.elsewhere else None
