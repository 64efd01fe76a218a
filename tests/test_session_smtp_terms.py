"""LMTP, REQUIRETLS and FUTURERELEASE, over real sockets: what each listener offers, and what becomes of it."""

from __future__ import annotations

import os
import re
import shutil
import smtplib
import socket
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from demo.legacy import PostfixInstance
from demo.world import Gateway, World
from tests.smtp_talk import TIMEOUT, Mailbox, Talk

MAIL = b"From: alice@alpha.test\r\nSubject: terms\r\n\r\nbody\r\n"
LMTP = ("127.0.70.8", 2424)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, reactor: Any) -> Iterator[World]:
    root = tmp_path_factory.mktemp("world")
    made = World(root, {"alpha.test": "127.0.70.8"}, {"legacy.test": "127.0.70.9"}, ["alice", "bob"])
    config = made.gateways["alpha.test"].config
    text = config.read_text().replace("[listen]\n", '[listen]\nlmtp = ["127.0.70.8:2424"]\n')
    config.write_text(text + "\n[limits]\nmessage_size = 100000\n")
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def alpha(world: World) -> Gateway:
    return world.gateways["alpha.test"]


@pytest.fixture
def bob(alpha: Gateway) -> Iterator[Mailbox]:
    with Mailbox(alpha, "bob@alpha.test") as mailbox:
        yield mailbox
        mailbox.clear()


def queued(alpha: Gateway, column: str) -> list[Any]:
    with sqlite3.connect(alpha.root / "state/gatewayd.sqlite") as database:
        return [value for (value,) in database.execute(f"SELECT {column} FROM queue_recipient ORDER BY queue_id")]


# -- LMTP (RFC 2033) ------------------------------------------------------------------------------------------------


class LMTPTalk(Talk):
    def __init__(self, alpha: Gateway) -> None:
        super().__init__(alpha, connected=socket.create_connection(LMTP, TIMEOUT))


def test_an_answer_for_each_recipient(alpha: Gateway, bob: Mailbox) -> None:
    with LMTPTalk(alpha) as talk:
        assert talk.do("EHLO front.test").startswith("500 5.5.1")
        assert talk.do("HELO front.test").startswith("500 5.5.1")
        offers = talk.do("LHLO front.test")
        assert "PIPELINING" in offers and "AUTH" not in offers and "FUTURERELEASE" not in offers
        to = ["bob@alpha.test", "alice@alpha.test", "bob+again@alpha.test", "bob@alpha.test"]
        talk.do("MAIL FROM:<alice@alpha.test>")  # whom the server in front has judged
        assert talk.do("RCPT TO:<nobody@alpha.test>").startswith("550 5.1.1")
        assert talk.do("RCPT TO:<x@legacy.test>").startswith("550 5.7.1")
        assert all(answer.startswith("250") for answer in talk.all(*(f"RCPT TO:<{address}>" for address in to)))
        assert talk.do("DATA").startswith("354")
        talk.say(MAIL + b".\r\nNOOP\r\n")
        assert [talk.reply()[:24] for _ in to] == ["250 2.0.0 Delivered, id "] * 4
        assert talk.reply() == "250 2.0.0 Still here"
        (octets,) = bob.wait(1)
        assert b"with LMTP id" in octets


def test_what_is_refused_is_refused_to_each(alpha: Gateway, bob: Mailbox) -> None:
    with LMTPTalk(alpha) as talk:
        talk.do("LHLO front.test")
        rcpts = ("RCPT TO:<bob@alpha.test>", "RCPT TO:<alice@alpha.test>")
        for content in (b"bare\nline\r\n.\r\n", b"x" * 100_001 + b"\r\n.\r\n", b"Received: x\r\n" * 51 + b"\r\n.\r\n"):
            talk.all("MAIL FROM:<>", *rcpts, "DATA")
            talk.say(content)
            answers = [talk.reply() for _ in rcpts]
            assert answers[0] == answers[1] and answers[0][:1] == "5"
        talk.all("MAIL FROM:<>", *rcpts)
        assert talk.do(b"BDAT 100001\r\n" + b"x" * 100_001).startswith("552")
        assert talk.do("NOOP").startswith("250 2.0.0 Still here")
    assert bob.mails() == []


