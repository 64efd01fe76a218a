"""The SQLite engine of IStore: the embedded default. Transactions are in rows.py, tables in schema.py."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import Any, TypeVar

from msgspec.structs import replace
from twisted.internet import defer, threads
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from gatewayd.address import Address, Domain
from gatewayd.database.sqlite import Database, Together
from gatewayd.errors import StoreError
from gatewayd.interfaces.records import (
    Account,
    Allowance,
    Arrival,
    Awaited,
    Changes,
    Contact,
    ContactState,
    Counts,
    Delivery,
    Entry,
    Mailbox,
    Owed,
    Peer,
    Placed,
    Quota,
    ScramCredentials,
    Summary,
    Watcher,
)
from gatewayd.interfaces.store import IStore
from gatewayd.message.model import Content
from gatewayd.store import aliases, contacts, mailboxes, receipts, rows, schema
from gatewayd.store.blobs import BlobStore
from gatewayd.store.bodies import Blobs
from gatewayd.store.delivering import deliver
from gatewayd.store.holdings import Holdings
from gatewayd.store.known import Known
from gatewayd.store.log import read_log
from gatewayd.store.messages import Messages
from gatewayd.store.watching import Watching

T = TypeVar("T")

FORGOTTEN = 2000  # repeats in one transaction, and those that came with the last of them
FORGET = """
    DELETE FROM removed WHERE at_ms<?
    AND at_ms<=(SELECT max(at_ms) FROM (SELECT at_ms FROM removed ORDER BY at_ms LIMIT ?))"""
SEEN_FOR = 30 * 86400 * 1000  # milliseconds that a delivery is remembered for its repeat
STRAY_BLOB = 86400.0  # seconds: a blob without a row may still be on its way into one


@implementer(IStore)
class SQLiteStore:
    """Blobs are written and mail is parsed `in_thread`: the reactor's pool."""

    log = Logger()

    def __init__(
        self, database: Database, blobs: BlobStore, clock: IReactorTime, now: Callable[[], float],
        in_thread: Callable[..., defer.Deferred[Any]] = threads.deferToThread,
    ) -> None:  # fmt: skip
        self._database = database
        self.blobs = Blobs(blobs, Holdings(blobs.directory / "held", blobs), in_thread)
        self._now = now
        self._messages = Messages(database, self.blobs, in_thread)
        self._known = Known(database, clock.seconds)
        self._watching = Watching(database, clock)
        self._deliveries = Together(self._deliver, self._delivered)
        database.migrate("store", schema.STEPS)

    # -- accounts ---------------------------------------------------------------------------------------------------

    async def add_domain(self, domain: Domain) -> None:
        await self._database.write(lambda db: db.execute("INSERT OR IGNORE INTO domain VALUES (?)", (domain.name,)))
        self._known.forget()

    async def domains(self) -> frozenset[Domain]:
        generation = self._known.look()
        known = self._known.domains
        if known is None:
            found = await self._database.read(lambda db: db.execute("SELECT name FROM domain").fetchall())
            known = frozenset(Domain(name) for (name,) in found)
            if self._known.holds(generation):
                self._known.domains = known
        return known

    async def add_account(self, address: Address, credentials: ScramCredentials) -> Account:
        def add(db: sqlite3.Connection) -> Account:
            if db.execute("SELECT 1 FROM account WHERE local=? AND domain=?", address.key).fetchone():
                raise ValueError(f"{address} exists")
            cursor = db.execute(
                "INSERT INTO account (local, domain, address, salt, iterations, stored_key, server_key)"
                " VALUES (?,?,?,?,?,?,?)",
                (*address.key, str(address), *_columns(credentials)),
            )
            account = Account(cursor.lastrowid or 0, address)
            for name, special_use in schema.SPECIAL_USE.items():
                rows.create_mailbox(db, account.account_id, name, special_use)
            return account

        return await self._database.write(add)

    async def set_credentials(self, account_id: int, credentials: ScramCredentials) -> None:
        await self._database.write(
            lambda db: db.execute(
                "UPDATE account SET salt=?, iterations=?, stored_key=?, server_key=? WHERE account_id=?",
                (*_columns(credentials), account_id),
            )
        )

    async def account(self, address: Address) -> Account | None:
        generation = self._known.look()
        known = self._known.accounts.get(address.key)
        if known is None:
            limited = "max_octets IS NOT NULL OR max_messages IS NOT NULL"
            query = f"SELECT account_id, address, {limited} FROM account WHERE local=? AND domain=?"
            row = await self._database.read(lambda db: db.execute(query, address.key).fetchone())
            if row is None:
                return None  # not remembered: it may be about to be made
            known = Account(row[0], Address.parse(row[1]), bool(row[2]))
            if self._known.holds(generation):
                self._known.accounts[address.key] = known
        return known

    async def accounts(self) -> list[Account]:
        query = "SELECT account_id, address FROM account ORDER BY domain, local"
        return [
            Account(i, Address.parse(a)) for i, a in await self._database.read(lambda db: db.execute(query).fetchall())
        ]

    async def credentials(self, account_id: int) -> ScramCredentials | None:
        query = "SELECT salt, iterations, stored_key, server_key FROM account WHERE account_id=?"
        row = await self._database.read(lambda db: db.execute(query, (account_id,)).fetchone())
        return ScramCredentials(*row) if row else None

    async def quota(self, account_id: int) -> Quota:
        query = f"SELECT {rows.QUOTA} FROM account WHERE account_id=?"
        row = await self._database.read(lambda db: db.execute(query, (account_id,)).fetchone())
        return Quota(*row) if row else Quota(0, 0)

    async def set_quota(self, account_id: int, max_octets: int | None, max_messages: int | None) -> None:
        update = "UPDATE account SET max_octets=?, max_messages=? WHERE account_id=?"
        await self._database.write(lambda db: db.execute(update, (max_octets, max_messages, account_id)))
        self._known.forget()

    # -- aliases ----------------------------------------------------------------------------------------------------

    async def aliased_domains(self) -> frozenset[Domain]:
        generation = self._known.look()
        known = self._known.aliased
        if known is None:
            known = await self._database.read(aliases.domains)
            if self._known.holds(generation):
                self._known.aliased = known
        return known

    async def alias_targets(self, alias: Address) -> tuple[Address, ...]:
        return await self._database.read(lambda db: aliases.targets(db, alias))

    async def aliases(self) -> list[tuple[Address, Address]]:
        return await self._database.read(aliases.every)

    async def add_alias(self, alias: Address, target: Address) -> None:
        await self._database.write(lambda db: aliases.add(db, alias, target))
        self._known.forget()

    async def remove_alias(self, alias: Address, target: Address | None) -> int:
        gone = await self._database.write(lambda db: aliases.remove(db, alias, target))
        self._known.forget()
        return gone

    # -- messages ---------------------------------------------------------------------------------------------------

    async def deliver(self, deliveries: Sequence[Delivery]) -> list[Placed | StoreError]:
        failed: dict[int, StoreError] = {}
        ready: list[Delivery] = []
        for number, delivery in enumerate(deliveries):
            try:
                kept = await self.blobs.keep(delivery.content)
            except StoreError as error:
                failed[number] = error
            else:
                ready.append(delivery if kept is delivery.content else replace(delivery, content=kept))
        try:
            placed = await self._database.write_together(self._deliveries, ready)
        except StoreError as error:
            return [error] * len(deliveries)
        if not failed:
            return placed
        rest = iter(placed)
        return [failed[number] if number in failed else next(rest) for number in range(len(deliveries))]

    def _now_ms(self) -> int:
        return int(self._now() * 1000)

    def _deliver(self, db: sqlite3.Connection, calls: Sequence[Sequence[Delivery]]) -> list[list[Placed | StoreError]]:
        """In the writer's thread, for all the calls that wait."""
        now_ms = self._now_ms()
        placed = iter(deliver(db, [delivery for deliveries in calls for delivery in deliveries], now_ms))
        return [list(islice(placed, len(deliveries))) for deliveries in calls]

    def _delivered(self, calls: Sequence[Sequence[Delivery]], answers: Sequence[list[Placed | StoreError]]) -> None:
        arrived: dict[int, list[Arrival]] = defaultdict(list)
        introduced: set[int] = set()
        for deliveries, placed in zip(calls, answers, strict=True):
            for delivery, place in zip(deliveries, placed, strict=True):
                if not isinstance(place, Placed) or place.duplicate:
                    continue
                if delivery.introduction is not None:  # a contact may have taken a number too: the log is to be read
                    self._known.forget_contact(delivery.account_id, delivery.introduction.sender)
                    introduced.add(delivery.account_id)
                if delivery.account_id in self._watching:
                    flags = rows.joined(delivery.flags)
                    arrival = Arrival(place.mailbox, place.uid, place.modseq, flags, delivery.content)
                    arrived[delivery.account_id].append(arrival)
        for account_id, arrivals in arrived.items():
            self._watching.notify(account_id, () if account_id in introduced else arrivals)

    async def entries(self, account_id: int, mailbox_id: int, since_modseq: int = 0) -> list[Entry]:
        query = f"SELECT {rows.ENTRY} FROM entry WHERE account_id=? AND mailbox_id=? AND modseq>? ORDER BY uid"
        key = (account_id, mailbox_id, since_modseq)
        return [Entry(*row) for row in await self._database.read(lambda db: db.execute(query, key).fetchall())]

    async def expunged(self, account_id: int, mailbox_id: int, since_modseq: int) -> list[int]:
        query = "SELECT uid FROM expunged WHERE account_id=? AND modseq>? AND mailbox_id=? ORDER BY uid"
        key = (account_id, since_modseq, mailbox_id)
        return [uid for (uid,) in await self._database.read(lambda db: db.execute(query, key).fetchall())]

    async def summaries(self, account_id: int, message_ids: Sequence[int]) -> dict[int, Summary]:
        return await self._messages.summaries(account_id, message_ids)

    async def mails(self, account_id: int, message_ids: Sequence[int]) -> dict[int, bytes]:
        return await self._messages.mails(account_id, message_ids)

    async def contents(self, account_id: int, message_ids: Sequence[int]) -> dict[int, Content]:
        return {i: content for i, (content, _) in (await self._messages.contents(account_id, message_ids)).items()}

    async def find(self, account_id: int, object_ids: Collection[bytes]) -> dict[bytes, Content]:
        found = await self.contents(account_id, await self._messages.find(account_id, object_ids))
        return {content.id: content for content in found.values()}

    async def names_blob(self, account_id: int, digest: bytes) -> bool:
        query = "SELECT 1 FROM message_blob WHERE account_id=? AND hash=? LIMIT 1"
        return await self._database.read(lambda db: db.execute(query, (account_id, digest)).fetchone()) is not None

    async def store_flags(
        self, account_id: int, mailbox_id: int, uids: Sequence[int], mode: str, flags: Collection[str],
        unchanged_since: int | None = None,
    ) -> list[Entry]:  # fmt: skip
        done = await self._database.write(
            lambda db: rows.store_flags(db, account_id, mailbox_id, uids, mode, flags, unchanged_since)
        )
        self._watching.notify(account_id)
        return done

    async def expunge(self, account_id: int, mailbox_id: int, uids: Sequence[int]) -> list[int]:
        now_ms = self._now_ms()
        gone = await self._database.write(lambda db: rows.expunge(db, account_id, mailbox_id, uids, now_ms))
        self._watching.notify(account_id)
        return gone

    async def copy(
        self, account_id: int, mailbox_id: int, uids: Sequence[int], target: str, move: bool = False
    ) -> tuple[int, list[tuple[int, int]]]:
        now_ms = self._now_ms()
        done, decided = await self._database.write(
            lambda db: contacts.copy(db, account_id, mailbox_id, uids, target, move, now_ms)
        )
        for sender in decided:
            self._known.forget_contact(account_id, sender)
        self._watching.notify(account_id)
        return done

    # -- mailboxes --------------------------------------------------------------------------------------------------

    async def mailboxes(self, account_id: int) -> list[Mailbox]:
        return await self._database.read(lambda db: rows.mailboxes(db, account_id))

    async def mailbox(self, account_id: int, name: str) -> Mailbox:
        return await self._database.read(lambda db: rows.mailbox(db, account_id, name))

    async def counts(self, account_id: int, mailbox_id: int | None = None) -> dict[int, Counts]:
        return await self._database.read(lambda db: mailboxes.counts(db, account_id, mailbox_id))

    async def create_mailbox(self, account_id: int, name: str) -> Mailbox:
        made = await self._database.write(lambda db: rows.create_mailbox(db, account_id, name))
        self._watching.notify(account_id)
        return made

    async def delete_mailbox(self, account_id: int, name: str) -> None:
        now_ms = self._now_ms()
        await self._database.write(lambda db: mailboxes.delete(db, account_id, name, now_ms))
        self._watching.notify(account_id)

    async def rename_mailbox(self, account_id: int, name: str, to: str) -> None:
        await self._database.write(lambda db: mailboxes.rename(db, account_id, name, to))
        self._watching.notify(account_id)

    async def subscribe_mailbox(self, account_id: int, name: str, subscribed: bool) -> None:
        await self._database.write(lambda db: mailboxes.subscribe(db, account_id, name, subscribed))
        self._watching.notify(account_id)

    # -- contacts ---------------------------------------------------------------------------------------------------

    async def contact(self, account_id: int, address: Address) -> Contact | None:
        return (await self.contacts_among([(account_id, address)]))[account_id, address]

    async def contacts_among(self, pairs: Collection[tuple[int, Address]]) -> dict[tuple[int, Address], Contact | None]:
        self._known.look()
        found: dict[tuple[int, Address], Contact | None] = {}
        unknown: list[tuple[int, Address]] = []
        for pair in pairs:
            known = self._known.contact(*pair)
            if known is None:
                unknown.append(pair)
            else:
                (found[pair],) = known
        if unknown:
            as_of = self._known.contacts_as_of
            read = await self._database.read(lambda db: {pair: contacts.contact(db, *pair) for pair in unknown})
            self._known.note_contacts(read, as_of)
            found.update(read)
        return found

    async def contacts(self, account_id: int) -> list[Contact]:
        return await self._database.read(lambda db: contacts.contacts(db, account_id))

    async def set_contact(self, account_id: int, address: Address, state: ContactState) -> None:
        now_ms = self._now_ms()
        changed = await self._database.write(lambda db: contacts.set_contact(db, account_id, address, state, now_ms))
        if changed:
            self._known.forget_contact(account_id, address)
            self._watching.notify(account_id)

    async def request_contact(self, account_id: int, address: Address, allowance: Allowance) -> None:
        now_ms = self._now_ms()
        if await self._database.write(lambda db: contacts.request(db, account_id, address, allowance, now_ms)):
            self._known.forget_contact(account_id, address)
            self._watching.notify(account_id)

    # -- receipts ---------------------------------------------------------------------------------------------------

    async def expect_receipts(
        self, account_id: int, object_id: bytes, recipients: Sequence[Address], awaited: Awaited
    ) -> None:
        now_ms = self._now_ms()
        await self._database.write(lambda db: receipts.expect(db, account_id, object_id, recipients, awaited, now_ms))

    async def expected_receipt(self, account_id: int, object_id: bytes, recipient: Address) -> Awaited | None:
        return await self._database.read(lambda db: receipts.expected(db, account_id, object_id, recipient))

    async def owe_receipts(self, owed: Collection[Owed]) -> list[Owed]:
        return await self._database.write(lambda db: receipts.owe(db, owed))

    async def unsent_receipts(self, limit: int) -> list[Owed]:
        return await self._database.read(lambda db: receipts.unsent(db, limit))

    async def receipt_sent(self, owed: Owed) -> None:
        await self._database.write(lambda db: receipts.sent(db, owed))

    # -- the log ----------------------------------------------------------------------------------------------------

    async def changes(self, account_id: int, since_modseq: int, limit: int = 1000, epoch: bytes = b"") -> Changes:
        return await self._database.read(lambda db: read_log(db, account_id, since_modseq, limit, epoch))

    def watch(self, account_id: int, callback: Watcher) -> Callable[[], None]:
        return self._watching.watch(account_id, callback)

    # -- peers ------------------------------------------------------------------------------------------------------

    async def peer(self, domain: Domain) -> Peer | None:
        query = "SELECT parley_until, keys, keys_until FROM peer WHERE domain=?"
        row = await self._database.read(lambda db: db.execute(query, (domain.name,)).fetchone())
        return Peer(domain, *row) if row else None

    async def remember_peer(self, peer: Peer) -> None:
        row = (peer.domain.name, peer.parley_until, peer.keys, peer.keys_until)
        await self._database.write(lambda db: db.execute("INSERT OR REPLACE INTO peer VALUES (?,?,?,?)", row))

    async def sweep(self, queued: Collection[bytes] = ()) -> None:
        """Forget old repeats, some at a time, and remove files that no row names, nor the queue."""
        now = self._now()
        before = int(now * 1000) - SEEN_FOR
        while await self._database.write(lambda db: db.execute(FORGET, (before, FORGOTTEN)).rowcount):
            pass
        await self._database.write(lambda db: receipts.sweep(db, int(now * 1000)))
        named = await self._database.read(lambda db: db.execute("SELECT DISTINCT hash FROM message_blob").fetchall())
        await self.blobs.sweep({digest for (digest,) in named}.union(queued), now - STRAY_BLOB)


def _columns(credentials: ScramCredentials) -> tuple[bytes, int, bytes, bytes]:
    return credentials.salt, credentials.iterations, credentials.stored_key, credentials.server_key
