"""Filters over real sockets: opendkim as a milter and rspamd from Debian, and scripted ones that misbehave."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from gatewayd.address import Address, Domain
from gatewayd.core.filtering import FilterDown, Filtered, refusal
from gatewayd.crypto.dkim import DKIMSigner
from gatewayd.interfaces.queue import Envelope
from gatewayd.interfaces.routes import Origin
from gatewayd.net import filters
from gatewayd.net.filters import Place, ask_milter, ask_rspamd, place
from gatewayd.outcome import Deferred, Refused
from gatewayd.wire.milter.packets import Packet, PacketReader

ALICE, BOB, CAROL = (Address.parse(f"{name}@alpha.test") for name in ("alice", "bob", "carol"))
ENVELOPE = Envelope(CAROL, (ALICE, BOB))
ORIGIN = Origin("192.0.2.7", "mail.elsewhere.test")
HEAD = b"Received: x\r\nFrom: carol@alpha.test\r\nSubject: a\r\n b\r\nsubject: twice\r\n\r\n"
MAIL = HEAD + b"Body\r\n.\r\n" + b"x" * 70000
CONTINUE, ACCEPT = Packet("c"), Packet("a")


def until(ready: Callable[[], object], what: str) -> None:
    for _ in range(200):
        if ready():
            return
        time.sleep(0.1)
    raise AssertionError(f"{what} does not start")


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Scripted:
    """A milter that answers each step as it is told, and keeps what it was shown."""

    def __init__(self, *, flags: int = 0, actions: int = 0x31, version: int = 6, **answers: list[Packet]) -> None:
        self.hello = Packet("O", struct.pack(">III", version, actions, flags))
        self.answers = answers
        self.shown: list[Packet] = []

    def serve(self, listening: socket.socket) -> None:
        connection, _ = listening.accept()
        reader = PacketReader()
        with connection, suppress(OSError):
            while data := connection.recv(65536):
                for packet in reader.feed(data):
                    if packet.letter == "Q":
                        return
                    if packet.letter not in "DQ":
                        self.shown.append(packet)
                    said = [self.hello] if packet.letter == "O" else self.answers.get(packet.letter, [CONTINUE])
                    if packet.letter != "D":
                        connection.sendall(b"".join(each.encode() for each in said))

    @contextmanager
    def listening(self) -> Iterator[Place]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=self.serve, args=(server,), daemon=True)
            thread.start()
            yield Place("127.0.0.1", server.getsockname()[1])
            thread.join(5)


def asked(script: Scripted) -> Filtered:
    with script.listening() as at:
        return ask_milter(at, "mx.alpha.test", MAIL, ENVELOPE, ORIGIN, None)


def test_a_milter_is_shown_all() -> None:
    script = Scripted()
    assert asked(script) == Filtered("take", MAIL)
    shown = [(packet.letter, packet.data) for packet in script.shown[1:]]
    assert shown[:6] == [
        ("C", b"[192.0.2.7]\x004\0\x00192.0.2.7\0"),
        ("H", b"mail.elsewhere.test\0"),
        ("M", b"<carol@alpha.test>\0"),
        ("R", b"<alice@alpha.test>\0"),
        ("R", b"<bob@alpha.test>\0"),
        ("T", b""),
    ]
    fields = [data for letter, data in shown if letter == "L"]
    assert fields == [b"Received\0x\0", b"From\0carol@alpha.test\0", b"Subject\0a\n b\0", b"subject\0twice\0"]
    assert b"".join(data for letter, data in shown if letter == "B") == MAIL.partition(b"\r\n\r\n")[2]


def test_a_milter_leaves_out_what_it_wants() -> None:
    script = Scripted(flags=0x1 | 0x20 | 0x10 | 0x100000 | 0x4000)
    assert asked(script).action == "take"
    assert [packet.letter for packet in script.shown] == ["O", "H", "M", "R", "R", "T", "N", "E"]


@pytest.mark.parametrize(
    ("script", "action", "outcome"),
    [
        (Scripted(M=[Packet("r")]), "refuse", Refused("5.7.1", "A content filter does not take it")),
        (Scripted(E=[Packet("t")]), "defer", Deferred("4.7.1", "A content filter does not take it")),
        (Scripted(E=[Packet("p"), Packet("y", b"550 5.7.9 no viruses\0")]), "refuse", Refused("5.7.9", "no viruses")),
        (Scripted(C=[Packet("y", b"451 busy\0")]), "defer", Deferred("4.7.1", "busy")),
        (Scripted(H=[Packet("d")]), "discard", None),
        (Scripted(R=[Packet("r")]), "refuse", Refused("5.7.1", "A content filter does not take it")),
        (Scripted(E=[Packet("q", b"odd\0"), CONTINUE]), "junk", None),
        (Scripted(B=[Packet("s")]), "take", None),
        (Scripted(M=[ACCEPT]), "take", None),
    ],
)
def test_verdicts_of_a_milter(script: Scripted, action: str, outcome: object) -> None:
    said = asked(script)
    assert (said.action, said.outcome) == (action, outcome)
    assert (said.why == "") == (action == "take")


def test_a_milter_that_refuses_one_recipient() -> None:
    class Picky(Scripted):
        def serve(self, listening: socket.socket) -> None:
            self.answers["R"] = [Packet("r")]
            original = self.shown

            class Once(list[Packet]):
                def append(inner, packet: Packet) -> None:
                    super().append(packet)
                    self.answers["R"] = [CONTINUE] if packet.data == b"<alice@alpha.test>\0" else [Packet("r")]

            self.shown = Once(original)
            super().serve(listening)

    said = asked(Picky())
    assert (said.action, said.refused) == ("take", {BOB})


def test_a_milter_changes_fields_and_body() -> None:
    def field(number: int, name: bytes, value: bytes) -> bytes:
        return struct.pack(">I", number) + name + b"\0" + value + b"\0"

    changes = [
        Packet("h", b"X-Last\0one\r\nInjected: no\0"),
        Packet("i", field(0, b"X-First", b"1")),
        Packet("m", field(2, b"Subject", b"")),
        Packet("m", field(1, b"From", b"dave@alpha.test")),
        Packet("b", b"New "),
        Packet("b", b"body\r\n"),
        CONTINUE,
    ]
    said = asked(Scripted(E=changes))
    assert said.mail == (
        b"X-First: 1\r\nReceived: x\r\nFrom: dave@alpha.test\r\nSubject: a\r\n b\r\nX-Last: one\r\n\tInjected: no\r\n"
        b"\r\nNew body\r\n"
    )


@pytest.mark.parametrize(
    "script",
    [
        Scripted(actions=0x4),  # it wants to add recipients
        Scripted(version=1),
        Scripted(E=[Packet("+", b"<evil@alpha.test>\0"), CONTINUE]),
        Scripted(E=[Packet("h", b"no end")]),
        Scripted(E=[Packet("h", b"bad name\0x\0"), CONTINUE]),
        Scripted(E=[Packet("y", b"hello\0")]),
        Scripted(C=[Packet("?")]),
        Scripted(C=[Packet("c", bytes(2 * 1024 * 1024))]),
    ],
)
def test_a_milter_that_breaks_the_protocol_is_down(script: Scripted) -> None:
    with pytest.raises(FilterDown, match="milter 127"):
        asked(script)


def test_nobody_there(tmp_path: Path) -> None:
    for at in (Place("127.0.0.1", 1), Place(str(tmp_path / "none.sock"))):
        with pytest.raises(FilterDown):
            ask_milter(at, "mx", MAIL, ENVELOPE, ORIGIN, None)
        with pytest.raises(FilterDown):
            ask_rspamd(at, MAIL, ENVELOPE, ORIGIN, None)


def test_a_filter_that_says_nothing_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        at = Place("127.0.0.1", mute.getsockname()[1])
        with pytest.raises(FilterDown):
            ask_milter(at, "mx", MAIL, ENVELOPE, ORIGIN, None)
        with pytest.raises(FilterDown):
            ask_rspamd(at, MAIL, ENVELOPE, ORIGIN, None)


def test_replies() -> None:
    assert refusal("550 5.7.9 words here", "x") == Refused("5.7.9", "words here")
    assert refusal("451 words", "x") == Deferred("4.7.1", "words")
    assert refusal("550 4.7.9 crossed", "x") == Refused("5.7.1", "4.7.9 crossed")
    assert refusal("550", "fallback") == Refused("5.7.1", "fallback")


def test_places() -> None:
    assert place("127.0.0.1:11333") == Place("127.0.0.1", 11333)
    assert place("[::1]:1") == Place("::1", 1)
    assert place("/run/milter.sock") == Place("/run/milter.sock")
    for text in ("", "host", ":1", "host:0", "host:x", "relative/path"):
        with pytest.raises(ValueError, match="expected"):
            place(text)


# -- real filters ---------------------------------------------------------------------------------------------------

OPENDKIM = shutil.which("opendkim") or ("/usr/sbin/opendkim" if Path("/usr/sbin/opendkim").exists() else None)


@pytest.mark.skipif(OPENDKIM is None, reason="opendkim is not installed")
def test_opendkim_signs(tmp_path: Path) -> None:
    pem = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    key = tmp_path / "key.pem"
    key.write_bytes(pem)
    key.chmod(0o600)
    path = tmp_path / "milter.sock"
    (tmp_path / "opendkim.conf").write_text(
        f"Mode s\nDomain alpha.test\nSelector sel\nKeyFile {key}\nRequireSafeKeys no\nSocket local:{path}\nSyslog no\n"
    )
    with subprocess.Popen([str(OPENDKIM), "-f", "-x", str(tmp_path / "opendkim.conf")]) as running:
        try:
            until(path.exists, "opendkim")
            inside = Origin("127.0.0.1", "localhost")
            mail = b"From: carol@alpha.test\r\nSubject: x\r\n\r\nBody\r\n"
            said = ask_milter(Place(str(path)), "mx.alpha.test", mail, ENVELOPE, inside, CAROL)
        finally:
            running.terminate()
    assert said.action == "take"
    assert said.mail.endswith(mail)
    record = DKIMSigner(Domain.parse("alpha.test"), "sel", pem).record.encode()
    assert dkim.verify(said.mail, dnsfunc=lambda name, timeout=5: record)


GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"


@pytest.mark.skipif(shutil.which("rspamd") is None, reason="rspamd is not installed")
def test_rspamd_judges(tmp_path: Path) -> None:
    (tmp_path / "rspamd.conf").write_text(f"""
