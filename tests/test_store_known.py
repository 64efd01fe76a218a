"""What stays in memory of the store, and when it is asked for anew."""

from __future__ import annotations

from gatewayd.address import Address, Domain
from gatewayd.store.known import KNOWN_FOR
from tests.test_store_sqlite import ALICE, BOB, CREDENTIALS, Stores, stores

__all__ = ["stores"]


def test_aliases_are_seen_by_other_processes(stores: Stores) -> None:
    one, catch_all = stores.loop.one, Address("", ALICE.domain)
    other = stores.again()
    assert one(stores.store.aliased_domains()) == frozenset()
    one(other.add_alias(BOB, ALICE))
    one(other.add_alias(BOB, ALICE))
    one(other.add_alias(catch_all, BOB))
    stores.clock.advance(KNOWN_FOR)
    assert one(stores.store.aliased_domains()) == {ALICE.domain}
    assert one(stores.store.alias_targets(Address.parse("BOB@alpha.test"))) == (ALICE,)
    assert one(stores.store.aliases()) == [(catch_all, BOB), (BOB, ALICE)]
    assert one(stores.store.remove_alias(BOB, BOB)) == 0
    assert one(stores.store.remove_alias(BOB, ALICE)) == one(stores.store.remove_alias(catch_all, None)) == 1
    assert one(stores.store.aliased_domains()) == frozenset()


def test_another_process_sets_a_contact(stores: Stores) -> None:
    one, other = stores.loop.one, stores.again()
    assert one(stores.store.contact(stores.alice, BOB)) is None
    one(other.set_contact(stores.alice, BOB, "revoked"))
    stores.clock.advance(KNOWN_FOR)
    assert one(stores.store.contact(stores.alice, BOB)).state == "revoked"


def test_a_contact_that_changes_while_it_is_read(stores: Stores) -> None:
    store, answers = stores.store, stores.loop.all
    read, _ = answers(store.contact(stores.alice, BOB), store.set_contact(stores.alice, BOB, "granted"))
    assert read is None or read.state == "granted"
    assert stores.loop.one(store.contact(stores.alice, BOB)).state == "granted"


def test_domains_are_known_at_once(stores: Stores) -> None:
    other = stores.again()
    assert stores.loop.one(other.domains()) == {ALICE.domain}
    stores.loop.one(stores.store.add_domain(Domain.parse("beta.test")))
    assert len(stores.loop.one(stores.store.domains())) == 2
    stores.clock.advance(KNOWN_FOR)
    assert len(stores.loop.one(other.domains())) == 2


def test_what_is_known_holds_while_nobody_else_commits(stores: Stores) -> None:
    one, store, other = stores.loop.one, stores.store, stores.again()
    bob = Address.parse("bob@alpha.test")
    one(store.add_account(bob, CREDENTIALS))
    known = one(store.account(bob))

    def look() -> None:
        """At half its time what is known is looked after."""
        stores.clock.advance(KNOWN_FOR * 0.6)
        one(store.account(bob))
        one(stores.open[0].data_version())
        one(stores.open[0].data_version())

    look()  # the first: from now on the file's version is known
    one(store.account(bob))
    for _ in range(3):
        look()
        assert store._known.accounts, "it was read again"
    one(other.set_quota(known.account_id, 5, None))
    look()
    assert one(store.account(bob)).limited
