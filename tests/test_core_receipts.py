"""Receipts between two domains, over real sockets: who gets one, once, and whose are believed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatewayd.address import Address
from gatewayd.client import ParleyClient, Receipt
from gatewayd.core.attempts import Patience
from gatewayd.core.receiving import Arrival
from gatewayd.core.relay import Relay
from gatewayd.crypto.certificates import make_authority
from gatewayd.interfaces.queue import Envelope
from gatewayd.interfaces.routes import Origin, Parley
from gatewayd.message.mime import Mail
from gatewayd.message.model import Content, Payload
from gatewayd.message.render import render
from gatewayd.outcome import STORE_FAILED
from gatewayd.wire.parley.schema import Result, Send
from tests.house import ALICE, ALPHA, BETA, BOB, CAROL, House, codes, message, of_domain, of_user, signed
from tests.patience import eventually
from tests.test_client import inbox, sign_in

ALL = ("stored", "delivered", "displayed")
ORIGIN = Origin("127.0.0.1", "test")


class Routes:
    """A router for the relay."""

    def __init__(self, routes: dict[Any, Any]) -> None:
        self._routes = routes

    async def route(self, domain: Any) -> Any:
        return self._routes[domain]


@pytest.fixture
def houses(reactor: Any, tmp_path: Path) -> Iterator[tuple[House, House]]:
    """Alice and Bob at alpha, Carol at beta; what is queued goes at once."""
    routes: dict[Any, Any] = {}
    authority = make_authority("Test authority")
    alpha = House(reactor, tmp_path / "alpha", ALPHA, (ALICE, BOB), routes, authority)
    beta = House(reactor, tmp_path / "beta", BETA, (CAROL,), routes, authority)
    relays = [
        Relay(
            house.queue, Routes(routes), {Parley: house.courier}, house.office, reactor, time.time,
            patience=Patience((60.0,), 86400.0), concurrency=4,
        )
        for house in (alpha, beta)
    ]  # fmt: skip
    for relay in relays:
        alpha.call(relay.start)
    yield alpha, beta
    for relay in relays:
        alpha.wait(relay.stop())
    alpha.stop()
    beta.stop()


def grant(house: House, owner: Any, author: Any, state: Any = "granted") -> None:
    async def run() -> None:
        account = await house.store.account(owner)
        assert account is not None
        await house.store.set_contact(account.account_id, author, state)

    house.wait(run())


def receipts(house: House, client: ParleyClient) -> list[Receipt]:
    async def run() -> list[Receipt]:
        return [receipt async for receipt in client.receipts()]

    return house.wait(run())


def statuses(house: House, client: ParleyClient) -> list[str]:
    return [receipt.status for receipt in receipts(house, client)]


def sent(house: House, client: ParleyClient, to: Any, asking: tuple[str, ...] = ALL) -> None:
    results: tuple[Result, ...] = house.wait(client.send([str(to)], "Hello", receipts=asking))
    assert [result.code for result in results] == ["2.0.0"]


def test_all_three_between_two_domains(houses: tuple[House, House]) -> None:
    alpha, beta = houses
    grant(beta, CAROL, ALICE)
    alice, carol = sign_in(alpha, ALICE), sign_in(beta, CAROL)
    sent(alpha, alice, CAROL)
    eventually(lambda: len(beta.inbox(CAROL)) == 1)
    eventually(lambda: statuses(alpha, alice) == ["stored"])
    (got,) = inbox(beta, carol)
    assert got.asks_for == set(ALL)
    eventually(lambda: statuses(alpha, alice) == ["stored", "delivered"])
    beta.wait(carol.mark("INBOX", [got.uid], displayed=True))
    eventually(lambda: len(statuses(alpha, alice)) == 3)
    (original,) = alpha.inbox(ALICE, "Sent")
    for receipt, status in zip(receipts(alpha, alice), ALL, strict=True):
        assert (receipt.of, receipt.status, receipt.by, receipt.signed) == (original.id, status, str(CAROL), True)
    kept = inbox(alpha, alice, mailbox="Receipts")
    assert [m.signer for m in kept] == [BETA] * 3
    assert [m.flags for m in kept] == [("\\Seen",)] * 3
    assert inbox(beta, carol)[0].flags == ("$MDNSent", "\\Seen")
    (box,) = [m for m in mailboxes(alpha, ALICE) if m.name == "Receipts"]
    assert not box.subscribed
    assert "Receipts" not in [m.name for m in mailboxes(beta, CAROL)]


def mailboxes(house: House, owner: Any) -> list[Any]:
    async def run() -> list[Any]:
        account = await house.store.account(owner)
        assert account is not None
        return await house.store.mailboxes(account.account_id)

    return house.wait(run())


def test_each_is_said_once_and_is_one_object(houses: tuple[House, House], monkeypatch: pytest.MonkeyPatch) -> None:
    """Read again, marked again, and after a failure of the store between the row and the queue."""
    alpha, _ = houses
    alice, bob = sign_in(alpha, ALICE), sign_in(alpha, BOB)
    posted: list[Content] = []
    post = alpha.office._receipts._post

    async def failing(content: Content, author: Any) -> Any:
        posted.append(content)
        return STORE_FAILED

    alpha.office._receipts._post = failing
    sent(alpha, alice, BOB, ("stored",))
    assert statuses(alpha, alice) == []
    assert len(posted) == 1
    alpha.office._receipts._post = post
    alpha.wait(alpha.office.resume_receipts())
    alpha.wait(alpha.office.resume_receipts())
    (kept,) = inbox(alpha, alice, mailbox="Receipts")
    assert kept.content == posted[0]
    sent(alpha, alice, BOB, ("delivered", "displayed"))
    for _ in range(2):
        uids = [m.uid for m in inbox(alpha, bob)]
        alpha.wait(bob.mark("INBOX", uids, displayed=True))
    eventually(lambda: len(statuses(alpha, alice)) == 3)
    assert sorted(statuses(alpha, alice)) == ["delivered", "displayed", "stored"]


@pytest.mark.parametrize("state", [None, "requested", "revoked"])
def test_who_is_no_contact_learns_nothing(houses: tuple[House, House], state: Any) -> None:
    alpha, _ = houses
    for author in (CAROL, ALICE) if state == "revoked" else (CAROL,):  # on one gateway nobody is a stranger
        if state is not None:
            grant(alpha, BOB, author, state)
    given: list[Any] = []
    office = alpha.office._receipts
    original = office._send

    async def sending(*what: Any) -> None:
        given.append(what)
        await original(*what)

    office._send = sending  # type: ignore[method-assign]
    account = alpha.wait(alpha.store.account(BOB))
    assert account is not None
    asking = [message(str(author), ext={"receipts": list(ALL)}) for author in (CAROL, ALICE)]
    for status in ALL:
        alpha.wait(alpha.office.acknowledge(account, asking if state == "revoked" else asking[:1], status))
    assert given == []


def test_nothing_is_given_unasked_nor_for_a_receipt_nor_to_oneself(houses: tuple[House, House]) -> None:
    alpha, _ = houses
    alice, bob = sign_in(alpha, ALICE), sign_in(alpha, BOB)
    sent(alpha, alice, BOB, ())
    sent(alpha, alice, ALICE, ALL)
    sent(alpha, alice, BOB, ("displayed",))
    for client in (alice, bob):
        for m in inbox(alpha, client):
            alpha.wait(client.mark("INBOX", [m.uid], displayed=True))
    assert statuses(alpha, alice) == ["displayed"]
    (receipt,) = inbox(alpha, alice, mailbox="Receipts")
    alpha.wait(alice.mark("Receipts", [receipt.uid], displayed=True))
    assert statuses(alpha, bob) == []
    looping = Payload(
        str(BOB), (str(ALICE),), 0, bytes(16), "receipt", parents=receipt.content.fields.parents,
        ext={"receipt": {"status": "displayed"}, "receipts": list(ALL)},
    )  # fmt: skip
    account = alpha.wait(alpha.store.account(ALICE))
    assert account is not None
    alpha.wait(alpha.office.acknowledge(account, [Content(b"", looping.encode(), b"", {})], "stored"))
    assert statuses(alpha, bob) == []


def receipt_for(of: bytes, author: Any, status: str = "displayed", to: Any = ALICE, **fields: Any) -> Content:
    fields = {"parents": (of,), "ext": {"receipt": {"status": status}}, **fields}
    payload = Payload(str(author), (str(to),), 1735689600000, bytes(16), "receipt", **fields)
    return Content(b"", payload.encode(), b"", {})


def test_forged_receipts(houses: tuple[House, House]) -> None:
    alpha, beta = houses
    alice = sign_in(alpha, ALICE)
    asked = signed(message(str(ALICE), b"To Carol", ext={"receipts": ["displayed"]}), alpha.key)
    unasked = signed(message(str(ALICE), b"To Carol too"), alpha.key)
    to_bob = signed(message(str(ALICE), b"To Bob", ext={"receipts": ["displayed"]}), alpha.key)
    for content, to in ((asked, CAROL), (unasked, CAROL), (to_bob, BOB)):
        assert codes(alpha.ask(alpha.user(ALICE), "send", of_user(content, str(to)))) == ["2.0.0"]
    peer = alpha.peer(beta.key)

    def answer(content: Content, to: Any = ALICE) -> list[str]:
        return codes(alpha.ask(peer, "send", of_domain(signed(content, beta.key), "", (str(to),))))

    assert answer(receipt_for(unasked.id, CAROL)) == ["5.7.1"]
    assert answer(receipt_for(bytes(32), CAROL)) == ["5.7.1"]
    assert answer(receipt_for(asked.id, CAROL, "stored")) == ["5.7.1"]
    assert answer(receipt_for(to_bob.id, CAROL)) == ["5.7.1"]  # Bob's to give
    assert answer(receipt_for(to_bob.id, BOB)) == ["5.7.1"]  # and not by beta
    assert answer(receipt_for(asked.id, "dave@beta.test")) == ["5.7.1"]
    assert answer(receipt_for(asked.id, CAROL), BOB) == ["5.7.1"]
    for bad in (
        receipt_for(asked.id, CAROL, "adored"),
        receipt_for(asked.id, CAROL, parents=()),
        receipt_for(asked.id, CAROL, ext={}),
        receipt_for(asked.id, CAROL, subject="You have won"),
        receipt_for(asked.id, CAROL, replaces=asked.id),
    ):
        assert answer(bad) == ["5.6.0"]
    assert inbox(alpha, alice) == []
    assert statuses(alpha, alice) == []
    assert answer(receipt_for(asked.id, CAROL)) == ["2.0.0"]
    assert statuses(alpha, alice) == ["displayed"]


def test_users_give_none_themselves(houses: tuple[House, House]) -> None:
    alpha, _ = houses
    sent(alpha, sign_in(alpha, ALICE), BOB)
    (got,) = alpha.inbox(BOB)
    reply = alpha.ask(alpha.user(BOB), "send", Send((str(ALICE),), payload=receipt_for(got.id, BOB).payload))
    assert codes(reply) == ["5.7.1"]
    assert alpha.inbox(BOB, "Sent") == []


# -- mail -----------------------------------------------------------------------------------------------------------

ASKING = (
    b"From: Alice <alice@alpha.test>\r\nTo: carol@beta.test\r\nSubject: Hi\r\nMessage-ID: <m1@alpha.test>\r\n"
    b"Disposition-Notification-To: alice@alpha.test\r\n\r\nHello\r\n"
)


def submit(house: House, owner: Any, mail: bytes, *to: Any, null: bool = False) -> list[str]:
    async def run() -> list[str]:
        account = await house.store.account(owner)
        assert account is not None
        path = None if null else owner
        assert (await house.office.reverse_path(path, account, "192.0.2.7")).ok
        arrival = Arrival(Envelope(path, to), Mail(mail), lambda name: b"", account, ORIGIN)
        (answers,) = await house.office.receive([arrival])
        return [outcome.code for outcome in answers.values()]

    return house.wait(run())


def test_a_mail_program_that_asks_gets_a_notification(houses: tuple[House, House]) -> None:
    alpha, beta = houses
    grant(beta, CAROL, ALICE)
    carol = sign_in(beta, CAROL)
    assert submit(alpha, ALICE, ASKING, CAROL) == ["2.0.0"]
    eventually(lambda: len(beta.inbox(CAROL)) == 1)
    (got,) = inbox(beta, carol)
    assert (got.bridged, got.asks_for) == (True, {"displayed"})
    beta.wait(carol.mark("INBOX", [got.uid], displayed=True))
    eventually(lambda: len(alpha.inbox(ALICE)) == 1)
    mail = mails(alpha, ALICE)[0]
    assert b"Disposition: manual-action/MDN-sent-manually; displayed" in mail
    assert b"Original-Message-ID: <m1@alpha.test>" in mail
    assert b"Final-Recipient: rfc822; carol@beta.test" in mail


def mails(house: House, owner: Any) -> list[bytes]:
    async def run() -> list[bytes]:
        account = await house.store.account(owner)
        assert account is not None
        box = await house.store.mailbox(account.account_id, "INBOX")
        ids = [entry.message_id for entry in await house.store.entries(account.account_id, box.mailbox_id)]
        found = await house.store.mails(account.account_id, ids)
        return [found[i] for i in ids]

    return house.wait(run())


def test_a_notification_by_mail_is_a_receipt_that_nobody_signed(houses: tuple[House, House]) -> None:
    """Carol sits in a mail program, which answers the field that Alice's object has in its mail form."""
    alpha, beta = houses
    beta.grant(CAROL, ALICE)
    alice = sign_in(alpha, ALICE)
    sent(alpha, alice, CAROL, ("displayed",))
    eventually(lambda: len(beta.inbox(CAROL)) == 1)
    mail = mails(beta, CAROL)[0]
    assert b"\r\nDisposition-Notification-To: alice@alpha.test\r\n" in mail
    (original,) = alpha.inbox(ALICE, "Sent")
    notification = (
        "From: carol@beta.test\r\nTo: alice@alpha.test\r\nSubject: Read: Hello\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/report; report-type=disposition-notification; boundary="b"\r\n\r\n'
        "--b\r\n\r\nIt was displayed.\r\n--b\r\nContent-Type: message/disposition-notification\r\n\r\n"
        "Reporting-UA: test\r\nFinal-Recipient: rfc822;carol@beta.test\r\n"
        f"Original-Message-ID: <{original.id.hex()}@alpha.test>\r\n"
        "Disposition: manual-action/MDN-sent-manually; displayed\r\n\r\n--b--\r\n"
    ).encode()
    assert submit(beta, CAROL, notification, ALICE, null=True) == ["2.0.0"]
    eventually(lambda: statuses(alpha, alice) == ["displayed"])
    (receipt,) = receipts(alpha, alice)
    assert (receipt.of, receipt.by, receipt.signed) == (original.id, str(CAROL), False)
    assert inbox(alpha, alice) == []
    another = notification.replace(b"rfc822;carol@", b"rfc822;dave@")
    assert submit(beta, CAROL, another, ALICE, null=True) == ["2.0.0"]
    eventually(lambda: len(alpha.inbox(ALICE)) == 1)  # nobody asked Dave: it is a mail like any other
    assert statuses(alpha, alice) == ["displayed"]


