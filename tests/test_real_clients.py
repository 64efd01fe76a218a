"""mbsync, mutt, fetchmail, curl, swaks and gsasl from Debian against a gateway; each skips where it is missing."""

from __future__ import annotations

import email
import email.policy
import imaplib
import mailbox
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.world import PASSWORD, Gateway
from tests.corpus import messages

USER = "alice@alpha.test"
pytestmark = pytest.mark.xdist_group("real clients")  # one gateway, at fixed ports


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    made = Gateway(tmp_path_factory.mktemp("gateway"), "alpha.test", "127.0.0.21", ["alice", "bob"], 9)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def imap(gateway: Gateway) -> Iterator[imaplib.IMAP4_SSL]:
    """alice's empty mailbox."""
    host, port = gateway.port("imaps")
    with imaplib.IMAP4_SSL(host, port, ssl_context=gateway.ssl, timeout=30) as program:
        program.login(USER, PASSWORD)
        program.select("INBOX")
        program.store("1:*", "+FLAGS", "(\\Deleted)")
        program.expunge()
        yield program


def run(*command: object, home: Path, text: str | None = None, ok: tuple[int, ...] = (0,)) -> str:
    program = str(command[0])
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run(
        [str(word) for word in command], input=text, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "HOME": str(home), "LC_ALL": "C.UTF-8"}, cwd=home, errors="replace",
    )  # fmt: skip
    assert done.returncode in ok, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_mbsync_keeps_a_maildir_in_step(gateway: Gateway, imap: imaplib.IMAP4_SSL, tmp_path: Path) -> None:
    """Down, up, flags both ways, and deletion; the octets as they are."""
    mails = [mail for mail in messages()[:60] if b"\0" not in mail]
    for mail in mails:
        imap.append("INBOX", "", "", mail)
    host, port = gateway.port("imaps")
    (tmp_path / "maildir").mkdir()
    config = tmp_path / "mbsyncrc"
    config.write_text(f"""
IMAPStore far
Host {host}
Port {port}
User {USER}
Pass {PASSWORD}
SSLType IMAPS
CertificateFile {gateway.root / "certificate.pem"}

MaildirStore near
Path {tmp_path}/maildir/
Inbox {tmp_path}/maildir/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns *
Create Both
Expunge Both
Sync All
SyncState *
""")

    def sync() -> None:
        run("mbsync", "-c", config, "-a", home=tmp_path)

    sync()
    maildir = mailbox.Maildir(tmp_path / "maildir/INBOX")
    tuid = re.compile(rb"^X-TUID: .*\n", re.MULTILINE)  # mbsync's own mark
    got = sorted(tuid.sub(b"", maildir.get_bytes(key), count=1) for key in maildir.iterkeys())
    assert got == sorted(mail.replace(b"\r\n", b"\n") for mail in mails)

    maildir.add(b"From: alice@alpha.test\nSubject: written offline\n\nUp it goes.\n")
    inbox = (tmp_path / "maildir/INBOX").glob("*/*,U=*")
    (first,) = (path for path in inbox if re.search(r",U=1(:|$)", path.name))
    first.rename(tmp_path / "maildir/INBOX/cur" / (first.name.partition(":")[0] + ":2,FS"))
    imap.store("5", "+FLAGS", "(\\Answered)")
    imap.store("6:8", "+FLAGS", "(\\Deleted)")
    imap.expunge()
    sync()
    imap.noop()
    found = imap.search(None, "SUBJECT", '"written offline"')[1][0].split()
    assert len(found) == 1
    assert imap.search(None, "FLAGGED", "SEEN")[1] == [b"1"]
    assert len(list(mailbox.Maildir(tmp_path / "maildir/INBOX").keys())) == len(mails) - 3 + 1
    assert any("R" in message.get_flags() for message in mailbox.Maildir(tmp_path / "maildir/INBOX"))
    sync()
    assert imap.status("INBOX", "(MESSAGES)")[1] == [b'"INBOX" (MESSAGES %d)' % (len(mails) - 3 + 1)]
    assert (tmp_path / "maildir/Sent").is_dir()

    (path,) = (path for path in (tmp_path / "maildir/INBOX").glob("*/*,U=*") if re.search(r",U=2(:|$)", path.name))
    path.rename(tmp_path / "maildir/INBOX/cur" / (path.name.partition(":")[0] + ":2,T"))
    uids = imap.uid("SEARCH", "ALL")[1][0].split()
    sync()
    imap.noop()
    assert imap.uid("SEARCH", "ALL")[1][0].split() == uids[:1] + uids[2:]
    assert len(list(mailbox.Maildir(tmp_path / "maildir/INBOX").keys())) == len(uids) - 1


