"""Whom an address of ours reaches: over the real store, and over real sockets."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock

from demo.world import PASSWORD, Gateway, World, ctl
from gatewayd.address import Address, Domain
from gatewayd.core.recipients import MAX_TARGETS, Recipients
from gatewayd.database.sqlite import Database
from gatewayd.interfaces.records import ScramCredentials
from gatewayd.store.blobs import BlobStore
from gatewayd.store.sqlite import SQLiteStore
from tests.loop import Loop
from tests.smtp_talk import Mailbox, NextHop, Talk

ALPHA = Domain.parse("alpha.test")
ADMIN = Address.parse("admin@alpha.test")


class House:
    def __init__(self, root: Path) -> None:
        self.loop = Loop()
        self.database = Database(root / "test.sqlite", self.loop.post)
        self.store = SQLiteStore(self.database, BlobStore(root / "blobs"), Clock(), time.time, maybeDeferred)
        self.one = self.loop.one
        self.one(self.store.add_domain(ALPHA))
        for name in ("alice", "bob", "admin", "a+b"):
            self.one(self.store.add_account(Address(name, ALPHA), ScramCredentials(b"", 1, b"", b"")))
        self.recipients = Recipients(self.store, Domain.parse("mx.alpha.test"), ADMIN)

    def alias(self, alias: str, *targets: str) -> None:
        source = Address("", ALPHA) if alias == "@" else Address.parse(f"{alias}@alpha.test")
        for target in targets:
            self.one(self.store.add_alias(source, Address.parse(target if "@" in target else f"{target}@alpha.test")))

    def find(self, name: str) -> list[str]:
        found = self.one(self.recipients.find(Address.parse(name if "@" in name else f"{name}@alpha.test")))
        return (
            ["loop"] * found.circular + sorted(a.address.local for a in found.accounts) + [*map(str, found.elsewhere)]
        )


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.database.close()


def test_accounts_and_plus_addresses(house: House) -> None:
    assert (
        house.find("alice") == house.find("ALICE") == house.find("alice+lists") == house.find("Alice+a+b") == ["alice"]
    )
    assert house.find("a+b") == ["a+b"]
    assert house.find("nobody") == house.find("+alice") == house.find("nobody+x") == []
    assert house.find("postmaster") == house.find("Postmaster@mx.alpha.test") == ["admin"]


def test_aliases(house: House) -> None:
    house.alias("sales", "alice", "bob+work", "far@away.test")
    house.alias("everybody", "sales", "admin", "everybody")
    house.alias("bob", "bob", "copy@away.test")
    house.alias("alice+shop", "admin")
    assert house.find("Sales+de") == ["alice", "bob", "far@away.test", "copy@away.test"]
    assert house.find("everybody") == ["admin", "alice", "bob", "far@away.test", "copy@away.test"]
    assert house.find("bob") == ["bob", "copy@away.test"]
    assert house.find("alice+shop") == ["admin"]
    assert house.find("alice") == ["alice"]
    assert house.find("nobody") == []


def test_circles_end(house: House) -> None:
    house.alias("x", "y")
    house.alias("y", "x")
    assert house.find("x") == ["loop"]
    house.alias("y", "alice")
    assert house.find("x") == ["alice"]
    house.alias("many", *(f"u{n}@away.test" for n in range(3 * MAX_TARGETS)))
    assert len(house.find("many")) == MAX_TARGETS


def test_catch_all_is_for_nobody_elses_mail(house: House) -> None:
    house.alias("@", "bob")
    house.alias("sales", "alice")
    assert house.find("whoever") == house.find("whoever+x") == ["bob"]
    assert house.find("alice+x") == house.find("sales") == ["alice"]
    assert house.find("postmaster") == ["admin"]


def test_what_every_domain_has(house: House) -> None:
    """RFC 2142: abuse and the like are the postmaster's, whatever catch-all there is, unless somebody has the name."""
    assert house.find("abuse") == house.find("Security") == house.find("hostmaster@mx.alpha.test") == ["admin"]
    house.alias("@", "bob")
    house.alias("postmaster", "alice")
    assert house.find("abuse") == house.find("NOC") == house.find("postmaster") == ["alice"]
    house.alias("abuse", "bob")
    assert house.find("abuse") == ["bob"]
    assert house.find("webmaster") == ["alice"]
    assert house.find("info") == ["bob"]


