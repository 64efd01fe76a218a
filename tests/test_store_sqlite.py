"""The store against a model of it: UIDs never repeat, the log replays to the state, nothing is lost or doubled."""

from __future__ import annotations

import errno
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Coroutine, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import cbor2
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock

from gatewayd.address import Address, Domain
from gatewayd.database.sqlite import Database
from gatewayd.errors import QuotaExceeded, StoreError, StoreFull
from gatewayd.interfaces.records import (
    BadMailbox,
    ContactState,
    Counts,
    Delivery,
    Mailbox,
    MailboxExists,
    NoSuchMailbox,
    Peer,
    Placed,
    Quota,
    ScramCredentials,
)
from gatewayd.message.bridge import bridged_payload
from gatewayd.message.mime import Mail
from gatewayd.message.model import Content, Part, Payload
from gatewayd.message.render import LARGEST
from gatewayd.store import rows, schema
from gatewayd.store.blobs import BlobStore
from gatewayd.store.sqlite import SEEN_FOR, SQLiteStore
from tests.loop import Loop

ALICE, BOB = Address.parse("alice@alpha.test"), Address.parse("bob@alpha.test")
CREDENTIALS = ScramCredentials(b"salt", 4096, b"stored", b"server")
TRACE = b"Received: here\r\n"
FIRST = rows.message_key(1, 1)  # alice's


def content(mail: bytes = b"Subject: x\r\n\r\nbody\r\n") -> Content:
    payload, bodies = bridged_payload(
        Mail(mail), by=Domain.parse("alpha.test"), nonce=secrets.token_bytes(16), received_ms=0, reverse_path=None
    )
    return Content(b"", payload.encode(), b"", bodies)


