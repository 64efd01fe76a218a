"""A gateway whose disk fills up, or whose database breaks: temporary errors to clients, one line to the operator, and
all is well when it is over."""

from __future__ import annotations

import contextlib
import imaplib
import json
import poplib
import smtplib
import sqlite3
import subprocess
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.world import PASSWORD, Gateway
from tests.smtp_talk import Talk

SIZE = 100 * 1024 * 1024  # octets of the disk
MOUNTED = 'cp -a "$0" "$0.was"; mount -t tmpfs -o size={} tmpfs "$0" && cp -a "$0.was/." "$0" && exec "$@"'
MAIL = b"Subject: %d\r\n\r\n" + b"x" * 60 + b"\r\n"


class Disk:
    """The gateway's own, seen from outside."""

    def __init__(self, gateway: Gateway) -> None:
        self._ballast = Path(f"/proc/{gateway.pid}/root") / str(gateway.root / "state").lstrip("/") / "ballast"

    def fill(self, left: int = 0) -> None:
        with self._ballast.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError:
                    continue
            file.truncate(file.tell() - left)

    def clear(self) -> None:
        self._ballast.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    words = ["unshare", "-rm", "sh", "-c", MOUNTED.format(SIZE)]
    try:
        subprocess.run([*words, tmp_path_factory.mktemp("disk"), "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a disk of its own cannot be mounted here")
    made = Gateway(tmp_path_factory.mktemp("gateway"), "alpha.test", "127.0.0.112", ["alice", "bob"], 9)
    made.under = [*words, made.root / "state"]
    made.start()
    yield made
    made.stop()


@pytest.fixture
def disk(gateway: Gateway) -> Iterator[Disk]:
    made = Disk(gateway)
    yield made
    made.clear()


def sick(gateway: Gateway) -> str:
    with pytest.raises(urllib.error.HTTPError) as failed:
        gateway.health()
    assert failed.value.code == 503
    return str(json.load(failed.value)["store"])


def test_little_room(gateway: Gateway, disk: Disk) -> None:
    assert gateway.health() == {"store": "ok"}
    disk.fill(left=2 << 20)
    assert "KiB are left on the disk of" in sick(gateway)
    with Talk(gateway) as talk:
        talk.do("EHLO here.test")
        assert talk.send("a@elsewhere.test", ["alice@alpha.test"], MAIL % 0).startswith("250 ")
    disk.clear()
    assert gateway.health() == {"store": "ok"}


def test_no_room(gateway: Gateway, disk: Disk) -> None:
    host, port = gateway.port("imaps")
    program = imaplib.IMAP4_SSL(host, port, ssl_context=gateway.ssl, timeout=30)
    program.login("alice@alpha.test", PASSWORD)
    program.select("INBOX")
    talk = Talk(gateway)
    talk.do("EHLO here.test")
    disk.fill()
    accepted = 0
    while (answer := talk.send("a@elsewhere.test", ["alice@alpha.test"], MAIL % accepted)).startswith("250 "):
        accepted += 1  # in what the database's files have had before
    assert answer.startswith("452 4.3.1 ")
    assert "full" in sick(gateway)
    with smtplib.SMTP_SSL(*gateway.port("submissions"), context=gateway.ssl, timeout=30) as smtp:
        smtp.login("alice@alpha.test", PASSWORD)
        with pytest.raises(smtplib.SMTPResponseException) as failed:
            smtp.sendmail("alice@alpha.test", ["alice@alpha.test"], "Subject: mine\r\n\r\n" + 3_000_000 * "x")
        assert failed.value.smtp_code == 452
    assert program.append("INBOX", "", "", b"Subject: x\r\n\r\n" + 3_000_000 * b"x") == (
        "NO", [b"[OVERQUOTA] No space is left"]
    )  # fmt: skip
    assert program.fetch("1", "(BODY.PEEK[])")[0] == "OK"
    reader = poplib.POP3_SSL(*gateway.port("pop3s"), context=gateway.ssl, timeout=30)
    reader.user("alice@alpha.test")
    reader.pass_(PASSWORD)
    assert reader.retr(1)[0].startswith(b"+OK")
    reader.quit()
    disk.clear()
    assert talk.send("a@elsewhere.test", ["alice@alpha.test"], MAIL % 7).startswith("250 ")
    assert program.append("INBOX", "", "", b"Subject: x\r\n\r\n" + 3_000_000 * b"x")[0] == "OK"
    program.logout()
    talk.close()
    log = (gateway.root / "gatewayd.log").read_text()
    assert log.count("gatewayd.sqlite: database or disk is full") == 1
    assert "Traceback" not in log


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path / "gateway", "alpha.test", "127.0.0.113", ["alice", "bob"], 9)
    made.start()
    yield made
    made.stop()


