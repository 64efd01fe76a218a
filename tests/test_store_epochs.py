"""Numbers that a store gives twice, because it came back from a backup, are not taken for those that it gave before."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gatewayd.address import Address
from gatewayd.errors import StoreError
from gatewayd.interfaces.records import Changes, LogBeganAnew
from gatewayd.store import epochs
from tests.test_store_sqlite import CREDENTIALS, Stores, stores

__all__ = ["stores"]

NOW = 2_000_000_000.0


class Times:
    """A store through its starts; `keep` and `restore` are what an operator does."""

    def __init__(self, made: Stores) -> None:
        self.stores, self.one = made, made.loop.one
        self.database, self.witness = made.root / "test.sqlite", made.root / "epoch"

    def start(self) -> bool:
        return epochs.begin(self.database, self.witness, NOW)

    def keep(self, name: str = "backup") -> None:
        self._copy(self.database, self.stores.root / name)

    def restore(self, name: str = "backup") -> None:
        self._copy(self.stores.root / name, self.database)

    def _copy(self, source: Path, to: Path) -> None:
        with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(to)) as other:
            one.backup(other)

    def read(self, since: int = 0, epoch: bytes = b"") -> Changes:
        page: Changes = self.one(self.stores.store.changes(self.stores.alice, since, 1000, epoch))
        return page

    def validities(self) -> set[int]:
        return {box.uidvalidity for box in self.one(self.stores.store.mailboxes(self.stores.alice))}


@pytest.fixture
def times(stores: Stores) -> Times:
    return Times(stores)


def test_restarts_change_nothing(times: Times) -> None:
    seen, validities = [times.read()], times.validities()
    for start in range(6):
        assert not times.start()
        if start % 2:
            times.stores.deliver()
        seen.append(times.read())
    assert len({page.epoch for page in seen}) == 7
    for page in seen:
        times.read(page.modseq, page.epoch)
        times.read(page.modseq)
    assert times.validities() == validities


def test_a_place_beyond_the_end_of_its_epoch(times: Times) -> None:
    times.start()
    times.stores.deliver()
    times.keep()
    before = times.read()
    times.stores.deliver()
    lost = times.read()
    times.restore()
    with pytest.raises(LogBeganAnew):
        times.read(lost.modseq)  # nor is it in what is there
    times.start()
    for _ in range(3):  # the same numbers are given again
        times.stores.deliver()
    assert times.read().modseq > lost.modseq
    with pytest.raises(LogBeganAnew):
        times.read(lost.modseq, lost.epoch)
    times.read(lost.modseq)  # who does not say the epoch learns nothing
    with pytest.raises(LogBeganAnew):
        times.read(before.modseq, b"of another store")


def test_what_was_read_before_the_backup_holds(times: Times) -> None:
    """Where nobody noticed: the witness came back along with the store."""
    times.start()
    times.stores.deliver()
    epochs.testify(times.database, times.witness)
    before, kept = times.read(), times.witness.read_text()
    times.keep()
    times.stores.deliver()
    lost = times.read()
    times.start()
    later = times.read()
    times.restore()
    times.witness.write_text(kept)
    assert not times.start()
    times.stores.deliver()
    assert len(times.read(before.modseq, before.epoch).entries) == 1
    assert len(times.read(0, later.epoch).entries) == 2  # from 0 anybody may ask
    for gone in (lost, later):
        with pytest.raises(LogBeganAnew):
            times.read(gone.modseq, gone.epoch)


@pytest.mark.parametrize("how", ["in the same run", "of a run before", "a new disk", "spoiled"])
def test_an_older_store_is_noticed_and_mailboxes_are_other_ones(times: Times, how: str) -> None:
    times.start()
    times.stores.deliver()
    times.keep()
    before, validities = times.read(), times.validities()
    times.stores.deliver()
    if how == "of a run before":
        times.start()
    epochs.testify(times.database, times.witness)
    times.restore()
    if how == "a new disk":
        times.witness.unlink()
    elif how == "spoiled":
        times.witness.write_text("")
    assert times.start()
    assert min(times.validities()) > max(*validities, NOW)
    assert len(times.validities()) == len(validities)
    with pytest.raises(LogBeganAnew):  # or a client would know mailboxes by numbers that they do not have any more
        times.read(before.modseq, before.epoch)
    renewed = times.validities()
    assert not times.start()
    assert times.validities() == renewed


def test_epochs_are_forgotten_and_their_readers_read_anew(times: Times, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "KEPT", 5)
    pages = []
    for start in range(9):
        times.start()
        if start in (0, 7):
            times.stores.deliver()
        pages.append(times.read())
    held = []
    for page in pages:
        try:
            times.read(page.modseq, page.epoch)
        except LogBeganAnew:
            continue
        held.append(page)
    assert pages[-3:] == held[-3:]
    assert pages[0] not in held
    with closing(sqlite3.connect(times.database)) as db:
        assert db.execute("SELECT count(*) FROM epoch").fetchone()[0] <= 6


def test_a_new_account_in_an_old_epoch(times: Times) -> None:
    """An account that was made anew under the same name has another log."""
    times.start()
    old = times.read()
    times.start()
    other = times.one(times.stores.store.add_account(Address.parse("zoe@alpha.test"), CREDENTIALS))
    page = times.one(times.stores.store.changes(other.account_id, 0))
    times.start()
    times.one(times.stores.store.changes(other.account_id, page.modseq, 10, page.epoch))
    with pytest.raises(LogBeganAnew):
        times.one(times.stores.store.changes(other.account_id, 1, 10, old.epoch))


def test_a_witness_that_cannot_be_written(times: Times) -> None:
    times.witness.mkdir()
    with pytest.raises(StoreError):
        times.start()
