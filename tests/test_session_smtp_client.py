"""SMTP out, over real sockets, to servers that do as they are told."""

from __future__ import annotations

import contextlib
import email
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from twisted.internet import defer
from twisted.internet.threads import blockingCallFromThread

from gatewayd.address import Address, Domain
from gatewayd.interfaces.dns import Answer, Endpoint, ResolutionFailed
from gatewayd.interfaces.queue import Asked, Envelope, MailObject
from gatewayd.interfaces.routes import Mail
from gatewayd.message.downgrade import seven_bit
from gatewayd.message.model import Content
from gatewayd.net.dial import dial_smtp
from gatewayd.net.tls import Trust
from gatewayd.outcome import Deferred, Delivered, Outcome, Refused
from gatewayd.session import smtp_client
from gatewayd.session.smtp_courier import SMTPCourier
from tests.smtp_talk import mail_data

ALICE, BOB, CAROL = (Address.parse(text) for text in ("alice@alpha.test", "bob@beta.test", "carol@beta.test"))
UMLAUT = Address.parse("jürgen@beta.test")
BETA = Domain.parse("beta.test")
MAIL = b"Subject: x\r\n\r\nbody\r\n.dot\r\n"
EHLO = b"250-mx.beta.test\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 8BITMIME\r\n"


class Server:
    """Each connection plays the script: a dictionary from a command's beginning to its answer, None to hang up."""

    tls: ssl.SSLContext | None = None
    implicit = False  # TLS from the first octet

    def __init__(self, **answers: bytes | None) -> None:
        self.answers: dict[str, bytes | None] = {
            "BANNER": b"220 mx.beta.test\r\n", "EHLO": EHLO, "MAIL": b"250 ok\r\n", "RCPT": b"250 ok\r\n",
            "DATA": b"354 go\r\n", "END": b"250 2.0.0 queued as 1\r\n", "RSET": b"250 ok\r\n", "QUIT": b"221 bye\r\n",
            "BDAT": b"250 2.0.0 queued as 1\r\n",
        } | answers  # fmt: skip
        self.replies: dict[str, list[bytes | None]] = {}  # said first, each once
        self.pace = 0.0  # seconds that it takes for each MiB of a mail
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
        with contextlib.suppress(OSError), connection:
            if self.implicit and self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            file = connection.makefile("rb")
            if not self._say(connection, "BANNER"):
                return
            while line := file.readline():
                command = line.decode("utf-8", "replace").strip()
                self.heard.append(command)
                key = next((key for key in self.answers if command.upper().startswith(key.upper())), "")
                if key == "BDAT":
                    self.mails.append(file.read(int(command.split()[1])))
                goes_on = key == "DATA" and (self.answers["DATA"] or b"").startswith(b"354")
                if not self._say(connection, key):
                    return
                if command.upper() == "STARTTLS" and self.tls is not None:
                    connection = self.tls.wrap_socket(connection, server_side=True)
                    file = connection.makefile("rb")
                    continue
                if goes_on:
                    self.mails.append(mail_data(self._slowly(file)))
                    if not self._say(connection, "END"):
                        return

    def _slowly(self, file: Iterable[bytes]) -> Iterator[bytes]:
        read = 0
        for line in file:
            yield line
            read += len(line)
            if self.pace and read > 2**20:
                read = 0
                time.sleep(self.pace)

    def _say(self, connection: socket.socket, key: str) -> bool:
        waiting = self.replies.get(key)
        answer = waiting.pop(0) if waiting else self.answers.get(key, b"500 what?\r\n")
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

    def __init__(
        self, reactor: Any, trust: Trust = Trust(), *, implicit_tls: bool = False, **more: Any  # noqa: B008
    ) -> None:  # fmt: skip
        self._reactor = reactor
        self.resolver = Resolver()

        async def connect(host: str, port: int, name: str, engine: Any, session: Any) -> None:
            await dial_smtp(
                reactor, host, port, engine, session, trust=trust, name=name, implicit_tls=implicit_tls
            )  # fmt: skip

        async def render(content: Content, trace: bytes, seven: bool) -> bytes:
            return trace + (seven_bit(content.payload) if seven else content.payload)

        self.courier = SMTPCourier(connect, self.resolver, Domain.parse("mx.alpha.test"), render, reactor, **more)  # type: ignore[arg-type]

    def run(self, work: Callable[[], Any]) -> Any:
        return blockingCallFromThread(self._reactor, lambda: defer.Deferred.fromCoroutine(work()))

    def post(self, server: Server, envelope: Envelope, **more: Any) -> dict[Address, Outcome]:
        endpoint = Endpoint("127.0.0.1", server.port, **more)
        content = Content(b"", MAIL, b"", {})
        return self._deliver(Mail(BETA, (endpoint,)), MailObject(content, b"Received: x\r\n", envelope))

    def send(self, *servers: Server | int, to: tuple[Address, ...] = (BOB,), mail: bytes = MAIL) -> list[Outcome]:
        ports = [server if isinstance(server, int) else server.port for server in servers]
        route = Mail(BETA, tuple(Endpoint("127.0.0.1", port) for port in ports))
        content = Content(b"", mail, b"", {})
        answers = self._deliver(route, MailObject(content, b"Received: x\r\n", Envelope(ALICE, to)))
        return [answers[address] for address in to]

    def _deliver(self, route: Mail, one: MailObject) -> dict[Address, Outcome]:
        answers: dict[Address, Outcome]
        (answers,) = self.run(lambda: self.courier.deliver(route, [one]))
        return answers


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
@pytest.mark.parametrize("where", ["BANNER", "EHLO", "MAIL", "RCPT", "DATA", "END"])
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


