"""The generic protocol over real sockets: turns, pausing, STARTTLS injection, faults of one session only."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet import task, threads
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs

from gatewayd.errors import StoreFull
from gatewayd.net.limits import Limits
from gatewayd.net.listen import listen
from gatewayd.net.protocol import LinkProtocol
from gatewayd.net.tls import server_context
from gatewayd.net.turn import Turn


class LineEngine:
    def __init__(self) -> None:
        self.buffer = b""

    def receive(self, data: bytes) -> list[Any]:
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        return lines

    def send(self, event: Any) -> bytes:
        return bytes(event) + b"\n"

    def tls_started(self) -> None:
        self.buffer = b""


class EchoSession:
    """Echoes; "slow" waits, "tls" upgrades, "boom" raises."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor

    def opened(self, link: Any) -> None:
        self.link = link
        link.send(b"hello " + (link.tls.version.encode() if link.tls else b"plain"))

    def tls_started(self) -> None:
        pass

    async def handle(self, event: Any) -> None:
        if event == b"slow":
            await task.deferLater(self.reactor, 0.05)
        if event == b"boom":
            raise RuntimeError("boom")
        if event == b"full":
            raise StoreFull("full")
        self.link.send(event)
        if event == b"tls":
            self.link.start_tls()

    def protocol_error(self, error: Exception) -> None:
        self.link.send(b"bad")

    def failed(self, why: str = "internal error") -> None:
        self.link.send(f"sorry, {why}".encode())

    def timed_out(self) -> None:
        self.link.close()

    def closed(self, reason: Exception | None) -> None:
        pass


def certificate(directory: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "c.pem").write_bytes(built.public_bytes(pem))
    (directory / "k.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return directory / "c.pem", directory / "k.pem"


@pytest.fixture
def port(tmp_path: Path, reactor: Any) -> Iterator[int]:
    context = server_context(*certificate(tmp_path), parley=False)

    def start() -> Any:
        def make() -> Any:
            return LineEngine(), EchoSession(reactor)

        return listen(reactor, "127.0.0.1", 0, make, Limits(10, 3), starttls=context)

    listening = threads.blockingCallFromThread(reactor, start)
    yield listening.getHost().port
    threads.blockingCallFromThread(reactor, listening.stopListening)


def dial(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def test_events_are_handled_in_order_though_one_waits(port: int) -> None:
    with dial(port) as s:
        s.sendall(b"slow\na\nslow\nb\n")
        assert read(s, 5) == [b"hello plain", b"slow", b"a", b"slow", b"b"]


def test_commands_ahead_of_starttls_are_never_executed(port: int) -> None:
    with dial(port) as s:
        s.sendall(b"tls\ninjected\n")
        assert read(s, 2) == [b"hello plain", b"tls"]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with context.wrap_socket(s) as tls:
            tls.sendall(b"after\n")
            assert read(tls, 1) == [b"after"]


def test_an_unexpected_exception_ends_that_session_only(port: int) -> None:
    with dial(port) as bad, dial(port) as good:
        bad.sendall(b"boom\nnever\n")
        assert read(bad, 2) == [b"hello plain", b"sorry, internal error"]
        assert bad.recv(10) == b""
        good.sendall(b"still here\n")
        assert read(good, 2) == [b"hello plain", b"still here"]


def test_a_store_that_fails_ends_the_session_in_plain_words(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    with dial(port) as bad:
        bad.sendall(b"full\nnever\n")
        assert read(bad, 2) == [b"hello plain", b"sorry, the store is not available now"]
        assert bad.recv(10) == b""
    assert "Traceback" not in capfd.readouterr().err


def test_one_address_has_so_many_connections_and_no_more(port: int) -> None:
    held = [dial(port) for _ in range(3)]
    for s in held:
        assert read(s, 1) == [b"hello plain"]
    with dial(port) as s:
        assert s.recv(10) == b""
    for s in held:
        s.close()


def read(s: socket.socket, lines: int) -> list[bytes]:
    data = b""
    while data.count(b"\n") < lines:
        more = s.recv(4096)
        assert more, data
        data += more
    return data.split(b"\n")[:-1]


class Patient:
    """A session that gives a client 300 seconds."""

    def __init__(self) -> None:
        self.given_up = False

    def opened(self, link: Any) -> None:
        link.set_timeout(300.0)

    async def handle(self, event: bytes) -> None:
        pass

    def timed_out(self) -> None:
        self.given_up = True


def drip(piece: bytes, every: int, minutes: int) -> bool:
    """Whether a client that sends such a piece every so many seconds is given up."""
    clock, session = task.Clock(), Patient()
    link = LinkProtocol(LineEngine(), session, clock, implicit_tls=False)  # type: ignore[arg-type]
    link.makeConnection(StringTransport())
    for _ in range(minutes * 60 // every):
        clock.advance(every)
        if session.given_up:
            return True
        link.dataReceived(piece)
    return False


def test_who_trickles_is_given_up_like_who_is_silent() -> None:
    assert drip(b"x", 1, 10)
    assert drip(b"x", 299, 60)
    assert not drip(b"x" * 100, 1, 60)  # a slow line, with a large message
    assert not drip(b"NOOP\n", 299, 60)


def test_nothing_that_comes_puts_off_a_deadline() -> None:
    for lifted in (False, True):
        clock, session = task.Clock(), Patient()
        link = LinkProtocol(LineEngine(), session, clock, implicit_tls=False)  # type: ignore[arg-type]
        link.makeConnection(StringTransport())
        link.set_deadline(100.0)
        for _ in range(30):
            clock.advance(10)
            link.dataReceived(b"NOOP\n")
            if lifted:
                link.set_deadline(None)
        assert session.given_up is not lifted
        link.set_deadline(5.0)
        link.connectionLost()
        assert clock.getDelayedCalls() == []


class OverTLS(StringTransport):
    """As Twisted's TLS when the other side has ended it: it goes once the connection below has written all, and has no
    producer any more."""

    def __init__(self) -> None:
        super().__init__()
        self.transport = SimpleNamespace(disconnecting=False)


def test_who_ends_tls_while_we_have_much_to_write_is_let_go() -> None:
    transport = OverTLS()
    link = LinkProtocol(LineEngine(), Patient(), task.Clock(), implicit_tls=False)  # type: ignore[arg-type]
    link.makeConnection(transport)
    link.pauseProducing()
    link.resumeProducing()
    assert transport.producer is link
    link.pauseProducing()
    transport.transport.disconnecting = True
    link.resumeProducing()
    assert transport.producer is None


def test_what_many_have_to_say_at_the_end_of_a_turn() -> None:
    clock, said = task.Clock(), []
    turn = Turn(clock)

    def broken() -> None:
        raise RuntimeError("no reason for the others to wait")

    for call in (partial(said.append, 1), broken, partial(said.append, 2)):
        turn.at_end(call)
    assert len(clock.getDelayedCalls()) == 1
    with capturedLogs() as log:
        clock.advance(0)
    assert said == [1, 2]
    assert len(log) == 1
    turn.at_end(partial(said.append, 3))
    clock.advance(0)
    assert said == [1, 2, 3]
