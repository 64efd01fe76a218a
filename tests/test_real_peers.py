"""Mail to and from Exim and OpenSMTPD, and from msmtp. Each skips, with why, where it is missing.

Postfix has its part in test_real_bridge.py and in the demo.
"""

from __future__ import annotations

import imaplib
import shutil
import smtplib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.world import PASSWORD, Gateway, World
from tests.patience import eventually
from tests.peers import PORT, Exim, OpenSMTPD, Peer

ALPHA = "127.0.72.1"
PLACES: dict[str, tuple[Any, str]] = {"exim": (Exim, "127.0.72.2"), "opensmtpd": (OpenSMTPD, "127.0.72.3")}


@pytest.fixture(scope="module")
def alpha(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    others = {f"{name}.test": address for name, (_, address) in PLACES.items()}
    world = World(tmp_path_factory.mktemp("world"), {"alpha.test": ALPHA}, others, ["alice"])
    world.start()
    yield world.gateways["alpha.test"]
    world.stop()
    world.reactor.stop()


@pytest.fixture(scope="module", params=list(PLACES))
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    kind, address = PLACES[request.param]
    if why := kind.missing():
        pytest.skip(why)
    made: Peer = kind(tmp_path_factory.mktemp(request.param), address, ALPHA)
    yield made
    made.stop()


def letter(sender: str, to: str, subject: str) -> str:
    return f"From: {sender}\r\nTo: {to}\r\nSubject: {subject}\r\n\r\nGr\u00fc\u00dfe\r\n.\r\n..dots\r\n"


def inbox(gateway: Gateway) -> bytes:
    with imaplib.IMAP4_SSL(*gateway.port("imaps"), ssl_context=gateway.ssl, timeout=30) as imap:
        imap.login("alice@alpha.test", PASSWORD)
        imap.select("INBOX", readonly=True)
        return b"".join(part[1] for part in imap.fetch("1:*", "(BODY.PEEK[])")[1] if isinstance(part, tuple))


def submit(gateway: Gateway, to: str, subject: str) -> None:
    with smtplib.SMTP(*gateway.port("submission"), timeout=30) as smtp:
        smtp.starttls(context=gateway.ssl)
        smtp.login("alice@alpha.test", PASSWORD)
        smtp.sendmail("alice@alpha.test", [to], letter("alice@alpha.test", to, subject).encode(), ["BODY=8BITMIME"])


def test_to_it(alpha: Gateway, peer: Peer) -> None:
    subject = f"to {peer.name}"
    submit(alpha, f"bob@{peer.name}.test", subject)
    eventually(lambda: subject.encode() in peer.mail())
    mail = peer.mail().replace(b"\r\n", b"\n")
    assert "Gr\u00fc\u00dfe\n.\n..dots\n".encode() in mail


def test_from_it(alpha: Gateway, peer: Peer) -> None:
    subject, sender = f"from {peer.name}", f"bob@{peer.name}.test"
    with smtplib.SMTP(peer.address, PORT, timeout=30, source_address=(peer.address, 0)) as smtp:
        smtp.ehlo()
        mail = letter(sender, "alice@alpha.test", subject).encode()
        smtp.sendmail(sender, ["alice@alpha.test"], mail, ["BODY=8BITMIME"])
    eventually(lambda: subject.encode() in inbox(alpha))
    assert "Gr\u00fc\u00dfe\r\n.\r\n..dots\r\n".encode() in inbox(alpha)


def test_what_it_refuses_comes_back(alpha: Gateway, peer: Peer) -> None:
    submit(alpha, f"bob@sub.{peer.name}.test", f"refused {peer.name}")  # no such domain
    eventually(lambda: f"bob@sub.{peer.name}.test".encode() in inbox(alpha))
    assert b"Action: failed" in inbox(alpha)


def test_msmtp_hands_it_in(alpha: Gateway, tmp_path: Path) -> None:
    if shutil.which("msmtp") is None:
        pytest.skip("msmtp is not installed")
    host, port = alpha.port("submission")
    command = [
        "msmtp", "-C", "/dev/null", f"--host={host}", f"--port={port}", "--tls=on", "--tls-starttls=on",
        f"--tls-trust-file={alpha.root / 'ca.pem'}", "--auth=on", "--user=alice@alpha.test",
        f"--passwordeval=echo {PASSWORD}", "--from=alice@alpha.test", "alice@alpha.test",
    ]  # fmt: skip
    mail = letter("alice@alpha.test", "alice@alpha.test", "by msmtp").encode()
    done = subprocess.run(command, input=mail, capture_output=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    eventually(lambda: b"by msmtp" in inbox(alpha))
