"""Who reads what is sent to one of our addresses: accounts, aliases, plus-addresses, postmaster, catch-all, and
the server behind us where the domain has one.

RFC 5321 §3.9.1 (aliases), RFC 5233 §2 (alice+lists@ is alice@ where it is nothing itself),
RFC 5321 §4.5.1 (postmaster), RFC 2142 §4 and §5 (the roles that every mail domain has).
"""

from __future__ import annotations

from collections.abc import Collection, Container

import msgspec

from gatewayd.address import Address, Domain
from gatewayd.core.srs import SRS
from gatewayd.interfaces.records import Account
from gatewayd.interfaces.store import IStore
from gatewayd.outcome import MAILBOX_FULL, MESSAGE_OVER_QUOTA, Outcome

MAX_TARGETS = 100  # that one address may have in the end
SEPARATOR = "+"
POSTMASTER = "postmaster"
ROLES = {POSTMASTER, "abuse", "security", "noc", "hostmaster", "webmaster"}  # postmaster's, unless somebody has them


class Found(msgspec.Struct, frozen=True):
    """Both empty: nobody. `circular`: its aliases lead nowhere but round."""

    accounts: tuple[Account, ...] = ()
    elsewhere: tuple[Address, ...] = ()
    circular: bool = False
    behind: bool = False  # the server behind us may know the address

    def __bool__(self) -> bool:
        return bool(self.accounts or self.elsewhere or self.behind)


class Recipients:
    """Everything raises StoreError."""

    def __init__(
        self, store: IStore, hostname: Domain, postmaster: Address | None, bridged: Container[Domain] = (),
        srs: SRS | None = None,
    ) -> None:  # fmt: skip
        self._store = store
        self._bridged = bridged
        self._srs = srs
        self._hostname = hostname
        self._postmaster = postmaster

    async def is_ours(self, address: Address) -> bool:
        return address.domain == self._hostname or address.domain in await self._store.domains()

    async def owns(self, account: Account, address: Address) -> bool:
        """Whether what is sent to the address reaches the account: then it may send as that address too."""
        if address.key == account.address.key:
            return True
        return await self.is_ours(address) and account in (await self.find(address)).accounts

    async def full(self, found: Found, octets: int = 1) -> Outcome | None:
        """What is said where nobody of them has room for so many; None: somebody has."""
        if found.elsewhere or found.behind:
            return None
        said: Outcome = MESSAGE_OVER_QUOTA
        for account in found.accounts:
            quota = await self._store.quota(account.account_id) if account.limited else None
            if quota is None or not quota.full(octets):
                return None
            if not quota.never(octets):
                said = MAILBOX_FULL
        return said

    async def find_all(self, addresses: Collection[Address]) -> dict[Address, Found | None]:
        """None for those that are not ours."""
        domains = await self._store.domains() | {self._hostname}
        return {address: await self.find(address) if address.domain in domains else None for address in addresses}

    async def find(self, address: Address) -> Found:
        """Of an address of ours. An alias goes before an account of its name, and may name that account."""
        sender = self._srs.reverse(address) if self._srs is not None else None
        if sender is not None:  # what comes back of mail that we sent on
            return Found(elsewhere=(sender,))
        found = await self._find(address)
        return found if found or address.domain not in self._bridged else Found(behind=True)

    async def _find(self, address: Address) -> Found:
        account = None if await self._aliased(address) else await self._store.account(address)
        if account is not None:
            return Found((account,))
        accounts: dict[int, Account] = {}
        elsewhere: dict[Address, None] = {}
        seen = set()
        waiting = [address]
        while waiting and len(accounts) + len(elsewhere) < MAX_TARGETS:
            one = waiting.pop(0)
            if not await self.is_ours(one):
                elsewhere[one] = None
                continue
            targets = () if one.key in seen else await self._targets(one)
            if targets:
                seen.add(one.key)
                waiting += targets
            elif account := await self._account(one):
                accounts[account.account_id] = account
        return Found(tuple(accounts.values()), tuple(elsewhere), bool(seen) and not accounts and not elsewhere)

    async def _aliased(self, address: Address) -> bool:
        """Most domains have no alias, and cost nothing."""
        return address.domain in await self._store.aliased_domains()

    async def _targets(self, address: Address) -> tuple[Address, ...]:
        if not await self._aliased(address):
            return ()
        for name in self._names(address):
            if targets := await self._store.alias_targets(name):
                return targets
            if await self._store.account(name) is not None:
                return ()
        if self._postmaster is not None and is_role(address):
            return ()
        return await self._store.alias_targets(Address("", address.domain))

    async def _account(self, address: Address) -> Account | None:
        for name in self._names(address):
            if account := await self._store.account(name):
                return account
        if self._postmaster is not None and is_role(address):
            return await self._store.account(self._postmaster)
        return None

    def _names(self, address: Address) -> tuple[Address, ...]:
        """As it stands, then without its detail, then whose business it is."""
        if is_role(address):
            return address, Address(POSTMASTER, address.domain)
        user, separator, _ = address.local.partition(SEPARATOR)
        return (address, Address(user, address.domain)) if separator and user else (address,)


def is_role(address: Address) -> bool:
    return address.local.lower() in ROLES
