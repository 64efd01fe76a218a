"""Mail in, over real sockets: what is offered is true, what was asked is done."""

from __future__ import annotations

import email
import re
from collections.abc import Iterator
from typing import Any

import pytest

from demo.world import Gateway, World
from tests.patience import eventually
from tests.smtp_talk import Mailbox, NextHop, Talk

BINARY = (
    b"Subject: binary\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    + bytes(range(256))
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, reactor: Any) -> Iterator[World]:
    root = tmp_path_factory.mktemp("world")
    made = World(root, {"alpha.test": "127.0.70.1"}, {"legacy.test": "127.0.70.2"}, ["alice", "bob"])
    config = made.gateways["alpha.test"].config
    config.write_text(config.read_text() + "\n[limits]\nrecipients = 100\ntransactions = 5\nmessage_size = 1000000\n")
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def alpha(world: World) -> Gateway:
    return world.gateways["alpha.test"]


@pytest.fixture(scope="module")
def legacy(world: World) -> Iterator[NextHop]:
    made = NextHop("127.0.70.2", 2525)
    yield made
    made.close()


@pytest.fixture
def bob(alpha: Gateway) -> Iterator[Mailbox]:
    with Mailbox(alpha, "bob@alpha.test") as mailbox:
        yield mailbox
        mailbox.clear()


@pytest.fixture
def alice(alpha: Gateway) -> Iterator[Mailbox]:
    with Mailbox(alpha, "alice@alpha.test") as mailbox:
        yield mailbox
        mailbox.clear()


def below_trace(octets: bytes) -> bytes:
    found = re.match(rb"(?:(?:Return-Path|Received): [^\r]*\r\n(?:\t[^\r]*\r\n)*)*", octets)
    assert found is not None
    return octets[found.end() :]


# -- what is offered ------------------------------------------------------------------------------------------------


def test_what_is_offered_where(alpha: Gateway) -> None:
    with Talk(alpha) as talk:
        outside = talk.do("EHLO client.test").replace("250-", "").replace("250 ", "").split("\n")[1:]
        assert outside == [
            "PIPELINING", "SIZE 1000000", "8BITMIME", "BINARYMIME", "CHUNKING", "SMTPUTF8", "DSN",
            "ENHANCEDSTATUSCODES", "LIMITS RCPTMAX=100 MAILMAX=5", "STARTTLS",
        ]  # fmt: skip
        assert talk.do("HELO client.test") == "250 mx.alpha.test"
        assert talk.do("LHLO client.test").startswith("500 5.5.1")


def test_no_more_recipients_than_announced(alpha: Gateway, bob: Mailbox) -> None:
    with Talk(alpha) as talk:
        talk.all("EHLO client.test", "MAIL FROM:<x@elsewhere.test>", "RCPT TO:<bob@alpha.test>")
        codes = [talk.do(f"RCPT TO:<nobody{n}@alpha.test>")[:9] for n in range(15)]
        assert set(codes) == {"550 5.1.1"}  # refused ones count too (RFC 9422 §4.2)
        codes = [talk.do("RCPT TO:<bob@alpha.test>")[:9] for _ in range(120)]
        assert codes == ["250 2.1.5"] * 84 + ["452 4.5.3"] * 36
        talk.do("DATA")
        assert talk.do(b"Subject: x\r\n\r\nx\r\n.\r\n").startswith("250")
    assert len(bob.wait(1)) == 1


def test_a_million_recipients_end_the_session(alpha: Gateway) -> None:
    with Talk(alpha) as talk:
        talk.all("EHLO client.test", "MAIL FROM:<x@elsewhere.test>")
        said = ["".join(talk.do("RCPT TO:<bob@alpha.test>")) for _ in range(200)]
        assert sum(line.startswith("250") for line in said) == 100
        assert talk.do("RCPT TO:<bob@alpha.test>") == "421 4.7.0 Too many recipients, refused ones counted"
        assert talk.ended()