options {{
  pidfile = "{tmp_path}/pid"; tempdir = "{tmp_path}"; url_tld = "{tmp_path}/tld";
  filters = ""; disable_hyperscan = true;
  dns {{ nameserver = "127.0.0.1:1"; timeout = 0.1s; retransmits = 0; }}
}}
logging {{ type = "console"; level = "error"; }}
worker "normal" {{ bind_socket = "127.0.0.1:21333"; count = 1; }}
actions {{ reject = 15; add_header = 6; }}
""")
    (tmp_path / "tld").write_text("test\n")  # all of them take rspamd half a minute
    command = ["rspamd", "-f", "-i", "-c", str(tmp_path / "rspamd.conf")]
    at = Place("127.0.0.1", 21333)
    spam = b"From: carol@alpha.test\r\nSubject: x\r\nMIME-Version: 1.0\r\n\r\n" + GTUBE + b"\r\n"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            until(lambda: answers(at.port), "rspamd")
            bad = ask_rspamd(at, spam, ENVELOPE, ORIGIN, None)
            good = ask_rspamd(at, spam.replace(GTUBE, b"Hello"), ENVELOPE, ORIGIN, CAROL)
        finally:
            running.terminate()
    assert (bad.action, bad.outcome) == ("refuse", Refused("5.7.1", "It looks like spam"))
    assert bad.why.startswith("rspamd: reject")
    assert (good.action, good.mail) == ("take", spam.replace(GTUBE, b"Hello"))