def test_fetchmail_takes_by_pop3(gateway: Gateway, imap: imaplib.IMAP4_SSL, tmp_path: Path) -> None:
    mails = [mail for mail in messages()[60:80] if b"\0" not in mail and max(map(len, mail.split(b"\r\n"))) < 900]
    for mail in mails:
        imap.append("INBOX", "", "", mail)
    host, port = gateway.port("pop3s")
    config = tmp_path / "fetchmailrc"
    config.write_text(
        f'poll {host} service {port} protocol POP3 user "{USER}" password "{PASSWORD}"'
        f' ssl sslcommonname "localhost" sslcertfile "{gateway.root}/ca.pem" no rewrite'
        f' mda "cat > {tmp_path}/mail-$$"\n'
    )
    config.chmod(0o600)
    run("fetchmail", "-f", config, "--nosyslog", "--pidfile", tmp_path / "pid", "-i", tmp_path / "ids", home=tmp_path)
    got = [path.read_bytes() for path in tmp_path.glob("mail-*")]
    assert len(got) == len(mails)
    bodies = sorted(mail.partition(b"\r\n\r\n")[2].replace(b"\r\n", b"\n").rstrip(b"\n") for mail in mails)
    assert sorted(octets.partition(b"\n\n")[2].rstrip(b"\n") for octets in got) == bodies
    imap.noop()
    assert imap.search(None, "ALL")[1] == [b""]  # fetched and deleted


def test_mutt_sends_and_reads(gateway: Gateway, imap: imaplib.IMAP4_SSL, tmp_path: Path) -> None:
    ca, submissions, imaps = gateway.root / "ca.pem", gateway.port("submissions"), gateway.port("imaps")
    config = tmp_path / "muttrc"
    config.write_text(f"""
set charset=utf-8 send_charset=utf-8 certificate_file={ca} ssl_force_tls=yes use_from=yes from={USER} realname=Alice
set smtp_url="smtps://{USER}:{PASSWORD}@{submissions[0]}:{submissions[1]}/" record="" copy=no
set imap_user={USER} imap_pass={PASSWORD} folder=imaps://{imaps[0]}:{imaps[1]}/ mail_check=1 wait_key=no
set smtp_authenticators="scram-sha-256" imap_authenticators="scram-sha-256"
""")  # left alone, mutt 2.2 begins -PLUS, finds that it has no tls-exporter value, and gives up
    attached = tmp_path / "picture.bin"
    attached.write_bytes(bytes(range(256)) * 40)
    run("mutt", "-F", config, "-s", "Grüße", "-a", attached, "--", USER, home=tmp_path, text="Von mutt, für Alice.\n")
    imap.noop()
    fetched: Any = imap.fetch("1", "(BODYSTRUCTURE BODY.PEEK[HEADER.FIELDS (SUBJECT)])")[1]
    assert b"picture.bin" in b"".join(fetched[0])
    assert email.message_from_bytes(fetched[0][1], policy=email.policy.default)["Subject"] == "Grüße"
    read = tmp_path / "read"
    push = f"push '<pipe-message>cat>{read}<enter><delete-message><sync-mailbox><quit>'\n"
    config.write_text(config.read_text() + "set delete=yes quit=yes confirmcreate=no\n" + push)
    mutt = f"TERM=xterm mutt -F {config} -f imaps://{imaps[0]}:{imaps[1]}/INBOX"
    run("script", "-qec", mutt, "/dev/null", home=tmp_path, text="")
    assert "Von mutt, für Alice." in read.read_text()
    imap.noop()
    assert imap.search(None, "ALL")[1] == [b""]


