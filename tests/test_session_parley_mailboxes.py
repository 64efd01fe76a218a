"""`mailboxes` over real sockets, and what a client that follows the log learns of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import defer

from gatewayd.crypto.certificates import make_authority
from gatewayd.session.parley_client import RequestFailed
from gatewayd.wire.parley.schema import Changes, Mailbox, Mailboxes, MailboxesReply, Mark, Sync, read
from tests.house import ALICE, ALPHA, House
from tests.test_session_parley_server import pages


class User:
    """Alice, on a connection of hers, with what the log has told her: UIDVALIDITY -> name, (UIDVALIDITY, uid)."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.session = house.user(ALICE)
        self.names: dict[int, str] = {}
        self.messages: set[tuple[int, int]] = set()
        self.modseq = 0

    def do(self, action: Any, mailbox: str = "", to: str = "") -> tuple[Mailbox, ...]:
        reply = self.house.ask(self.session, "mailboxes", Mailboxes(action, mailbox, to))
        return read(MailboxesReply, reply).mailboxes

    def one(self, name: str) -> Mailbox:
        (found,) = [mailbox for mailbox in self.do("list") if mailbox.name == name]
        return found

    def follow(self, limit: int = 100) -> dict[int, str]:
        """As docs/parley.rst tells a client."""
        for page in pages(self.house, self.session, self.modseq, limit):
            self.take(page)
        return self.names

    def take(self, page: Changes) -> None:
        for mailbox in page.mailboxes:
            if mailbox.gone:
                self.names.pop(mailbox.uidvalidity, None)
                self.messages = {place for place in self.messages if place[0] != mailbox.uidvalidity}
            else:
                self.names[mailbox.uidvalidity] = mailbox.name
        at = {name: uidvalidity for uidvalidity, name in self.names.items()}
        assert len(at) == len(self.names)
        for change in page.changes:
            place = at[change.mailbox], change.uid
            if change.gone:
                self.messages.discard(place)
            else:
                self.messages.add(place)
        self.modseq = page.modseq


@pytest.fixture
def alice(reactor: Any, tmp_path: Path) -> Iterator[User]:
    house = House(reactor, tmp_path / "alpha", ALPHA, (ALICE,), {}, make_authority("test authority"))
    yield User(house)
    house.stop()


def test_the_list(alice: User) -> None:
    alice.house.fill(ALICE, 3)
    alice.house.ask(alice.session, "mark", Mark("INBOX", (1,), add=("\\Seen",)))
    inbox = alice.one("INBOX")
    assert (inbox.use, inbox.uidnext, inbox.messages, inbox.unseen, inbox.subscribed) == ("", 4, 3, 2, True)
    sent = alice.one("Sent")
    assert (sent.use, sent.uidnext, sent.messages, sent.unseen) == ("\\Sent", 1, 0, 0)
    assert alice.one("Introductions").use == "\\Introductions"
    assert len({mailbox.uidvalidity for mailbox in alice.do("list")}) == len(alice.do("list"))


def test_made_renamed_subscribed_deleted(alice: User) -> None:
    (made,) = alice.do("create", "inbox/Work")
    assert (made.name, made.messages) == ("INBOX/Work", 0)
    (renamed,) = alice.do("rename", "INBOX/Work", "Play/Deep")
    assert (renamed.name, renamed.uidvalidity) == ("Play/Deep", made.uidvalidity)
    assert renamed.modseq > made.modseq
    (quiet,) = alice.do("unsubscribe", "Play/Deep")
    assert (quiet.subscribed, quiet.uidvalidity) == (False, made.uidvalidity)
    assert alice.do("unsubscribe", "Play/Deep") == (quiet,)
    assert alice.do("subscribe", "Play/Deep")[0].subscribed
    assert alice.do("delete", "Play/Deep") == ()
    assert alice.one("Play")
    (again,) = alice.do("create", "Play/Deep")
    assert again.uidvalidity > made.uidvalidity
    (out,) = alice.do("rename", "\\Sent", "Out")
    assert (out.name, out.use) == ("Out", "\\Sent")


@pytest.mark.parametrize(
    ("action", "mailbox", "to", "error"),
    [
        ("create", "Junk", "", "exists"),
        ("create", "inbox", "", "exists"),
        ("create", "", "", "bad-request"),
        ("create", "a//b", "", "bad-request"),
        ("create", "\\Junk", "", "bad-request"),
        ("create", "a\r\nb", "", "bad-request"),
        ("rename", "Nowhere", "There", "not-found"),
        ("rename", "Junk", "Trash", "exists"),
        ("rename", "Junk", "Junk/Deep", "bad-request"),
        ("rename", "INBOX", "There", "bad-request"),
        ("rename", "Junk", "", "bad-request"),
        ("delete", "inbox", "", "bad-request"),
        ("delete", "Nowhere", "", "not-found"),
        ("subscribe", "Nowhere", "", "not-found"),
        ("forget", "Junk", "", "bad-request"),
    ],
)
def test_what_cannot_be_done(alice: User, action: str, mailbox: str, to: str, error: str) -> None:
    before = alice.do("list")
    with pytest.raises(RequestFailed, match=error):
        alice.do(action, mailbox, to)
    assert alice.do("list") == before


@pytest.mark.parametrize("limit", [1, 100])
def test_a_client_follows_whatever_happened_meanwhile(alice: User, limit: int) -> None:
    house = alice.house
    house.fill(ALICE, 4)
    for name in ("A", "B", "C/Deep"):
        alice.do("create", name)
    for uid, name in ((1, "A"), (2, "B"), (3, "C/Deep")):
        house.ask(alice.session, "mark", Mark("INBOX", (uid,), move=name))
    alice.follow(limit)
    assert len(alice.messages) == 4
    other = User(house)
    other.do("rename", "A", "X")
    other.do("rename", "B", "A")  # two have changed their names
    other.do("rename", "X", "B")
    house.ask(other.session, "mark", Mark("B", (1,), add=("later",)))
    other.do("delete", "C/Deep")
    other.do("create", "C/Deep")
    other.do("rename", "C", "D")
    house.ask(other.session, "mark", Mark("INBOX", (4,), move="D/Deep"))
    assert alice.follow(limit) == other.follow() == {box.uidvalidity: box.name for box in other.do("list")}
    assert alice.messages == other.messages
    assert sorted(alice.names[uidvalidity] for uidvalidity, _ in alice.messages) == ["A", "B", "D/Deep"]


def test_the_live_tail_tells_of_mailboxes(alice: User) -> None:
    heard: defer.DeferredQueue[Changes] = defer.DeferredQueue()
    alice.session.on_changes = heard.put
    alice.take(read(Changes, alice.house.ask(alice.session, "sync", Sync(0, live=True))))
    other = User(alice.house)

    async def next_page() -> Changes:
        return await heard.get()

    for action, mailbox, to in (
        ("create", "A", ""),
        ("rename", "A", "B"),
        ("unsubscribe", "B", ""),
        ("delete", "B", ""),
    ):
        other.do(action, mailbox, to)
        page = alice.house.wait(next_page())
        assert page.changes == ()
        (told,) = page.mailboxes
        assert (told.name, told.gone) == (to or mailbox, action == "delete")
        alice.take(page)
    assert alice.names == other.follow()