class Stores:
    """One store with alice in it; `again()` is another process over the same files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.loop = Loop()
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.open: list[Database] = []
        self.store = self.again()
        self.loop.one(self.store.add_domain(ALICE.domain))
        self.alice = self.loop.one(self.store.add_account(ALICE, CREDENTIALS)).account_id
        self.inbox = self.loop.one(self.store.mailbox(self.alice, "INBOX")).mailbox_id

    def again(self) -> SQLiteStore:
        self.open.append(Database(self.root / "test.sqlite", self.loop.post))
        return SQLiteStore(self.open[-1], BlobStore(self.root / "blobs"), self.clock, self.clock.seconds, maybeDeferred)

    def close(self) -> None:
        for database in self.open:
            database.close()

    def deliver(self, mail: bytes = b"Subject: x\r\n\r\nbody\r\n", mailbox: str = "INBOX") -> Any:
        (placed,) = self.loop.one(self.store.deliver([Delivery(self.alice, content(mail), TRACE, mailbox)]))
        return placed


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    made = Stores(tmp_path)
    yield made
    made.close()


def test_accounts(stores: Stores) -> None:
    one = stores.loop.one
    assert one(stores.store.account(Address.parse("ALICE@alpha.test"))).account_id == stores.alice
    assert one(stores.store.account(Address.parse("bob@alpha.test"))) is None
    with pytest.raises(ValueError, match="exists"):
        one(stores.store.add_account(Address.parse("Alice@alpha.test"), CREDENTIALS))
    assert [m.name for m in one(stores.store.mailboxes(stores.alice))] == [
        "Archive", "Drafts", "INBOX", "Introductions", "Junk", "Sent", "Trash",
    ]  # fmt: skip
    assert one(stores.store.credentials(stores.alice)) == CREDENTIALS
    other = stores.again()
    one(other.add_account(Address.parse("bob@alpha.test"), CREDENTIALS))
    assert one(stores.store.account(Address.parse("bob@alpha.test"))) is not None  # absence is never remembered


def test_quota_counts_each_message_once_until_its_last_entry_is_gone(stores: Stores) -> None:
    one, store, alice = stores.loop.one, stores.store, stores.alice
    mail = b"Subject: x\r\n\r\nbody\r\n"
    size = len(TRACE + mail)
    inbox, junk = (one(store.mailbox(alice, name)).mailbox_id for name in ("INBOX", "Junk"))
    assert one(store.quota(alice)) == Quota(0, 0)
    one(store.set_quota(alice, 3 * size, None))
    letter = content(mail)
    for _ in range(2):  # the second is a repeat, and takes nothing
        one(store.deliver([Delivery(alice, letter, TRACE)]))
    stores.deliver(mail)
    one(store.copy(alice, inbox, [1], "Junk"))
    assert one(store.quota(alice)) == Quota(2 * size, 2, 3 * size)
    one(store.set_quota(alice, 3 * size, 3))
    assert stores.deliver(mail).uid == 3
    assert one(store.quota(alice)).full()
    one(store.set_quota(alice, None, 3))
    for octets, never in ((mail, False), (mail * 100, False)):
        refused = stores.deliver(octets)
        assert (type(refused), refused.never) == (QuotaExceeded, never)
    one(store.set_quota(alice, size, None))
    assert stores.deliver(mail).never is False
    assert stores.deliver(mail + b"x").never is True
    one(store.expunge(alice, inbox, [1, 2, 3]))
    assert one(store.quota(alice)) == Quota(size, 1, size)  # one is still in Junk
    one(store.expunge(alice, junk, [1]))
    assert one(store.quota(alice)) == Quota(0, 0, size)
    assert stores.deliver(mail).uid == 4


def test_a_delivery_repeated_is_the_same_delivery(stores: Stores) -> None:
    letter = content()
    deliveries = [Delivery(stores.alice, letter, TRACE), Delivery(stores.alice, letter, b"Received: again\r\n")]
    first, second = stores.loop.one(stores.store.deliver(deliveries))
    assert (first.uid, second.uid, first.duplicate, second.duplicate) == (1, 0, False, True)
    (elsewhere,) = stores.loop.one(stores.store.deliver([Delivery(stores.alice, letter, TRACE, "\\Sent")]))
    assert not elsewhere.duplicate
    inbox = stores.loop.one(stores.store.mailbox(stores.alice, "inbox"))
    stores.loop.one(stores.store.expunge(stores.alice, inbox.mailbox_id, [1]))
    (after,) = stores.loop.one(stores.store.deliver(deliveries[:1]))
    assert after.duplicate  # deleted by its reader: it does not come back


def test_a_repeat_is_known_by_the_mailbox_and_not_by_its_name(stores: Stores) -> None:
    one, store, letter = stores.loop.one, stores.store, content()

    def deliver(mailbox: str) -> Placed:
        (placed,) = one(store.deliver([Delivery(stores.alice, letter, TRACE, mailbox)]))
        assert isinstance(placed, Placed)
        return placed

    assert [deliver(name).duplicate for name in ("INBOX", "inbox", "\\Sent", "Sent")] == [False, True, False, True]
    one(store.rename_mailbox(stores.alice, "Sent", "Old"))
    assert deliver("Old").duplicate
    one(store.create_mailbox(stores.alice, "Sent"))
    assert not deliver("Sent").duplicate
    one(store.delete_mailbox(stores.alice, "Sent"))
    one(store.create_mailbox(stores.alice, "Sent"))
    assert not deliver("Sent").duplicate  # another mailbox than the deleted one


def test_a_repeat_is_known_for_long_and_then_forgotten(stores: Stores) -> None:
    letter = content()

    def uid() -> int:
        (placed,) = stores.loop.one(stores.store.deliver([Delivery(stores.alice, letter)]))
        return int(placed.uid)

    assert uid() == 1
    stores.clock.advance(2 * SEEN_FOR / 1000)
    stores.loop.one(stores.store.sweep())
    assert uid() == 0  # as long as it stands there, and then
    stores.loop.one(stores.store.expunge(stores.alice, stores.inbox, [1]))
    stores.clock.advance(SEEN_FOR / 1000)
    stores.loop.one(stores.store.sweep())
    assert uid() == 0
    stores.clock.advance(1)
    stores.loop.one(stores.store.sweep())
    assert uid() == 2


def test_old_repeats_are_forgotten_some_at_a_time(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatewayd.store.sqlite.FORGOTTEN", 3)
    for _ in range(10):
        stores.loop.one(stores.store.expunge(stores.alice, stores.inbox, [stores.deliver().uid]))
        stores.clock.advance(1)
    stores.clock.advance(SEEN_FOR / 1000 - 2)  # the last two are to stay
    commits = stores.open[0].commits
    stores.loop.one(stores.store.sweep())
    known = "SELECT count(*) FROM removed"
    assert stores.loop.one(stores.open[0].read(lambda db: db.execute(known).fetchone())) == (2,)
    assert stores.open[0].commits - commits >= 4


def test_repeats_are_known_after_the_migration(tmp_path: Path) -> None:
    """The first release of the tables knew mailboxes by the names that deliveries gave."""
    loop, letter = Loop(), content()
    old = Database(tmp_path / "test.sqlite", loop.post)
    old.migrate("store", schema.STEPS[:1])

    def fill(db: sqlite3.Connection) -> None:
        db.execute(
            "INSERT INTO account VALUES (1, 'alice', 'alpha.test', 'alice@alpha.test', '', 1, '', '', 9, 2, 2, 2)"
        )
        db.execute("INSERT INTO mailbox VALUES (1, 1, 'INBOX', NULL, 2, 8, 9, 1)")
        for name in ("inbox", "INBOX"):
            db.execute("INSERT INTO seen VALUES (1, ?, ?, 2, 7, 5, 900000000)", (letter.id, name))

    loop.one(old.write(fill))
    old.close()
    stores = Stores.__new__(Stores)
    stores.root, stores.loop, stores.clock, stores.open = tmp_path, loop, Clock(), []
    placed = loop.one(stores.again().deliver([Delivery(1, letter), Delivery(1, content())]))
    assert placed == [Placed(2, 0, 0, True, "INBOX"), Placed(2, 8, 10, False, "INBOX")]
    stores.close()


def test_messages_are_the_same_after_the_migration(tmp_path: Path) -> None:
    """To one number for a message: with their entries, blobs and what waits in Introductions."""
    loop, letters = Loop(), [content(), content(b"Subject: big\r\n\r\n" + b"x" * 100_000)]
    old = Database(tmp_path / "test.sqlite", loop.post)
    old.migrate("store", schema.STEPS[:10])
    blob = next(iter(letters[1].blobs))

    def fill(db: sqlite3.Connection) -> None:
        for account_id in (1, 2):
            db.execute(
                "INSERT INTO account (account_id, local, domain, address, salt, iterations, stored_key, server_key,"
                " next_message) VALUES (?,?,'alpha.test','','',1,'','',3)",
                (account_id, str(account_id)),
            )
            for name in ("INBOX", "Work"):
                rows.create_mailbox(db, account_id, name)
            for number, letter in enumerate(letters, 1):
                db.execute(
                    "INSERT INTO message (account_id, message_id, object_id, protected, payload, signature, trace,"
                    " bodies, octets) VALUES (?,?,?,x'',?,x'',?,?,7)",
                    (account_id, number, letter.id, letter.payload, TRACE, cbor2.dumps(letter.inline)),
                )
                db.execute("INSERT INTO entry VALUES (?,1,?,?,?,'',0)", (account_id, number, number, 3 + number))
                db.execute("INSERT INTO seen VALUES (?,?,0,2,?,?,900000000)", (account_id, letter.id, number, number))
            db.execute("INSERT INTO entry VALUES (?,2,1,1,8,'',0)", (account_id,))
            db.execute("INSERT INTO introduction VALUES (?,2,'b.test','bob',1)", (account_id,))
            db.execute("INSERT INTO message_blob VALUES (?,?,2)", (account_id, blob))
            db.execute("UPDATE account SET modseq=8, used_messages=2, used_octets=14 WHERE account_id=?", (account_id,))

    loop.one(old.write(fill))
    old.close()
    stores = Stores.__new__(Stores)
    stores.root, stores.loop, stores.clock, stores.open = tmp_path, loop, Clock(), []
    store, one = stores.again(), loop.one
    for account_id in (1, 2):
        entries = one(store.entries(account_id, 1))
        assert [entry.message_id for entry in entries] == [rows.message_key(account_id, n) for n in (1, 2)]
        contents = one(store.contents(account_id, [entry.message_id for entry in entries]))
        assert [content.id for content in contents.values()] == [letter.id for letter in letters]
        assert one(store.names_blob(account_id, blob))
        (placed,) = one(store.deliver([Delivery(account_id, letters[0])]))
        assert placed.duplicate
        one(store.expunge(account_id, 1, [1, 2]))
        assert not one(store.names_blob(account_id, blob))
        assert one(store.quota(account_id)).messages == 1  # which is in Work too
        one(store.expunge(account_id, 2, [1]))
        assert one(store.quota(account_id)).messages == 0
        (placed,) = one(store.deliver([Delivery(account_id, letters[0])]))
        assert placed.duplicate
    left = "SELECT (SELECT count(*) FROM message), (SELECT count(*) FROM introduction), (SELECT count(*) FROM removed)"
    assert one(stores.open[0].read(lambda db: db.execute(left).fetchone())) == (0, 0, 4)
    stores.close()


def test_each_delivery_stands_alone(stores: Stores) -> None:
    letters = [content() for _ in range(4)]
    wheres = [(stores.alice, "INBOX"), (stores.alice, "Nowhere"), (99, "INBOX"), (stores.alice, "INBOX")]
    deliveries = [Delivery(who, letter, TRACE, box) for letter, (who, box) in zip(letters, wheres, strict=True)]
    first, nowhere, nobody, last = stores.loop.one(stores.store.deliver(deliveries))
    assert {first.uid, last.uid} == {1, 2}
    assert type(nowhere) is NoSuchMailbox
    assert isinstance(nobody, StoreError)
    with pytest.raises(StoreError):
        stores.loop.one(stores.store.changes(99, 0))


@pytest.mark.parametrize("again", [None, "Sent", "sent items"])
def test_a_special_mailbox_that_was_deleted_is_made_again(stores: Stores, again: str | None) -> None:
    one, store = stores.loop.one, stores.store
    one(store.delete_mailbox(stores.alice, "Sent"))
    if again:
        one(store.create_mailbox(stores.alice, again))
    assert stores.deliver(mailbox="\\Sent").uid == 1
    sent = one(store.mailbox(stores.alice, "Sent"))
    assert (sent.uidnext, sent.special_use) == (2, None if again == "Sent" else "\\Sent")
    one(store.rename_mailbox(stores.alice, "Junk", "Spam"))
    assert stores.deliver(mailbox="\\Junk").uid == 1
    assert one(store.mailbox(stores.alice, "Spam")).uidnext == 2
    assert type(stores.deliver(mailbox="\\Flagged")) is NoSuchMailbox


def test_names_that_no_mailbox_can_have(stores: Stores) -> None:
    for name in ("", "/", "a/", "/a", "a//b", "\\Sent", "a\tb", "a\r\nb", "a\x7f", "a\u2028b", "x" * 501):
        with pytest.raises(BadMailbox):
            stores.loop.one(stores.store.create_mailbox(stores.alice, name))
        with pytest.raises(BadMailbox):
            stores.loop.one(stores.store.rename_mailbox(stores.alice, "Archive", name))
    assert len(stores.loop.one(stores.store.mailboxes(stores.alice))) == len(schema.SPECIAL_USE)


def test_an_account_has_so_many_mailboxes_and_no_more(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    one, store, alice = stores.loop.one, stores.store, stores.alice
    monkeypatch.setattr(rows, "MAX_MAILBOXES", len(schema.SPECIAL_USE) + 2)
    one(store.create_mailbox(alice, "a/b"))
    for name in ("c", "a/b/c"):
        with pytest.raises(BadMailbox, match="at most"):
            one(store.create_mailbox(alice, name))
    one(store.delete_mailbox(alice, "a"))
    one(store.create_mailbox(alice, "c"))


def test_a_rename_takes_the_inferior_along_and_nothing_else(stores: Stores) -> None:
    one, store, alice = stores.loop.one, stores.store, stores.alice
    for name in ("Work/Deep/er", "Workshop", "Play/Work/Deep"):
        one(store.create_mailbox(alice, name))

    def names() -> set[str]:
        return {mailbox.name for mailbox in one(store.mailboxes(alice))} - set(schema.SPECIAL_USE)

    before = {mailbox.mailbox_id for mailbox in one(store.mailboxes(alice))}
    one(store.delete_mailbox(alice, "Play/Work"))
    for name, to in (("Work", "Play/Work"), ("Work", "Play"), ("inbox", "Workshop"), ("Work", "INBOX")):
        with pytest.raises(MailboxExists):
            one(store.rename_mailbox(alice, name, to))
    with pytest.raises(StoreError, match="inferior"):
        one(store.rename_mailbox(alice, "Work", "Work/New/Work"))
    assert names() == {"Work", "Work/Deep", "Work/Deep/er", "Workshop", "Play", "Play/Work/Deep"}
    one(store.rename_mailbox(alice, "Work", "inbox/New"))
    assert names() == {"INBOX/New", "INBOX/New/Deep", "INBOX/New/Deep/er", "Workshop", "Play", "Play/Work/Deep"}
    assert {mailbox.mailbox_id for mailbox in one(store.mailboxes(alice))} < before


@pytest.mark.parametrize("limit", [1, 2, 5, 6, 7, 100])
def test_a_change_is_never_cut_in_two(stores: Stores, limit: int) -> None:
    """However many messages it moved, and however small the page."""
    one, store, alice = stores.loop.one, stores.store, stores.alice
    for _ in range(6):
        stores.deliver()
    inbox = one(store.mailbox(alice, "INBOX")).mailbox_id
    one(store.copy(alice, inbox, range(1, 7), "Archive", True))
    pages, since, more = [], 0, True
    while more:
        page = one(store.changes(alice, since, limit))
        pages.append(({entry.modseq for entry in page.entries}, {gone.modseq for gone in page.expunged}))
        sizes = len(page.entries), len(page.expunged)
        assert sum(sizes) <= limit or sizes in {(6, 0), (0, 6)}
        assert page.modseq > since or not page.more
        since, more = page.modseq, page.more
    assert sum(len(entries) for entries, _ in pages) == sum(len(gone) for _, gone in pages) == 1
    assert len(one(store.changes(alice, 0, 100)).entries) == len(one(store.changes(alice, 0, 100)).expunged) == 6


def test_contacts(stores: Stores) -> None:
    one, store, alice = stores.loop.one, stores.store, stores.alice
    carol = Address.parse("Carol@beta.test")
    assert one(store.contact(alice, carol)) is None
    one(store.set_contact(alice, carol, "requested"))
    begun = one(store.contact(alice, Address.parse("cAROL@BETA.test")))
    assert (begun.address, begun.state, begun.since_ms) == (carol, "requested", 1_000_000_000)
    stores.clock.advance(5)
    one(store.set_contact(alice, carol, "requested"))
    assert one(store.contact(alice, carol)) == begun == one(stores.again().contact(alice, carol))
    one(store.set_contact(alice, carol, "granted"))
    known = one(store.contact(alice, carol))
    assert (known.state, known.since_ms) == ("granted", 1_000_005_000)
    assert known.modseq > begun.modseq
    one(store.set_contact(alice, Address.parse("zoe@alpha.test"), "revoked"))
    assert [(str(c.address), c.state) for c in one(store.contacts(alice))] == [
        ("zoe@alpha.test", "revoked"), ("Carol@beta.test", "granted"),
    ]  # fmt: skip
    with pytest.raises(StoreError):
        one(store.set_contact(99, carol, "granted"))
    assert one(store.contacts(99)) == []


def test_subscriptions(stores: Stores) -> None:
    stores.loop.one(stores.store.subscribe_mailbox(stores.alice, "inbox", False))
    assert {m.name for m in stores.loop.one(stores.store.mailboxes(stores.alice)) if not m.subscribed} == {"INBOX"}
    with pytest.raises(NoSuchMailbox):
        stores.loop.one(stores.store.subscribe_mailbox(stores.alice, "Nowhere", True))


def test_peers(stores: Stores) -> None:
    beta = Domain.parse("beta.test")
    assert stores.loop.one(stores.store.peer(beta)) is None
    for peer in (Peer(beta, 5.0, None, 0.0), Peer(beta, 6.5, b"keys", 7.0)):
        stores.loop.one(stores.store.remember_peer(peer))
        assert stores.loop.one(stores.again().peer(beta)) == peer


@pytest.mark.parametrize("size", [10, 70_000, 3_000_000])
def test_octets_come_back_every_time(stores: Stores, size: int) -> None:
    mail = b"Subject: big\r\n\r\n" + secrets.token_bytes(size).replace(b"\n", b"x") + b"\r\n"
    stores.deliver(mail)
    for store in (stores.store, stores.again(), stores.store):
        (octets,) = stores.loop.one(store.mails(stores.alice, [FIRST])).values()
        assert octets == TRACE + mail
        (summary,) = stores.loop.one(store.summaries(stores.alice, [FIRST])).values()
        assert summary.size == len(octets)


def test_the_same_large_body_is_one_file(stores: Stores) -> None:
    mail = b"Subject: big\r\n\r\n" + b"x" * 100_000
    bob = stores.loop.one(stores.store.add_account(BOB, CREDENTIALS)).account_id
    stores.deliver(mail)
    files = {path for path in (stores.root / "blobs").rglob("*") if path.is_file()}
    stores.deliver(mail, "Archive")
    stores.loop.one(stores.store.deliver([Delivery(bob, content(mail), TRACE)]))
    assert files == {path for path in (stores.root / "blobs").rglob("*") if path.is_file()}
    (his,) = stores.loop.one(stores.store.mails(bob, [rows.message_key(bob, 1)])).values()
    assert his == TRACE + mail


def test_a_large_body_that_is_gone(stores: Stores) -> None:
    stores.deliver(b"Subject: big\r\n\r\n" + b"x" * 100_000)
    stores.deliver()
    for path in (stores.root / "blobs").rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(StoreError, match="missing"):
        stores.loop.one(stores.store.mails(stores.alice, [FIRST]))
    assert stores.loop.one(stores.store.mails(stores.alice, [FIRST + 1, FIRST + 2])).keys() == {FIRST + 1}


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, StoreFull), (errno.EDQUOT, StoreFull), (errno.EIO, StoreError)]
)
def test_no_room_for_a_large_body(stores: Stores, monkeypatch: pytest.MonkeyPatch, number: int, kind: type) -> None:
    big = content(b"Subject: big\r\n\r\n" + b"x" * 100_000)
    with monkeypatch.context() as patch:
        patch.setattr(BlobStore, "put", raising(OSError(number, "no")))
        patch.setattr(BlobStore, "sweep", raising(OSError(number, "no")))
        failed, placed = stores.loop.one(stores.store.deliver([Delivery(stores.alice, c) for c in (big, content())]))
        with pytest.raises(StoreError):
            stores.loop.one(stores.store.sweep())
    assert (type(failed), placed.uid) == (kind, 1)
    (placed,) = stores.loop.one(stores.store.deliver([Delivery(stores.alice, big)]))
    assert placed.uid == 2


def raising(error: Exception) -> Any:
    def raises(*arguments: Any) -> None:
        raise error

    return raises


def test_a_large_body_that_is_here_already_is_named_and_not_carried(stores: Stores) -> None:
    one, store = stores.loop.one, stores.store
    whole = content(b"Subject: big\r\n\r\n" + b"x" * 100_000)
    (digest,) = whole.blobs
    kept = one(store.blobs.keep(whole))
    assert (kept.signed, dict(kept.bodies)) == (whole.signed, whole.inline)
    assert not one(store.names_blob(stores.alice, digest))
    (placed,) = one(store.deliver([Delivery(stores.alice, kept)]))
    assert one(store.names_blob(stores.alice, digest))
    assert not one(store.names_blob(stores.alice + 1, digest))
    assert one(store.contents(stores.alice, [FIRST]))[FIRST] == kept
    assert one(store.mails(stores.alice, [FIRST]))[FIRST].endswith(whole.bodies[digest])
    one(store.expunge(stores.alice, one(store.mailbox(stores.alice, "INBOX")).mailbox_id, [placed.uid]))
    assert not one(store.names_blob(stores.alice, digest))


def test_a_blob_that_is_not_here_is_named_by_no_message(stores: Stores) -> None:
    one, store = stores.loop.one, stores.store
    whole = content(b"Subject: big\r\n\r\n" + b"x" * 100_000)
    good = content()
    failed, placed = one(
        store.deliver([Delivery(stores.alice, replace(whole, bodies=whole.inline)), Delivery(stores.alice, good)])
    )
    assert isinstance(failed, StoreError)
    assert isinstance(placed, Placed)
    assert not one(store.names_blob(stores.alice, next(iter(whole.blobs))))


def test_bodies_too_large_for_mail_are_notes_in_it(stores: Stores) -> None:
    """The same octets every time, though nothing of the file is read."""
    one, store = stores.loop.one, stores.store
    text, digest = b"Look at this", sha256(b"large").digest()
    parts = (
        Part(sha256(text).digest(), "text/plain", len(text)),
        Part(digest, "video/mp4", LARGEST + 1, "holiday\r\nX: y.mp4"),
    )
    payload = Payload("bob@beta.test", ("alice@alpha.test",), 0, b"n" * 16, parts=parts).encode()
    letter = Content(b"", payload, b"", {parts[0].hash: text})
    path = store.blobs._files.path(digest)
    path.parent.mkdir(parents=True)
    path.touch()
    (placed,) = one(store.deliver([Delivery(stores.alice, letter)]))
    assert isinstance(placed, Placed)
    mail = one(store.mails(stores.alice, [FIRST]))[FIRST]
    assert mail == one(store.mails(stores.alice, [FIRST]))[FIRST]
    assert one(store.summaries(stores.alice, [FIRST]))[FIRST].size == len(mail)
    assert b"Look at this" in mail
    assert b"  name     holiday X: y.mp4" in mail
    assert b"  size     %d octets" % (LARGEST + 1) in mail
    assert digest.hex().encode() in mail


def test_large_bodies_are_swept_when_nobody_names_them(stores: Stores) -> None:
    mail = b"Subject: big\r\n\r\n" + b"x" * 100_000
    stores.deliver(mail)
    stores.deliver(mail, "Archive")
    files = [path for path in (stores.root / "blobs").rglob("*") if path.is_file()]
    assert files
    inbox = stores.loop.one(stores.store.mailbox(stores.alice, "INBOX"))
    stores.loop.one(stores.store.expunge(stores.alice, inbox.mailbox_id, [1]))
    stores.clock.advance(10_000_000_000)  # long after the files were written
    stores.loop.one(stores.store.sweep())
    assert all(path.exists() for path in files)  # Archive names them still
    archive = stores.loop.one(stores.store.mailbox(stores.alice, "Archive"))
    stores.loop.one(stores.store.expunge(stores.alice, archive.mailbox_id, [1]))
    stores.loop.one(stores.store.sweep())
    assert not any(path.exists() for path in files)


def test_a_full_disk_changes_nothing(stores: Stores) -> None:
    stores.deliver()
    one, database = stores.loop.one, stores.open[0]
    pages = one(database.read(lambda db: db.execute("PRAGMA page_count").fetchone()[0]))
    one(database.write(lambda db: db.execute(f"PRAGMA max_page_count={pages + 2}").fetchone()))
    outcomes = [stores.deliver(b"Subject: y\r\n\r\n" + secrets.token_hex(20_000).encode()) for _ in range(5)]
    assert any(isinstance(placed, StoreFull) for placed in outcomes)
    stored = sum(not isinstance(placed, StoreFull) for placed in outcomes)
    inbox = one(stores.store.mailbox(stores.alice, "INBOX"))
    assert len(one(stores.store.entries(stores.alice, inbox.mailbox_id))) == 1 + stored
    one(database.write(lambda db: db.execute("PRAGMA max_page_count=1000000").fetchone()))
    assert not isinstance(stores.deliver(), StoreFull)


def test_a_full_disk_can_be_read(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is derived of a message is told, though it cannot be kept."""
    stores.deliver()
    with monkeypatch.context() as patch:
        patch.setattr(stores.open[0], "write", raising(StoreFull("no")))
        told = stores.loop.one(stores.store.summaries(stores.alice, [FIRST]))
    assert told.keys() == {FIRST}
    assert stores.loop.one(stores.store.summaries(stores.alice, [FIRST])) == told
    monkeypatch.setattr("gatewayd.store.messages.summarize", raising(AssertionError()))
    assert stores.loop.one(stores.again().summaries(stores.alice, [FIRST])) == told  # kept the second time


