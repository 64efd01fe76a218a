"""Attacks on the mail side, over real sockets: each gets a clear no or harms nobody else.

More of them: test_hostile.py (false ends of data, what is said ahead of TLS), test_session_smtp_server.py (BDAT, a
million recipients), test_session_smtp_client.py (what servers answer), test_net_protocol.py (who trickles).
"""

from __future__ import annotations

import base64
import gzip
import imaplib
import re
import smtplib
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from demo.world import PASSWORD, Gateway
from tests.smtp_talk import Mailbox, Talk

MAIL = b"From: x@elsewhere.test\r\nSubject: x\r\n\r\nbody\r\n"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    made = Gateway(tmp_path_factory.mktemp("gateway"), "alpha.test", "127.0.70.30", ["alice", "bob"], 9)
    made.start()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def nothing_goes_out_and_nothing_breaks(gateway: Gateway) -> Iterator[None]:
    """No attack makes the gateway send anything, to anybody: no relaying and no backscatter."""
    yield
    with sqlite3.connect(gateway.root / "state/gatewayd.sqlite") as database:
        assert database.execute("SELECT recipient FROM queue_recipient").fetchall() == []
    assert gateway.health() == {"store": "ok"}
    assert "Traceback" not in (gateway.root / "gatewayd.log").read_text()


@pytest.fixture
def bob(gateway: Gateway) -> Iterator[Mailbox]:
    with Mailbox(gateway, "bob@alpha.test") as mailbox:
        yield mailbox
        mailbox.clear()


def hello(gateway: Gateway) -> Talk:
    talk = Talk(gateway)
    talk.do("EHLO evil.test")
    return talk


# -- open relay probes ----------------------------------------------------------------------------------------------

PROBES = [
    "victim@elsewhere.test", '"victim@elsewhere.test"', '"victim@elsewhere.test"@alpha.test',
    "victim%elsewhere.test@alpha.test", "victim%elsewhere.test", "elsewhere.test!victim@alpha.test",
    "elsewhere.test!victim", "@alpha.test:victim@elsewhere.test", "@alpha.test,@mx.alpha.test:victim@elsewhere.test",
    "victim@elsewhere.test@alpha.test", '"victim"@elsewhere.test', "victim@[127.0.0.1]", "victim@[IPv6:::1]",
    "victim@elsewhere.test.", "victim@localhost", "victim@ALPHA.test.elsewhere.test", "alice@alpha.test@elsewhere.test",
    "alice@alpha.test,victim@elsewhere.test", "alice@alpha.test> <victim@elsewhere.test",
    "\u0430lice@alpha.test", "alice@\u0430lpha.test", "alice@xn--lpha-43d.test", "alice@alpha.test\u3002elsewhere.test",
]  # fmt: skip


@pytest.mark.parametrize(
    "sender", ["", "spam@elsewhere.test", "alice@alpha.test", "x@mx.alpha.test", "alice@[127.0.70.30]"]
)
def test_no_open_relay(gateway: Gateway, sender: str) -> None:
    with hello(gateway) as talk:
        if not talk.do(f"MAIL FROM:<{sender}> SMTPUTF8").startswith("250"):
            assert sender.endswith(("alpha.test", "]"))
            return
    for probe in PROBES:
        with hello(gateway) as talk:
            talk.do(f"MAIL FROM:<{sender}> SMTPUTF8")
            assert talk.do(f"RCPT TO:<{probe}>")[:4] in {"550 ", "553 ", "501 "}, probe
            assert talk.do("DATA").startswith("503")


def test_homographs_are_other_domains(gateway: Gateway, bob: Mailbox) -> None:
    with hello(gateway) as talk:
        talk.do("MAIL FROM:<x@\u0430lpha.test> SMTPUTF8")  # not ours, and so not refused as forged
        assert talk.do("RCPT TO:<bob@alpha.test>").startswith("250")
        talk.do("DATA")
        assert talk.do(MAIL + b".\r\n").startswith("250")
    (octets,) = bob.wait(1)
    assert octets.startswith(b"Return-Path: <x@xn--lpha-43d.test>\r\n")  # and it shows


def test_quoted_local_parts_are_the_same_user(gateway: Gateway, bob: Mailbox) -> None:
    with hello(gateway) as talk:
        talk.do("MAIL FROM:<x@elsewhere.test>")
        for address in ('"bob"@alpha.test', '"b\\ob"@alpha.test', "BOB@ALPHA.TEST", "@hop.test:bob@alpha.test"):
            assert talk.do(f"RCPT TO:<{address}>").startswith("250"), address
        for address in (
            '"bob "@alpha.test',
            '"bob@alpha.test',
            'bob"@alpha.test',
            "bob.@alpha.test",
            ".bob@alpha.test",
        ):
            assert talk.do(f"RCPT TO:<{address}>")[:3] in {"550", "553", "501"}, address
        talk.do("DATA")
        assert talk.do(MAIL + b".\r\n").startswith("250")
    bob.wait(1)


