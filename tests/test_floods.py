"""Many at once, from many addresses, against a gateway in a process of its own: bounded memory, and others are served.

Each flood is measured: `pytest -s` shows what the process had before, at the worst moment, and afterwards.
"""

from __future__ import annotations

import imaplib
import secrets
import smtplib
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cbor2
import pytest

from demo.clients import IMAPProgram, ParleyProgram
from demo.world import PASSWORD, Gateway, World, zone
from fuzz.frames import GREETING, frame
from fuzz.sessions import Wire
from gatewayd.address import Domain
from gatewayd.crypto import cose, domain_auth
from gatewayd.crypto.certificates import issue
from gatewayd.crypto.domain_keys import KeyStore
from gatewayd.crypto.scram import ScramClient
from gatewayd.message.model import Content, Payload
from tests.patience import eventually

CONNECTIONS = 2500  # that the gateway takes in all
UNFINISHED = 64 * 1024 * 1024  # octets
MUTE = "127.0.0.83"
ALPHA, BETA = Domain.parse("alpha.test"), Domain.parse("beta.test")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, reactor: Any) -> Iterator[World]:
    where = {"alpha.test": "127.0.0.81", "beta.test": "127.0.0.82"}
    made = World(tmp_path_factory.mktemp("world"), where, {}, ["alice", "bob"])
    config = made.gateways["alpha.test"].config
    limits = f"[limits]\nconnections = {CONNECTIONS}\nunfinished = {UNFINISHED}\n"
    config.write_text(config.read_text() + limits)
    made.start()
    yield made
    made.gateways["alpha.test"].kill()  # it would give the peer that never answers some seconds more
    made.stop()


@pytest.fixture(scope="module")
def alpha(world: World) -> Gateway:
    return world.gateways["alpha.test"]


class Served:
    """One who does nothing wrong, and the gateway's memory meanwhile."""

    def __init__(self, world: World, alpha: Gateway) -> None:
        self._world = world
        self._alpha = alpha
        self.worst = 0.0
        for _ in range(3):  # what is loaded once and kept
            self.look()
        self.before = self.worst = self.memory()

    def memory(self) -> float:
        return self._alpha.metric("process_resident_memory_bytes") / 1e6

    def look(self) -> None:
        subject = secrets.token_hex(8)
        ParleyProgram(self._alpha, "alice", self._world.reactor).send("bob@alpha.test", subject, "as ever")
        assert IMAPProgram(self._alpha, "bob").receive(subject).text == "as ever"
        self.worst = max(self.worst, self.memory())

    def grew(self, what: str) -> float:
        """Megabytes at the worst; the gateway is well."""
        print(f"\n{what}: {self.before:.1f} MB before, {self.worst:.1f} MB at the worst, {self.memory():.1f} MB after")
        assert self._alpha.health() == {"store": "ok"}
        assert "Traceback" not in (self._alpha.root / "gatewayd.log").read_text()
        return self.worst - self.before


@pytest.fixture
def served(world: World, alpha: Gateway) -> Served:
    return Served(world, alpha)


def hello(alpha: Gateway) -> bytes:
    """A TLS ClientHello."""
    context = alpha.ssl
    context.set_alpn_protocols(["parley/1"])
    out = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="alpha.test")
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return out.read()


def dial(alpha: Gateway, service: str, number: int) -> socket.socket:
    """Ten of an address, three hundred of a network."""
    one = socket.socket()
    one.settimeout(20)
    one.bind((f"127.1.{number // 300}.{1 + number // 10 % 30}", 0))
    one.connect(alpha.port(service))
    return one


def test_thousands_of_half_open_handshakes(alpha: Gateway, served: Served) -> None:
    """More than there are places for: who waits the longest makes room."""
    begun = hello(alpha)
    waiting = []
    for number in range(CONNECTIONS + 1500):
        one = dial(alpha, ("parley", "imaps", "submissions")[number % 3], number)
        one.sendall((b"", begun[:50], begun)[number % 3])
        waiting.append(one)
        if number % 500 == 499:
            served.look()
    served.look()
    grew = served.grew(f"{len(waiting)} half-open handshakes")
    for one in waiting:
        one.close()
    assert grew < CONNECTIONS * 0.1