def test_hosts_that_take_no_mail_at_all(sender: Sender, serve: Serve) -> None:
    """RFC 7504 §3: once all say so it is over at once; another 5xx of a greeting may be a matter of today."""
    never, busy = serve(BANNER=b"521 mx.beta.test takes no mail\r\n"), serve(BANNER=b"554 5.7.1 not you\r\n")
    (outcome,) = sender.send(never, never)
    assert isinstance(outcome, Refused) and outcome.code == "5.3.2" and "takes no mail" in outcome.text
    for hosts in ((never, busy), (busy, never)):
        (outcome,) = sender.send(*hosts)
        assert isinstance(outcome, Deferred) and "not you" in outcome.text
    assert sender.send(never, serve())[0].ok


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
    assert sender.send(server, mail=b"Subject: x\n.\nMAIL FROM:<evil@x.test>\r\n\r\nbody\r\n")[0].code == "5.6.1"
    assert server.mails == []
    assert not any("evil" in command for command in server.heard)


def test_binary_goes_as_it_is_or_in_seven_bits(sender: Sender, serve: Serve) -> None:
    binary = b"Subject: x\r\n\r\na\n.\nMAIL FROM:<evil@x.test>\r\n\0"
    able, other = serve(EHLO=EHLO.replace(b"250 8", b"250-CHUNKING\r\n250-BINARYMIME\r\n250 8")), serve()
    assert sender.send(able, mail=binary)[0].ok
    assert able.heard[1].endswith("BODY=BINARYMIME") and able.mails == [b"Received: x\r\n" + binary]
    assert sender.send(other, mail=binary)[0].ok
    assert not any("evil" in command for command in other.heard)
    assert email.message_from_bytes(other.mails[0]).get_payload(decode=True) == binary[14:]


def test_eight_bits_where_they_are_taken(sender: Sender, serve: Serve) -> None:
    mail = "Subject: x\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nGrüße\r\n".encode()
    able, other = serve(), serve(EHLO=b"250 mx.beta.test\r\n")
    assert sender.send(able, mail=mail)[0].ok and sender.send(other, mail=mail)[0].ok
    assert "BODY=8BITMIME" in able.heard[1] and able.mails[0].endswith(mail)
    assert "BODY" not in other.heard[1] and other.mails[0].isascii()
    assert email.message_from_bytes(other.mails[0]).get_payload(decode=True) == "Grüße\r\n".encode()