# -- injection ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        b"EHLO evil.test\rX-Injected: yes\r\n", b"EHLO evil.test\0\r\n", b"HELO evil\ntest\r\n",
        b"MAIL FROM:<x@elsewhere.test\rX-Injected: yes>\r\n", b"MAIL FROM:<x@elsewhere.test> ENVID=a+0D+0AX:+20y\r\n",
        b'MAIL FROM:<"x\rX-Injected: yes"@elsewhere.test>\r\n', b'MAIL FROM:<"x\0"@elsewhere.test>\r\n',
        b"MAIL FROM:<x@elsewhere.test>\0 SIZE=1\r\n", b"RCPT TO:<bob@alpha.test\n>\r\n",
    ],
)  # fmt: skip
def test_no_line_of_its_own(gateway: Gateway, command: bytes) -> None:
    with hello(gateway) as talk:
        assert talk.do(command)[:3] in {"500", "501", "503"}


def test_what_a_client_calls_itself_stays_in_its_place(gateway: Gateway, bob: Mailbox) -> None:
    with Talk(gateway) as talk:
        talk.do("EHLO evil (by mx.alpha.test) ; <script> \u0007[192.0.2.1]".replace("\u0007", "\\x07"))
        assert talk.send("x@elsewhere.test", ["bob@alpha.test"], MAIL).startswith("250")
    (octets,) = bob.wait(1)
    received = re.search(rb"^Received: (.*)\r\n\tby mx\.alpha\.test ", octets, re.MULTILINE)
    assert received is not None
    assert received[1] == b"from evil??by?mx.alpha.test?????script???x07[192.0.2.1] ([127.0.0.1])"


def test_the_end_of_data_in_any_two_writes(gateway: Gateway, bob: Mailbox) -> None:
    """The dot at any boundary of what the network hands over."""
    end = b"last line\r\n..\r\n.not the end\r\n.\r\nNOOP\r\n"
    for cut in range(len(end) + 1):
        with hello(gateway) as talk:
            talk.all("MAIL FROM:<x@elsewhere.test>", "RCPT TO:<bob@alpha.test>", "DATA")
            talk.say(MAIL + end[:cut])
            gateway.health()  # the gateway has read that by now, most of the time
            talk.say(end[cut:])
            assert [talk.reply()[:9], talk.reply()] == ["250 2.0.0", "250 2.0.0 Still here"]
    mails = bob.wait(len(end) + 1)
    assert all(octets.endswith(b"\r\nbody\r\nlast line\r\n.\r\nnot the end\r\n") for octets in mails)


# -- too much -------------------------------------------------------------------------------------------------------


def test_overlong_lines(gateway: Gateway, bob: Mailbox) -> None:
    before = gateway.metric("process_resident_memory_bytes")
    with hello(gateway) as talk:
        for _ in range(5):
            assert talk.do(b"MAIL FROM:<" + b"x" * 5_000_000 + b"@elsewhere.test>\r\n").startswith("500 5.5.2")
        long = b"Subject: " + b"y" * 2_000_000 + b"\r\n\r\n" + b"z" * 10_000_000 + b"\r\n"
        assert talk.send("x@elsewhere.test", ["bob@alpha.test"], long).startswith("250")
    assert bob.wait(1)[0].endswith(long + b"\r\n")
    assert gateway.metric("process_resident_memory_bytes") - before < 300e6


def test_commands_without_end_and_without_mail(gateway: Gateway) -> None:
    with Talk(gateway) as talk:
        said = []
        while not said or said[-1].startswith("250"):
            said.append(talk.do("RSET" if len(said) % 2 else "NOOP"))
        assert said[-1] == "421 4.7.0 Too many commands without mail"
        assert len(said) == 101
        assert talk.ended()
    with hello(gateway) as talk:
        said = []
        while not said or not said[-1].startswith("421"):
            said.append(talk.do("NONSENSE"))
        assert said[-1] == "421 4.7.0 Too many errors"
        assert len(said) == 21


def nested(depth: int) -> bytes:
    heads = b"".join(b'Content-Type: multipart/mixed; boundary="b%d"\r\n\r\n--b%d\r\n' % (n, n) for n in range(depth))
    return b"Subject: deep\r\nMIME-Version: 1.0\r\n" + heads + b"\r\nx\r\n"