KILLED = """
import secrets, sys
from pathlib import Path
from tests.test_store_sqlite import Stores, content, TRACE
from gatewayd.interfaces.records import Delivery
from gatewayd.message.mime import Mail
stores = Stores.__new__(Stores)
from tests.loop import Loop
from twisted.internet.task import Clock
stores.root, stores.loop, stores.clock, stores.open = Path(sys.argv[1]), Loop(), Clock(), []
store = stores.again()
while True:
    batch = [content(b"Subject: %s\\r\\n\\r\\n" % secrets.token_hex(8).encode()) for _ in range(5)]
    for letter, placed in zip(batch, stores.loop.one(store.deliver([Delivery(1, c, TRACE) for c in batch]))):
        print(letter.id.hex(), placed.uid, flush=True)
"""


def test_what_is_acknowledged_survives_kill_9(stores: Stores) -> None:
    stores.close()
    stores.open.clear()
    said: dict[str, int] = {}
    for lines in (3, 20, 57, 111):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(stores.root)], stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parent.parent,
        )  # fmt: skip
        assert process.stdout is not None
        for number, line in enumerate(process.stdout):
            name, uid = line.split()
            said[name] = int(uid)
            if number == lines:
                process.send_signal(signal.SIGKILL)
        process.wait()
    store = stores.again()
    inbox = stores.loop.one(store.mailbox(stores.alice, "INBOX"))
    entries = stores.loop.one(store.entries(stores.alice, inbox.mailbox_id))
    contents = stores.loop.one(store.contents(stores.alice, [entry.message_id for entry in entries]))
    there = {contents[entry.message_id].id.hex(): entry.uid for entry in entries}
    assert len(there) == len(entries)
    assert said.items() <= there.items()
    assert len(said) > 150


