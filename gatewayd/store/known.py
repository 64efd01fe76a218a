"""What hardly changes and is asked for several times a message: domains, accounts, contacts.

It stays in memory while no other process commits to the file; another's change is seen after KNOWN_FOR.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet import defer

from gatewayd.address import Address, Domain
from gatewayd.database.sqlite import Database
from gatewayd.errors import StoreError
from gatewayd.interfaces.records import Account, Contact

KNOWN_FOR = 1.0  # seconds
MAX_CONTACTS = 50_000


class Known:
    def __init__(self, database: Database, steady: Callable[[], float]) -> None:
        self._database = database
        self._steady = steady
        self.domains: frozenset[Domain] | None = None
        self.aliased: frozenset[Domain] | None = None
        self.accounts: dict[tuple[str, str], Account] = {}
        self._contacts: dict[tuple[int, tuple[str, str]], Contact | None] = {}
        self._contacts_written = 0
        self._until = 0.0
        self._version: int | None = None  # of the file: another process's commit changes it
        self._generation = 0
        self._checking = False

    def look(self) -> int:
        """Before it is read: what is old is forgotten. Returns its generation: what was asked of the database in an
        earlier one may be old, and is not remembered."""
        now = self._steady()
        if self._until <= now:
            self.forget()
            self._version = None
        elif self._until - now < KNOWN_FOR / 2 and not self._checking:
            self._checking = True
            defer.Deferred.fromCoroutine(self._check(now))
        return self._generation

    def holds(self, generation: int) -> bool:
        return generation == self._generation

    def forget(self) -> None:
        self.domains = self.aliased = None
        self.accounts.clear()
        self._contacts.clear()
        self._until = self._steady() + KNOWN_FOR
        self._generation += 1

    def contact(self, account_id: int, address: Address) -> tuple[Contact | None] | None:
        """None: it is not known whether there is one."""
        key = account_id, address.key
        return (self._contacts[key],) if key in self._contacts else None

    @property
    def contacts_as_of(self) -> tuple[int, int]:
        """For `note_contacts`: before they are read."""
        return self._contacts_written, self._generation

    def note_contacts(self, found: dict[tuple[int, Address], Contact | None], as_of: tuple[int, int]) -> None:
        if as_of != self.contacts_as_of:
            return  # what was read may be old already
        if len(self._contacts) + len(found) > MAX_CONTACTS:
            self._contacts.clear()
        self._contacts.update(((account_id, address.key), one) for (account_id, address), one in found.items())

    def forget_contact(self, account_id: int, address: Address) -> None:
        self._contacts_written += 1
        self._contacts.pop((account_id, address.key), None)

    async def _check(self, now: float) -> None:
        """What is known holds on while no other process commits."""
        generation = self._generation
        try:
            version = await self._database.data_version()
        except StoreError:
            return
        finally:
            self._checking = False
        if generation != self._generation:
            return
        if version == self._version:
            self._until = max(self._until, now + KNOWN_FOR)
        else:
            self.forget()
            self._version = version
