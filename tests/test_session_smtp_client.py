"""SMTP out, over real sockets, to servers that do as they are told."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet import defer
from twisted.internet.threads import blockingCallFromThread

from gatewayd.address import Address, Domain
from gatewayd.interfaces import Answer, Endpoint, Envelope, Mail, ResolutionFailed
from gatewayd.message.model import Content
from gatewayd.net.dial import dial_smtp
from gatewayd.outcome import Deferred, Delivered, Outcome, Refused
from gatewayd.session.smtp_client import SMTPCourier

ALICE, BOB, CAROL = (Address.parse(text) for text in ("alice@alpha.test", "bob@beta.test", "carol@beta.test"))
UMLAUT = Address.parse("jürgen@beta.test")
BETA = Domain.parse("beta.test")
MAIL = b"Subject: x\r\n\r\nbody\r\n.dot\r\n"
EHLO = b"250-mx.beta.test\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 8BITMIME\r\n"


class Server:
    """Each connection plays the script: a dictionary from a command's beginning to its answer, None to hang up."""

    def __init__(self, **answers: bytes | None) -> None:
        self.answers: dict[str, bytes | None] = {
            "BANNER": b"220 mx.beta.test\r\n", "EHLO": EHLO, "MAIL": b"250 ok\r\n", "RCPT": b"250 ok\r\n",
            "DATA": b"354 go\r\n", "END": b"250 2.0.0 queued as 1\r\n", "RSET": b"250 ok\r\n", "QUIT": b"221 bye\r\n",
        } | answers  # fmt: skip
        self.heard: list[str] = []
        self.mails: list[bytes] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._play, args=(connection,), daemon=True).start()

    def _play(self, connection: socket.socket) -> None:
        with contextlib.suppress(ConnectionError), connection, connection.makefile("rb") as file:
            if not self._say(connection, "BANNER"):
                return
            for line in file:
                command = line.decode().strip()
                self.heard.append(command)
                key = next((key for key in self.answers if command.upper().startswith(key.upper())), "")
                goes_on = key == "DATA" and (self.answers["DATA"] or b"").startswith(b"354")
                if not self._say(connection, key):
                    return
                if goes_on:
                    self.mails.append(b"".join(iter(file.readline, b".\r\n")))
                    if not self._say(connection, "END"):
                        return

    def _say(self, connection: socket.socket, key: str) -> bool:
        answer = self.answers.get(key, b"500 what?\r\n")
        if answer is None:
            return False
        connection.sendall(answer)
        return True

    def close(self) -> None:
        self._listener.close()


class Resolver:
    failing = False

    async def addresses(self, host: str) -> Answer:
        if self.failing:
            raise ResolutionFailed("SERVFAIL")
        return Answer((host,), exists=True)