def test_curl_by_every_door(gateway: Gateway, imap: imaplib.IMAP4_SSL, tmp_path: Path) -> None:
    def url(scheme: str, service: str) -> str:
        host, port = gateway.port(service)
        return f"{scheme}://{host}:{port}"

    curl = ("curl", "--silent", "--show-error", "--cacert", gateway.root / "ca.pem", "--user", f"{USER}:{PASSWORD}")
    mail = tmp_path / "mail"
    mail.write_bytes(b"From: alice@alpha.test\r\nSubject: by curl\r\n\r\n.dot\r\n..\r\nend\r\n")
    send = ("--mail-from", USER, "--mail-rcpt", USER, "--upload-file", mail)
    run(*curl, *send, url("smtps", "submissions"), home=tmp_path)
    run(*curl, *send, "--ssl-reqd", url("smtp", "submission"), home=tmp_path)
    for scheme, service, path in (("imaps", "imaps", "/INBOX;MAILINDEX=1"), ("imap", "imap", "/INBOX;MAILINDEX=2")):
        got = run(*curl, "--ssl-reqd", url(scheme, service) + path, home=tmp_path)
        assert got.endswith("Subject: by curl\n\n.dot\n..\nend\n")
    for scheme, service in (("pop3s", "pop3s"), ("pop3", "pop3")):
        got = run(*curl, "--ssl-reqd", url(scheme, service) + "/1", home=tmp_path)
        assert got.endswith("Subject: by curl\n\n.dot\n..\nend\n")
    # sending as somebody else: refused, and curl says so
    other = ("--mail-from", "bob@alpha.test", "--mail-rcpt", USER, "--upload-file", mail)
    assert "550" in run(*curl, *other, url("smtps", "submissions"), home=tmp_path, ok=(55,))


def test_swaks(gateway: Gateway, imap: imaplib.IMAP4_SSL, tmp_path: Path) -> None:
    def swaks(service: str, *options: str, ok: tuple[int, ...] = (0,)) -> str:
        host, port = gateway.port(service)
        return run("swaks", "--server", f"{host}:{port}", "--to", USER, *options, home=tmp_path, ok=ok)

    assert "250 2.0.0 Delivered" in swaks("smtp", "--from", "carol@elsewhere.test", "--pipeline")
    assert "250 2.0.0 Delivered" in swaks("smtp", "--from", "carol@elsewhere.test", "--tls")
    assert "550 5.1.1" in swaks("smtp", "--from", "c@elsewhere.test", "--to", "nobody@alpha.test", ok=(24,))
    signed_in = ("--from", USER, "--auth-user", USER, "--auth-password", PASSWORD)
    for mechanism in ("PLAIN", "LOGIN"):
        assert "250 2.0.0" in swaks("submission", "--tls", "--auth", mechanism, *signed_in)
    assert "535 5.7.8" in swaks("submission", "--tls", *signed_in[:-1], "wrong", ok=(28,))
    imap.noop()
    assert len(imap.search(None, "ALL")[1][0].split()) == 4


@pytest.mark.parametrize(("protocol", "service"), [("--smtp", "submission"), ("--imap", "imap")])
def test_gsasl_binds_the_channel(gateway: Gateway, tmp_path: Path, protocol: str, service: str) -> None:
    """SCRAM-SHA-256-PLUS with tls-exporter, as somebody else wrote it (RFC 9266)."""
    host, port = gateway.port(service)
    words = (
        "gsasl", "--verbose", protocol, f"--connect={host}:{port}", f"--x509-ca-file={gateway.root / 'ca.pem'}",
        f"--authentication-id={USER}", f"--authorization-id={USER}",
    )  # fmt: skip
    plus = run(*words, "--mechanism=SCRAM-SHA-256-PLUS", f"--password={PASSWORD}", home=tmp_path, text="")
    assert "AUTH" in plus
    assert "SCRAM-SHA-256-PLUS\n" in plus
    assert "finished (server trusted)" in plus
    unbound = run(*words, "--no-cb", "--mechanism=SCRAM-SHA-256", f"--password={PASSWORD}", home=tmp_path, text="")
    assert "finished (server trusted)" in unbound
    run(*words, "--mechanism=SCRAM-SHA-256-PLUS", "--password=wrong", home=tmp_path, text="", ok=(1,))