def test_who_may_send_as_what(house: House) -> None:
    house.alias("sales", "alice", "bob")
    alice = house.one(house.store.account(Address.parse("alice@alpha.test")))
    for name, may in (("Alice", True), ("alice+x", True), ("sales", True), ("bob", False), ("nobody", False)):
        assert house.one(house.recipients.owns(alice, Address(name, ALPHA))) == may
    assert not house.one(house.recipients.owns(alice, Address.parse("alice@away.test")))


# -- over real sockets ----------------------------------------------------------------------------------------------

MAIL = b"From: x@elsewhere.test\r\nSubject: to an alias\r\n\r\nbody\r\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, reactor: Any) -> Iterator[World]:
    root = tmp_path_factory.mktemp("world")
    made = World(root, {"alpha.test": "127.0.70.5"}, {"legacy.test": "127.0.70.6"}, ["alice", "bob"])
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def alpha(world: World) -> Gateway:
    return world.gateways["alpha.test"]


@pytest.fixture(scope="module")
def legacy(world: World) -> Iterator[NextHop]:
    made = NextHop("127.0.70.6", 2525)
    yield made
    made.close()


def told(gateway: Gateway, *words: str, stdin: str = "") -> None:
    assert ctl("--config", gateway.config, *words, stdin=stdin).returncode == 0
    time.sleep(1.1)  # what another process changes is seen within a second (KNOWN_FOR)


def test_one_mail_to_an_alias_reaches_all(alpha: Gateway, legacy: NextHop) -> None:
    told(alpha, "alias", "add", "sales@alpha.test", "alice@alpha.test", "bob@alpha.test", "carol@legacy.test")
    with Talk(alpha) as talk:
        talk.do("EHLO client.test")
        assert talk.send("x@elsewhere.test", ["sales+now@alpha.test"], MAIL).startswith("250 2.0.0")
        assert talk.do("RCPT TO:<nobody@alpha.test>").startswith("503")
    for user in ("alice@alpha.test", "bob@alpha.test"):
        with Mailbox(alpha, user) as mailbox:
            (octets,) = mailbox.wait(1)
            assert octets.startswith(b"Return-Path: <x@elsewhere.test>\r\n")
            mailbox.clear()
    (sent_on,) = legacy.wait(1)
    assert sent_on.startswith(b"Delivered-To: sales+now@alpha.test\r\nReceived: ")
    (path,) = (
        found[1] for line in legacy.heard if (found := re.match("MAIL FROM:<(SRS0=[^>]*=elsewhere.test=x)@", line))
    )
    with Talk(alpha) as talk:  # what comes back finds its way, and nobody else's does
        talk.do("EHLO legacy.test")
        talk.do("MAIL FROM:<>")
        assert talk.do(f"RCPT TO:<{path}@alpha.test>").startswith("250")
        assert talk.do(f"RCPT TO:<{path.replace('=x', '=y')}@alpha.test>").startswith("550")
    with Talk(alpha) as talk:  # it comes back
        talk.do("EHLO legacy.test")
        again = sent_on.removesuffix(b".\r\n")
        assert talk.send("x@elsewhere.test", ["sales+now@alpha.test"], again).startswith("554 5.4.6")
    assert len(legacy.mails) == 1


