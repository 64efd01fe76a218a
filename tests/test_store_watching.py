"""Changes of an account, by this process or another: who watches hears of all of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from twisted.internet.defer import Deferred

from gatewayd.database.foreign import POLL
from gatewayd.interfaces.records import Arrival, Delivery
from tests.test_store_sqlite import BOB, CREDENTIALS, Stores, content, stores

__all__ = ["stores"]


class Watcher:
    """Hears of alice's commits; begins to count after the first look, which calls in any case."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self.calls = 0
        self.stop = stores.store.watch(stores.alice, self.called)
        self.look()
        self.calls = 0

    def called(self, arrivals: Sequence[Arrival]) -> None:
        self.calls += 1

    def look(self) -> None:
        """The time of a look for other processes' commits comes, and the threads do their part."""
        self.stores.clock.advance(POLL)
        self.stores.loop.one(self.stores.open[0].data_version())
        self.stores.loop.one(self.stores.open[0].data_version())


def test_watchers_hear_of_every_change_of_their_account(stores: Stores) -> None:
    one, store, alice = stores.loop.one, stores.store, stores.alice
    watcher = Watcher(stores)
    inbox = one(store.mailbox(alice, "INBOX")).mailbox_id
    letter = content()
    for change in (
        lambda: store.deliver([Delivery(alice, letter)]),
        lambda: store.store_flags(alice, inbox, [1], "+", ["\\Seen"]),
        lambda: store.copy(alice, inbox, [1], "Archive"),
        lambda: store.create_mailbox(alice, "Work"),
        lambda: store.rename_mailbox(alice, "INBOX", "Play"),
        lambda: store.rename_mailbox(alice, "Play", "Work/Play"),
        lambda: store.subscribe_mailbox(alice, "Work/Play", False),
        lambda: store.delete_mailbox(alice, "Work/Play"),
    ):
        before = watcher.calls
        one(change())
        assert watcher.calls > before
    before = watcher.calls
    bob = one(store.add_account(BOB, CREDENTIALS)).account_id
    one(store.deliver([Delivery(bob, content()), Delivery(alice, letter)]))  # the second is a repeat
    watcher.look()
    assert watcher.calls == before
    watcher.stop()
    watcher.stop()
    stores.deliver()
    assert watcher.calls == before


def test_a_watcher_that_fails_is_its_own_affair(stores: Stores) -> None:
    def failing(arrivals: Sequence[Arrival]) -> None:
        raise RuntimeError("a fault of ours")

    stores.store.watch(stores.alice, failing)
    watcher = Watcher(stores)
    assert stores.deliver().uid == 1
    assert watcher.calls == 1
    stores.loop.one(stores.again().deliver([Delivery(stores.alice, content())]))
    watcher.look()
    assert watcher.calls == 2


def test_another_process_is_heard_of(stores: Stores) -> None:
    other = stores.again()
    watcher = Watcher(stores)
    for number in range(1, 4):
        watcher.look()
        assert watcher.calls == number - 1
        stores.loop.one(other.deliver([Delivery(stores.alice, content())]))
        watcher.look()
        assert watcher.calls == number
    watcher.stop()
    stores.loop.one(other.deliver([Delivery(stores.alice, content())]))
    watcher.look()
    assert watcher.calls == 3
    assert stores.clock.getDelayedCalls() == []


def test_what_another_process_did_right_after_watch_is_heard_of(stores: Stores) -> None:
    """Even when it comes before the first look."""
    other, heard = stores.again(), []
    with pytest.MonkeyPatch.context() as patch:
        late: Deferred[None] = Deferred()
        data_version = stores.open[0].data_version

        async def slow() -> int:
            await late
            return await data_version()

        patch.setattr(stores.open[0], "data_version", slow)
        stores.store.watch(stores.alice, lambda _: heard.append(1))
        stores.loop.one(other.deliver([Delivery(stores.alice, content())]))
        late.callback(None)
        stores.loop.one(data_version())
    assert heard


def test_watching_ends_and_begins_while_a_look_is_under_way(stores: Stores) -> None:
    """As when a mail program selects one mailbox after another."""
    for _ in range(5):
        stores.store.watch(stores.alice, lambda _: None)()
    watcher = Watcher(stores)
    stores.loop.one(stores.again().deliver([Delivery(stores.alice, content())]))
    watcher.look()
    assert watcher.calls == 1
    assert len(stores.clock.getDelayedCalls()) == 1
    watcher.stop()
    assert stores.clock.getDelayedCalls() == []
