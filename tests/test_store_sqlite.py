"""The store against a model of it: UIDs never repeat, the log replays to the state, nothing is lost or doubled."""

from __future__ import annotations

import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock

from gatewayd.address import Address, Domain
from gatewayd.database.sqlite import Database
from gatewayd.errors import StoreFull
from gatewayd.interfaces import Delivery, MailboxExists, NoSuchMailbox, ScramCredentials
from gatewayd.message.bridge import bridged_payload
from gatewayd.message.model import Content
from gatewayd.store.blobs import BlobStore
from gatewayd.store.sqlite import SQLiteStore
from tests.loop import Loop

ALICE = Address.parse("alice@alpha.test")
CREDENTIALS = ScramCredentials(b"salt", 4096, b"stored", b"server")
TRACE = b"Received: here\r\n"


def content(mail: bytes = b"Subject: x\r\n\r\nbody\r\n") -> Content:
    payload, bodies = bridged_payload(
        mail, by=Domain.parse("alpha.test"), nonce=secrets.token_bytes(16), received_ms=0, reverse_path=None
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

    def again(self) -> SQLiteStore:
        self.open.append(Database(self.root / "test.sqlite", self.loop.post))
        return SQLiteStore(self.open[-1], BlobStore(self.root / "blobs"), self.clock, maybeDeferred)

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
        "Archive", "Drafts", "INBOX", "Junk", "Sent", "Trash",
    ]  # fmt: skip
    assert one(stores.store.credentials(stores.alice)) == CREDENTIALS
    other = stores.again()
    one(other.add_account(Address.parse("bob@alpha.test"), CREDENTIALS))
    assert one(stores.store.account(Address.parse("bob@alpha.test"))) is not None  # absence is never remembered


def test_a_delivery_repeated_is_the_same_delivery(stores: Stores) -> None:
    letter = content()
    deliveries = [Delivery(stores.alice, letter, TRACE), Delivery(stores.alice, letter, b"Received: again\r\n")]
    first, second = stores.loop.one(stores.store.deliver(deliveries))
    assert (first.uid, second.uid, first.duplicate, second.duplicate) == (1, 1, False, True)
    (elsewhere,) = stores.loop.one(stores.store.deliver([Delivery(stores.alice, letter, TRACE, "\\Sent")]))
    assert not elsewhere.duplicate
    inbox = stores.loop.one(stores.store.mailbox(stores.alice, "inbox"))
    stores.loop.one(stores.store.expunge(stores.alice, inbox.mailbox_id, [1]))
    (after,) = stores.loop.one(stores.store.deliver(deliveries[:1]))
    assert after.duplicate  # deleted by its reader: it does not come back


@pytest.mark.parametrize("size", [10, 70_000, 3_000_000])
def test_octets_come_back_every_time(stores: Stores, size: int) -> None:
    mail = b"Subject: big\r\n\r\n" + secrets.token_bytes(size).replace(b"\n", b"x") + b"\r\n"
    stores.deliver(mail)
    for store in (stores.store, stores.again(), stores.store):
        (octets,) = stores.loop.one(store.mails(stores.alice, [1])).values()
        assert octets == TRACE + mail
        (summary,) = stores.loop.one(store.summaries(stores.alice, [1])).values()
        assert summary.size == len(octets)


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


def test_watchers_hear_of_commits(stores: Stores) -> None:
    heard: list[int] = []
    stop = stores.store.watch(stores.alice, lambda: heard.append(1))
    stores.deliver()
    assert len(heard) == 1
    stop()
    stores.deliver()
    assert len(heard) == 1


def test_another_process_is_heard_of(stores: Stores) -> None:
    heard: list[int] = []
    stop = stores.store.watch(stores.alice, lambda: heard.append(1))
    other = stores.again()
    stores.clock.advance(1.1)
    stores.loop.one(other.deliver([Delivery(stores.alice, content())]))
    for _ in range(20):
        stores.clock.advance(1.1)
        stores.loop.one(stores.store.domains())  # a turn of the loop
        if heard:
            break
    assert heard
    stop()


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