def test_what_the_sender_asked_goes_on_to_who_heeds_it(sender: Sender, serve: Serve) -> None:
    able, other = serve(EHLO=EHLO.replace(b"250 8", b"250-DSN\r\n250 8")), serve()
    asked = {BOB: Asked(frozenset({"SUCCESS", "FAILURE"}), "rfc822;b+b@beta.test")}
    envelope = Envelope(ALICE, (BOB, CAROL), ret="HDRS", envid="Q Q", asked=asked)
    assert sender.post(able, envelope)[BOB] == Delivered("2.0.0", "queued as 1", reports=True)
    assert able.heard[1:4] == [
        f"MAIL FROM:<alice@alpha.test> SIZE={len(MAIL) + 13} RET=HDRS ENVID=Q+20Q",
        "RCPT TO:<bob@beta.test> NOTIFY=FAILURE,SUCCESS ORCPT=rfc822;b+2Bb@beta.test",
        "RCPT TO:<carol@beta.test>",
    ]
    assert sender.post(other, envelope)[BOB] == Delivered("2.0.0", "queued as 1")
    assert other.heard[2] == "RCPT TO:<bob@beta.test>"


def test_nobody_accepted_and_data_asked_for_already(sender: Sender, serve: Serve) -> None:
    """A server that says 354 all the same is given nothing (RFC 2920 §3.1)."""
    server = serve(RCPT=b"550 5.1.1 no\r\n")
    assert sender.send(server) == [Refused("5.1.1", "no")]
    assert server.mails == [b""]
    server.answers["RCPT"] = b"250 ok\r\n"
    assert sender.send(server)[0].ok
    assert server.connections == 1


def test_too_big_for_the_next_server(sender: Sender, serve: Serve) -> None:
    server = serve()
    assert sender.send(server, mail=MAIL + b"x" * 1000 + b"\r\n")[0].code == "5.3.4"
    assert len(server.heard) == 1


