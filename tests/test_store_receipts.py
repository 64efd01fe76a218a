"""Receipts in the store: asked of whom, owed once, the same after a crash; and the account's copy of an object."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gatewayd.address import Address
from gatewayd.errors import StoreError
from gatewayd.interfaces.records import RECEIPTS, Awaited, Delivery, NoSuchMailbox, Owed
from gatewayd.store import receipts
from tests.test_store_sqlite import ALICE, BOB, CREDENTIALS, Stores, content

ID, OTHER = b"\1" * 32, b"\2" * 32
CAROL = Address.parse("carol@beta.test")
ASKED = Awaited(frozenset({"stored", "displayed"}), False)


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    made = Stores(tmp_path)
    yield made
    made.close()


def test_what_was_asked_of_whom(stores: Stores) -> None:
    one, store, alice = stores.loop.one, stores.store, stores.alice
    bob = one(store.add_account(BOB, CREDENTIALS)).account_id
    one(store.expect_receipts(alice, ID, [BOB, CAROL], ASKED))
    one(store.expect_receipts(alice, OTHER, [BOB], Awaited(frozenset({"displayed"}), True)))
    one(store.expect_receipts(alice, ID, [BOB], Awaited(frozenset(), True)))  # a repeat changes nothing
    for address in (BOB, CAROL, Address.parse("BOB@alpha.test")):
        assert one(store.expected_receipt(alice, ID, address)) == ASKED
    assert one(store.expected_receipt(alice, OTHER, BOB)) == Awaited(frozenset({"displayed"}), True)
    assert one(store.expected_receipt(alice, OTHER, CAROL)) is None
    assert one(store.expected_receipt(alice, ID, ALICE)) is None
    assert one(store.expected_receipt(bob, ID, BOB)) is None


def test_each_is_owed_once_and_stays_what_it_was(stores: Stores) -> None:
    one, alice = stores.loop.one, stores.alice
    first = Owed(alice, ID, "stored", 1000, b"a" * 16)
    again = Owed(alice, ID, "stored", 2000, b"b" * 16)
    later = Owed(alice, ID, "displayed", 3000, b"c" * 16)
    assert one(stores.store.owe_receipts([first])) == [first]
    assert one(stores.store.owe_receipts([again, later])) == [first, later]
    store = stores.again()  # the process was killed
    assert one(store.unsent_receipts(10)) == [first, later]
    assert one(store.unsent_receipts(1)) == [first]
    one(store.receipt_sent(first))
    assert one(store.owe_receipts([again])) == []
    assert one(store.unsent_receipts(10)) == [later]


def test_they_are_forgotten_after_a_year(stores: Stores) -> None:
    one, store, alice = stores.loop.one, stores.store, stores.alice
    now = int(stores.clock.seconds() * 1000)
    one(store.expect_receipts(alice, ID, [BOB], ASKED))
    one(store.owe_receipts([Owed(alice, ID, "stored", now, b"a" * 16)]))
    stores.clock.advance(receipts.KEPT / 1000)
    one(store.sweep())
    assert one(store.expected_receipt(alice, ID, BOB)) == ASKED
    stores.clock.advance(1)
    one(store.sweep())
    assert one(store.expected_receipt(alice, ID, BOB)) is None
    assert one(store.unsent_receipts(10)) == []


def test_their_mailbox_is_made_on_need_and_not_subscribed(stores: Stores) -> None:
    one, store, alice = stores.loop.one, stores.store, stores.alice
    with pytest.raises(NoSuchMailbox):
        one(store.mailbox(alice, RECEIPTS))
    placed = stores.deliver(mailbox=RECEIPTS)
    assert stores.deliver(mailbox=RECEIPTS).uid == placed.uid + 1
    assert not one(store.mailbox(alice, RECEIPTS)).subscribed
    assert one(store.mailbox(alice, "INBOX")).subscribed
    assert isinstance(stores.deliver(mailbox="Elsewhere"), StoreError)
    one(store.delete_mailbox(alice, RECEIPTS))
    assert stores.deliver(mailbox=RECEIPTS).uidvalidity > placed.uidvalidity


def test_an_object_is_found_wherever_it_stands(stores: Stores) -> None:
    one, store, alice = stores.loop.one, stores.store, stores.alice
    bob = one(store.add_account(BOB, CREDENTIALS)).account_id
    object = content()
    assert one(store.find(alice, [object.id])) == {}
    one(store.deliver([Delivery(alice, object), Delivery(alice, object, mailbox="\\Sent")]))
    one(store.deliver([Delivery(alice, content())]))
    assert one(store.find(alice, [bytes(32), object.id, object.id])) == {object.id: object}
    assert one(store.find(bob, [object.id])) == {}
    inbox, sent = one(store.mailbox(alice, "INBOX")), one(store.mailbox(alice, "\\Sent"))
    one(store.copy(alice, inbox.mailbox_id, [1], "Archive", True))
    one(store.expunge(alice, sent.mailbox_id, [1]))
    assert one(store.find(alice, [object.id])) == {object.id: object}
    archive = one(store.mailbox(alice, "Archive"))
    one(store.expunge(alice, archive.mailbox_id, [1]))
    assert one(store.find(alice, [object.id])) == {}