KILLED = """
import secrets, sys
from pathlib import Path
from tests.test_store_sqlite import Stores, content, TRACE
from gatewayd.interfaces import Delivery
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


class Model(RuleBasedStateMachine):
    """What a client that follows the log believes is compared with what the store says."""

    NAMES = ("INBOX", "Archive", "Work", "Work/Deep")

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.stores = Stores(self.root)
        self.one = self.stores.loop.one
        self.store, self.alice = self.stores.store, self.stores.alice
        self.used: set[tuple[str, int, int]] = set()  # (mailbox, uidvalidity, uid) ever given
        self.known: dict[tuple[int, int], tuple[int, str]] = {}  # the follower's: (mailbox_id, uid) -> (modseq, flags)
        self.since = 0

    def teardown(self) -> None:
        self.stores.close()
        shutil.rmtree(self.root)

    def box(self, name: str) -> Any:
        try:
            return self.one(self.store.mailbox(self.alice, name))
        except NoSuchMailbox:
            return None

    def uids(self, name: str) -> list[int]:
        box = self.box(name)
        return [entry.uid for entry in self.one(self.store.entries(self.alice, box.mailbox_id))] if box else []

    @rule(name=st.sampled_from(NAMES))
    def deliver(self, name: str) -> None:
        if self.box(name):
            placed = self.stores.deliver(mailbox=name)
            key = (name, placed.uidvalidity, placed.uid)
            assert key not in self.used
            assert all(placed.uid > uid for box, validity, uid in self.used if (box, validity) == key[:2])
            self.used.add(key)

    @rule(name=st.sampled_from(NAMES), mode=st.sampled_from("+-="), flag=st.sampled_from(["\\Seen", "\\Deleted", "x"]))
    def flags(self, name: str, mode: str, flag: str) -> None:
        uids = self.uids(name)[::2]
        if uids:
            box = self.box(name)
            for entry in self.one(self.store.store_flags(self.alice, box.mailbox_id, uids, mode, [flag])):
                assert (flag in entry.flags.split()) == (mode != "-")

    @rule(name=st.sampled_from(NAMES), keep=st.integers(1, 3))
    def expunge(self, name: str, keep: int) -> None:
        uids = self.uids(name)
        if uids:
            gone = self.one(self.store.expunge(self.alice, self.box(name).mailbox_id, uids[::keep]))
            assert gone == uids[::keep]
            assert self.uids(name) == [uid for uid in uids if uid not in gone]

    @rule(name=st.sampled_from(NAMES), to=st.sampled_from(NAMES), move=st.booleans())
    def copy(self, name: str, to: str, move: bool) -> None:
        uids = self.uids(name)
        if not uids or not self.box(to):
            return
        box = self.box(name)
        validity, pairs = self.one(self.store.copy(self.alice, box.mailbox_id, uids, to, move))
        assert [old for old, _ in pairs] == uids
        for _, new in pairs:
            assert (to, validity, new) not in self.used
            self.used.add((to, validity, new))

    @rule(name=st.sampled_from(NAMES[2:]))
    def create(self, name: str) -> None:
        try:
            self.one(self.store.create_mailbox(self.alice, name))
        except MailboxExists:
            assert self.box(name)

    @rule(name=st.sampled_from(NAMES[2:]))
    def delete(self, name: str) -> None:
        if self.box(name):
            self.one(self.store.delete_mailbox(self.alice, name))
            assert self.box(name) is None

    @rule(limit=st.integers(1, 3))
    def follow(self, limit: int) -> None:
        """The live tail, in pages."""
        more = True
        while more:
            page = self.one(self.store.changes(self.alice, self.since, limit))
            assert page.modseq >= self.since
            for entry in page.entries:
                self.known[entry.mailbox_id, entry.uid] = (entry.modseq, entry.flags)
            for gone in page.expunged:
                self.known.pop((gone.mailbox_id, gone.uid), None)
            self.since, more = page.modseq, page.more

    @invariant()
    def the_log_replays_to_the_state(self) -> None:
        self.follow(2)
        state = {}
        for box in self.one(self.store.mailboxes(self.alice)):
            for entry in self.one(self.store.entries(self.alice, box.mailbox_id)):
                state[entry.mailbox_id, entry.uid] = (entry.modseq, entry.flags)
                assert entry.uid < box.uidnext
                assert entry.modseq <= box.highest_modseq
        assert self.known == state


Model.TestCase.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
TestModel = Model.TestCase