def test_a_full_mailbox(alpha: Gateway) -> None:
    told(alpha, "quota", "bob@alpha.test", "--octets", "4K", "--messages", "2")
    with Talk(alpha) as talk, Mailbox(alpha, "bob@alpha.test") as bob:
        talk.do("EHLO client.test")
        big = b"Subject: big\r\n\r\n" + b"x" * 70 + b"\r\n"
        assert talk.send("x@elsewhere.test", ["bob@alpha.test"], big * 60).startswith("552 5.2.2")
        for size, answer in ((5000, "552 5.2.2"), (4000, "250 2.1.5")):  # announced
            talk.do(f"MAIL FROM:<x@elsewhere.test> SIZE={size}")
            assert talk.do("RCPT TO:<bob@alpha.test>").startswith(answer)
            talk.do("RSET")
        assert talk.send("x@elsewhere.test", ["bob@alpha.test"], big).startswith("250")
        talk.do("MAIL FROM:<x@elsewhere.test> SIZE=4000")
        assert talk.do("RCPT TO:<bob@alpha.test>") == "452 4.2.2 The mailbox is full"
        talk.do("RSET")
        assert talk.send("x@elsewhere.test", ["bob@alpha.test"], big).startswith("250")
        talk.do("MAIL FROM:<x@elsewhere.test>")
        assert talk.do("RCPT TO:<bob@alpha.test>") == "452 4.2.2 The mailbox is full"
        imap = bob.imap
        assert imap.getquotaroot("INBOX")[1][0] == [b'"INBOX" ""']
        assert imap.getquota('""')[1] == [b'"" (STORAGE 1 4 MESSAGE 2 2)']
        typ, answer = imap.append("INBOX", None, None, big)  # type: ignore[arg-type]
        assert typ == "NO" and answer[0].startswith(b"[OVERQUOTA]")
        bob.clear()
        assert imap.getquota('""')[1] == [b'"" (STORAGE 0 4 MESSAGE 0 2)']
        assert talk.do("RCPT TO:<bob@alpha.test>").startswith("250")


def test_sending_as_an_alias(alpha: Gateway) -> None:
    told(alpha, "alias", "add", "press@alpha.test", "alice@alpha.test")
    with Talk(alpha, "submissions", tls=True) as talk, Mailbox(alpha, "alice@alpha.test") as alice:
        talk.sign_in("alice@alpha.test")
        mail = MAIL.replace(b"x@elsewhere.test", b"Press <press@alpha.test>")
        assert talk.send("press@alpha.test", ["alice@alpha.test"], mail).startswith("250")
        assert talk.send("alice+x@alpha.test", ["alice@alpha.test"], mail).startswith("250")
        alice.wait(2)
        assert talk.do("MAIL FROM:<bob@alpha.test>").startswith("550 5.7.1")
        forged = MAIL.replace(b"x@elsewhere.test", b"bob@alpha.test")
        assert talk.send("alice@alpha.test", ["alice@alpha.test"], forged).startswith("550 5.7.1")


def test_an_address_that_is_not_ascii(alpha: Gateway) -> None:
    told(alpha, "account", "add", "Jürgen@alpha.test", "--password-stdin", stdin=f"{PASSWORD}\n")
    with Talk(alpha) as talk:
        talk.do("EHLO client.test")
        talk.do("MAIL FROM:<x@elsewhere.test>")
        assert talk.do("RCPT TO:<jürgen@alpha.test>").startswith("553 5.6.7")
        talk.do("RSET")
        assert talk.do("MAIL FROM:<dvořák@elsewhere.test>").startswith("550 5.6.7")
        mail = "From: dvořák@elsewhere.test\r\nSubject: für dich\r\n\r\nx".encode()
        decomposed = unicodedata.normalize("NFD", "jürgen+neu")
        for name in ("JÜRGEN", decomposed):
            assert talk.send("dvořák@elsewhere.test", [f"{name}@alpha.test"], mail, " SMTPUTF8").startswith("250")
    with Mailbox(alpha, "jürgen@alpha.test") as mailbox:
        first, _ = mailbox.wait(2)
        assert first.startswith("Return-Path: <dvořák@elsewhere.test>\r\n".encode())
        assert b"with UTF8SMTP id" in first and first.endswith(mail + b"\r\n")
