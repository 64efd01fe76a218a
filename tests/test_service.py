"""The gateway as a process: real mail through all its doors, a restart, a bad configuration."""

from __future__ import annotations

import contextlib
import imaplib
import os
import poplib
import re
import signal
import smtplib
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import defer
from twisted.internet.threads import blockingCallFromThread

from demo.dns_server import DNSServer
from demo.world import BIN, PASSWORD, Gateway
from gatewayd.client import Message, ParleyClient, Receipt, connect
from gatewayd.interfaces.dns import Endpoint
from tests.corpus import messages
from tests.patience import eventually

TRACE = re.compile(rb"Return-Path: <sender@elsewhere\.test>\r\nReceived: [^\r\n]*\r\n(?:\t[^\r\n]*\r\n)+")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    made = Gateway(tmp_path_factory.mktemp("gateway"), "alpha.test", "127.0.0.41", ["alice", "bob"], 9)
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def sent(gateway: Gateway) -> list[bytes]:
    """The corpus, given to the gateway by SMTP."""
    mails = messages()
    with smtplib.SMTP(*gateway.port("smtp"), timeout=60) as smtp:
        smtp.ehlo()
        for mail in mails:
            smtp.sendmail("sender@elsewhere.test", ["alice@alpha.test"], mail, ["BODY=8BITMIME"])
    return mails


def below_trace(octets: bytes) -> bytes:
    trace = TRACE.match(octets)
    assert trace is not None
    return octets[trace.end() :]


def imap(gateway: Gateway, user: str) -> imaplib.IMAP4_SSL:
    host, port = gateway.port("imaps")
    made = imaplib.IMAP4_SSL(host, port, ssl_context=gateway.ssl, timeout=60)
    made.login(user, PASSWORD)
    return made


def test_corpus_by_imap(gateway: Gateway, sent: list[bytes]) -> None:
    with imap(gateway, "alice@alpha.test") as program:
        program.select("INBOX", readonly=True)
        fetched: list[Any] = program.fetch("1:*", "(RFC822.SIZE BODY.PEEK[])")[1]
        parts = [part for part in fetched if isinstance(part, tuple)]
    assert [below_trace(octets) for _, octets in parts] == sent
    for head, octets in parts:
        assert int(re.search(rb"RFC822\.SIZE (\d+)", head)[1]) == len(octets)  # type: ignore[index]


def test_corpus_by_pop3(gateway: Gateway, sent: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poplib, "_MAXLINE", 1 << 20)  # real mail has longer lines than its 2048
    program = poplib.POP3_SSL(*gateway.port("pop3s"), context=gateway.ssl, timeout=60)
    program.user("alice@alpha.test")
    program.pass_(PASSWORD)
    assert program.stat()[0] == len(sent)
    for number, mail in enumerate(sent, 1):
        _, lines, _ = program.retr(number)
        assert below_trace(b"".join(line + b"\r\n" for line in lines)) == mail
    program.quit()


def test_corpus_by_parley(gateway: Gateway, sent: list[bytes], reactor: Any, tmp_path: Path) -> None:
    async def whole(parley: ParleyClient, message: Message) -> bytes:
        if message.mail is None:  # a blob: it is got by its hash
            await parley.download(message.content.fields.parts[0], tmp_path / "mail")
        return message.mail or (tmp_path / "mail").read_bytes()

    async def read() -> list[bytes]:
        server = Endpoint(*gateway.port("parley"))
        async with await connect(
            reactor, "alice@alpha.test", PASSWORD, server=server, authorities=gateway.root / "ca.pem"
        ) as parley:
            return [await whole(parley, message) async for message in parley.messages()]

    assert blockingCallFromThread(reactor, lambda: defer.Deferred.fromCoroutine(read())) == sent


