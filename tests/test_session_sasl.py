"""Signing in to SMTP, IMAP and POP3 by SASL over real TLS: what each side proves, and what is refused."""

from __future__ import annotations

import base64
import secrets
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from demo.world import PASSWORD, Gateway
from gatewayd.address import Address
from gatewayd.crypto.scram import ScramClient
from gatewayd.interfaces.authentication import AuthenticationFailed
from gatewayd.interfaces.records import Account, ScramCredentials
from gatewayd.session import sasl
from gatewayd.session.link import TLSInfo
from tests.smtp_talk import TIMEOUT, Mailbox

TLS = TLSInfo("TLSv1.3", "", "", b"x" * 32)
TLS_1_2 = TLSInfo("TLSv1.2", "", "", b"")
ALICE = Account(1, Address.parse("alice@alpha.test"))
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


class Passwords:
    """Takes whoever says so, and remembers whom."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def password(self, user: str, password: str) -> Account:
        self.asked.append((user, password))
        return ALICE

    async def scram(self, user: str) -> tuple[None, ScramCredentials]:
        return None, ScramCredentials(b"salt", 4096, b"", b"")


def step(exchange: Any, response: bytes) -> Any:
    result: list[Any] = []
    Deferred.fromCoroutine(exchange.step(response)).addBoth(result.append)
    if isinstance(result[0], Failure):
        raise result[0].value
    return result[0]


def begin(mechanism: str, tls: TLSInfo = TLS) -> tuple[Any, Passwords]:
    passwords = Passwords()
    return sasl.begin(mechanism, passwords, tls), passwords  # type: ignore[arg-type]


@given(WORDS, WORDS, st.booleans())
def test_user_and_password_come_through(user: str, password: str, named: bool) -> None:
    exchange, passwords = begin("PLAIN")
    assert step(exchange, f"{user if named else ''}\0{user}\0{password}".encode()) is ALICE
    exchange, others = begin("LOGIN")
    assert exchange.first == b"Username:"
    assert step(exchange, user.encode()) == b"Password:"
    assert step(exchange, password.encode()) is ALICE
    assert passwords.asked == others.asked == [(user, password)]


@pytest.mark.parametrize("message", [b"", b"a", b"a\0b", b"a\0b\0c\0d", b"\0\xff\0x", b"bob\0alice\0secret"])
def test_what_is_no_plain_response(message: bytes) -> None:
    exchange, passwords = begin("PLAIN")
    with pytest.raises(sasl.BadResponse):
        step(exchange, message)
    assert passwords.asked == []


@given(st.binary(max_size=40))
def test_random_responses(response: bytes) -> None:
    for mechanism in (*sasl.offered(TLS), "LOGIN"):
        exchange, _ = begin(mechanism)
        try:
            step(exchange, response)
        except (sasl.BadResponse, AuthenticationFailed):
            pass
    try:
        sasl.decoded(response)
    except sasl.BadResponse:
        pass


def test_what_is_offered_over_what() -> None:
    assert sasl.offered(None) == ()
    assert sasl.offered(TLS_1_2) == ("SCRAM-SHA-256", "PLAIN")
    assert sasl.offered(TLS) == ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN")
    assert begin("SCRAM-SHA-256-PLUS", TLS_1_2)[0] is None
    assert begin("CRAM-MD5")[0] is None


# -- over real sockets ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    made = Gateway(tmp_path_factory.mktemp("gateway"), "alpha.test", "127.0.70.3", ["alice", "bob"], 9)
    made.start()
    yield made
    made.stop()


class Client:
    """Signs in by SCRAM over a TLS connection of pyOpenSSL, which can tell its exporter value."""

    OPEN = {"submissions": b"220 ", "imaps": b"* OK ", "pop3s": b"+OK "}

    def __init__(self, gateway: Gateway, service: str) -> None:
        self.service = service
        plain = socket.create_connection(gateway.port(service), timeout=TIMEOUT)
        plain.setblocking(True)  # pyOpenSSL knows no time limits
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.load_verify_locations(str(gateway.root / "ca.pem"))
        self._tls = SSL.Connection(context, plain)
        self._tls.set_connect_state()
        self._tls.do_handshake()
        self._buffer = b""
        self.exporter = self._tls.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
        assert self.line().startswith(self.OPEN[service])
        if service == "submissions":
            self.say(b"EHLO client.test")
            while self.line()[3:4] == b"-":
                pass

    def line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._buffer += self._tls.recv(4096)
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def say(self, line: bytes) -> None:
        self._tls.sendall(line + b"\r\n")

    def challenge(self) -> bytes | None:
        """None: signed in. Raises AuthenticationFailed."""
        line = self.line()
        while line.startswith(b"* "):
            line = self.line()
        if line.startswith((b"334 ", b"+ ")):
            return base64.b64decode(line.partition(b" ")[2])
        if line.startswith((b"235 ", b"a OK ", b"+OK ")):
            return None
        assert line.startswith((b"535 ", b"a NO [AUTHENTICATIONFAILED]", b"-ERR [AUTH]")), line
        raise AuthenticationFailed

    def scram(self, *, plus: bool, password: str = PASSWORD, user: str = "alice@alpha.test", initial: bool = True,
              exporter: bytes | None = None) -> None:  # fmt: skip
        """Raises AuthenticationFailed, or ScramError when the server proves nothing."""
        client = ScramClient(user, password, secrets.token_hex(), (exporter or self.exporter) if plus else b"")
        mechanism = b"SCRAM-SHA-256-PLUS" if plus else b"SCRAM-SHA-256"
        verb = b"a AUTHENTICATE " if self.service == "imaps" else b"AUTH "
        first = base64.b64encode(client.first())
        if initial:
            self.say(verb + mechanism + b" " + first)
        else:
            self.say(verb + mechanism)
            assert self.challenge() == b""
            self.say(first)
        challenge = self.challenge()
        assert challenge is not None
        self.say(base64.b64encode(client.final(challenge)))
        proof = self.challenge()
        assert proof is not None
        client.check(proof)
        self.say(b"")
        assert self.challenge() is None

    def close(self) -> None:
        self._tls.close()


@pytest.mark.parametrize("service", list(Client.OPEN))
@pytest.mark.parametrize("plus", [True, False])
def test_scram(gateway: Gateway, service: str, plus: bool) -> None:
    for initial in (True, False):
        client = Client(gateway, service)
        client.scram(plus=plus, initial=initial)
        if service == "submissions":
            client.say(b"MAIL FROM:<alice@alpha.test>")
            assert client.line().startswith(b"250 ")
        client.close()


@pytest.mark.parametrize("service", list(Client.OPEN))
def test_scram_refused(gateway: Gateway, service: str) -> None:
    client = Client(gateway, service)
    with pytest.raises(AuthenticationFailed):
        client.scram(plus=True, password="wrong")
    with pytest.raises(AuthenticationFailed):
        client.scram(plus=True, exporter=b"of another connection, 32 octets")  # somebody in the middle
    client.close()
    client = Client(gateway, service)
    with pytest.raises(AuthenticationFailed):
        client.scram(plus=False, user="nobody@alpha.test")
    client.scram(plus=False)
    client.close()


def test_a_server_that_lacks_plus_is_not_believed_to(gateway: Gateway) -> None:
    """Gs2 flag "y": the client would have bound the channel, had -PLUS been in the list (RFC 5802 §6)."""
    client = Client(gateway, "submissions")
    client.say(b"AUTH SCRAM-SHA-256 " + base64.b64encode(b"y,,n=alice@alpha.test,r=abc"))
    with pytest.raises(AuthenticationFailed):
        client.challenge()
    client.close()


def test_sasl_is_cancelled_and_goes_on(gateway: Gateway) -> None:
    client = Client(gateway, "submissions")
    client.say(b"AUTH SCRAM-SHA-256")
    assert client.challenge() == b""
    client.say(b"*")
    assert client.line().startswith(b"501 5.7.0")
    client.scram(plus=True)
    client.say(b"AUTH SCRAM-SHA-256")
    assert client.line().startswith(b"503 ")
    client.close()


def test_tls_1_2_gets_scram_without_plus(gateway: Gateway) -> None:
    context = gateway.ssl
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    plain = socket.create_connection(gateway.port("submissions"), timeout=TIMEOUT)
    with context.wrap_socket(plain, server_hostname="alpha.test") as tls, tls.makefile("rb") as file:
        file.readline()
        tls.sendall(b"EHLO client.test\r\n")
        while b"AUTH" not in (line := file.readline()):
            assert line[3:4] == b"-"
        assert line == b"250 AUTH SCRAM-SHA-256 PLAIN LOGIN\r\n"
        tls.sendall(b"AUTH SCRAM-SHA-256-PLUS\r\n")
        assert file.readline().startswith(b"504 ")


@pytest.mark.skipif(shutil.which("msmtp") is None, reason="msmtp is not installed")
@pytest.mark.parametrize("method", ["scram-sha-256", "scram-sha-256-plus", "plain"])
def test_msmtp(gateway: Gateway, method: str, tmp_path: Path) -> None:
    known = subprocess.run(["msmtp", "--version"], capture_output=True, text=True, check=True).stdout
    if method not in known:
        pytest.skip(f"this msmtp has no {method}")
    host, port = gateway.port("submission")
    with Mailbox(gateway, "bob@alpha.test") as bob:
        before = len(bob.mails())
        subprocess.run(
            [
                "msmtp", "-C", "/dev/null", f"--host={host}", f"--port={port}", "--tls=on", f"--auth={method}",
                f"--tls-trust-file={gateway.root / 'ca.pem'}", "--user=alice@alpha.test",
                f"--passwordeval=echo {PASSWORD}", "--from=alice@alpha.test", "bob@alpha.test",
            ],
            input=b"From: alice@alpha.test\nSubject: by msmtp\n\nHello\n", check=True, timeout=60,
        )  # fmt: skip
        assert b"Subject: by msmtp" in bob.wait(before + 1)[-1]