def test_messages_that_never_end(alpha: Gateway, served: Served) -> None:
    """Forty times twelve megabytes by SMTP from strangers; who has sent most is sent away, and may come again."""
    line = b"The quick brown fox jumps over the lazy dog.\r\n" * 5000
    held, said = [], b""
    for number in range(40):
        one = dial(alpha, "smtp", number)
        held.append(one)
        try:
            one.sendall(b"EHLO x.test\r\n")
            time.sleep(0.01)
            one.sendall(b"MAIL FROM:<a@x.test>\r\nRCPT TO:<bob@alpha.test>\r\nDATA\r\n")
            while not said.endswith(b"354 "):
                said = (said + one.recv(1000)).partition(b"354 ")[0] + b"354 "
            for _ in range(52):
                one.sendall(line)
        except OSError:
            pass
        if number % 10 == 9:
            served.look()
    grew = served.grew("40 messages of 12 MB that never end")
    said = b"".join(heard(one) for one in held)
    assert b"421 4.3.0 Nothing was accepted: too much is being received now; try again later\r\n" in said
    assert grew < 3 * UNFINISHED / 1e6
    with smtplib.SMTP(*alpha.port("smtp"), timeout=60) as smtp:
        big = b"Subject: big\r\n\r\n" + line * 40
        assert smtp.sendmail("x@elsewhere.test", ["bob@alpha.test"], big) == {}


def heard(one: socket.socket) -> bytes:
    one.settimeout(0.02)
    said = b""
    try:
        while chunk := one.recv(65536):
            said += chunk
    except OSError:
        pass
    one.close()
    return said


def test_enormous_lengths_announced_by_strangers(alpha: Gateway, served: Served) -> None:
    """Sixty-four kilobytes are the most that one who has not signed in may begin; and no more is kept than came."""
    context = alpha.ssl
    context.set_alpn_protocols(["parley/1"])
    held = []
    for number in range(600):
        tls = context.wrap_socket(dial(alpha, "parley", number), server_hostname="alpha.test")
        held.append(tls)
        tls.sendall(frame(GREETING) + (65536).to_bytes(4, "big") + bytes(1000))
        if number % 200 == 199:
            served.look()
    tls = context.wrap_socket(dial(alpha, "parley", 0), server_hostname="alpha.test")
    tls.sendall(frame(GREETING) + (2**32 - 1).to_bytes(4, "big"))
    assert b"too-big" in b"".join(iter(lambda: tls.recv(65536), b""))
    assert served.grew("600 strangers with a frame of 64 KiB begun") < 600 * 0.25
    for tls in held:
        tls.close()


def test_enormous_frames_begun_by_a_user(alpha: Gateway, served: Served) -> None:
    """Twelve connections of one who has signed in, each with forty megabytes of a frame that does not end."""
    held = []
    for _ in range(12):
        wire = Wire(alpha, "parley", b"parley/1")
        held.append(wire)
        wire.frame()
        wire.say(frame(GREETING))
        scram = ScramClient("alice@alpha.test", PASSWORD, secrets.token_hex(8), wire.exporter)
        message = scram.first()
        for stream in (1, 2):
            wire.say(frame([1, stream, "auth", {"mechanism": "SCRAM-SHA-256-PLUS", "data": message}]))
            message = scram.final(challenge) if (challenge := wire.frame()[3]["data"]) and stream == 1 else b""
        try:
            wire.say((70 * 1024 * 1024).to_bytes(4, "big"))
            for _ in range(40):
                wire.say(bytes(1024 * 1024))
        except OSError:
            pass  # it has had enough
        served.look()
    assert served.grew("12 frames of 40 MB that never end") < 4 * UNFINISHED / 1e6
    for wire in held:
        wire.close()


