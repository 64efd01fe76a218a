"""Which connections are let in; and that who guesses passwords is not, over real sockets."""

from __future__ import annotations

import base64
import imaplib
import poplib
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.task import Clock

from demo.world import PASSWORD, Gateway
from gatewayd.net.limits import FORGIVEN, Guesses, Limits
from tests.smtp_talk import TIMEOUT, Talk
from tests.test_net_proxy_protocol import proxied


def test_one_network_has_so_many_connections_and_no_more() -> None:
    one = Limits(100, 3, 5)
    near = [f"192.0.2.{n}" for n in (1, 1, 1, 2, 2)]
    refused = [bool(one.admit(address)) for address in (*near, "192.0.2.3", "192.0.2.1")]
    assert refused == [False] * 5 + [True] * 2
    assert one.admit("192.0.2.3") == "too many connections from 192.0.2.0/24"
    assert [one.admit(address) for address in ("192.0.3.3", "2001:db8::1", "")] == [""] * 3
    assert [bool(one.admit(f"2001:db8::{n}")) for n in range(2, 7)] == [False] * 4 + [True]
    for address in (*near, "192.0.3.3", "", *(f"2001:db8::{n}" for n in range(1, 6))):
        one.release(address)
    assert one.total == 0 and not one.open


def test_guesses_are_forgiven_one_by_one() -> None:
    clock = Clock()
    guesses = Guesses(3, clock.seconds)
    for _ in range(3):
        assert not guesses.too_many("192.0.2.1")
        guesses.note("192.0.2.1")
    assert guesses.too_many("192.0.2.1") and not guesses.too_many("192.0.2.2")
    clock.advance(FORGIVEN)
    assert not guesses.too_many("192.0.2.1")
    guesses.note("192.0.2.1")
    assert guesses.too_many("192.0.2.1")
    for number in range(9):
        guesses.note(f"192.0.2.{10 + number}")
    assert guesses.too_many("192.0.2.77") and not guesses.too_many("192.0.3.77")  # the whole network guesses
    anything = Guesses(0, clock.seconds)
    anything.note("192.0.2.1")
    assert not anything.too_many("192.0.2.1")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    made = Gateway(tmp_path_factory.mktemp("gateway"), "alpha.test", "127.0.70.31", ["alice", "bob"], 9)
    more = '\n[incoming]\nexamine = false\nproxies = ["127.0.70.20/32"]\n'
    more += "[limits]\nsign_in_failures = 3\nunfinished = 900000\n"
    made.config.write_text(made.config.read_text() + more)
    made.start()
    yield made
    made.stop()


def let_in(gateway: Gateway, address: str) -> bool:
    connection = proxied(gateway, "smtp", f"PROXY TCP4 {address} 198.51.100.1 5000 25\r\n".encode())
    with connection:
        try:
            return bool(connection.recv(10))
        except ConnectionResetError:
            return False


def smtp(gateway: Gateway, connection: socket.socket) -> None:
    talk = Talk(gateway, connected=connection, tls=True)
    talk.do("EHLO client.test")
    wrong = base64.b64encode(b"\0alice@alpha.test\0wrong").decode()
    assert talk.do(f"AUTH PLAIN {wrong}").startswith("535")


def imap(gateway: Gateway, connection: socket.socket) -> None:
    class Program(imaplib.IMAP4):
        def _create_socket(self, timeout: Any = None) -> Any:
            return gateway.ssl.wrap_socket(connection, server_hostname=gateway.address)

    with pytest.raises(imaplib.IMAP4.error):
        Program().login("alice@alpha.test", "wrong")


def pop3(gateway: Gateway, connection: socket.socket) -> None:
    class Program(poplib.POP3):
        def _create_socket(self, timeout: Any) -> Any:
            return gateway.ssl.wrap_socket(connection, server_hostname=gateway.address)

    program = Program("")
    program.user("alice@alpha.test")
    with pytest.raises(poplib.error_proto):
        program.pass_("wrong")


def test_who_guesses_is_not_let_in_whatever_he_speaks(gateway: Gateway) -> None:
    for guess, service in ((smtp, "submissions"), (imap, "imaps"), (pop3, "pop3s")):
        assert let_in(gateway, "192.0.2.1")
        guess(gateway, proxied(gateway, service, b"PROXY TCP4 192.0.2.1 198.51.100.1 5000 25\r\n"))
    assert not let_in(gateway, "192.0.2.1")
    assert let_in(gateway, "192.0.2.2")
    assert "too many failed attempts to sign in; refused 192.0.2.1" in (gateway.root / "gatewayd.log").read_text()
    for _ in range(5):  # the trusted may forget their passwords
        with pytest.raises(imaplib.IMAP4.error):
            host, port = gateway.port("imaps")
            imaplib.IMAP4_SSL(host, port, ssl_context=gateway.ssl, timeout=TIMEOUT).login("bob@alpha.test", "wrong")
    with Talk(gateway, "submissions", tls=True) as talk:
        talk.sign_in("bob@alpha.test")
    assert PASSWORD not in (gateway.root / "gatewayd.log").read_text()


def test_chunks_that_never_end_make_no_room_scarce(gateway: Gateway) -> None:
    """Each chunk of BDAT is complete, and kept all the same. When there is too much, who holds most has to go."""

    def begin() -> Talk:
        talk = Talk(gateway)
        talk.all("EHLO client.test", "MAIL FROM:<x@elsewhere.test>", "RCPT TO:<bob@alpha.test>")
        return talk

    half = b"y" * 199_998 + b"\r\n"
    endless, honest = begin(), begin()
    for _ in range(3):
        assert endless.do(b"BDAT 200000\r\n" + half).startswith("250")
    assert honest.do(b"BDAT 200000\r\n" + half).startswith("250")
    endless.say(b"BDAT 200001\r\n" + half)
    assert endless.reply() == "421 4.3.0 Nothing was accepted: too much is being received now; try again later"
    assert endless.ended()
    assert honest.do(b"BDAT 200000 LAST\r\n" + half).startswith("250 2.0.0")
    honest.close()
    for _ in range(10):  # nothing of it is counted any more
        with begin() as talk:
            assert talk.do(b"BDAT 200000 LAST\r\n" + half).startswith("250")
