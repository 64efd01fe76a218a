"""A domain whose mailboxes stay where they are, behind the gateway: real Postfix and Dovecot, both ways, by Parley."""

from __future__ import annotations

import imaplib
import os
import shutil
import smtplib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.peers import DOVECOT_CONF
from demo.legacy import PORT, PostfixInstance
from demo.world import PASSWORD, Gateway, World, ctl, zone
from gatewayd.crypto.certificates import issue
from tests.patience import eventually

ALPHA, BETA, BEHIND = "127.0.71.1", "127.0.71.2", "127.0.71.3"
CAROL = "carol@old.test"
MISSING = [name for name in ("postfix", "dovecot", "doveadm") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="Postfix is started by root only"),
]

MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {root}/queue
data_directory = {root}/data
mail_owner = postfix
myhostname = mail.old.test
mydestination =
mynetworks = {address}/32
inet_interfaces = loopback-only
inet_protocols = ipv4
smtp_bind_address = {address}
smtp_dns_support_level = disabled
smtp_host_lookup = native
smtputf8_enable = no
minimal_backoff_time = 1s
maillog_file = {root}/postfix.log
maillog_file_prefixes = {root}
virtual_mailbox_domains = old.test
virtual_mailbox_maps = inline:{{ {{ carol@old.test = x }}, {{ dave@old.test = x }} }}
virtual_transport = lmtp:unix:{root}/dovecot/lmtp
relayhost = [127.0.71.1]:2525
"""


class House:
    """alpha.test's gateway with old.test behind it, and beta.test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.world = World(root / "world", {"alpha.test": ALPHA, "beta.test": BETA}, {}, ["alice"])
        self.alpha, self.beta = self.world.gateways["alpha.test"], self.world.gateways["beta.test"]
        self.world.publish(old_test=zone(ALPHA, parley=True))
        self._front()
        (root / "behind").mkdir(parents=True)
        self.postfix = PostfixInstance(root / "behind", BEHIND, MAIN_CF)
        for name in ("key.pem", "certificate.pem"):
            shutil.copy(self.alpha.root / name, root / "behind")
        self.dovecot = root / "behind/dovecot.conf"
        self.dovecot.write_text(DOVECOT_CONF.format(root=root / "behind", address=BEHIND, password=PASSWORD))
        self.world.start()
        with (root / "dovecot.err").open("w") as said:
            subprocess.run(["dovecot", "-c", self.dovecot], check=True, stdout=said, stderr=said)
        self.postfix.start()

    def _front(self) -> None:
        """The gateway serves old.test too: a key, a certificate that names it, and the server behind."""
        assert ctl("--config", self.alpha.config, "domain", "add", "old.test").returncode == 0
        root = self.alpha.root
        authority = (root / "ca-key.pem").read_bytes(), (root / "ca.pem").read_bytes()
        names = ["alpha.test", "old.test", "mx.alpha.test", ALPHA]
        for name, octets in zip(("key.pem", "certificate.pem"), issue(*authority, names), strict=True):
            (root / name).write_bytes(octets)
        with self.alpha.config.open("a") as config:
            config.write(f'\n[bridge."old.test"]\nserver = "{BEHIND}:{PORT}"\nclients = ["{BEHIND}/32"]\n')

    def stop(self) -> None:
        self.postfix.stop()
        subprocess.run(["doveadm", "-c", self.dovecot, "stop"], check=False, capture_output=True)
        self.world.stop()

    def mails(self, who: str = CAROL) -> list[bytes]:
        return [path.read_bytes() for path in (self.root / "behind/mail" / who / "new").glob("*")]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    made = House(tmp_path_factory.mktemp("house"))
    yield made
    made.stop()
    made.world.reactor.stop()


def letter(sender: str, to: str, subject: str) -> bytes:
    return f"From: {sender}\r\nTo: {to}\r\nSubject: {subject}\r\n\r\nbody\r\n".encode()


def submit(gateway: Gateway, to: str, subject: str) -> None:
    user = f"alice@{gateway.domain}"
    with smtplib.SMTP(*gateway.port("submission"), timeout=30) as smtp:
        smtp.starttls(context=gateway.ssl)
        smtp.login(user, PASSWORD)
        smtp.sendmail(user, [to], letter(user, to, subject))


def inbox(gateway: Gateway) -> list[bytes]:
    with imaplib.IMAP4_SSL(*gateway.port("imaps"), ssl_context=gateway.ssl, timeout=30) as imap:
        imap.login(f"alice@{gateway.domain}", PASSWORD)
        imap.select("INBOX", readonly=True)
        return [part[1] for part in imap.fetch("1:*", "(BODY.PEEK[])")[1] if isinstance(part, tuple)]


def test_mail_of_the_world_comes_through(house: House) -> None:
    with smtplib.SMTP(*house.alpha.port("smtp"), timeout=30) as smtp:
        smtp.ehlo()
        smtp.sendmail("eve@elsewhere.test", [CAROL], letter("eve@elsewhere.test", CAROL, "from the world"))
        smtp.mail("eve@elsewhere.test")
        assert smtp.rcpt("nobody@old.test")[0] == 550
        assert smtp.rcpt("eve@elsewhere.test")[0] == 550
    eventually(lambda: any(b"from the world" in mail for mail in house.mails()))


def test_a_parley_domain_writes_by_parley(house: House) -> None:
    submit(house.beta, CAROL, "by Parley to carol")
    eventually(lambda: any(b"by Parley to carol" in mail for mail in house.mails()))
    (mail,) = (mail for mail in house.mails() if b"by Parley to carol" in mail)
    assert b"with PARLEY id" in mail
    submit(house.beta, "nobody@old.test", "to nobody")
    eventually(lambda: any(b"nobody@old.test" in mail and b"Status: 5." in mail for mail in inbox(house.beta)))


def test_its_users_write_by_parley_too(house: House) -> None:
    with smtplib.SMTP(BEHIND, PORT, timeout=30, source_address=(BEHIND, 0)) as smtp:
        smtp.sendmail(CAROL, ["alice@beta.test"], letter(CAROL, "alice@beta.test", "carol writes"))
    eventually(lambda: any(b"carol writes" in mail for mail in inbox(house.beta)))
    (mail,) = (mail for mail in inbox(house.beta) if b"carol writes" in mail)
    assert b"with PARLEY id" in mail
    with smtplib.SMTP(*house.alpha.port("smtp"), timeout=30) as smtp:  # nobody else does in its name
        smtp.ehlo()
        assert smtp.mail(CAROL)[0] == 550


def test_while_it_is_down_mail_waits_here(house: House) -> None:
    house.postfix.stop()
    with smtplib.SMTP(*house.alpha.port("smtp"), timeout=30) as smtp:
        smtp.ehlo()
        smtp.mail("eve@elsewhere.test")
        assert smtp.rcpt("dave@old.test")[0] in {450, 451}
        assert smtp.rcpt(CAROL)[0] == 250
        assert smtp.data(letter("eve@elsewhere.test", CAROL, "it waited"))[0] == 250
    assert not any(b"it waited" in mail for mail in house.mails())
    house.postfix.start()
    eventually(lambda: any(b"it waited" in mail for mail in house.mails()))
