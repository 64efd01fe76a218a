"""Greylisting over a real table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gatewayd.address import Address
from gatewayd.core.greylist import DELAY, REMEMBERED, WINDOW, Greylist
from gatewayd.database.sqlite import Database
from gatewayd.outcome import Deferred
from gatewayd.store.greylist import SQLiteAttempts
from tests.loop import Loop

BOB, CAROL, SPAMMER = (Address.parse(text) for text in ("bob@alpha.test", "carol@alpha.test", "x@spam.test"))


class Desk:
    def __init__(self, root: Path) -> None:
        self.time = 1e9
        self.loop = Loop()
        self.database = Database(root / "test.sqlite", self.loop.post)
        self.attempts = SQLiteAttempts(self.database, lambda: self.time)
        self.greylist = Greylist(self.attempts, lambda: self.time)

    def ask(self, client: str = "192.0.2.7", sender: Address | None = SPAMMER, *to: Address) -> bool:
        answer = self.loop.one(self.greylist.ask(client, sender, to or (BOB,)))
        assert answer is None or (isinstance(answer, Deferred) and answer.retry_after)
        return answer is None


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.database.close()


def test_who_comes_again_is_let_in(desk: Desk) -> None:
    assert not desk.ask()
    desk.time += DELAY - 1
    assert not desk.ask()  # too early, and the clock is not set back
    desk.time += 1
    assert desk.ask("192.0.2.200")  # the same network
    desk.time += REMEMBERED - 1
    assert desk.ask()
    desk.time += REMEMBERED + 1
    assert not desk.ask()


def test_another_sender_network_or_recipient_begins_anew(desk: Desk) -> None:
    assert not desk.ask()
    desk.time += DELAY
    assert desk.ask()
    assert not desk.ask("198.51.100.1")
    assert not desk.ask("192.0.2.7", None)
    assert not desk.ask("192.0.2.7", SPAMMER, BOB, CAROL)  # one is new: the message has one answer
    desk.time += DELAY
    assert desk.ask("192.0.2.7", SPAMMER, BOB, CAROL)


def test_who_comes_much_later_begins_anew(desk: Desk) -> None:
    assert not desk.ask()
    desk.time += WINDOW + 1
    assert not desk.ask()


def test_what_is_old_is_swept(desk: Desk) -> None:
    desk.ask()
    desk.time += WINDOW + 1
    desk.loop.one(desk.attempts.sweep())
    rows = desk.loop.one(desk.database.read(lambda db: db.execute("SELECT count(*) FROM greylist").fetchone()))
    assert rows == (0,)