def outside(house: House, mail: bytes, to: Any) -> list[str]:
    """Mail from another server."""

    async def run() -> list[str]:
        arrival = Arrival(Envelope(None, (to,)), Mail(mail), lambda name: b"", None, ORIGIN)
        (answers,) = await house.office.receive([arrival])
        return [outcome.code for outcome in answers.values()]

    return house.wait(run())


def test_who_was_told_by_a_mail_program_is_not_told_again(houses: tuple[House, House]) -> None:
    """And a mail program learns that the author was told by a Parley client."""
    alpha, _ = houses
    alice, bob = sign_in(alpha, ALICE), sign_in(alpha, BOB)
    for _ in range(2):
        sent(alpha, alice, BOB, ("displayed",))
    sent(alpha, alice, BOB, ())
    uids = [m.uid for m in inbox(alpha, bob)]
    alpha.wait(bob.mark("INBOX", uids[:1], add=["$MDNSent"]))
    alpha.wait(bob.mark("INBOX", uids, displayed=True))
    ids = {m.uid: m.id for m in inbox(alpha, bob)}
    assert [r.of for r in receipts(alpha, alice)] == [ids[uids[1]]]
    flags = {m.uid: m.flags for m in inbox(alpha, bob)}
    assert flags == {uids[0]: ("$MDNSent", "\\Seen"), uids[1]: ("$MDNSent", "\\Seen"), uids[2]: ("\\Seen",)}