def test_what_bad_input_gets(gateway: Gateway) -> None:
    """The codes to the sender, one by one; nothing is accepted."""
    with imap(gateway, "bob@alpha.test") as program:
        before = program.select("INBOX")[1]
    with smtplib.SMTP(*gateway.port("smtp"), timeout=60) as smtp:
        smtp.ehlo("somewhere.test")
        smtp.mail("sender@elsewhere.test")
        assert smtp.rcpt("nobody@alpha.test") == (550, b"5.1.1 No such user here")
        assert smtp.rcpt("carol@elsewhere.test")[0] == 550
        assert smtp.rcpt("bob@alpha.test")[0] == 250
        smtp.putcmd("data")
        assert smtp.getreply()[0] == 354
        smtp.send(b"Subject: one\r\n\r\nbody\r\n.\nMAIL FROM:<evil@elsewhere.test>\r\n.\r\n")
        assert smtp.getreply()[0] == 550
        assert smtp.mail("bob@alpha.test")[0] == 550  # ours, and not signed in
        assert smtp.docmd("MAIL FROM:<sender@elsewhere.test> SIZE=99999999999")[0] == 552
    with smtplib.SMTP(*gateway.port("submission"), timeout=60) as smtp:
        smtp.ehlo("somewhere.test")
        assert not smtp.has_extn("auth")
        assert smtp.mail("bob@alpha.test")[0] == 530
        smtp.starttls(context=gateway.ssl)
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            smtp.login("bob@alpha.test", "wrong")
        assert refused.value.smtp_code == 535
        smtp.login("bob@alpha.test", PASSWORD)
        assert smtp.mail("alice@alpha.test")[0] == 550  # not bob's to send as
    with imap(gateway, "bob@alpha.test") as program:
        assert program.select("INBOX")[1] == before


def test_restart_finds_everything(gateway: Gateway, sent: list[bytes]) -> None:
    def state() -> tuple[Any, ...]:
        with imap(gateway, "alice@alpha.test") as program:
            program.select("INBOX")
            program.store("3", "+FLAGS", "(\\Flagged kept)")
            return (
                program.response("UIDVALIDITY"),
                program.status("INBOX", "(MESSAGES UIDNEXT)"),
                program.fetch("1:5", "(UID FLAGS RFC822.SIZE INTERNALDATE)"),
            )

    before = state()
    assert gateway.stop() in {0, -signal.SIGTERM}
    gateway.start()
    assert state() == before
    assert "Traceback" not in (gateway.root / "gatewayd.log").read_text()


def test_a_database_from_a_backup_has_other_mailboxes(tmp_path: Path) -> None:
    """A mail program would take new messages for those that had their UIDs."""
    made = Gateway(tmp_path / "gateway", "alpha.test", "127.0.0.45", ["alice"], 11)
    database = made.root / "state/gatewayd.sqlite"

    def deliver() -> None:
        with smtplib.SMTP(*made.port("smtp"), timeout=20) as client:
            client.sendmail("a@elsewhere.test", ["alice@alpha.test"], b"Subject: x\r\n\r\nx\r\n")

    def validity() -> int:
        with imap(made, "alice@alpha.test") as program:
            program.select("INBOX")
            (found,) = program.response("UIDVALIDITY")[1]
            assert found is not None
            return int(found)

    made.start()
    before = validity()
    made.stop()
    backup = database.read_bytes()
    made.start()
    deliver()
    made.stop()
    database.write_bytes(backup)
    made.start()
    after = validity()
    made.stop()
    assert after > before
    made.start()
    assert validity() == after
    made.stop()
    assert (made.root / "gatewayd.log").read_text().count("this store is an older one") == 1


def test_bad_configuration_is_one_clear_line(tmp_path: Path) -> None:
    config = tmp_path / "gatewayd.toml"
    config.write_text('hostname = "mx.alpha.test"\nstate_dir = "state"\n[listen]\nsmtp = ["nonsense"]\n')
    assert refusal(config) == f"gatewayd: {config}: listen.smtp: expected address:port, got 'nonsense'\n"


@pytest.mark.parametrize("spoil", ["header", "page"])
def test_a_spoiled_database_is_one_clear_line(tmp_path: Path, spoil: str) -> None:
    made = Gateway(tmp_path / "gateway", "alpha.test", "127.0.0.43", ["alice"], 9)
    database = made.root / "state/gatewayd.sqlite"
    with database.open("r+b") as file:
        file.seek({"header": 0, "page": 4096}[spoil])
        file.write(os.urandom(4096))
    why = {"header": "file is not a database", "page": "database disk image is malformed"}[spoil]
    assert refusal(made.config) == f"gatewayd: {database}: {why}\n"