def test_a_connection_ends_after_many_messages(
    sender: Sender, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(smtp_client, "MAX_TRANSACTIONS", 2)
    server = serve()
    for _ in range(5):
        assert sender.send(server)[0].ok
    assert server.connections == 3


def test_replies_injected_ahead_of_tls_are_not_believed(sender: Sender, serve: Serve) -> None:
    evil = b"220 go\r\n" + b"250 evil\r\n" * 3 + b"354 evil\r\n250 2.0.0 ok\r\n"
    server = serve(EHLO=b"250-mx\r\n250 STARTTLS\r\n", STARTTLS=evil)
    (outcome,) = sender.send(server)
    assert isinstance(outcome, Deferred)
    assert server.mails == []


# -- servers that lose their way ------------------------------------------------------------------------------------

MANY = tuple(Address.parse(f"user{number}@beta.test") for number in range(250))


@pytest.mark.parametrize("pipelining", [True, False])
def test_a_reply_too_many_is_taken_for_none_of_ours(sender: Sender, serve: Serve, pipelining: bool) -> None:
    """Else each answer is that of the command before it, and mail counts as delivered that was never sent."""
    ehlo = EHLO if pipelining else EHLO.replace(b"250-PIPELINING\r\n", b"")
    server = serve(EHLO=ehlo, END=b"250 2.0.0 queued\r\n250 2.0.0 queued twice\r\n")
    for number in range(3):
        assert sender.send(server, mail=b"Subject: %d\r\n\r\n" % number)[0].ok
    assert [mail[-6:-4] for mail in server.mails] == [b" 0", b" 1", b" 2"]
    early = serve(EHLO=ehlo, DATA=b"354 go\r\n250 2.0.0 queued already\r\n", END=b"554 5.6.0 never\r\n")
    assert not sender.send(early)[0].ok


@pytest.mark.parametrize("where", ["MAIL", "RCPT", "DATA"])
def test_a_reply_out_of_place_ends_the_connection(sender: Sender, serve: Serve, where: str) -> None:
    server = serve(**{where: b"250 2.0.0 ok\r\n" if where == "DATA" else b"354 go\r\n"})
    (outcome,) = sender.send(server)
    assert isinstance(outcome, Deferred)
    assert server.mails == []
    server.answers |= {"MAIL": b"250 ok\r\n", "RCPT": b"250 ok\r\n", "DATA": b"354 go\r\n"}
    assert sender.send(server)[0].ok
    assert server.connections == 2


def test_data_refused_leaves_no_transaction_open(sender: Sender, serve: Serve) -> None:
    server = serve(DATA=b"451 4.3.0 not now\r\n")
    assert sender.send(server) == [Deferred("4.3.0", "not now")]
    server.answers["DATA"] = b"354 go\r\n"
    assert sender.send(server)[0].ok
    assert server.connections == 1
    assert server.heard[server.heard.index("DATA") + 1] == "RSET"


def test_a_kept_connection_that_ends_costs_no_delay(sender: Sender, serve: Serve) -> None:
    """A server that takes so many messages of a connection, and another one that goes away in between."""
    server = serve()
    assert sender.send(server)[0].ok
    server.replies["MAIL"] = [b"421 4.7.0 enough for one connection\r\n"]
    assert sender.send(server)[0].ok
    server.replies["MAIL"] = [None]
    assert sender.send(server)[0].ok
    assert server.connections == 3
    server.replies["MAIL"] = [None, None]
    (outcome,) = sender.send(server)
    assert isinstance(outcome, Deferred)


def test_no_more_recipients_than_a_server_has_to_take(sender: Sender, serve: Serve) -> None:
    server = serve()
    assert all(outcome.ok for outcome in sender.send(server, to=MANY))
    assert [n for n, line in enumerate(server.heard) if line.startswith("MAIL")] == [1, 103, 205]  # RFC 5321 4.5.3.1.8
    told = serve(EHLO=EHLO.replace(b"250 8", b"250-LIMITS MAILMAX=9 RCPTMAX=30\r\n250 8"))
    assert all(outcome.ok for outcome in sender.send(told, to=MANY))
    assert len(told.mails) == 9


def test_too_many_recipients_go_on_at_once(sender: Sender, serve: Serve) -> None:
    """RFC 5321 4.5.3.1.10: the rest comes in another transaction."""
    server = serve()
    more = b"452 4.5.3 too many recipients\r\n"
    server.replies["RCPT"] = [*[b"250 ok\r\n"] * 60, *[more] * 40]
    assert all(outcome.ok for outcome in sender.send(server, to=MANY[:100]))
    assert (len(server.mails), server.connections) == (2, 1)
    server.answers["RCPT"] = more
    assert sender.send(server, to=MANY[:2]) == [Deferred("4.5.3", "too many recipients")] * 2


def test_what_a_server_says_is_shown_as_text(sender: Sender, serve: Serve) -> None:
    server = serve(RCPT=b"550-5.1.1 \x1b[31mred\x07\r\n550 5.1.1 \xff\x00" + b"x" * 5000 + b"\r\n")
    (outcome,) = sender.send(server)
    assert outcome.text.isprintable()
    assert len(outcome.text) < 1100


def test_a_large_mail_to_a_slow_reader(sender: Sender, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads is alive: the patience is for replies."""
    monkeypatch.setattr(smtp_client, "TIMEOUT", 1.0)
    server = serve(EHLO=EHLO.replace(b"1000", b"0"))
    server.pace = 0.15  # seconds for a MiB
    assert sender.send(server, mail=MAIL + (b"x" * 998 + b"\r\n") * 24_000)[0].ok
    assert len(server.mails) == 1