def test_an_author_whose_domain_speaks_only_mail_gets_a_notification(houses: tuple[House, House]) -> None:
    alpha, _ = houses
    dave = Address.parse("dave@mail.test")
    grant(alpha, BOB, dave)
    mail = ASKING.replace(b"alice@alpha.test", b"dave@mail.test").replace(b"carol@beta.test", b"bob@alpha.test")
    assert outside(alpha, mail, BOB) == ["2.0.0"]
    bob = sign_in(alpha, BOB)
    (got,) = inbox(alpha, bob)
    alpha.wait(bob.mark("INBOX", [got.uid], displayed=True))
    (queued,) = alpha.wait(alpha.queue.listing())
    assert (queued.recipient, queued.reverse_path) == (str(dave), "")
    content, _ = alpha.wait(alpha.queue.messages([queued.message_key]))[queued.message_key]
    notification = render(content)
    assert b"Original-Message-ID: <m1@alpha.test>" in notification
    assert b"From: bob@alpha.test" in notification


def test_a_receipt_that_came_by_mail_is_as_good(houses: tuple[House, House]) -> None:
    """Its signature rides in the mail; without it, or for another's message, it is what the mail says."""
    alpha, beta = houses
    asked = signed(message(str(ALICE), b"To Carol", ext={"receipts": ["displayed"]}), alpha.key)
    assert codes(alpha.ask(alpha.user(ALICE), "send", of_user(asked, str(CAROL)))) == ["2.0.0"]
    receipt = signed(receipt_for(asked.id, CAROL, ext=said(asked.id)), beta.key)
    alice = sign_in(alpha, ALICE)
    forged = render(receipt).replace(b"Parley-Object", b"X-Object")
    assert outside(alpha, forged, ALICE) == ["2.0.0"]
    assert outside(alpha, render(receipt), ALICE) == ["2.0.0"]
    assert [(r.of, r.status, r.signed) for r in receipts(alpha, alice)] == [
        (asked.id, "displayed", False), (asked.id, "displayed", True),
    ]  # fmt: skip
    unasked = signed(receipt_for(bytes(32), CAROL, ext=said(bytes(32))), beta.key)
    assert outside(alpha, render(unasked), ALICE) == ["5.7.1"]
    assert inbox(alpha, alice) == []


def said(of: bytes) -> dict[str, Any]:
    return {"receipt": {"status": "displayed"}, "references": [f"{of.hex()}@alpha.test"]}