def test_who_brings_mail_may_err_again(alpha: Gateway, bob: Mailbox) -> None:
    """A large sender, on one connection for long, knows many who are gone."""
    with Talk(alpha) as talk:
        talk.do("EHLO client.test")
        for _ in range(3):
            talk.do("MAIL FROM:<x@elsewhere.test>")
            assert {talk.do(f"RCPT TO:<gone{n}@alpha.test>")[:9] for n in range(15)} == {"550 5.1.1"}
            talk.all("RCPT TO:<bob@alpha.test>", "DATA")
            assert talk.do(b"Subject: x\r\n\r\nx\r\n.\r\n").startswith("250")
    bob.wait(3)


def test_no_more_transactions_than_announced(alpha: Gateway, bob: Mailbox) -> None:
    with Talk(alpha) as talk:
        talk.do("EHLO client.test")
        for _ in range(5):
            assert talk.do("MAIL FROM:<x@elsewhere.test>").startswith("250")
            talk.do("RSET")
        assert talk.do("MAIL FROM:<x@elsewhere.test>").startswith("421 4.7.0 No more than 5 transactions")
        assert talk.ended()


# -- BDAT (RFC 3030) ------------------------------------------------------------------------------------------------


def test_binary_by_chunks_comes_out_octet_for_octet(alpha: Gateway, bob: Mailbox) -> None:
    with Talk(alpha) as talk:
        talk.all("EHLO client.test", "MAIL FROM:<x@elsewhere.test> BODY=BINARYMIME", "RCPT TO:<bob@alpha.test>")
        half = len(BINARY) // 2
        assert talk.do(b"BDAT %d\r\n" % half + BINARY[:half]) == f"250 2.0.0 {half} octets received"
        rest = BINARY[half:]
        assert talk.do(b"BDAT %d LAST\r\n" % len(rest) + rest).startswith("250 2.0.0")
        assert talk.do("NOOP").startswith("250")
    (octets,) = bob.wait(1)
    assert below_trace(octets) == BINARY


def test_all_of_a_transaction_in_one_write(alpha: Gateway, bob: Mailbox) -> None:
    mail = b"Subject: chunks\r\n\r\n.\r\nMAIL FROM:<evil@elsewhere.test>\r\n"
    with Talk(alpha) as talk:
        talk.say(b"EHLO client.test\r\nMAIL FROM:<x@elsewhere.test>\r\nRCPT TO:<nobody@alpha.test>\r\n")
        talk.say(b"RCPT TO:<bob@alpha.test>\r\n" + b"BDAT %d LAST\r\n" % len(mail) + mail + b"QUIT\r\n")
        codes = [talk.reply()[:3] for _ in range(6)]
        assert codes == ["250", "250", "550", "250", "250", "221"]
    assert below_trace(bob.wait(1)[0]) == mail


def test_chunks_nobody_gets_are_no_commands(alpha: Gateway, bob: Mailbox) -> None:
    hidden = b"RSET\r\nMAIL FROM:<evil@elsewhere.test>\r\nRCPT TO:<bob@alpha.test>\r\nDATA\r\nx\r\n.\r\n"
    with Talk(alpha) as talk:
        talk.do("EHLO client.test")
        assert talk.do(b"BDAT %d LAST\r\n" % len(hidden) + hidden).startswith("503 5.5.1")
        talk.do("MAIL FROM:<x@elsewhere.test>")
        talk.do("RCPT TO:<nobody@alpha.test>")
        assert talk.do(b"BDAT %d LAST\r\n" % len(hidden) + hidden).startswith("503 5.5.1")
        assert talk.do("NOOP").startswith("250 2.0.0 Still here")
        assert talk.do("BDAT many LAST").startswith("521 5.5.4")
        assert talk.ended()
    assert bob.mails() == []


