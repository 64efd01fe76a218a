"""Milters over real sockets: scripted ones, some of which misbehave, opendkim from Debian, and all of it by SMTP."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from twisted.internet import defer
from twisted.internet.threads import blockingCallFromThread, deferToThreadPool
from twisted.python.threadpool import ThreadPool

from demo.world import Gateway
from gatewayd.address import Address, Domain
from gatewayd.core.filtering import FilterDown, Filtered
from gatewayd.crypto.dkim import DKIMSigner
from gatewayd.interfaces.queue import Envelope
from gatewayd.interfaces.routes import Origin
from gatewayd.net import filters
from gatewayd.net.filters import Asking, Place
from gatewayd.net.milter import Milter, MilterVisit
from gatewayd.outcome import Deferred, Refused
from gatewayd.wire.milter.packets import Packet, PacketReader
from tests.peers import until
from tests.smtp_talk import Mailbox, Talk

ALICE, BOB, CAROL = (Address.parse(f"{name}@alpha.test") for name in ("alice", "bob", "carol"))
ENVELOPE = Envelope(CAROL, (ALICE, BOB))
ORIGIN = Origin("192.0.2.7", "mail.elsewhere.test")
HEAD = b"Received: x\r\nFrom: carol@alpha.test\r\nSubject: a\r\n b\r\nsubject: twice\r\n\r\n"
MAIL = HEAD + b"Body\r\n.\r\n" + b"x" * 70000
CONTINUE, ACCEPT = Packet("c"), Packet("a")
NO_REPLY = {  # the step's flag by which a filter says that it gives none
    "C": 0x1000, "H": 0x2000, "M": 0x4000, "R": 0x8000, "T": 0x10000, "L": 0x80, "N": 0x40000, "B": 0x80000,
}  # fmt: skip


class Scripted:
    """A milter that answers each step as it is told, by its letter or by letter and data, and keeps what it was shown.
    Connections come one after the other."""

    def __init__(self, *, flags: int = 0, actions: int = 0xFF, version: int = 6, **answers: list[Packet]) -> None:
        self._flags = flags
        self.hello = Packet("O", struct.pack(">III", version, actions, flags))
        self.answers: dict[str | tuple[str, bytes], list[Packet]] = dict(answers)  # type: ignore[arg-type]
        self.shown: list[Packet] = []
        self.macros: dict[str, dict[str, str]] = {}  # by the letter of the step, the last that were told

    def serve(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                self._serve(listening.accept()[0])

    def _serve(self, connection: socket.socket) -> None:
        reader = PacketReader()
        with connection, suppress(OSError):
            while data := connection.recv(65536):
                reader.feed(data)
                while (packet := reader.next()) is not None:
                    if packet.letter == "Q":
                        return
                    if packet.letter == "D":
                        step, *words = packet.data.decode().split("\0")[:-1]
                        names = [step[1:], *words[1::2]]
                        self.macros[step[0]] = dict(zip(names, words[0::2], strict=True))
                    else:
                        self.shown.append(packet)
                    if packet.letter not in "DA" and not self._flags & NO_REPLY.get(packet.letter, 0):
                        connection.sendall(b"".join(each.encode() for each in self._said(packet)))

    def _said(self, packet: Packet) -> list[Packet]:
        if packet.letter == "O":
            return [self.hello]
        return self.answers.get((packet.letter, packet.data)) or self.answers.get(packet.letter) or [CONTINUE]

    @property
    def letters(self) -> str:
        """Of what it was shown, since this was asked last."""
        letters = "".join(packet.letter for packet in self.shown)
        self.shown.clear()
        return letters

    @contextmanager
    def listening(self, address: str = "127.0.0.1", port: int = 0) -> Iterator[Place]:
        with socket.create_server((address, port)) as server:
            threading.Thread(target=self.serve, args=(server,), daemon=True).start()
            try:
                yield Place(*server.getsockname())
            finally:
                server.shutdown(socket.SHUT_RDWR)  # else it listens for as long as the thread is in its accept()


def asked(script: Scripted) -> Filtered:
    with script.listening() as at:
        milter = Milter(at, "mx.alpha.test", ORIGIN, None)
        try:
            return milter.judge(MAIL, ENVELOPE)
        finally:
            milter.close()


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
        (
            Scripted(E=[Packet("p"), Packet("y", b"550 5.7.9 no viruses\0")]),
            "refuse",
            Refused("5.7.9", "no viruses", 550),
        ),
        (Scripted(C=[Packet("y", b"451 busy\0")]), "defer", Deferred("4.7.1", "busy", reply=451)),
        (
            Scripted(E=[Packet("y", b"554-5.7.8 no\r\n554-5.7.8\r\n554 5.7.8 100%% not\0")]),
            "refuse",
            Refused("5.7.8", "no\n\n100% not", 554),
        ),
        (Scripted(E=[Packet("y", b"552 4.7.1 a contradiction\0")]), "refuse", Refused("5.7.1", "a contradiction", 552)),
        (
            Scripted(E=[Packet("y", b"450\0")]),
            "defer",
            Deferred("4.7.1", "A content filter does not take it", None, 450),
        ),
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
    script = Scripted()
    script.answers["R", b"<bob@alpha.test>\0"] = [Packet("r")]
    said = asked(script)
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
        Scripted(actions=0x100),  # it wants to say which macros it is told
        Scripted(version=1),
        Scripted(E=[Packet("+", b"<evil>\0"), CONTINUE]),
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


def test_a_milter_changes_the_envelope() -> None:
    changes = [
        Packet("-", b"<BOB@alpha.test>\0"),
        Packet("+", b"<dave@alpha.test>\0"),
        Packet("2", b"<eve@b.test>\0NOTIFY=NEVER\0"),
        Packet("e", b"<bounces@b.test>\0SIZE=1\0"),
        CONTINUE,
    ]
    said = asked(Scripted(E=changes))
    assert said.envelope is not None
    assert [str(to) for to in said.envelope.recipients] == ["alice@alpha.test", "dave@alpha.test", "eve@b.test"]
    assert str(said.envelope.reverse_path) == "bounces@b.test"
    assert (said.mail, said.why.partition(": ")[2]) == (MAIL, "changed the envelope")


def test_step_by_step() -> None:
    """One connection for a client; what was broken off is aborted; what it said of the client holds for all mail."""
    script = Scripted()
    with script.listening() as at:
        milter = Milter(at, "mx.alpha.test", ORIGIN, None)
        assert milter.mail(CAROL) is None
        script.answers["R", b"<bob@alpha.test>\0"] = [Packet("y", b"550 5.1.1 no bob\0")]
        assert (milter.rcpt(ALICE), milter.rcpt(BOB)) == (None, Refused("5.1.1", "no bob", 550))
        assert milter.data() is None
        assert milter.judge(HEAD, Envelope(CAROL, (ALICE,))) == Filtered("take", HEAD)
        assert script.letters == "OCHMRRTLLLLNE"
        milter.mail(CAROL)
        milter.mail(None)
        assert milter.judge(HEAD, Envelope(None, (ALICE,))).action == "take"
        assert script.letters == "MAMTLLLLNE"
        script.answers["T"] = [Packet("t")]
        milter.mail(CAROL)
        assert milter.data() == Deferred("4.7.1", "A content filter does not take it")
        script.answers["R"] = [Packet("d")]
        milter.mail(CAROL)
        assert (milter.rcpt(ALICE), milter.data()) == (None, None)
        assert milter.judge(HEAD, Envelope(CAROL, (ALICE,))).action == "discard"
        assert script.letters == "MTAMR"
        milter.close()
        script.answers = {"C": [Packet("r")]}
        milter = Milter(at, "mx.alpha.test", ORIGIN, None)
        assert milter.mail(CAROL) == milter.mail(CAROL) == Refused("5.7.1", "A content filter does not take it")
        assert script.letters == "OC"
        milter.close()
        script.answers = {"H": [ACCEPT]}
        milter = Milter(at, "mx.alpha.test", ORIGIN, None)
        assert (milter.mail(CAROL), milter.rcpt(BOB), milter.data()) == (None, None, None)
        assert milter.judge(MAIL, ENVELOPE) == Filtered("take", MAIL)
        assert script.letters == "OCH"
        milter.close()


def test_one_that_hung_up_between_two_messages_is_called_again() -> None:
    script = Scripted()
    with script.listening() as at:
        milter = Milter(at, "mx.alpha.test", ORIGIN, None)
        milter.mail(CAROL)
        assert milter._socket is not None
        milter._socket.shutdown(socket.SHUT_WR)
        assert milter.mail(CAROL) is None
        milter.close()


def test_nobody_there(tmp_path: Path) -> None:
    for at in (Place("127.0.0.1", 1), Place(str(tmp_path / "none.sock"))):
        milter = Milter(at, "mx", ORIGIN, None)
        for _ in range(2):
            with pytest.raises(FilterDown):
                milter.mail(CAROL)


def test_a_milter_that_says_nothing_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        milter = Milter(Place("127.0.0.1", mute.getsockname()[1]), "mx", ORIGIN, None)
        with pytest.raises(FilterDown):
            milter.judge(MAIL, ENVELOPE)


def test_one_that_is_stuck_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch, reactor: Any) -> None:
    """Who comes after it was found silent does not wait, until it had its rest; nor does who asks another filter."""
    monkeypatch.setattr(filters, "TIMEOUT", 0.5)
    pools = [ThreadPool(0, 2), ThreadPool(0, 2)]
    now = [0.0]
    script = Scripted()
    with socket.create_server(("127.0.0.1", 0)) as mute, script.listening() as other:
        stuck = Place("127.0.0.1", mute.getsockname()[1])
        askings = []
        for pool, at in zip(pools, (stuck, other), strict=True):
            pool.start()
            askings.append(Asking(partial(deferToThreadPool, reactor, pool), at, lambda: now[0]))

        def ask(number: int) -> defer.Deferred[Any]:
            visit = MilterVisit(askings[number], (stuck, other)[number], "mx", ORIGIN, None)
            return defer.Deferred.fromCoroutine(visit.judge(MAIL, ENVELOPE))

        async def all_of() -> list[Any]:
            order: list[Any] = []
            begun = [ask(0) for _ in range(20)] + [ask(1)]
            for asked in begun:
                asked.addBoth(lambda said: order.append(getattr(said, "value", said)))
            await defer.DeferredList(begun)
            return order

        first, *rest = blockingCallFromThread(reactor, lambda: defer.Deferred.fromCoroutine(all_of()))
        assert first == Filtered("take", MAIL)
        assert all(isinstance(said, FilterDown) for said in rest)
        assert sum(said.silent for said in rest) <= 2  # that were under way when it was found
        now[0] = filters.REST
        with pytest.raises(FilterDown, match="timed out"):
            blockingCallFromThread(reactor, ask, 0)
    for pool in pools:
        pool.stop()


def test_one_that_always_asks_for_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "PATIENCE", -1.0)
    with pytest.raises(FilterDown, match="no answer in time"):
        asked(Scripted(E=[Packet("p"), CONTINUE]))


# -- by SMTP --------------------------------------------------------------------------------------------------------

ADDRESS = "127.0.70.33"
SHORT = b"From: x@elsewhere.test\r\nSubject: x\r\n\r\nbody\r\n"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    made = Gateway(tmp_path_factory.mktemp("gateway"), "alpha.test", ADDRESS, ["alice", "bob"], 9)
    made.config.write_text(made.config.read_text() + f'\n[filters]\nmilters = ["{ADDRESS}:8891"]\n')
    made.start()
    yield made
    made.stop()


def test_a_filter_is_asked_at_each_step(gateway: Gateway) -> None:
    script = Scripted()
    with script.listening(ADDRESS, 8891), Talk(gateway) as talk:
        talk.do("EHLO client.test")
        script.answers["M", b"<bad@elsewhere.test>\0"] = [Packet("y", b"550 5.7.9 not him\0")]
        assert talk.do("MAIL FROM:<bad@elsewhere.test>") == "550 5.7.9 not him"
        assert script.letters == "OCHM"
        assert talk.do("MAIL FROM:<x@elsewhere.test>").startswith("250")
        script.answers["R", b"<alice@alpha.test>\0"] = [Packet("y", b"451 4.2.0 alice later\0")]
        to = ("alice@alpha.test", "nobody@alpha.test", "bob@alpha.test")
        assert [answer[:9] for answer in talk.all(*(f"RCPT TO:<{each}>" for each in to))] == [
            "451 4.2.0", "550 5.1.1", "250 2.1.5",
        ]  # fmt: skip
        assert talk.do("DATA").startswith("354")
        assert talk.do(SHORT + b".\r\n").startswith("250 2.0.0 Delivered")
        assert script.letters == "AMRRTLLNBE"
        script.answers["T"] = [Packet("r")]
        talk.all("MAIL FROM:<x@elsewhere.test>", "RCPT TO:<bob@alpha.test>")
        assert talk.do("DATA") == "550 5.7.1 A content filter does not take it"
        assert talk.do("RCPT TO:<bob@alpha.test>").startswith("503")
        del script.answers["T"]
        talk.do("EHLO another.test")  # what was told of the client holds no more
        assert talk.send("x@elsewhere.test", ["bob@alpha.test"], SHORT).startswith("250")
        assert script.letters == "MRTOCHMRTLLNBE"
    with Mailbox(gateway, "bob@alpha.test") as mailbox:
        mailbox.wait(2)
        mailbox.clear()


def test_a_reply_is_given_as_the_filter_wants_it(gateway: Gateway) -> None:
    script = Scripted()
    with script.listening(ADDRESS, 8891), Talk(gateway) as talk:
        talk.do("EHLO client.test")
        script.answers["M"] = [Packet("y", b"554-5.7.8 see\r\n554 5.7.8 http://x.test/%%41\0")]
        assert talk.do("MAIL FROM:<x@elsewhere.test>") == "554-5.7.8 see\n554 5.7.8 http://x.test/%41"
        del script.answers["M"]
        script.answers["E"] = [Packet("y", b"450 4.7.25 come later\0")]
        assert talk.send("x@elsewhere.test", ["bob@alpha.test"], SHORT) == "450 4.7.25 come later"
        script.answers["R"] = [Packet("y", b"421 4.7.0 go away\0")]
        talk.do("MAIL FROM:<x@elsewhere.test>")
        assert talk.do("RCPT TO:<bob@alpha.test>") == "421 4.7.0 go away"
        assert talk.ended()


def test_what_a_filter_is_told_in_macros(gateway: Gateway) -> None:
    script = Scripted(flags=0x1 | 0x2 | 0x8000)  # neither connection nor HELO; and it does not answer RCPT
    with script.listening(ADDRESS, 8891), Talk(gateway, "submissions", tls=True) as talk:
        talk.sign_in()
        talk.all("MAIL FROM:<alice@alpha.test>", "RSET")
        mail = b"From: alice@alpha.test\r\nSubject: x\r\n\r\nx\r\n"
        assert talk.send("alice@alpha.test", ["bob@alpha.test"], mail).startswith("250")
        assert "C" not in script.letters
    with Mailbox(gateway, "bob@alpha.test") as mailbox:
        mailbox.wait(1)
        mailbox.clear()
    told = script.macros
    assert told["C"] == {
        "j": "mx.alpha.test", "_": "[127.0.0.1]", "v": "gatewayd", "{client_addr}": "127.0.0.1",
        "{client_name}": "[127.0.0.1]", "{daemon_name}": "gatewayd",
    }  # fmt: skip
    assert told["H"]["{tls_version}"] == "TLSv1.3" and told["H"]["{cipher}"].startswith("TLS_")
    name = told["M"].pop("i")
    assert told["M"] == {
        "{mail_addr}": "alice@alpha.test", "{mail_host}": "alpha.test", "{auth_authen}": "alice@alpha.test",
        "{auth_type}": "PLAIN",
    }  # fmt: skip
    assert told["R"] == {"i": name, "{rcpt_addr}": "bob@alpha.test", "{rcpt_host}": "alpha.test"}
    assert told["T"] == told["N"] == told["E"] == {"i": name}


def test_a_filter_decides_who_gets_it(gateway: Gateway) -> None:
    edits = [("+", b"<alice@alpha.test>"), ("+", b"<nobody@alpha.test>"), ("-", b"<bob@alpha.test>")]
    edits.append(("e", b"<y@elsewhere.test>"))
    script = Scripted(E=[*(Packet(letter, path + b"\0") for letter, path in edits), CONTINUE])
    with script.listening(ADDRESS, 8891), Talk(gateway) as talk:
        talk.do("EHLO client.test")
        assert talk.send("x@elsewhere.test", ["bob@alpha.test"], SHORT).startswith("250 2.0.0")
        script.answers["E"] = [Packet("-", b"<bob@alpha.test>\0"), CONTINUE]
        assert talk.send("x@elsewhere.test", ["bob@alpha.test"], SHORT).startswith("250 2.0.0")
    with Mailbox(gateway, "alice@alpha.test") as hers, Mailbox(gateway, "bob@alpha.test") as his:
        (octets,) = hers.wait(1)
        assert octets.startswith(b"Return-Path: <y@elsewhere.test>\r\n")
        assert b"changed the envelope\r\n" in octets
        assert his.mails() == []


def test_what_a_filter_says_is_kept_while_the_mail_is_held(gateway: Gateway) -> None:
    script = Scripted(E=[Packet("q", b"smells\0"), CONTINUE])
    with script.listening(ADDRESS, 8891), Talk(gateway, "submissions", tls=True) as talk:
        talk.sign_in()
        mail = b"From: alice@alpha.test\r\nSubject: later\r\n\r\nx\r\n"
        assert talk.send("alice@alpha.test", ["bob@alpha.test"], mail, " HOLDFOR=1").startswith("250 2.0.0 Queued")
    with Mailbox(gateway, "bob@alpha.test", "Junk") as mailbox:
        assert f"Gatewayd-Verdict: Junk; milter {ADDRESS}:8891: smells\r\n".encode() in mailbox.wait(1)[0]


def test_a_filter_that_is_down_defers(gateway: Gateway) -> None:
    with Talk(gateway) as talk:
        talk.do("EHLO client.test")
        assert talk.do("MAIL FROM:<x@elsewhere.test>") == "451 4.7.1 A content filter is not available"
        assert talk.do("RCPT TO:<bob@alpha.test>").startswith("503")


def test_a_stop_does_not_wait_for_one_that_is_stuck(gateway: Gateway) -> None:
    with socket.create_server((ADDRESS, 8891)) as mute, Talk(gateway) as talk:
        talk.do("EHLO client.test")
        talk.say("MAIL FROM:<x@elsewhere.test>")
        asked, _ = mute.accept()
        assert asked.recv(1)  # and it hears nothing for a minute
        gateway.stop()  # raises when that takes half of one
        asked.close()
    gateway.start()


# -- a real one -----------------------------------------------------------------------------------------------------

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
            mail = b"From: carol@alpha.test\r\nSubject: x\r\n\r\nBody\r\n"
            milter = Milter(Place(str(path)), "mx.alpha.test", Origin("127.0.0.1", "localhost"), CAROL)
            milter.mail(CAROL)
            milter.rcpt(ALICE)  # and then the client resets
            signed = []
            for _ in range(2):  # of one connection
                assert (milter.mail(CAROL), milter.rcpt(ALICE), milter.data()) == (None, None, None)
                signed.append(milter.judge(mail, ENVELOPE))
            milter.close()
        finally:
            running.terminate()
    record = DKIMSigner(Domain.parse("alpha.test"), "sel", pem).record.encode()
    for said in signed:
        assert said.action == "take"
        assert said.mail.endswith(mail)
        assert dkim.verify(said.mail, dnsfunc=lambda name, timeout=5: record)