BOMBS = {
    "depth": nested(20_000),
    "messages in messages": b"Content-Type: message/rfc822\r\n\r\n" * 20_000 + b"\r\nx\r\n",
    "parts": b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 200_000,
    "header fields": b"".join(b"X-Field-%d: y\r\n" % n for n in range(200_000)) + b"\r\nx\r\n",
    "one header field": b"Subject: " + b"=?utf-8?q?x?=\r\n " * 300_000 + b"\r\n\r\nx\r\n",
    "parameters": b"Content-Type: text/plain" + b"".join(b"; a%d=b" % n for n in range(100_000)) + b"\r\n\r\nx\r\n",
    "addresses": b"To: " + b"a@b.test, " * 200_000 + b"c@d.test\r\n\r\nx\r\n",
    "brackets": b"To: " + b"(" * 500_000 + b"<" * 500_000 + b"\r\n\r\nx\r\n",
    "boundary of a boundary": b"Content-Type: multipart/mixed; boundary=" + b"-" * 60 + b"\r\n\r\n" + b"-" * 3_000_000,
}  # fmt: skip


@pytest.mark.parametrize("name", list(BOMBS))
def test_mime_bombs(gateway: Gateway, bob: Mailbox, name: str) -> None:
    """Accepted as any octets are, shown by IMAP in bounded time, and nobody else waits for it."""
    with hello(gateway) as talk:
        talk.socket.settimeout(60)
        assert talk.send("x@elsewhere.test", ["bob@alpha.test"], BOMBS[name]).startswith("250")
    (octets,) = bob.wait(1)
    assert octets.endswith(BOMBS[name] + b"\r\n")
    bob.imap.socket().settimeout(60)
    bob.imap.send(b"z1 FETCH 1 (ENVELOPE BODYSTRUCTURE)\r\n")
    host, port = gateway.port("imaps")
    with imaplib.IMAP4_SSL(host, port, ssl_context=gateway.ssl, timeout=20) as other:
        other.login("alice@alpha.test", PASSWORD)
        assert other.noop()[0] == "OK"
    size = 0
    while not (line := bob.imap.file.readline()).startswith(b"z1 "):
        size += len(line)
    assert line.startswith(b"z1 OK")
    assert size < 40_000_000


def test_a_compressed_bomb_is_never_opened(gateway: Gateway, bob: Mailbox) -> None:
    """A report as DMARC's and TLS-RPT's come, which is 200 MB when opened: the gateway opens none."""
    bomb = gzip.compress(b"\0" * 200_000_000)
    head = b"Subject: Report Domain: alpha.test\r\nContent-Type: application/gzip\r\n"
    mail = head + b"Content-Transfer-Encoding: base64\r\n\r\n" + base64.encodebytes(bomb).replace(b"\n", b"\r\n")
    before = gateway.metric("process_resident_memory_bytes")
    with hello(gateway) as talk:
        assert talk.send("reports@elsewhere.test", ["bob@alpha.test"], mail).startswith("250")
    bob.wait(1)
    assert bob.imap.fetch("1", "(BODYSTRUCTURE)")[0] == "OK"
    assert gateway.metric("process_resident_memory_bytes") - before < 100e6


# -- backscatter ----------------------------------------------------------------------------------------------------


def test_no_backscatter(gateway: Gateway, bob: Mailbox) -> None:
    """What is not wanted is refused while its sender waits: no report goes to whom the envelope names."""
    with hello(gateway) as talk:
        for sender in ("victim@elsewhere.test", ""):
            talk.do(f"MAIL FROM:<{sender}> RET=FULL")
            assert talk.do("RCPT TO:<nobody@alpha.test> NOTIFY=SUCCESS,FAILURE,DELAY").startswith("550 5.1.1")
            assert talk.do("RCPT TO:<victim@elsewhere.test>").startswith("550 5.7.1")
            assert talk.do("DATA").startswith("503")
            talk.do("RSET")
        talk.all("MAIL FROM:<>", "RCPT TO:<bob@alpha.test> NOTIFY=SUCCESS", "DATA")
        assert talk.do(b"bare\nline\r\n.\r\n").startswith("550 5.6.0")
        assert talk.send("", ["bob@alpha.test"], MAIL, "", " NOTIFY=SUCCESS,FAILURE").startswith("250")
        loop = b"Received: x\r\n" * 51 + MAIL
        assert talk.send("victim@elsewhere.test", ["bob@alpha.test"], loop).startswith("554 5.4.6")
    bob.wait(1)


def test_success_is_not_told_to_whom_a_stranger_names(gateway: Gateway, bob: Mailbox) -> None:
    """A stranger may ask for a report to anybody: it would be backscatter on demand."""
    with hello(gateway) as talk:
        said = talk.send("victim@elsewhere.test", ["bob@alpha.test"], MAIL, "", " NOTIFY=SUCCESS")
        assert said.startswith("250")
    bob.wait(1)


def test_smtplib_cannot_be_made_to_relay_either(gateway: Gateway) -> None:
    with (
        smtplib.SMTP(*gateway.port("smtp"), timeout=20) as smtp,
        pytest.raises(smtplib.SMTPRecipientsRefused) as refused,
    ):
        smtp.sendmail("x@elsewhere.test", ["victim@elsewhere.test"], "x")
    codes: dict[str, Any] = refused.value.recipients
    assert codes["victim@elsewhere.test"][0] == 550