def test_chunks_larger_than_announced(alpha: Gateway, bob: Mailbox) -> None:
    with Talk(alpha) as talk:
        talk.all("EHLO client.test", "MAIL FROM:<x@elsewhere.test>", "RCPT TO:<bob@alpha.test>")
        assert talk.do(b"BDAT 600000\r\n" + b"x" * 600_000).startswith("250")
        assert talk.do(b"BDAT 600000\r\n" + b"x" * 600_000).startswith("552 5.3.4")
        assert talk.do(b"BDAT 2 LAST\r\nxx").startswith("503")
        assert talk.do("MAIL FROM:<x@elsewhere.test> SIZE=1000001").startswith("552 5.3.4")
    assert bob.mails() == []


def test_bare_line_ends_come_as_binary_or_not_at_all(alpha: Gateway, bob: Mailbox) -> None:
    with Talk(alpha) as talk:
        talk.all("EHLO client.test", "MAIL FROM:<x@elsewhere.test>", "RCPT TO:<bob@alpha.test>")
        assert talk.do(b"BDAT 5 LAST\r\na\r\n\nb").startswith("550 5.6.0")
        talk.all("MAIL FROM:<x@elsewhere.test> BODY=BINARYMIME", "RCPT TO:<bob@alpha.test>")
        assert talk.do("DATA").startswith("503 5.5.1 BODY=BINARYMIME")
    assert bob.mails() == []


# -- what the sender asks to be told (RFC 3461) ---------------------------------------------------------------------

MAIL = b"From: alice@alpha.test\r\nTo: c@legacy.test\r\nSubject: asked\r\n\r\nthe body\r\n"


def submit(alpha: Gateway, parameters: str, rcpt: str, to: str = "carol@legacy.test") -> None:
    with Talk(alpha, "submissions", tls=True) as talk:
        talk.sign_in()
        assert talk.send("alice@alpha.test", [to], MAIL, parameters, rcpt).startswith("250")


def log(alpha: Gateway, words: str) -> None:
    """Waits until the gateway has said so."""
    eventually(lambda: words in (alpha.root / "gatewayd.log").read_text(), lambda: words)


def test_a_bounce_as_it_was_asked_for(alpha: Gateway, legacy: NextHop, alice: Mailbox) -> None:
    legacy.answers = {"RCPT": b"550 5.1.1 gone\r\n"}
    submit(alpha, " RET=FULL ENVID=QQ+2B314", " NOTIFY=FAILURE ORCPT=rfc822;Old+2BName@legacy.test")
    (octets,) = alice.wait(1)
    human, status, original = email.message_from_bytes(octets).get_payload()  # type: ignore[misc]
    fields, recipient = status.get_payload()  # type: ignore[union-attr]
    assert fields["Original-Envelope-Id"] == "QQ+314"  # type: ignore[index]
    assert recipient["Original-Recipient"] == "rfc822;Old+Name@legacy.test"  # type: ignore[index]
    assert recipient["Final-Recipient"] == "rfc822; carol@legacy.test"  # type: ignore[index]
    assert "your message" in human.get_payload()  # type: ignore[union-attr]
    assert original.get_content_type() == "message/rfc822"  # type: ignore[union-attr]
    assert "the body" in str(original)
    alice.clear()
    submit(alpha, " RET=HDRS", "")
    (octets,) = alice.wait(1)
    assert b"Subject: asked" in octets
    assert b"the body" not in octets
    assert b"Original-" not in octets


def test_success_is_told_when_asked_for(alpha: Gateway, alice: Mailbox, bob: Mailbox) -> None:
    submit(alpha, " ENVID=one", " NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;B@alpha.test", "bob@alpha.test")
    submit(alpha, "", " NOTIFY=FAILURE", "bob@alpha.test")
    bob.wait(2)
    (octets,) = alice.wait(1)
    status = email.message_from_bytes(octets).get_payload()[1]  # type: ignore[index]
    fields, recipient = status.get_payload()  # type: ignore[union-attr]
    assert fields["Original-Envelope-Id"] == "one"  # type: ignore[index]
    assert recipient["Action"] == "delivered"  # type: ignore[index]
    assert recipient["Original-Recipient"] == "rfc822;B@alpha.test"  # type: ignore[index]
    assert b"the body" not in octets


