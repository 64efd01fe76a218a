"""What mail hosts have to prove by TLS before they get mail: DANE, MTA-STS, what they had before, REQUIRETLS."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gatewayd.address import Domain
from gatewayd.core.mta_sts import Policy
from gatewayd.core.tls_policy import Demand, Level
from gatewayd.crypto.certificates import issue, make_authority
from gatewayd.crypto.dane import TLSA
from gatewayd.interfaces.dns import Endpoint
from gatewayd.interfaces.queue import TLS_OPTIONAL, Envelope, MailObject
from gatewayd.interfaces.routes import Bridged
from gatewayd.message.model import Content
from gatewayd.net.tls import Trust
from gatewayd.outcome import Deferred, Delivered, Outcome, Refused
from gatewayd.session.smtp_sign_in import Credentials
from tests.test_session_smtp_client import ALICE, BOB, CAROL, EHLO, MAIL, Sender, Server

TLS_EHLO = EHLO.replace(b"250 8", b"250-STARTTLS\r\n250-REQUIRETLS\r\n250 8")
STS = Policy("enforce", ("mx.beta.test", "*.mx.beta.test"), 86400)


class Policies:
    """The demand as the test says, and what was learned."""

    def __init__(self) -> None:
        self.now = Demand()
        self.learned: list[tuple[Level, Level]] = []
        self.noted: list[tuple[str, str]] = []

    async def demand(self, domain: Domain) -> Demand:
        return self.now

    async def learn(self, domain: Domain, before: Level, level: Level) -> None:
        self.learned.append((before, level))

    def note(self, domain: Domain, demand: Demand, endpoint: Endpoint, failure: str) -> None:
        self.noted.append((endpoint.name, failure))


class World:
    def __init__(self, root: Path, reactor: Any) -> None:
        self.root = root
        self.key, self.authority = make_authority("test")
        (root / "ca.pem").write_bytes(self.authority)
        self.policies = Policies()
        self.sender = Sender(
            reactor, Trust(root / "ca.pem"), policies=self.policies, reports=self.policies
        )  # fmt: skip
        self.servers: list[Server] = []

    def serve(self, *names: str, trusted: bool = True, ehlo: bytes = TLS_EHLO) -> Server:
        """With a certificate of these names; none: no TLS at all."""
        server = Server(EHLO=ehlo if names else EHLO, STARTTLS=b"220 go\r\n")
        self.servers.append(server)
        if names:
            key, authority = (self.key, self.authority) if trusted else make_authority("nobody")
            pem = issue(key, authority, names)
            for name, octets in zip(("key.pem", "chain.pem"), pem, strict=True):
                (self.root / name).write_bytes(octets + (authority if name == "chain.pem" else b""))
            server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            server.tls.load_cert_chain(self.root / "chain.pem", self.root / "key.pem")
            self.certificate = x509.load_pem_x509_certificate(pem[1]).public_bytes(Encoding.DER)
        return server

    def send(self, server: Server, *options: str, name: str = "mx.beta.test", tlsa: tuple[TLSA, ...] = ()) -> Outcome:
        envelope = Envelope(ALICE, (BOB,), frozenset(options))
        return self.sender.post(server, envelope, name=name, tlsa=tlsa)[BOB]


@pytest.fixture
def world(tmp_path: Path, reactor: Any) -> Iterator[World]:
    made = World(tmp_path, reactor)
    yield made
    made.sender.run(made.sender.courier.close)
    for server in made.servers:
        server.close()


def test_what_a_host_shows_is_learned(world: World) -> None:
    for server in (world.serve(), world.serve("other.test"), world.serve("mx.beta.test")):
        assert world.send(server).ok
    untrusted = world.serve("mx.beta.test", trusted=False)
    assert world.send(untrusted).ok
    levels = [Level.PLAIN, Level.ENCRYPTED, Level.VERIFIED, Level.ENCRYPTED]
    assert world.policies.learned == [(Level.PLAIN, level) for level in levels]
    assert world.policies.noted[0] == ("mx.beta.test", "starttls-not-supported")
    assert [failure for _, failure in world.policies.noted[1:]] == ["", "", ""]  # nobody asked for certificates


@pytest.mark.parametrize(
    ("had", "names", "trusted", "ok"),
    [
        (Level.ENCRYPTED, (), True, False),
        (Level.ENCRYPTED, ("other.test",), False, True),
        (Level.VERIFIED, (), True, False),
        (Level.VERIFIED, ("other.test",), True, False),
        (Level.VERIFIED, ("mx.beta.test",), False, False),
        (Level.VERIFIED, ("*.beta.test",), True, True),
    ],
)
def test_what_was_had_is_not_lowered(world: World, had: Level, names: tuple[str, ...], trusted: bool, ok: bool) -> None:
    world.policies.now = Demand(had)
    server = world.serve(*names, trusted=trusted)
    outcome = world.send(server)
    assert outcome.ok == ok
    if not ok:
        assert isinstance(outcome, Deferred) and outcome.code == "4.7.5" and "gatewayctl tls forget" in outcome.text
        assert not any(command.startswith("MAIL") for command in server.heard)


def test_a_policy_is_enforced(world: World) -> None:
    world.policies.now = Demand(Level.VERIFIED, STS)
    server = world.serve("mx.beta.test", "evil.test")
    assert world.send(server).ok
    outcome = world.send(server, name="evil.test")
    assert isinstance(outcome, Deferred) and "MTA-STS" in outcome.text
    outcome = world.send(world.serve("evil.test"))
    assert isinstance(outcome, Deferred) and "does not name it" in outcome.text
    assert world.policies.noted == [
        ("mx.beta.test", ""), ("evil.test", "validation-failure"), ("mx.beta.test", "certificate-host-mismatch"),
    ]  # fmt: skip


def test_a_policy_in_testing_only_tells(world: World) -> None:
    world.policies.now = Demand(sts=Policy("testing", ("mx.beta.test",), 86400))
    assert world.send(world.serve("mx.beta.test", trusted=False)).ok
    assert world.policies.noted == [("mx.beta.test", "certificate-not-trusted")]


def test_tlsa_records_decide_alone(world: World) -> None:
    server = world.serve("whatever.test", trusted=False)
    right = TLSA(3, 0, 1, hashlib.sha256(world.certificate).digest())
    wrong = TLSA(3, 0, 1, bytes(32))
    assert world.send(server, tlsa=(right,)).ok
    assert world.send(server, tlsa=(wrong, right)).ok
    refused = world.send(server, tlsa=(wrong,))
    assert isinstance(refused, Deferred) and "DANE" in refused.text
    assert world.policies.noted[-1] == ("mx.beta.test", "validation-failure")
    named = world.serve("mx.beta.test")
    assert not world.send(named, tlsa=(wrong,)).ok  # whatever PKIX says
    assert world.send(named, tlsa=(TLSA(9, 9, 9, b""),)).ok
    assert not world.send(world.serve(), tlsa=(TLSA(9, 9, 9, b""),)).ok  # RFC 7672 §2.2: unusable, so TLS at least


def test_a_connection_that_proved_less_is_not_used_again(world: World) -> None:
    server = world.serve("other.test")
    assert world.send(server).ok
    world.policies.now = Demand(Level.VERIFIED)
    assert not world.send(server).ok
    assert server.connections == 2


def test_tls_demanded_all_the_way(world: World) -> None:
    server = world.serve("mx.beta.test")
    assert world.send(server, "REQUIRETLS") == Refused(
        "5.7.30", "The sender demands TLS all the way, and the next server does not promise it"
    )  # nobody vouches for the MX record
    world.policies.now = Demand(Level.VERIFIED, STS)
    assert isinstance(world.send(server, "REQUIRETLS"), Delivered)
    assert any(command.startswith("MAIL") and command.endswith("REQUIRETLS") for command in server.heard)
    unable = world.serve("mx.beta.test", ehlo=TLS_EHLO.replace(b"250-REQUIRETLS\r\n", b""))
    assert world.send(unable, "REQUIRETLS").code == "5.7.30"


def test_a_sender_who_had_rather_that_it_arrives(world: World) -> None:
    """RFC 8689 §5: neither MTA-STS nor DANE nor what was had before keeps it back."""
    world.policies.now = Demand(Level.VERIFIED, STS)
    plain, forged = world.serve(), world.serve("other.test", trusted=False)
    for server, more in ((plain, {}), (forged, {"tlsa": (TLSA(3, 0, 1, bytes(32)),)})):
        assert not world.send(server, name="elsewhere.test", **more).ok
        assert world.send(server, TLS_OPTIONAL, name="elsewhere.test", **more).ok
        assert not any(TLS_OPTIONAL in command for command in server.heard)
    assert "STARTTLS" in forged.heard  # it is taken where it is there


def broken_tls(world: World) -> Server:
    """It says 220 to STARTTLS, and then goes on in the clear."""
    server = Server(EHLO=TLS_EHLO, STARTTLS=b"220 go\r\n")
    world.servers.append(server)
    server.answers[""] = b"500 what?\r\n"
    return server


def test_a_handshake_that_fails_is_no_way_to_plaintext_for_who_had_tls(world: World) -> None:
    world.policies.now = Demand(Level.ENCRYPTED)
    broken = broken_tls(world)
    outcome = world.send(broken)
    assert isinstance(outcome, Deferred) and "TLS handshake" in outcome.text
    assert not any(command.startswith("MAIL") for command in broken.heard)
    assert world.policies.noted == [("mx.beta.test", "validation-failure")]


def test_a_host_whose_tls_never_worked_gets_its_mail_without(world: World) -> None:
    """On another connection: nothing that was said on the first is believed."""
    broken = broken_tls(world)
    assert world.send(broken).ok
    assert broken.connections == 2 and broken.heard.count("STARTTLS") == 1
    assert world.policies.noted == [("mx.beta.test", "validation-failure")]
    assert not world.send(broken, "REQUIRETLS").ok


@pytest.mark.parametrize("answer", [b"454 4.7.0 not now\r\n", b"502 5.5.1 no\r\n"])
def test_a_host_that_refuses_starttls(world: World, answer: bytes) -> None:
    refusing = Server(EHLO=TLS_EHLO, STARTTLS=answer)
    world.servers.append(refusing)
    assert world.send(refusing).ok
    assert refusing.connections == 1
    world.policies.now = Demand(Level.ENCRYPTED)
    outcome = world.send(refusing)
    assert isinstance(outcome, Deferred) and "offers no TLS" in outcome.text


def test_a_smart_host_with_tls_from_the_first_octet(world: World, reactor: Any) -> None:
    who = Credentials("relay", "sesame", lambda: "nonce")
    sender = Sender(reactor, Trust(world.root / "ca.pem"), implicit_tls=True, credentials={"mx.beta.test": who})
    ehlo = EHLO.replace(b"250 8", b"250-AUTH PLAIN\r\n250 8")
    for name, ok in (("mx.beta.test", True), ("other.test", False)):
        server = world.serve(name, ehlo=ehlo)
        server.answers["AUTH PLAIN"] = b"235 2.7.0 welcome\r\n"
        server.implicit = True
        outcome = sender.post(server, Envelope(ALICE, (BOB,)), name="mx.beta.test")[BOB]
        assert outcome.ok == ok, outcome
        assert any(command.startswith("AUTH") for command in server.heard) == ok
        assert "STARTTLS" not in server.heard
    plain = world.serve()
    outcome = sender.post(plain, Envelope(ALICE, (BOB,)), name="mx.beta.test")[BOB]
    assert isinstance(outcome, Deferred) and "TLS handshake failed" in outcome.text
    sender.run(sender.courier.close)


def test_a_smart_host_proves_its_name_before_it_sees_the_password(world: World, reactor: Any) -> None:
    who = Credentials("relay", "sesame", lambda: "nonce")
    sender = Sender(reactor, Trust(world.root / "ca.pem"), credentials={"mx.beta.test": who})
    ehlo = TLS_EHLO.replace(b"250 8", b"250-AUTH PLAIN LOGIN\r\n250 8")
    plain, forged, right = world.serve(), world.serve("other.test", ehlo=ehlo), world.serve("mx.beta.test", ehlo=ehlo)
    for server in (plain, forged, right):
        server.answers["AUTH PLAIN"] = b"235 2.7.0 welcome\r\n"
    envelope = Envelope(ALICE, (BOB,))
    for server in (plain, forged):
        outcome = sender.post(server, envelope, name="mx.beta.test")[BOB]
        assert isinstance(outcome, Deferred) and "sign in" in outcome.text
        assert not any(command.startswith("AUTH") for command in server.heard)
    assert sender.post(right, envelope, name="mx.beta.test")[BOB].ok
    assert "AUTH PLAIN AHJlbGF5AHNlc2FtZQ==" in right.heard
    sender.run(sender.courier.close)
    right.answers["AUTH PLAIN"] = b"535 5.7.8 no\r\n"
    outcome = sender.post(right, envelope, name="mx.beta.test")[BOB]
    assert isinstance(outcome, Deferred) and outcome.code == "4.7.8"


def test_who_said_no_is_named(world: World) -> None:
    server = world.serve("mx.beta.test")
    server.answers["RCPT"] = b"550 5.7.1 not from you\r\n"
    assert world.send(server) == Refused("5.7.1", "mx.beta.test [127.0.0.1]: not from you")


def test_lmtp_answers_for_each(world: World) -> None:
    server = Server(LHLO=EHLO, END=b"250 2.0.0 for bob\r\n452 4.2.2 carol is full\r\n")
    world.servers.append(server)
    route = Bridged(Endpoint("127.0.0.1", server.port), lmtp=True)
    content = Content(b"", MAIL, b"", {})
    one = MailObject(content, b"", Envelope(ALICE, (BOB, CAROL)))
    (answers,) = world.sender.run(lambda: world.sender.courier.deliver(route, [one]))
    assert answers == {BOB: Delivered("2.0.0", "for bob"), CAROL: Deferred("4.2.2", "carol is full")}
    assert server.heard[0] == "LHLO mx.alpha.test"
    server.answers["RCPT TO:<bob"] = b"550 5.1.1 who?\r\n"
    server.answers = dict(sorted(server.answers.items(), key=lambda item: -len(item[0])))
    assert world.sender.run(lambda: world.sender.courier.probe(route, BOB)) == Refused("5.1.1", "who?")
    assert world.sender.run(lambda: world.sender.courier.probe(route, CAROL)).ok
    assert server.connections == 1 and len(server.mails) == 1