class Sender:
    """The courier on the reactor's thread."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.resolver = Resolver()

        async def connect(host: str, port: int, engine: Any, session: Any) -> None:
            await dial_smtp(reactor, host, port, engine, session)

        async def render(content: Content, trace: bytes) -> bytes:
            return trace + content.payload

        self.courier = SMTPCourier(connect, self.resolver, Domain.parse("mx.alpha.test"), render, reactor)  # type: ignore[arg-type]

    def run(self, work: Callable[[], Any]) -> Any:
        return blockingCallFromThread(self._reactor, lambda: defer.Deferred.fromCoroutine(work()))

    def send(self, *servers: Server | int, to: tuple[Address, ...] = (BOB,), mail: bytes = MAIL) -> list[Outcome]:
        ports = [server if isinstance(server, int) else server.port for server in servers]
        route = Mail(BETA, tuple(Endpoint("127.0.0.1", port) for port in ports))
        content = Content(b"", mail, b"", {})
        answers = self.run(lambda: self.courier.deliver(route, Envelope(ALICE, to), content, b"Received: x\r\n"))
        return [answers[address] for address in to]


@pytest.fixture
def sender(reactor: Any) -> Iterator[Sender]:
    made = Sender(reactor)
    yield made
    made.run(made.courier.close)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def start(**answers: bytes | None) -> Server:
        made.append(Server(**answers))
        return made[-1]

    yield start
    for server in made:
        server.close()


Serve = Callable[..., Server]


def test_one_transaction(sender: Sender, serve: Serve) -> None:
    server = serve()
    assert sender.send(server) == [Delivered("2.0.0", "queued as 1")]
    assert server.heard == [
        "EHLO mx.alpha.test", f"MAIL FROM:<alice@alpha.test> SIZE={len(MAIL) + 13}", "RCPT TO:<bob@beta.test>", "DATA",
    ]  # fmt: skip
    assert server.mails == [b"Received: x\r\n" + MAIL.replace(b"\r\n.", b"\r\n..")]


def test_a_connection_is_used_again(sender: Sender, serve: Serve) -> None:
    server = serve()
    for _ in range(3):
        assert sender.send(server)[0].ok
    assert server.connections == 1


def test_each_recipient_has_its_own_answer(sender: Sender, serve: Serve) -> None:
    server = serve(**{"RCPT TO:<carol": b"550 5.1.1 no such user\r\n", "RCPT TO:<bob": b"250 ok\r\n"})
    del server.answers["RCPT"]
    assert sender.send(server, to=(BOB, CAROL)) == [Delivered("2.0.0", "queued as 1"), Refused("5.1.1", "no such user")]


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ({"MAIL": b"550 5.7.1 not you\r\n"}, Refused("5.7.1", "not you")),
        ({"MAIL": b"451 later\r\n"}, Deferred("4.0.0", "later")),
        ({"RCPT": b"450 4.2.1 busy\r\n"}, Deferred("4.2.1", "busy")),
        ({"DATA": b"554 5.3.0 no\r\n"}, Refused("5.3.0", "no")),
        ({"END": b"552 5.3.4 too big\r\n"}, Refused("5.3.4", "too big")),
        ({"END": b"452-4.3.1 full\r\n452 4.3.1 disk\r\n"}, Deferred("4.3.1", "full disk")),
    ],
)
def test_refusals_and_delays(sender: Sender, serve: Serve, answers: dict[str, bytes], outcome: Outcome) -> None:
    server = serve(**answers)
    assert sender.send(server) == [outcome]
    server.answers |= {
        "MAIL": b"250 ok\r\n",
        "RCPT": b"250 ok\r\n",
        "DATA": b"354 go\r\n",
        "END": b"250 2.0.0 queued\r\n",
    }
    assert sender.send(server)[0].ok  # the connection is fit for the next message, or a new one is made


@pytest.mark.parametrize("where", ["BANNER", "EHLO", "MAIL", "RCPT", "DATA", "END"])
def test_a_connection_that_is_cut_is_a_delay(sender: Sender, serve: Serve, where: str) -> None:
    (outcome,) = sender.send(serve(**{where: None}))
    assert isinstance(outcome, Deferred)


@pytest.mark.parametrize("words", [b"421 4.3.2 going down\r\n", b"garbage\r\n", b"250-endless\r\n" * 9000])
@pytest.mark.parametrize("where", ["BANNER", "EHLO", "MAIL", "END"])
def test_nonsense_is_a_delay(sender: Sender, serve: Serve, where: str, words: bytes) -> None:
    (outcome,) = sender.send(serve(**{where: words}))
    assert isinstance(outcome, Deferred)


def test_without_extensions(sender: Sender, serve: Serve) -> None:
    server = serve(EHLO=b"502 what?\r\n", HELO=b"250 mx.beta.test\r\n")
    assert sender.send(server)[0].ok
    assert server.heard[1:3] == ["HELO mx.alpha.test", "MAIL FROM:<alice@alpha.test>"]


def test_the_next_host_is_tried(sender: Sender, serve: Serve) -> None:
    closed = socket.create_server(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    server = serve()
    assert sender.send(port, serve(BANNER=b"554 no\r\n"), serve(END=None), server)[0].ok
    assert len(server.mails) == 1
    (outcome,) = sender.send(port)
    assert isinstance(outcome, Deferred)
    assert "refused" in outcome.text


def test_dns_that_fails_is_a_delay(sender: Sender) -> None:
    sender.resolver.failing = True
    assert sender.send(9)[0].code == "4.4.3"


def test_an_address_that_the_server_cannot_name(sender: Sender, serve: Serve) -> None:
    server = serve()
    assert sender.send(server, to=(UMLAUT,))[0].code == "5.6.7"
    assert server.mails == []
    able = serve(EHLO=EHLO.replace(b"250 8", b"250-SMTPUTF8\r\n250 8"))
    assert sender.send(able, to=(UMLAUT,))[0].ok
    assert able.heard[1].endswith(" SMTPUTF8")


def test_what_must_not_leave_is_refused_here(sender: Sender, serve: Serve) -> None:
    server = serve()
    assert sender.send(server, mail=b"Subject: x\r\n\r\na\n.\nMAIL FROM:<evil@x.test>\r\n")[0].code == "5.6.0"
    assert server.mails == []
    assert not any("evil" in command for command in server.heard)


def test_replies_injected_ahead_of_tls_are_not_believed(sender: Sender, serve: Serve) -> None:
    evil = b"220 go\r\n" + b"250 evil\r\n" * 3 + b"354 evil\r\n250 2.0.0 ok\r\n"
    server = serve(EHLO=b"250-mx\r\n250 STARTTLS\r\n", STARTTLS=evil)
    (outcome,) = sender.send(server)
    assert isinstance(outcome, Deferred)
    assert server.mails == []