def test_no_bounce_for_one_who_wants_none(alpha: Gateway, legacy: NextHop, alice: Mailbox) -> None:
    legacy.answers = {"RCPT TO:<gone@": b"550 5.1.1 gone\r\n"}
    submit(alpha, "", " NOTIFY=NEVER", "gone@legacy.test")
    submit(alpha, "", " NOTIFY=SUCCESS", "gone@legacy.test")
    log(alpha, "gone@legacy.test refused by Mail")
    legacy.answers["RCPT TO:<last@"] = b"550 5.1.1 gone\r\n"
    submit(alpha, "", "", "last@legacy.test")
    (octets,) = alice.wait(1)  # of the last one only
    assert b"last@legacy.test" in octets


@pytest.mark.parametrize(
    "command",
    [
        "MAIL FROM:<x@elsewhere.test> RET=ALL", "MAIL FROM:<x@elsewhere.test> ENVID=a+0D+0AX",
        "MAIL FROM:<x@elsewhere.test> BODY=9BIT", "RCPT TO:<bob@alpha.test> NOTIFY=NEVER,DELAY",
        "RCPT TO:<bob@alpha.test> ORCPT=rfc822;x+0D+0ABcc:y",
    ],
)  # fmt: skip
def test_what_cannot_be_asked(alpha: Gateway, command: str) -> None:
    with Talk(alpha) as talk:
        talk.do("EHLO client.test")
        if command.startswith("RCPT"):
            talk.do("MAIL FROM:<x@elsewhere.test>")
        assert talk.do(command).startswith("501 5.5.4")
        assert talk.do("MAIL FROM:<x@elsewhere.test> HOLDFOR=10")[:3] in {"555", "503"}


# -- what our users hand in -----------------------------------------------------------------------------------------


def test_what_users_submit_is_completed_and_theirs(alpha: Gateway, bob: Mailbox) -> None:
    with Talk(alpha, "submissions", tls=True) as talk:
        talk.sign_in()
        mail = b"Bcc: carol@alpha.test\r\nSubject: x\r\n\r\nBcc: not a field\r\n"
        answer = talk.send("alice@alpha.test", ["bob@alpha.test"], mail)
        (octets,) = bob.wait(1)
        got = email.message_from_bytes(octets)
        assert (got["From"], got["Bcc"], got.get_payload()) == ("alice@alpha.test", None, "Bcc: not a field\r\n\r\n")
        assert got["Date"] and got["Message-ID"].endswith("@alpha.test>")
        named = re.fullmatch(r"250 2\.0\.0 Delivered, id ([0-9a-f]{16})", answer)
        assert named is not None
        assert f" id {named[1]}" in got["Received"]
        for header in (b"From: bob@alpha.test", b"From: alice@alpha.test\r\nSender: bob@alpha.test", b"From: us:;"):
            answer = talk.send("alice@alpha.test", ["bob@alpha.test"], header + b"\r\n\r\nbody")
            assert answer.startswith("550 5.7.1 "), header
        assert len(bob.mails()) == 1


def test_why_a_client_was_turned_away_can_be_found(alpha: Gateway) -> None:
    with Talk(alpha) as talk:
        talk.do("EHLO asks.test")
        talk.do("MAIL FROM:<alice@alpha.test>")
        talk.do("MAIL FROM:<x@elsewhere.test>")
        talk.all("RCPT TO:<nobody@alpha.test>", "RCPT TO:<x@elsewhere.test>")
    lines = [
        "not taken: from <alice@alpha.test> by asks.test [127.0.0.1]: 5.7.1 Relaying denied; sign in first",
        "not taken: from <x@elsewhere.test> to <nobody@alpha.test> by asks.test [127.0.0.1]: 5.1.1 No such user here",
        "not taken: from <x@elsewhere.test> to <x@elsewhere.test> by asks.test [127.0.0.1]: 5.7.1 Relaying denied",
    ]
    eventually(lambda: all(line in (alpha.root / "gatewayd.log").read_text() for line in lines))