def refusal(config: Path) -> str:
    """Of a gateway that does not start: what it says, without Twisted's prefix."""
    ended = subprocess.run(
        [BIN / "twistd", "-n", "--pidfile=", "gatewayd", "--config", config],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode != 0
    return ended.stdout + ended.stderr


ZONE = """\
@ 60 IN SOA ns hostmaster 1 3600 600 86400 5
@ 60 IN NS ns
ns 60 IN A 127.0.0.1
@ 60 IN MX 10 ns
@ 60 IN TXT "v=spf1 {spf} -all"
_dmarc 60 IN TXT "v=DMARC1; p={policy}"
"""


def test_what_the_authors_domain_asks_for_is_done(tmp_path: Path, reactor: Any) -> None:
    """SPF and DMARC by a real DNS server: refused, filed as Junk, or passed with its results."""
    dns = DNSServer({
        "strict.test": ZONE.format(spf="ip4:192.0.2.1", policy="reject"),
        "wary.test": ZONE.format(spf="ip4:192.0.2.1", policy="quarantine"),
        "good.test": ZONE.format(spf="ip4:127.0.0.1", policy="reject"),
    })  # fmt: skip
    blockingCallFromThread(reactor, dns.listen, reactor)
    judge = Gateway(tmp_path / "judge", "alpha.test", "127.0.0.42", ["alice"], dns.port)
    judge.config.write_text(judge.config.read_text() + "\n[incoming]\ntrusted = []\n")
    judge.start()
    try:
        with smtplib.SMTP(*judge.port("smtp"), timeout=60) as smtp:
            for name in ("strict", "wary", "good"):
                mail = f"Authentication-Results: mx.alpha.test; dmarc=pass\r\nFrom: x@{name}.test\r\n\r\nHello\r\n"
                try:
                    smtp.sendmail(f"x@{name}.test", ["alice@alpha.test"], mail)
                except smtplib.SMTPDataError as refused:
                    assert name == "strict"
                    assert refused.smtp_code == 550
                    assert refused.smtp_error == b"5.7.26 strict.test asks that mail which fails DMARC be refused"
        with imap(judge, "alice@alpha.test") as program:
            found = {}
            for mailbox in ("INBOX", "Junk"):
                assert program.select(mailbox)[1] == [b"1"]
                parts: list[Any] = program.fetch("1", "(BODY.PEEK[])")[1]
                found[mailbox] = parts[0][1]
        assert b"From: x@good.test" in found["INBOX"]
        assert found["INBOX"].count(b"Authentication-Results:") == 1
        assert b"\tspf=pass smtp.mailfrom=good.test;\r\n\tdkim=none;\r\n\tdmarc=pass (p=reject)" in found["INBOX"]
        assert b"From: x@wary.test" in found["Junk"]
        assert b"dmarc=fail (p=quarantine) header.from=wary.test" in found["Junk"]
    finally:
        judge.stop()
        blockingCallFromThread(reactor, lambda: defer.Deferred.fromCoroutine(dns.stop()))


def test_a_receipt_that_was_owed_when_the_process_was_killed(gateway: Gateway, reactor: Any) -> None:
    """It is given when the gateway is up again: the one that was owed, of that time."""

    def wait(work: Any) -> Any:
        return blockingCallFromThread(reactor, lambda: defer.Deferred.fromCoroutine(work))

    def sign_in(user: str) -> Any:
        server = Endpoint(*gateway.port("parley"))
        return connect(reactor, user, PASSWORD, server=server, authorities=gateway.root / "ca.pem")

    async def ask() -> bytes:
        async with await sign_in("alice@alpha.test") as alice:
            await alice.send(["bob@alpha.test"], "Have you seen this?", receipts=["displayed"])
            (sent,) = [message async for message in alice.messages(mailbox="Sent") if message.asks_for]
            return bytes(sent.id)

    async def told() -> Any:
        async with await sign_in("alice@alpha.test") as alice:
            async for receipt in alice.receipts(live=True):
                return receipt

    object_id = wait(ask())
    gateway.kill()
    with contextlib.closing(sqlite3.connect(gateway.root / "state" / "gatewayd.sqlite")) as db, db:
        (bob,) = db.execute("SELECT account_id FROM account WHERE local='bob'").fetchone()
        columns = "account_id, object_id, status, at_ms, nonce"
        row = (bob, object_id, "displayed", 1735689600000, bytes(16))
        db.execute(f"INSERT INTO receipt_owed ({columns}) VALUES (?,?,?,?,?)", row)
    gateway.start()
    assert wait(told()) == Receipt(object_id, "displayed", "bob@alpha.test", 1735689600.0, True)


def test_the_next_key_is_made_in_time(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "alpha", "alpha.test", "127.0.0.79", [], 1)
    (old,) = (gateway.root / "state/keys/alpha.test").glob("*.pem")
    os.utime(old, (time.time() - 350 * 86400,) * 2)
    gateway.start()
    try:
        eventually(lambda: len(list(old.parent.glob("*.pem"))) > 1)
    finally:
        gateway.stop()
    assert "alpha.test has a new key" in (gateway.root / "gatewayd.log").read_text()