def test_smtplib_speaks_lmtp_to_it(alpha: Gateway, bob: Mailbox) -> None:
    with smtplib.LMTP(*LMTP) as lmtp:
        assert (
            lmtp.sendmail("x@elsewhere.test", ["bob@alpha.test"], MAIL) == {}
        )  # it reads one answer, whatever it sent
    bob.wait(1)


FRONT_CF = """\
compatibility_level = 3.6
queue_directory = {root}/queue
data_directory = {root}/data
mail_owner = postfix
myhostname = front.alpha.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = loopback-only
inet_protocols = ipv4
smtp_dns_support_level = disabled
virtual_mailbox_domains = alpha.test
virtual_mailbox_maps = static:all
virtual_transport = lmtp:inet:127.0.70.8:2424
"""


@pytest.mark.skipif(shutil.which("postfix") is None or os.geteuid() != 0, reason="no Postfix, or no root to start it")
def test_postfix_in_front(alpha: Gateway, bob: Mailbox, tmp_path: Path) -> None:
    front = PostfixInstance(tmp_path / "front", "127.0.70.28", FRONT_CF)
    front.start()
    try:
        with smtplib.SMTP("127.0.70.28", 2525, timeout=TIMEOUT) as smtp:
            smtp.sendmail("alice@alpha.test", ["bob@alpha.test", "nobody@alpha.test", "bob+x@alpha.test"], MAIL)
        (octets,) = bob.wait(1)
        assert re.search(rb"Received: from front\.alpha\.test .*\r\n(\t.*\r\n)?\tby mx\.alpha\.test with LMTP", octets)
    finally:
        front.stop()


# -- REQUIRETLS (RFC 8689) ------------------------------------------------------------------------------------------


def test_requiretls_is_offered_under_tls_only_and_kept(alpha: Gateway) -> None:
    with Talk(alpha) as talk:
        assert "REQUIRETLS" not in talk.do("EHLO client.test")
        assert talk.do("MAIL FROM:<x@elsewhere.test> REQUIRETLS").startswith("555 5.5.4")
        talk.start_tls()
        assert "REQUIRETLS" in talk.do("EHLO client.test")
        assert talk.do("MAIL FROM:<x@elsewhere.test> REQUIRETLS").startswith("250")
    with Talk(alpha, "submissions", tls=True) as talk:
        talk.sign_in()
        assert talk.send("alice@alpha.test", ["c@legacy.test"], MAIL, " REQUIRETLS").startswith("250")
    assert queued(alpha, "options")[-1:] == ["REQUIRETLS"]


# -- FUTURERELEASE (RFC 4865) ---------------------------------------------------------------------------------------


def test_a_message_is_held_for_users_here_too(alpha: Gateway, bob: Mailbox) -> None:
    with Talk(alpha, "submissions", tls=True) as talk:
        offers = talk.do("EHLO client.test")
        found = re.search(r"FUTURERELEASE 2592000 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)\n", offers)
        assert found is not None
        assert abs(datetime.fromisoformat(found[1]).timestamp() - time.time() - 2_592_000) < 600
        talk.sign_in()
        before = time.time()
        assert talk.send("alice@alpha.test", ["bob@alpha.test"], MAIL, " HOLDFOR=3").startswith("250")
        assert talk.send("alice@alpha.test", ["bob@alpha.test"], MAIL, " HOLDFOR=2000000").startswith("250")
        until = datetime.fromtimestamp(before + 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        assert talk.send("alice@alpha.test", ["bob@alpha.test"], MAIL, f" HOLDUNTIL={until}").startswith("250")
        assert talk.do("MAIL FROM:<alice@alpha.test> HOLDFOR=2592999").startswith("501 5.5.4")
        assert talk.do("MAIL FROM:<alice@alpha.test> HOLDUNTIL=2999-01-01T00:00:00Z").startswith("501 5.5.4")
        assert talk.do("MAIL FROM:<alice@alpha.test> HOLDUNTIL=soon").startswith("501 5.5.4")
    held = [when - before for when in queued(alpha, "next_attempt")[-3:]]
    for seconds, wanted in zip(held, (3, 2_000_000, 1_000_000), strict=True):
        assert wanted - 2 < seconds < wanted + 100
    bob.wait(1)  # the first


def test_only_users_hold(alpha: Gateway) -> None:
    with Talk(alpha) as talk:
        assert "FUTURERELEASE" not in talk.do("EHLO client.test")
        assert talk.do("MAIL FROM:<x@elsewhere.test> HOLDFOR=10").startswith("555 5.5.4")