def test_a_database_that_is_broken(plain: Gateway) -> None:
    """Nobody is told that the password is wrong."""
    gateway = plain
    with Talk(gateway) as talk:
        talk.do("EHLO here.test")
        talk.send("a@elsewhere.test", ["alice@alpha.test"], MAIL % 1)
    host, port = gateway.port("imaps")
    selected = imaplib.IMAP4_SSL(host, port, ssl_context=gateway.ssl, timeout=30)
    selected.login("alice@alpha.test", PASSWORD)
    selected.select("INBOX")
    state = gateway.root / "state"
    tables = ("account", "entry")
    try:
        for table in tables:
            rename(state, table, f"{table}_away")
        with imaplib.IMAP4_SSL(host, port, ssl_context=gateway.ssl, timeout=30) as program:
            with pytest.raises(imaplib.IMAP4.error, match=r"\[UNAVAILABLE\]"):
                program.login("bob@alpha.test", PASSWORD)
            with pytest.raises(imaplib.IMAP4.error, match=r"\[UNAVAILABLE\]"):
                program.authenticate("PLAIN", lambda _: f"\0bob@alpha.test\0{PASSWORD}".encode())
        assert selected.noop()[0] == "NO"
        assert selected.fetch("1", "(UID)")[0] == "OK"  # that is known
        reader = poplib.POP3_SSL(*gateway.port("pop3s"), context=gateway.ssl, timeout=30)
        reader.user("bob@alpha.test")
        with pytest.raises(poplib.error_proto, match=r"\[SYS/TEMP\]"):
            reader.pass_(PASSWORD)
        with smtplib.SMTP_SSL(*gateway.port("submissions"), context=gateway.ssl, timeout=30) as smtp:
            with pytest.raises(smtplib.SMTPAuthenticationError) as failed:
                smtp.login("bob@alpha.test", PASSWORD)
            assert failed.value.smtp_code == 454
        with Talk(gateway) as talk:
            talk.do("EHLO here.test")
            talk.do("MAIL FROM:<a@elsewhere.test>")
            assert talk.do("RCPT TO:<bob@alpha.test>").startswith("451 4.3.0 ")
        assert "no such table: account" in sick(gateway)
    finally:
        for table in tables:
            rename(state, f"{table}_away", table)
    assert selected.noop()[0] == "OK"
    selected.logout()
    with Talk(gateway) as talk:
        talk.do("EHLO here.test")
        assert talk.send("a@elsewhere.test", ["alice@alpha.test"], MAIL % 9).startswith("250 ")
    log = (gateway.root / "gatewayd.log").read_text()
    assert log.count("gatewayd.sqlite: no such table: account") == 1
    assert "Traceback" not in log


def rename(state: Path, table: str, name: str) -> None:
    with contextlib.closing(sqlite3.connect(state / "gatewayd.sqlite", timeout=30)) as db, db:
        db.execute("PRAGMA legacy_alter_table=ON")
        db.execute(f"ALTER TABLE {table} RENAME TO {name}")