def test_a_flood_of_introductions(world: World, alpha: Gateway, served: Served) -> None:
    """Two thousand strangers of one domain, all to one user; every one is answered, a few are kept."""
    key = KeyStore(world.gateways["beta.test"].root / "state/keys", time.time).signing_key(BETA)
    wire = Wire(alpha, "parley", b"parley/1")
    wire.frame()
    wire.say(frame(GREETING))
    names = {"domain": "beta.test", "to": "alpha.test", "kid": key.kid}
    proof = domain_auth.sign(key, ALPHA, wire.exporter)
    wire.say(frame([1, 1, "auth", {"mechanism": "DOMAIN", "data": proof, **names}]))
    assert wire.frame()[3] == {"done": True}
    codes: Counter[str] = Counter()
    for begin in range(0, 2000, 100):
        for number in range(begin, begin + 100):
            payload = Payload(f"eve{number}@beta.test", ("bob@alpha.test",), 0, secrets.token_bytes(16)).encode()
            protected, signature = cose.sign(payload, key)
            signed = Content(protected, payload, signature, {}).signed
            body = {"to": ["bob@alpha.test"], "signed": signed, "from": f"eve{number}@beta.test"}
            wire.say(frame([1, number + 2, "send", body]))
        for _ in range(100):
            codes[wire.frame()[3]["results"][0]["code"]] += 1
        served.look()
    wire.close()
    print(f"\n{dict(codes)}")
    assert sum(codes.values()) == 2000 and 0 < codes["2.0.0"] <= 50
    assert all(code.startswith("4.7.") for code in codes if code != "2.0.0")
    with imaplib.IMAP4_SSL(*alpha.port("imaps"), ssl_context=alpha.ssl) as program:
        program.login("bob@alpha.test", PASSWORD)
        assert program.status("Introductions", "(MESSAGES)")[1] == [b'"Introductions" (MESSAGES %d)' % codes["2.0.0"]]
    assert served.grew("2000 introductions") < 40


class Mute:
    """gamma.test: proves itself, takes our proof, and never answers a send."""

    def __init__(self, alpha: Gateway, root: Path) -> None:
        authority = (alpha.root / "ca-key.pem").read_bytes(), (alpha.root / "ca.pem").read_bytes()
        key, certificate = issue(*authority, ["gamma.test"])
        (root / "key").write_bytes(key)
        (root / "certificate").write_bytes(certificate)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(root / "certificate", root / "key")
        self._context.set_alpn_protocols(["parley/1"])
        self._socket = socket.create_server((MUTE, 5299))
        self.asked: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        try:
            with self._context.wrap_socket(connection, server_side=True) as tls:
                tls.sendall(frame([0, 0, "", {"version": 1, "name": "mx.gamma.test", "frame": 1 << 20}]))
                buffer = b""
                while chunk := tls.recv(65536):
                    buffer += chunk
                    while len(buffer) >= 4 and len(buffer) >= (end := 4 + int.from_bytes(buffer[:4], "big")):
                        item, buffer = cbor2.loads(buffer[4:end]), buffer[end:]
                        self.asked.append(item[2])
                        if item[2] == "auth":
                            tls.sendall(frame([2, item[1], "auth", {"done": True}]))
        except OSError:
            pass

    def stop(self) -> None:
        self._socket.close()


def test_a_peer_that_never_acknowledges(world: World, alpha: Gateway, served: Served, tmp_path: Path) -> None:
    world.publish(gamma_test=zone(MUTE, parley=True))
    mute = Mute(alpha, tmp_path)
    try:
        alice = IMAPProgram(alpha, "alice")
        for number in range(60):  # more than there are attempts at a time
            alice.send("x@gamma.test", f"for gamma {number}", "never acknowledged")
        eventually(lambda: mute.asked.count("send") > 0)
        for number in range(5):
            alice.send("bob@beta.test", f"for beta {number}", "as ever")
            assert IMAPProgram(world.gateways["beta.test"], "bob").receive(f"for beta {number}").text == "as ever"
        served.look()
        assert mute.asked.count("send") < 60
        served.grew("60 messages to a peer that never acknowledges")
    finally:
        mute.stop()
