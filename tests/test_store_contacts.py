"""Strangers, and the decisions about them, in the store: what waits, what a move means, how many may wait."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gatewayd.address import Address
from gatewayd.errors import StoreError
from gatewayd.interfaces.records import (
    Allowance,
    ContactState,
    Delivery,
    Introduction,
    NoSuchMailbox,
    TooManyIntroductions,
)
from gatewayd.message.model import Content, Payload
from gatewayd.store.contacts import DAY
from tests.test_store_sqlite import Stores

CAROL, DAVE = Address.parse("carol@beta.test"), Address.parse("dave@beta.test")
ALLOWED = Allowance(sender=3, account=5)
WAITING = "\\Introductions"


def said(author: object = CAROL) -> Content:
    return Content(b"", Payload(str(author), (), 0, secrets.token_bytes(16)).encode(), b"", {})


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    made = Stores(tmp_path)
    yield made
    made.close()


def come(
    stores: Stores, sender: Address = CAROL, allowance: Allowance | None = ALLOWED, content: Content | None = None
) -> Any:
    waits = Introduction(sender, allowance)
    delivery = Delivery(stores.alice, content or said(sender), mailbox=WAITING, introduction=waits)
    (placed,) = stores.loop.one(stores.store.deliver([delivery]))
    return placed


def state(stores: Stores, address: Address = CAROL) -> str:
    contact = stores.loop.one(stores.store.contact(stores.alice, address))
    return contact.state if contact else "none"


def uids(stores: Stores, mailbox: str) -> list[int]:
    box = stores.loop.one(stores.store.mailbox(stores.alice, mailbox))
    return [entry.uid for entry in stores.loop.one(stores.store.entries(stores.alice, box.mailbox_id))]


def counts(stores: Stores) -> dict[str, int]:
    names = [mailbox.name for mailbox in stores.loop.one(stores.store.mailboxes(stores.alice))]
    found = {name: len(uids(stores, name)) for name in names}
    return {name: count for name, count in found.items() if count}


def move(stores: Stores, source: str, to: str, *which: int, move: bool = True) -> None:
    box = stores.loop.one(stores.store.mailbox(stores.alice, source))
    stores.loop.one(stores.store.copy(stores.alice, box.mailbox_id, which or uids(stores, source), to, move))


def rows(stores: Stores) -> int:
    count: int = stores.loop.one(
        stores.open[0].read(lambda db: db.execute("SELECT count(*) FROM introduction").fetchone()[0])
    )
    return count


@pytest.mark.parametrize(
    ("to", "becomes"),
    [("INBOX", "granted"), ("Archive", "granted"), ("Work", "granted"), ("Junk", "revoked"), ("Trash", "requested")],
)
@pytest.mark.parametrize("by_copy", [False, True])
def test_a_move_decides(stores: Stores, to: str, becomes: str, by_copy: bool) -> None:
    """The others that wait of the same sender go along; those of another stay."""
    stores.loop.one(stores.store.create_mailbox(stores.alice, "Work"))
    for sender in (CAROL, DAVE, CAROL):
        come(stores, sender)
    assert state(stores) == "requested"
    move(stores, "Introductions", to, 1, move=not by_copy)
    if by_copy:
        box = stores.loop.one(stores.store.mailbox(stores.alice, "Introductions"))
        stores.loop.one(stores.store.expunge(stores.alice, box.mailbox_id, [1]))
    assert (state(stores), state(stores, DAVE)) == (becomes, "requested")
    others = {"granted": "INBOX", "revoked": "Junk", "requested": "Introductions"}[becomes]
    assert counts(stores) == dict(Counter([to, others, "Introductions"]))


def test_out_of_junk_grants_again(stores: Stores) -> None:
    for _ in range(2):
        come(stores)
    move(stores, "Introductions", "Junk", 1)
    assert (state(stores), counts(stores)) == ("revoked", {"Junk": 2})
    move(stores, "Junk", "Trash", 1)
    move(stores, "Junk", "Introductions", 2)
    assert state(stores) == "revoked"
    move(stores, "Introductions", "Junk")
    move(stores, "Junk", "INBOX")
    assert (state(stores), counts(stores)) == ("granted", {"INBOX": 1, "Trash": 1})
    move(stores, "INBOX", "Junk")  # that one is junk; the sender is known still
    assert state(stores) == "granted"


def test_what_nobody_says_decides_about_nobody(stores: Stores) -> None:
    for author in ("unknown@invalid", "not an address"):
        (placed,) = stores.loop.one(stores.store.deliver([Delivery(stores.alice, said(author), mailbox="\\Junk")]))
        move(stores, "Junk", "INBOX", placed.uid)
    assert counts(stores) == {"INBOX": 2}
    assert stores.loop.one(stores.store.contacts(stores.alice)) == []


def test_a_mailbox_that_is_not_there_decides_nothing(stores: Stores) -> None:
    come(stores)
    with pytest.raises(NoSuchMailbox):
        move(stores, "Introductions", "Nowhere")
    assert (state(stores), counts(stores)) == ("requested", {"Introductions": 1})


def test_a_decision_without_a_move(stores: Stores) -> None:
    one, store = stores.loop.one, stores.store
    come(stores)
    come(stores, allowance=None)
    one(store.set_contact(stores.alice, CAROL, "revoked"))
    assert counts(stores) == {"Junk": 2}
    one(store.set_contact(stores.alice, CAROL, "granted"))
    assert counts(stores) == {"INBOX": 2}
    assert rows(stores) == 0
    one(store.set_contact(stores.alice, CAROL, "none"))
    assert one(store.contacts(stores.alice)) == []
    (contact,) = one(store.changes(stores.alice, 0)).contacts
    assert contact.state == "none"  # a client that follows the log learns it


def test_the_mailbox_is_made_where_it_is_missing(stores: Stores) -> None:
    """Accounts of earlier releases have none, and users delete things."""
    for name in ("Introductions", "Junk"):
        stores.loop.one(stores.store.delete_mailbox(stores.alice, name))
    come(stores)
    stores.loop.one(stores.store.set_contact(stores.alice, CAROL, "revoked"))
    assert counts(stores) == {"Junk": 1}
    stores.loop.one(stores.store.rename_mailbox(stores.alice, "Introductions", "Strangers"))
    come(stores, DAVE)
    move(stores, "Strangers", "INBOX")
    assert state(stores, DAVE) == "granted"


def test_one_of_the_users_own_with_that_name(stores: Stores) -> None:
    stores.loop.one(stores.store.delete_mailbox(stores.alice, "Introductions"))
    stores.loop.one(stores.store.create_mailbox(stores.alice, "Introductions"))
    come(stores)
    move(stores, "Introductions", "INBOX")
    assert state(stores) == "granted"


def test_so_many_of_one_sender(stores: Stores) -> None:
    letters = [said() for _ in range(4)]
    for letter in letters[:3]:
        assert not come(stores, content=letter).duplicate
    assert type(come(stores, content=letters[3])) is TooManyIntroductions
    assert come(stores, content=letters[1], allowance=Allowance(0, 0)).duplicate  # a repeat is answered as before
    come(stores, allowance=None)  # mail is not limited, and not counted
    assert (counts(stores), rows(stores)) == ({"Introductions": 4}, 4)
    box = stores.loop.one(stores.store.mailbox(stores.alice, "Introductions"))
    stores.loop.one(stores.store.expunge(stores.alice, box.mailbox_id, [1]))
    assert not come(stores, content=letters[3]).duplicate
    stores.loop.one(stores.store.set_contact(stores.alice, CAROL, "revoked"))
    assert type(come(stores)) is TooManyIntroductions  # the sender sees no difference


def test_so_many_strangers_a_day(stores: Stores) -> None:
    strangers = [Address.parse(f"s{n}@beta.test") for n in range(7)]
    for sender in strangers[:4]:
        come(stores, sender)
    stores.loop.one(stores.store.request_contact(stores.alice, strangers[4], ALLOWED))
    for _ in range(2):
        assert type(come(stores, strangers[5])) is TooManyIntroductions
        with pytest.raises(TooManyIntroductions):
            stores.loop.one(stores.store.request_contact(stores.alice, strangers[5], ALLOWED))
    assert state(stores, strangers[5]) == "none"
    assert not come(stores, strangers[0]).duplicate  # no new one
    stores.clock.advance(DAY / 1000)
    come(stores, strangers[5])
    assert (state(stores, strangers[5]), counts(stores)) == ("requested", {"Introductions": 6})


def test_one_who_was_granted_a_moment_ago_does_not_wait(stores: Stores) -> None:
    letter = said()
    come(stores, content=letter)
    stores.loop.one(stores.store.set_contact(stores.alice, CAROL, "granted"))
    come(stores)
    assert (counts(stores), rows(stores)) == ({"INBOX": 2}, 0)
    assert come(stores, content=letter).duplicate  # though it came to another mailbox then
    move(stores, "INBOX", "Archive")
    (placed,) = stores.loop.one(stores.store.deliver([Delivery(stores.alice, letter)]))
    assert placed.duplicate


def test_a_request_leaves_contacts_as_they_are(stores: Stores) -> None:
    states: tuple[ContactState, ...] = ("granted", "revoked", "requested")
    for known in states:
        stores.loop.one(stores.store.set_contact(stores.alice, CAROL, known))
        stores.loop.one(stores.store.request_contact(stores.alice, CAROL, Allowance(0, 0)))
        assert state(stores) == known
    with pytest.raises(StoreError):
        stores.loop.one(stores.store.request_contact(99, CAROL, ALLOWED))


def test_watchers_are_called(stores: Stores) -> None:
    called: list[int] = []
    stop = stores.store.watch(stores.alice, lambda arrivals: called.append(1))
    for work in (
        stores.store.request_contact(stores.alice, CAROL, ALLOWED),
        stores.store.set_contact(stores.alice, CAROL, "granted"),
        stores.store.set_contact(stores.alice, DAVE, "revoked"),
    ):
        called.clear()
        stores.loop.one(work)
        assert called
    stop()


class Model(RuleBasedStateMachine):
    """Whatever comes and is moved: what waits is of strangers, and nothing is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.stores = Stores(self.root)
        self.taken: Counter[Address] = Counter()
        self.decided: dict[Address, str] = {}

    def teardown(self) -> None:
        self.stores.close()
        shutil.rmtree(self.root)

    def state(self, sender: Address) -> str:
        return self.decided.get(sender, "none")

    @rule(sender=st.sampled_from([CAROL, DAVE]), native=st.booleans())
    def come(self, sender: Address, native: bool) -> None:
        placed = come(self.stores, sender, ALLOWED if native else None)
        if not isinstance(placed, StoreError):
            self.taken[sender] += 1
            if native and self.state(sender) == "none":
                self.decided[sender] = "requested"

    @rule(sender=st.sampled_from([CAROL, DAVE]), to=st.sampled_from(["granted", "revoked", "none", "requested"]))
    def set(self, sender: Address, to: ContactState) -> None:
        self.stores.loop.one(self.stores.store.set_contact(self.stores.alice, sender, to))
        self.decided[sender] = to

    @rule(
        source=st.sampled_from(["Introductions", "Junk", "INBOX"]),
        to=st.sampled_from(["Introductions", "Junk", "INBOX", "Trash", "Archive"]),
        pick=st.integers(0, 5),
    )
    def move(self, source: str, to: str, pick: int) -> None:
        there = uids(self.stores, source)
        if not there or source == to:
            return
        uid = there[pick % len(there)]
        sender = self.sender(source, uid)
        move(self.stores, source, to, uid)
        if source != "INBOX" and to not in ("Introductions", "Trash"):
            self.decided[sender] = "revoked" if to == "Junk" else "granted"

    def sender(self, mailbox: str, uid: int) -> Address:
        one, store, alice = self.stores.loop.one, self.stores.store, self.stores.alice
        box = one(store.mailbox(alice, mailbox))
        (entry,) = [entry for entry in one(store.entries(alice, box.mailbox_id)) if entry.uid == uid]
        return Address.parse(one(store.contents(alice, [entry.message_id]))[entry.message_id].fields.from_)

    @invariant()
    def it_is_as_decided(self) -> None:
        for sender in (CAROL, DAVE):
            assert state(self.stores, sender) == self.state(sender)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        assert sum(counts(self.stores).values()) == self.taken.total()

    @invariant()
    def what_was_granted_does_not_wait(self) -> None:
        """But what its owner has put back among the introductions."""
        waiting = self.stores.loop.one(
            self.stores.open[0].read(lambda db: db.execute("SELECT local FROM introduction").fetchall())
        )
        assert not [local for (local,) in waiting if self.state(Address(local, CAROL.domain)) == "granted"]


Model.TestCase.settings = settings(
    max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestModel = Model.TestCase