class Box:
    """What the model knows of a mailbox."""

    def __init__(self, uidvalidity: int, special_use: str | None) -> None:
        self.uidvalidity, self.special_use = uidvalidity, special_use
        self.uidnext = 1
        self.entries: dict[int, tuple[int, str, int]] = {}  # uid -> (number of the letter, flags, modseq)
        self.gone: dict[int, int] = {}  # uid -> modseq
        self.seen: dict[int, Placed] = {}  # number of the letter -> the answer


NAMES = ("INBOX", "inbox/Sub", "Archive", "Work", "Work/Deep", "Work/Deep/er", "Play")
LETTERS = [content(b"Subject: %d\r\n\r\n%s" % (n, b"x" * (70_000 if n == 0 else 10))) for n in range(12)]
names = st.sampled_from(NAMES)
numbers = st.integers(0, 50)  # the n-th mailbox that has messages
picks = st.sets(st.integers(0, 4), max_size=4)  # the n-th of its messages
states = st.sampled_from(get_args(ContactState))
some_flags = st.sets(st.sampled_from(["\\Seen", "\\Deleted", "$Work", "x"]), max_size=3)


class Model(RuleBasedStateMachine):
    """The store beside a model of it; and a client that follows the log in pages."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.stores = Stores(self.root)
        self.one = self.stores.loop.one
        self.store, self.alice = self.stores.store, self.stores.alice
        self.bob = self.one(self.store.add_account(BOB, CREDENTIALS)).account_id
        self.bobs = self.one(self.store.changes(self.bob, 0))
        self.modseq = 0  # the greatest that was ever seen
        self.validities: set[int] = set()
        self.boxes: dict[str, Box] = {}
        for made in sorted(self.one(self.store.mailboxes(self.alice)), key=lambda mailbox: mailbox.uidvalidity):
            self.made(made)
        self.known: dict[tuple[int, int], tuple[str, int]] = {}  # the client's: (mailbox, uid) -> (flags, modseq)
        self.contacts: dict[str, tuple[ContactState, int]] = {}  # the state, the modseq
        self.known_contacts: dict[str, tuple[ContactState, int]] = {}
        self.known_boxes: dict[int, tuple[str, bool]] = {}  # by UIDVALIDITY: the name, whether it is subscribed
        self.since = 0

    def teardown(self) -> None:
        self.follow(3)
        self.stores.close()
        shutil.rmtree(self.root)

    # -- the model's half -------------------------------------------------------------------------------------------

    def name(self, name: str) -> str:
        return "INBOX" + name[5:] if name[:5].upper() == "INBOX" else name

    def made(self, mailbox: Mailbox) -> None:
        assert mailbox.uidvalidity not in self.validities
        assert mailbox.uidvalidity > max(self.validities, default=0)
        self.validities.add(mailbox.uidvalidity)
        self.boxes[mailbox.name] = Box(mailbox.uidvalidity, mailbox.special_use)
        if mailbox.uidnext == 1:
            self.rises(mailbox.highest_modseq)

    def rises(self, modseq: int) -> int:
        assert modseq > self.modseq
        self.modseq = modseq
        return modseq

    def levels(self, name: str) -> list[str]:
        """Those that have to be made for it."""
        parts = name.split("/")
        wanted = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
        return [each for each in wanted if each not in self.boxes]

    def learn(self, made: list[str]) -> None:
        there = {mailbox.name: mailbox for mailbox in self.one(self.store.mailboxes(self.alice))}
        for each in made:
            self.made(there[each])

    def refused(self, kind: type[Exception], work: Coroutine[Any, Any, Any]) -> None:
        (answer,) = self.stores.loop.all(work)
        assert type(answer) is kind

    def id(self, name: str) -> int:
        mailbox_id: int = self.one(self.store.mailbox(self.alice, name)).mailbox_id
        return mailbox_id

    @initialize()
    def begin(self) -> None:
        self.create("Work/Deep")
        for number, name in enumerate(("INBOX", "INBOX", "Work", "INBOX", "Work/Deep")):
            self.deliver(name, number, True, {"x"})

    # -- what happens -----------------------------------------------------------------------------------------------

    @rule(name=names, number=st.integers(0, len(LETTERS) - 1), once=st.booleans(), flags=some_flags)
    def deliver(self, name: str, number: int, once: bool, flags: set[str]) -> None:
        delivery = Delivery(self.alice, LETTERS[number], TRACE, name, {*flags, "\\Recent"}, 1000 * number, once=once)
        (placed,) = self.one(self.store.deliver([delivery]))
        box = self.boxes.get(self.name(name))
        if box is None:
            assert type(placed) is NoSuchMailbox
        elif once and number in box.seen:
            assert placed == Placed(box.uidvalidity, 0, 0, True, self.name(name))
        else:
            assert placed == Placed(box.uidvalidity, box.uidnext, self.rises(placed.modseq), False, self.name(name))
            box.entries[placed.uid] = number, " ".join(sorted(flags)), placed.modseq
            box.uidnext += 1
            if once:
                box.seen[number] = placed

    def picked(self, where: int, picks: set[int]) -> tuple[str, Box, list[int]]:
        """A mailbox with messages, and some UIDs: of those, one that is not there, in no order."""
        filled = sorted(name for name, box in self.boxes.items() if box.entries or name == "INBOX")
        name = filled[where % len(filled)]
        uids = sorted(self.boxes[name].entries)
        return name, self.boxes[name], [1000, *{uids[pick % len(uids)] for pick in picks if uids}]

    @rule(
        where=numbers, picks=picks, mode=st.sampled_from("+-="), flags=some_flags, since=st.none() | st.integers(0, 9)
    )
    def store_flags(self, where: int, picks: set[int], mode: str, flags: set[str], since: int | None) -> None:
        name, box, uids = self.picked(where, picks)
        unchanged = None if since is None else self.modseq - since
        done = self.one(self.store.store_flags(self.alice, self.id(name), uids, mode, flags, unchanged))
        let = [uid for uid in sorted(uids) if uid in box.entries]
        let = [uid for uid in let if unchanged is None or box.entries[uid][2] <= unchanged]
        assert [entry.uid for entry in done] == let
        new_modseq = max((entry.modseq for entry in done), default=0)
        changed = False
        for entry in done:
            number, was, modseq = box.entries[entry.uid]
            old = set(was.split())
            new = " ".join(sorted({"+": old | flags, "-": old - flags, "=": flags}[mode]))
            changed = changed or new != was
            assert (entry.flags, entry.modseq) == (new, modseq if new == was else new_modseq)
            box.entries[entry.uid] = number, new, entry.modseq
        if changed:
            self.rises(new_modseq)

    @rule(where=numbers, picks=picks)
    def expunge(self, where: int, picks: set[int]) -> None:
        name, box, uids = self.picked(where, picks)
        gone = self.one(self.store.expunge(self.alice, self.id(name), uids))
        assert gone == [uid for uid in sorted(uids) if uid in box.entries]
        if gone:
            self.expunged(box, gone, self.one(self.store.mailbox(self.alice, name)).highest_modseq)

    def expunged(self, box: Box, uids: list[int], modseq: int) -> None:
        self.rises(modseq)
        for uid in uids:
            del box.entries[uid]
            box.gone[uid] = modseq

    @rule(where=numbers, to=names, picks=picks, move=st.booleans())
    def copy(self, where: int, to: str, picks: set[int], move: bool) -> None:
        name, source, uids = self.picked(where, picks)
        target, mailbox_id = self.boxes.get(self.name(to)), self.id(name)
        if target is None:
            self.refused(NoSuchMailbox, self.store.copy(self.alice, mailbox_id, uids, to, move))
            return
        validity, pairs = self.one(self.store.copy(self.alice, mailbox_id, uids, to, move))
        self.copied(source, target, [uid for uid in sorted(uids) if uid in source.entries], move, name, to)
        news = [uid for uid in sorted(target.entries) if uid >= target.uidnext - len(pairs)]
        assert (validity, [old for old, _ in pairs]) == (target.uidvalidity, sorted(old for old, _ in pairs))
        assert [new for _, new in pairs] == news

    def copied(self, source: Box, target: Box, uids: list[int], move: bool, name: str, to: str) -> None:
        if not uids:
            return
        there = {entry.uid: entry for entry in self.one(self.store.entries(self.alice, self.id(to)))}
        modseq = self.rises(there[target.uidnext].modseq)
        for uid in uids:
            number, flags, _ = source.entries[uid]
            target.entries[target.uidnext] = number, flags, modseq
            target.uidnext += 1
        if move:
            self.expunged(source, uids, self.one(self.store.mailbox(self.alice, name)).highest_modseq)

    @rule(name=names)
    def create(self, name: str) -> None:
        if self.name(name) in self.boxes:
            self.refused(MailboxExists, self.store.create_mailbox(self.alice, name))
        else:
            made = self.levels(self.name(name))
            assert self.one(self.store.create_mailbox(self.alice, name)).name == self.name(name)
            self.learn(made)

    @rule(name=names)
    def delete(self, name: str) -> None:
        name = self.name(name)
        if name not in self.boxes:
            self.refused(NoSuchMailbox, self.store.delete_mailbox(self.alice, name))
        elif name == "INBOX":
            self.refused(BadMailbox, self.store.delete_mailbox(self.alice, name))
        else:
            self.one(self.store.delete_mailbox(self.alice, name))
            del self.boxes[name]
            self.rises(self.one(self.store.changes(self.alice, self.modseq)).modseq)

    @rule(name=names, to=names)
    def rename(self, name: str, to: str) -> None:
        work = self.store.rename_mailbox(self.alice, name, to)
        name, to = self.name(name), self.name(to)
        inferior = [each for each in self.boxes if each.startswith(name + "/")]
        if name not in self.boxes:
            self.refused(NoSuchMailbox, work)
        elif to in self.boxes:
            self.refused(MailboxExists, work)
        elif name == "INBOX":
            made = self.levels(to)
            self.one(work)
            self.learn(made)
            self.copied(self.boxes[name], self.boxes[to], sorted(self.boxes[name].entries), True, name, to)
        elif to.startswith(name + "/"):
            self.refused(BadMailbox, work)
        elif any(to + each[len(name) :] in self.boxes for each in inferior):
            self.refused(MailboxExists, work)
        else:
            made = self.levels(to)
            self.one(work)
            self.learn(made[:-1])
            self.validities.add(max(self.validities) + 1)  # made for a moment, to check the name
            for each in [name, *inferior]:
                self.boxes[to + each[len(name) :]] = self.boxes.pop(each)
            self.modseq = self.one(self.store.changes(self.alice, self.modseq)).modseq

    @rule(name=names, subscribed=st.booleans())
    def subscribe(self, name: str, subscribed: bool) -> None:
        work = self.store.subscribe_mailbox(self.alice, name, subscribed)
        if self.name(name) not in self.boxes:
            self.refused(NoSuchMailbox, work)
            return
        was = self.one(self.store.mailbox(self.alice, name)).subscribed
        self.one(work)
        now = self.one(self.store.mailbox(self.alice, name))
        assert now.subscribed is subscribed
        if was is not subscribed:
            self.rises(now.changed)

    @rule(who=st.sampled_from(["carol@beta.test", "CAROL@beta.test", "dave@beta.test"]), state=states)
    def set_contact(self, who: str, state: ContactState) -> None:
        address, key = Address.parse(who), who.lower()
        self.one(self.store.set_contact(self.alice, address, state))
        contact = self.one(self.store.contact(self.alice, address))
        assert (contact.state if contact else "none") == state
        if state != self.contacts.get(key, ("none", 0))[0]:
            modseq = contact.modseq if contact else self.one(self.store.changes(self.alice, self.modseq)).modseq
            self.contacts[key] = state, self.rises(modseq)

    @rule(limit=st.integers(1, 4))
    def follow(self, limit: int) -> None:
        """The log from where the client was, in pages, replays to the state."""
        more = True
        while more:
            page = self.one(self.store.changes(self.alice, self.since, limit))
            numbers = [each.modseq for each in (*page.entries, *page.expunged, *page.contacts)]
            assert all(self.since < number <= page.modseq for number in numbers)
            assert page.modseq >= self.since
            for entry in page.entries:
                self.known[entry.mailbox_id, entry.uid] = entry.flags, entry.modseq
            for gone in page.expunged:
                self.known.pop((gone.mailbox_id, gone.uid), None)
            for contact in page.contacts:
                self.known_contacts[str(contact.address).lower()] = contact.state, contact.modseq
            for deleted in page.deleted:
                assert self.since < deleted.modseq
                self.known_boxes.pop(deleted.uidvalidity, None)
            for box in page.mailboxes:
                if box.changed > self.since:
                    self.known_boxes[box.uidvalidity] = box.name, box.subscribed
            self.since, more = page.modseq, page.more
        assert self.since >= self.modseq
        assert self.known_contacts == self.contacts
        there = self.one(self.store.mailboxes(self.alice))
        assert self.known_boxes == {mailbox.uidvalidity: (mailbox.name, mailbox.subscribed) for mailbox in there}
        ids = {mailbox.name: mailbox.mailbox_id for mailbox in there}
        assert self.known == {
            (ids[name], uid): (flags, modseq)
            for name, box in self.boxes.items()
            for uid, (_, flags, modseq) in box.entries.items()
        }

    # -- what always holds ------------------------------------------------------------------------------------------

    @invariant()
    def all_mailboxes_are_as_in_the_model(self) -> None:
        there = self.one(self.store.mailboxes(self.alice))
        assert {m.name: (m.uidvalidity, m.uidnext, m.special_use) for m in there} == {
            name: (box.uidvalidity, box.uidnext, box.special_use) for name, box in self.boxes.items()
        }
        for mailbox in there:
            box = self.boxes[mailbox.name]
            entries = self.one(self.store.entries(self.alice, mailbox.mailbox_id))
            contents = self.one(self.store.contents(self.alice, [entry.message_id for entry in entries]))
            assert [
                (e.uid, contents[e.message_id].id, e.internal_date_ms, e.flags, e.modseq) for e in entries
            ] == [
                (uid, LETTERS[number].id, 1000 * number, flags, modseq)
                for uid, (number, flags, modseq) in sorted(box.entries.items())
            ]  # fmt: skip
            assert mailbox.highest_modseq >= max([*(e[2] for e in box.entries.values()), *box.gone.values()], default=0)
            since = self.modseq - 3
            assert [e.uid for e in self.one(self.store.entries(self.alice, mailbox.mailbox_id, since))] == [
                uid for uid, entry in sorted(box.entries.items()) if entry[2] > since
            ]
            unseen = sum("\\Seen" not in flags for _, flags, _ in box.entries.values())
            only = mailbox.mailbox_id if mailbox.uidnext % 2 else None
            counts = self.one(self.store.counts(self.alice, only)).get(mailbox.mailbox_id, Counts(0, 0))
            assert counts == (len(box.entries), unseen)
            assert self.one(self.store.expunged(self.alice, mailbox.mailbox_id, since)) == [
                uid for uid, modseq in sorted(box.gone.items()) if modseq > since
            ]

    @invariant()
    def other_accounts_are_untouched(self) -> None:
        assert self.one(self.store.changes(self.bob, 0)) == self.bobs


Model.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestModel = Model.TestCase
