"""IMAP over real sockets and a real store: signing in, every command, and what sessions learn of each other."""

from __future__ import annotations

import base64
import imaplib
import re
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import defer
from twisted.internet.threads import blockingCallFromThread

from gatewayd.address import Address, Domain
from gatewayd.cli.gatewayctl import credentials
from gatewayd.core.authentication import Authenticator
from gatewayd.core.delivery import PostOffice
from gatewayd.crypto.scram import derive
from gatewayd.database.sqlite import Database
from gatewayd.errors import StoreError, StoreFull
from gatewayd.interfaces.records import Account, Delivery, Placed
from gatewayd.message import bridge, mime
from gatewayd.message.model import Content
from gatewayd.net.limits import Limits
from gatewayd.net.listen import listen
from gatewayd.net.tls import server_context
from gatewayd.queue.sqlite import SQLiteQueue
from gatewayd.session.imap import IMAPSession
from gatewayd.session.imap_folders import _matches
from gatewayd.session.pop3 import POP3Session
from gatewayd.store.blobs import BlobStore
from gatewayd.store.sqlite import SQLiteStore
from gatewayd.wire.imap.connection import IMAPConnection
from gatewayd.wire.pop3.connection import POP3Connection
from tests.test_message_structure import NESTED
from tests.test_message_structure import read as read_list
from tests.test_net_protocol import certificate

ALPHA = Domain.parse("alpha.test")
ALICE, BOB = Address.parse("alice@alpha.test"), Address.parse("bob@alpha.test")
PASSWORD = "pass word"
TIMEOUT = 20.0  # seconds
MAX_APPEND = 500_000
T = TypeVar("T")


class Signer:
    """Signatures are not what is tested here."""

    async def sign(self, domain: Domain, payload: bytes) -> tuple[bytes, bytes]:
        return b"", bytes(64)

    async def verify(self, content: Content) -> Domain:
        raise LookupError


class House:
    """Store, sign-in and listeners of a gateway, as service/ joins them."""

    def __init__(self, reactor: Any, root: Path) -> None:
        self.reactor = reactor
        self.root = root
        root.mkdir(exist_ok=True)
        self._context = server_context(*certificate(root), parley=False)
        self.ports: dict[str, int] = {}
        self._listening: list[Any] = []
        blockingCallFromThread(reactor, self._build)

    def _build(self) -> None:
        reactor, root = self.reactor, self.root

        async def at_once(function: Callable[..., Any], *arguments: Any) -> Any:
            return function(*arguments)

        self.database = Database(root / "test.sqlite", reactor.callFromThread)
        self.store = SQLiteStore(self.database, BlobStore(root / "blobs"), reactor, time.time)
        queue = SQLiteQueue(self.database, reactor, time.time)
        self.office = PostOffice(self.store, queue, Signer(), ALPHA, reactor.seconds, secrets.token_bytes)
        self.authenticator = Authenticator(self.store, derive, at_once, b"secret")
        self.locks: set[int] = set()

        def imap() -> Any:
            session = IMAPSession(self.store, self.authenticator, self.office.append, starttls=True)
            return IMAPConnection(MAX_APPEND), session

        def pop3() -> Any:
            return POP3Connection(), POP3Session(self.store, self.authenticator, self.locks, starttls=True)

        for name, make in (("imap", imap), ("pop3", pop3)):
            for secure in (False, True):
                tls = {"tls": self._context} if secure else {"starttls": self._context}
                port = listen(reactor, "127.0.0.1", 0, make, Limits(100, 100), **tls)
                self._listening.append(port)
                self.ports[name + "s" * secure] = port.getHost().port

    def stop(self) -> None:
        for port in self._listening:
            blockingCallFromThread(self.reactor, port.stopListening)
        self.database.close()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        def run() -> defer.Deferred[T]:
            return defer.Deferred.fromCoroutine(work).addTimeout(TIMEOUT, self.reactor)

        result: T = blockingCallFromThread(self.reactor, run)  # type: ignore[arg-type]
        return result

    def add_account(self, address: Address) -> None:
        self.wait(self.store.add_domain(address.domain))
        self.wait(self.store.add_account(address, credentials(PASSWORD)))

    def account(self, address: Address = ALICE) -> Account:
        account = self.wait(self.store.account(address))
        assert account is not None
        return account

    def deliver(
        self, mail: bytes, address: Address = ALICE, mailbox: str = "INBOX", flags: tuple[str, ...] = ()
    ) -> Placed:
        """As if it had come."""
        account = self.account(address)
        payload, bodies = bridge.bridged_payload(
            mime.Mail(mail), by=ALPHA, nonce=secrets.token_bytes(16), received_ms=1, reverse_path=None
        )
        content = Content(b"", payload.encode(), bytes(64), bodies)
        delivery = Delivery(account.account_id, content, b"", mailbox, flags, 1_000_000_000_000)
        (placed,) = self.wait(self.store.deliver([delivery]))
        assert isinstance(placed, Placed)
        return placed


class Talk:
    """A connection of lines. `tls` from the first octet, or later by `start_tls`."""

    def __init__(self, port: int, *, tls: bool = True) -> None:
        self._socket: socket.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")
        if tls:
            self.start_tls()

    def start_tls(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._socket = context.wrap_socket(self._socket)
        self._file = self._socket.makefile("rb")

    def send(self, octets: bytes) -> None:
        self._socket.sendall(octets)

    def line(self) -> bytes:
        line = self._file.readline()
        assert line.endswith(b"\r\n"), line
        return line[:-2]

    def take(self, count: int) -> bytes:
        return self._file.read(count)

    def ended(self) -> bool:
        return self._file.read(1) == b""

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class Mail(Talk):
    """An IMAP client that shows all it is told, in order."""

    def __init__(self, house: House, user: Address | None = ALICE, mailbox: str = "", *, tls: bool = True) -> None:
        super().__init__(house.ports["imaps" if tls else "imap"], tls=tls)
        self.greeting = self.line()
        self._tag = 0
        if user is not None:
            assert self.do(f'LOGIN {user} "{PASSWORD}"')[-1].startswith(b"OK [CAPABILITY ")
        if mailbox:
            assert self.do(f'SELECT "{mailbox}"')[-1] == b"OK [READ-WRITE] Selected"

    def response(self) -> bytes:
        """A line with the literals in it, as they came."""
        line = self.line()
        while found := re.search(rb"\{(\d+)\}\Z", line):
            line += b"\r\n" + self.take(int(found[1])) + self.line()
        return line

    def begin(self, command: str | bytes, *literals: bytes) -> bytes:
        """Sends it; returns the tag. Each literal is sent when it is asked for."""
        self._tag += 1
        tag = b"t%d" % self._tag
        self.send(tag + b" " + (command.encode() if isinstance(command, str) else command))
        for literal in literals:
            self.send(b"{%d}\r\n" % len(literal))
            assert self.line().startswith(b"+ ")
            self.send(literal)
        self.send(b"\r\n")
        return tag

    def end(self, tag: bytes) -> list[bytes]:
        told = []
        while True:
            line = self.response()
            if line.startswith(tag + b" "):
                return [*told, line[len(tag) + 1 :]]
            assert line.startswith(b"* "), line
            told.append(line[2:])

    def do(self, command: str | bytes, *literals: bytes) -> list[bytes]:
        """The untagged responses, then the tagged one."""
        return self.end(self.begin(command, *literals))

    def ok(self, command: str | bytes, *literals: bytes) -> list[bytes]:
        """The untagged responses."""
        *told, last = self.do(command, *literals)
        assert last.startswith(b"OK "), last
        return told

    def append(self, mail: bytes, arguments: str = "INBOX ") -> bytes:
        return self.do(f"APPEND {arguments}", mail)[-1]

    def uids(self) -> list[int]:
        return [int(uid) for uid in self.ok("UID SEARCH ALL")[0].split()[1:]]


@pytest.fixture
def house(reactor: Any, tmp_path: Path) -> Iterator[House]:
    made = House(reactor, tmp_path)
    made.add_account(ALICE)
    made.add_account(BOB)
    yield made
    made.stop()


def mail(number: int, body: bytes = b"body\r\n") -> bytes:
    return b"From: bob@alpha.test\r\nSubject: number %d\r\n\r\n%s" % (number, body)


@pytest.fixture
def three(house: House) -> Mail:
    """alice, with INBOX selected, which holds mail(1) to mail(3)."""
    for number in (1, 2, 3):
        house.deliver(mail(number))
    return Mail(house, ALICE, "INBOX")


# -- signing in -----------------------------------------------------------------------------------------------------


def plain(user: str, password: str, identity: str = "") -> str:
    return base64.b64encode(f"{identity}\0{user}\0{password}".encode()).decode()


def test_nobody_signs_in_in_the_clear(house: House) -> None:
    client = Mail(house, None, tls=False)
    assert b"STARTTLS" in client.greeting and b"LOGINDISABLED" in client.greeting and b"AUTH=" not in client.greeting
    for command in (f'LOGIN {ALICE} "{PASSWORD}"', f"AUTHENTICATE PLAIN {plain(str(ALICE), PASSWORD)}",
                    "AUTHENTICATE PLAIN"):  # fmt: skip
        assert client.do(command) == [b"NO [PRIVACYREQUIRED] Use STARTTLS first"]
    assert client.do("SELECT INBOX") == [b"BAD SELECT is not allowed now"]


def test_starttls_then_sign_in(house: House) -> None:
    client = Mail(house, None, tls=False)
    assert client.do("STARTTLS") == [b"OK Begin TLS"]
    client.start_tls()
    (capability,) = client.ok("CAPABILITY")
    assert b"AUTH=PLAIN" in capability and b"LOGINDISABLED" not in capability and b"STARTTLS" not in capability
    assert client.do("STARTTLS")[-1].startswith(b"BAD ")
    assert client.do(f'LOGIN {ALICE} "{PASSWORD}"')[-1].startswith(b"OK ")


def test_commands_ahead_of_starttls_are_never_executed(house: House) -> None:
    client = Mail(house, None, tls=False)
    client.send(b"a STARTTLS\r\nb CREATE injected\r\nc NOOP\r\n")
    assert client.line() == b"a OK Begin TLS"
    client.start_tls()
    client.send(b"d NOOP\r\n")
    assert client.line() == b"d OK Done"


def test_half_a_command_ahead_of_starttls_is_forgotten(house: House) -> None:
    client = Mail(house, None, tls=False)
    client.send(b"a STARTTLS\r\nb ")
    assert client.line() == b"a OK Begin TLS"
    client.start_tls()
    client.send(b"NOOP\r\nc NOOP\r\n")
    assert client.line().startswith(b"* BAD ")
    assert client.line() == b"c OK Done"


def test_commands_after_a_refused_starttls_are_executed(house: House) -> None:
    client = Mail(house)
    client.send(b"a STARTTLS\r\nb NOOP\r\n")
    assert [client.line(), client.line()] == [b"a BAD STARTTLS is not allowed now", b"b OK Done"]


def test_a_wrong_password_and_the_limit(house: House) -> None:
    client = Mail(house, None)
    assert client.do(f"LOGIN {ALICE} wrong") == [b"NO [AUTHENTICATIONFAILED] Wrong user or password"]
    assert client.do(f'LOGIN nobody@alpha.test "{PASSWORD}"') == [b"NO [AUTHENTICATIONFAILED] Wrong user or password"]
    client.begin(f"LOGIN {ALICE} wrong")
    assert client.line() == b"* BYE Too many failed attempts"
    assert client.ended()
    Mail(house, ALICE)


def test_a_password_of_any_octets(house: House) -> None:
    client = Mail(house, None)
    assert client.do("LOGIN ", str(ALICE).encode(), b"\xff")[-1].startswith(b"BAD ")  # no space between
    assert client.do(b"LOGIN alice@alpha.test {1+}\r\n\xff")[-1].startswith(b"NO [AUTHENTICATIONFAILED]")
    assert client.do(b"LOGIN alice@alpha.test ", PASSWORD.encode())[-1].startswith(b"OK ")


def test_sasl_plain(house: House) -> None:
    for identity in ("", str(ALICE)):
        client = Mail(house, None)
        response = plain(str(ALICE), PASSWORD, identity)
        assert client.do(f"AUTHENTICATE PLAIN {response}")[-1].startswith(b"OK [CAPABILITY")
    client = Mail(house, None)
    for response in ("*", "=", "x", plain(str(BOB), PASSWORD, str(ALICE))):
        tag = client.begin("authenticate plain")
        assert client.line() == b"+ "
        client.send(response.encode() + b"\r\n")
        assert client.end(tag)[-1].startswith((b"BAD ", b"NO "))
    assert client.do("AUTHENTICATE CRAM-MD5")[-1].startswith(b"NO ")
    tag = client.begin("AUTHENTICATE PLAIN")
    assert client.line() == b"+ "
    client.send(plain(str(ALICE), PASSWORD).encode() + b"\r\n")
    assert client.end(tag)[-1].startswith(b"OK ")
    assert client.do("NOOP") == [b"OK Done"]


def test_imaplib(house: House) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with imaplib.IMAP4("127.0.0.1", house.ports["imap"], TIMEOUT) as client:
        client.starttls(context)
        assert client.login(str(ALICE), PASSWORD)[0] == "OK"
        assert client.create("Bücher".encode("utf-7").decode().replace("+", "&"))[0] == "OK"
        assert client.append("INBOX", "(\\Seen)", imaplib.Time2Internaldate(0), NESTED)[0] == "OK"
        assert client.select("INBOX") == ("OK", [b"1"])
        assert client.uid("FETCH", "1", "(RFC822)")[1][0][1] == NESTED
        assert client.uid("MOVE", "1", '"Bücher"'.encode("utf-7").decode().replace("+", "&"))[0] == "OK"
        assert client.search(None, "ALL")[1] == [b""]


# -- selecting ------------------------------------------------------------------------------------------------------


def test_select_and_examine(house: House, three: Mail) -> None:
    three.ok("STORE 1 +FLAGS (\\Seen)")
    told = three.do("SELECT inbox")
    assert told[:5] == [
        b"3 EXISTS", b"0 RECENT", b"FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft)",
        b"OK [PERMANENTFLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft \\*)] Kept", b"OK [UNSEEN 2] First unseen",
    ]  # fmt: skip
    assert re.fullmatch(rb"OK \[UIDVALIDITY [1-9]\d*\] .*", told[5])
    assert told[6:] == [b"OK [UIDNEXT 4] Next UID", b"OK [READ-WRITE] Selected"]
    told = three.do("EXAMINE INBOX")
    assert told[-1] == b"OK [READ-ONLY] Selected" and b"OK [PERMANENTFLAGS ()] Kept" in told
    for command in ("STORE 1 FLAGS ()", "EXPUNGE", "UID EXPUNGE 1", "MOVE 1 Trash"):
        assert three.do(command)[-1].startswith(b"NO [READ-ONLY]")
    three.ok("FETCH 2 BODY[]")
    assert three.ok("FETCH 2 FLAGS") == [b"2 FETCH (FLAGS ())"]
    three.ok("COPY 1 Trash")


def test_a_failed_select_leaves_nothing_selected(house: House, three: Mail, monkeypatch: pytest.MonkeyPatch) -> None:
    assert three.do("SELECT nowhere") == [b"NO [NONEXISTENT] No such mailbox"]
    assert three.do("FETCH 1 FLAGS") == [b"BAD FETCH is not allowed now"]
    three.ok("SELECT INBOX")
    monkeypatch.setattr(house.store, "entries", broken)
    assert three.do("SELECT INBOX") == [b"NO [UNAVAILABLE] broken"]
    assert three.do("FETCH 1 FLAGS") == [b"BAD FETCH is not allowed now"]


async def broken(*arguments: Any, **more: Any) -> Any:
    raise StoreError("broken")


def test_close_and_unselect(house: House, three: Mail) -> None:
    three.ok("STORE 2 +FLAGS.SILENT \\Deleted")
    three.ok("UNSELECT")
    assert three.do("NOOP") == [b"OK Done"]
    three.ok("EXAMINE INBOX")
    three.ok("CLOSE")
    three.ok("SELECT INBOX")
    assert three.uids() == [1, 2, 3]
    assert three.do("CLOSE") == [b"OK Closed"]
    assert three.do("CLOSE")[-1].startswith(b"BAD ")
    three.ok("SELECT INBOX")
    assert three.uids() == [1, 3]


# -- FETCH ----------------------------------------------------------------------------------------------------------


def literal(octets: bytes) -> bytes:
    return b"{%d}\r\n%s" % (len(octets), octets)


@pytest.fixture
def nested(house: House) -> Mail:
    house.deliver(NESTED)
    return Mail(house, ALICE, "INBOX")


@pytest.mark.parametrize(
    ("item", "label", "octets"),
    [
        ("BODY.PEEK[]", "BODY[]", NESTED),
        ("body.peek[header]", "BODY[HEADER]", NESTED[:77]),
        ("BODY.PEEK[TEXT]", "BODY[TEXT]", NESTED[77:]),
        ("BODY.PEEK[1]", "BODY[1]", b"one"),
        ("BODY.PEEK[1.MIME]", "BODY[1.MIME]", b"\r\n"),
        ("BODY.PEEK[2.1]", "BODY[2.1]", b"two one"),
        ("BODY.PEEK[2.1.MIME]", "BODY[2.1.MIME]", b"Content-Type: text/plain\r\nX: 2.1\r\n\r\n"),
        ("BODY.PEEK[3.TEXT]", "BODY[3.TEXT]", b"three"),
        ("BODY.PEEK[2.HEADER.FIELDS (SUBJECT \"X-No\")]", "BODY[2.HEADER.FIELDS (SUBJECT X-No)]",
         b"Subject: inner\r\n\r\n"),
        ("BODY.PEEK[2.HEADER.FIELDS (Subject)]<2.6>", "BODY[2.HEADER.FIELDS (Subject)]<2>", b"bject:"),
        ("BODY.PEEK[HEADER.FIELDS.NOT (From Content-Type)]", "BODY[HEADER.FIELDS.NOT (From Content-Type)]",
         b"Subject: outer\r\n\r\n"),
        ("BODY.PEEK[]<0.5>", "BODY[]<0>", b"From:"),
        ("BODY.PEEK[]<100000.5>", "BODY[]<100000>", b""),
        ("BODY.PEEK[1]<1.18446744073709551615>", None, b""),
        ("RFC822.HEADER", "RFC822.HEADER", NESTED[:77]),
    ],
)  # fmt: skip
def test_fetch_of_octets_leaves_the_flags(nested: Mail, item: str, label: str | None, octets: bytes) -> None:
    *told, last = nested.do(f"FETCH 1 {item}")
    if label is None:
        assert last.startswith(b"BAD ")
    else:
        assert told == [b"1 FETCH (%s %s)" % (label.encode(), literal(octets))]
    assert nested.ok("FETCH 1 FLAGS") == [b"1 FETCH (FLAGS ())"]


@pytest.mark.parametrize("item", ["BODY[]", "BODY[1]<0.1>", "RFC822", "RFC822.TEXT", "BODY[HEADER]"])
def test_fetch_of_octets_sets_seen_and_says_so(nested: Mail, item: str) -> None:
    (told,) = nested.ok(f"FETCH 1 {item}")
    assert told.endswith(b" FLAGS (\\Seen))")
    (told,) = nested.ok(f"FETCH 1 {item}")
    assert b"FLAGS" not in told


def test_fetch_of_no_such_part_is_nil(nested: Mail) -> None:
    assert nested.ok("FETCH 1 (BODY.PEEK[4] BODY.PEEK[1.1] BODY.PEEK[1.HEADER])") == [
        b"1 FETCH (BODY[4] NIL BODY[1.1] NIL BODY[1.HEADER] NIL)"
    ]


def test_fetch_of_the_structure(nested: Mail) -> None:
    (told,) = nested.ok("FETCH 1 (ENVELOPE BODYSTRUCTURE BODY)")
    items = read_list(told.removeprefix(b"1 FETCH ").replace(b"(ENVELOPE ", b"(").replace(b" BODYSTRUCTURE ", b" ")
                      .replace(b" BODY ", b" "))  # fmt: skip
    envelope, structure, body = items
    assert envelope[1] == b"outer" and envelope[2] == [[None, None, b"a", b"b.test"]]
    assert structure[3:] == [b"MIXED", [b"BOUNDARY", b"x"], None, None, None]
    assert body[3:] == [b"MIXED"]
    assert structure[1][7][1] == b"inner" and structure[1][8][1][9] == [b"ATTACHMENT", [b"FILENAME", b'a "b".html']]


def test_fetch_macros_and_the_rest(nested: Mail) -> None:
    rest = b'INTERNALDATE " 9-Sep-2001 01:46:40 +0000" RFC822.SIZE %d' % len(NESTED)
    assert nested.ok("FETCH 1 FAST") == [b"1 FETCH (FLAGS () " + rest + b")"]
    for macro, more in (("ALL", 1), ("full", 2)):
        (told,) = nested.ok(f"FETCH 1 {macro}")
        assert told.startswith(b"1 FETCH (FLAGS () " + rest + b" ENVELOPE (NIL ")
        assert (b" BODY (" in told) == (more == 2)
    assert nested.ok("FETCH 1 (UID)") == [b"1 FETCH (UID 1)"]
    assert nested.ok("UID FETCH 1:* FLAGS") == [b"1 FETCH (UID 1 FLAGS ())"]
    assert nested.ok("UID FETCH 7 FLAGS") == []
    assert nested.ok("UID FETCH 7:* FLAGS") == [b"1 FETCH (UID 1 FLAGS ())"]


def test_sequence_sets(three: Mail) -> None:
    def numbers(numbered: str) -> list[int]:
        return [int(line.split()[0]) for line in three.ok(f"FETCH {numbered} UID")]

    assert numbers("3,1") == [1, 3]
    assert numbers("*:2,1:1,2:3") == [1, 2, 3]
    assert numbers("*") == [3]
    for bad in ("4", "1:4", "0", "x"):
        assert three.do(f"FETCH {bad} UID")[-1].startswith(b"BAD ")
    three.ok("SELECT Trash")
    assert numbers("1:*") == []
    assert three.do("FETCH 1 UID")[-1].startswith(b"BAD ")


def test_octets_come_as_they_were_appended(house: House) -> None:
    client = Mail(house, ALICE, "INBOX")
    for octets in (
        b"",
        b"no header",
        b"Subject: x\n\nbare\n.\r\n",
        bytes(range(256)) * 3,
        b"\r\n\r\n",
        b"A: b\r\n\r\nno end",
    ):
        assert client.append(octets).startswith(b"OK [APPENDUID ")
        assert client.ok("FETCH * (RFC822.SIZE BODY.PEEK[])") == [
            b"%d FETCH (RFC822.SIZE %d BODY[] %s)" % (len(client.uids()), len(octets), literal(octets))
        ]


# -- STORE, COPY, MOVE, EXPUNGE, APPEND -----------------------------------------------------------------------------


def test_store(three: Mail) -> None:
    assert three.ok("STORE 1:2 +FLAGS (\\seen $Work)") == [
        b"1 FETCH (FLAGS ($Work \\Seen))", b"2 FETCH (FLAGS ($Work \\Seen))",
    ]  # fmt: skip
    assert three.ok("UID STORE 1 -FLAGS \\Seen") == [b"1 FETCH (FLAGS ($Work) UID 1)"]
    assert three.ok("STORE 1 FLAGS.SILENT (\\Draft \\Recent)") == []
    assert three.ok("STORE 1 +FLAGS ()") == [b"1 FETCH (FLAGS (\\Draft))"]
    assert three.ok("STORE 2 FLAGS \\Answered \\Flagged") == [b"2 FETCH (FLAGS (\\Answered \\Flagged))"]
    assert three.ok("UID STORE 9 FLAGS ()") == []
    for bad in ("STORE 1 FLAG ()", "STORE 1 FLAGS (\\What)", "STORE 1 FLAGS", "STORE 9 FLAGS ()", "STORE 1 FLAGS () x"):
        assert three.do(bad)[-1].startswith(b"BAD ")


def test_copy(house: House, three: Mail) -> None:
    three.ok("STORE 2 FLAGS (\\Flagged x)")
    three.ok("SELECT INBOX")
    (last,) = three.do("COPY 2:3 Archive")
    validity = re.fullmatch(rb"OK \[COPYUID (\d+) 2:3 1:2\] Copied", last)
    assert validity
    assert three.do("UID COPY 3,1 Archive") == [b"OK [COPYUID %s 1,3 3:4] Copied" % validity[1]]
    assert three.do("UID COPY 77 Archive")[-1].startswith(b"OK ")
    assert three.do("COPY 1 nowhere") == [b"NO [TRYCREATE] No such mailbox"]
    assert three.uids() == [1, 2, 3]
    assert b"OK [UIDVALIDITY %s] UIDs valid" % validity[1] in three.ok("SELECT Archive")
    assert three.ok("FETCH 1 (FLAGS INTERNALDATE BODY.PEEK[])") == [
        b'1 FETCH (FLAGS (\\Flagged x) INTERNALDATE " 9-Sep-2001 01:46:40 +0000" BODY[] %s)' % literal(mail(2))
    ]


def test_move(house: House, three: Mail) -> None:
    told = three.do("MOVE 1:2 Trash")
    assert re.fullmatch(rb"OK \[COPYUID \d+ 1:2 1:2\] Moved", told[0])
    assert told[1:] == [b"2 EXPUNGE", b"1 EXPUNGE", b"OK Moved"]
    assert three.do("UID MOVE 3 INBOX")[1:] == [b"1 EXPUNGE", b"1 EXISTS", b"0 RECENT", b"OK Moved"]
    assert three.uids() == [4]
    assert three.do("MOVE 1 nowhere") == [b"NO [TRYCREATE] No such mailbox"]
    three.ok("SELECT Trash")
    assert three.ok("FETCH 1 BODY.PEEK[]") == [b"1 FETCH (BODY[] %s)" % literal(mail(1))]


def test_expunge(three: Mail) -> None:
    three.ok("STORE 1:3 +FLAGS.SILENT (\\Deleted)")
    assert three.do("UID EXPUNGE 2,7") == [b"2 EXPUNGE", b"OK Expunged"]
    three.ok("STORE 2 -FLAGS.SILENT (\\Deleted)")
    assert three.do("EXPUNGE") == [b"1 EXPUNGE", b"OK Expunged"]
    assert three.do("EXPUNGE") == [b"OK Expunged"]
    assert three.uids() == [3]


def test_append(house: House) -> None:
    client = Mail(house, ALICE, "INBOX")
    told = client.do('APPEND "INBOX" (\\Seen $x) " 1-Feb-2026 03:04:05 +0100" ', mail(1))
    assert told[:2] == [b"1 EXISTS", b"0 RECENT"] and re.fullmatch(rb"OK \[APPENDUID \d+ 1\] Appended", told[2])
    assert client.ok("FETCH 1 (FLAGS INTERNALDATE BODY.PEEK[])") == [
        b'1 FETCH (FLAGS ($x \\Seen) INTERNALDATE " 1-Feb-2026 02:04:05 +0000" BODY[] %s)' % literal(mail(1))
    ]
    assert client.append(mail(1)).endswith(b" 2] Appended")  # the same again is another message
    assert client.do(b"APPEND Drafts {%d+}\r\n%s" % (len(mail(2)), mail(2)))[-1].startswith(b"OK [APPENDUID")
    assert client.append(mail(1), "nowhere ") == b"NO [TRYCREATE] No such mailbox"
    for bad in ('INBOX "yesterday" ', "INBOX (\\What) ", 'INBOX "31-Dec-9999 23:59:59 -1200" ',
                'INBOX "01-Jan-0001 00:00:00 +1200" ', 'INBOX (x) (y) '):  # fmt: skip
        assert client.append(mail(1), bad).startswith(b"BAD ")
    assert client.append(mail(3), 'INBOX "01-Jan-0001 00:00:00 +0000" ').startswith(b"OK ")
    assert client.ok("FETCH 3 INTERNALDATE") == [b'3 FETCH (INTERNALDATE " 1-Jan-0001 00:00:00 +0000")']


def test_append_of_too_much_is_refused_at_once(house: House) -> None:
    client = Mail(house, ALICE, "INBOX")
    for command in ("APPEND INBOX {99999999}", "APPEND INBOX (\\Seen) {4294967295}"):
        assert client.do(command) == [b"NO [TOOBIG] The literal is too large"]
    size = 700_000
    client.send(b"x APPEND INBOX {%d+}\r\n" % size)
    assert client.line() == b"x NO [TOOBIG] The literal is too large"
    client.send(b"y LOGOUT\r\n" * (size // 10) + b"\r\nz NOOP\r\n")
    assert client.line() == b"z OK Done"


def test_a_full_store(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Mail(house, ALICE, "INBOX")

    async def full(deliveries: Any) -> list[Any]:
        return [StoreFull("no space")]

    monkeypatch.setattr(house.store, "deliver", full)
    assert client.append(mail(1)) == b"NO [OVERQUOTA] No space is left"
    monkeypatch.undo()
    assert client.append(mail(1)).startswith(b"OK ")


def test_what_is_there_can_be_read_when_the_store_is_full(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Mail(house, ALICE, "INBOX")
    client.append(mail(1))

    async def full(*arguments: Any) -> Any:
        raise StoreFull("no space")

    monkeypatch.setattr(house.store, "store_flags", full)
    assert client.do("STORE 1 +FLAGS (\\Flagged)") == [b"NO [OVERQUOTA] No space is left"]
    *told, last = client.do("FETCH 1 BODY[]")
    assert last == b"OK Done" and mail(1) in b"".join(told)


# -- SEARCH ---------------------------------------------------------------------------------------------------------

SEARCHED = [
    b"Date: Thu, 1 Jan 2026 23:00:00 -0500\r\nFrom: Anna <anna@x.test>\r\nTo: alice@alpha.test\r\n"
    b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    + base64.b64encode("Müller kommt".encode()) + b"\r\n",
    b"Date: nonsense\r\nFrom: Bert <bert@x.test>\r\nCc: carl@x.test\r\nBcc: dora@x.test\r\n"
    b"Subject: plain words\r\nX-Mark:\r\n\r\n"
    b"NEEDLE in the hay\r\n" + b"x" * 1000 + b"\r\n",
    b"Date: Sat, 3 Jan 2026 00:00:00 +0000\r\nFrom: anna@y.test\r\nSubject: plain\r\n\r\nnothing\r\n",
]  # fmt: skip


@pytest.fixture
def searched(house: House) -> Mail:
    client = Mail(house)
    client.append(SEARCHED[0], 'INBOX (\\Seen \\Flagged) "01-Feb-2026 12:00:00 +0000" ')
    client.append(SEARCHED[1], 'INBOX (\\Answered work) "02-Feb-2026 12:00:00 +0000" ')
    client.append(SEARCHED[2], 'INBOX (\\Deleted \\Draft) "03-Feb-2026 12:00:00 +0000" ')
    client.ok("SELECT INBOX")
    return client


SEARCHES = [
    ("ALL", "1 2 3"), ("1:2", "1 2"), ("*", "3"), ("2,3 1:2", "2"), ("UID 3:9", "3"),
    ("ANSWERED", "2"), ("UNANSWERED", "1 3"), ("DELETED", "3"), ("UNDELETED", "1 2"), ("DRAFT", "3"),
    ("UNDRAFT", "1 2"), ("FLAGGED", "1"), ("UNFLAGGED", "2 3"), ("SEEN", "1"), ("UNSEEN", "2 3"),
    ("NEW", ""), ("OLD", "1 2 3"), ("RECENT", ""), ("KEYWORD work", "2"), ("UNKEYWORD work", "1 3"),
    ("BEFORE 2-Feb-2026", "1"), ("ON 02-feb-2026", "2"), ('SINCE "2-Feb-2026"', "2 3"),
    ("SENTBEFORE 2-Jan-2026", "1"), ("SENTON 1-Jan-2026", "1"), ("SENTSINCE 2-Jan-2026", "3"),
    ("FROM anna", "1 3"), ("FROM anna FROM y.test", "3"), ("TO alice", "1"), ("CC carl", "2"), ("BCC dora", "2"),
    ("SUBJECT plain", "2 3"), ('SUBJECT "plain words"', "2"), ("HEADER Subject WORDS", "2"), ('HEADER x-mark ""', "2"),
    ('HEADER From "bert"', "2"), ('HEADER X-No ""', ""),
    ("BODY needle", "2"), ("BODY bert", ""), ("TEXT bert", "2"), ("TEXT needle", "2"),
    ("LARGER 1000", "2"), ("SMALLER 1000", "1 3"), ("NOT SEEN", "2 3"), ("OR SEEN DELETED", "1 3"),
    ("OR NOT OR SEEN DELETED SUBJECT words", "2"), ("NOT (SEEN FLAGGED)", "2 3"),
    ("(OR (SEEN) (2)) NOT NOT ALL", "1 2"),
    ("charset US-ASCII SEEN", "1"), ("OR OR 1 2 3", "1 2 3"),
]  # fmt: skip


def test_search_by_every_key(searched: Mail) -> None:
    for keys, numbers in SEARCHES:
        assert searched.ok(f"SEARCH {keys}") == [f"SEARCH {numbers}".rstrip().encode()], keys


def test_search_in_utf8(searched: Mail) -> None:
    for charset in ("UTF-8", '"utf-8"'):
        assert searched.ok(f"SEARCH CHARSET {charset} BODY ", "MÜLLER".encode()) == [b"SEARCH 1"]
        assert searched.ok(f"SEARCH CHARSET {charset} SUBJECT ", "grüsse".encode()) == [b"SEARCH 1"]  # ß folds to ss
        assert searched.ok(f"UID SEARCH CHARSET {charset} OR TEXT Grüße TEXT words") == [b"SEARCH 1 2"]
    assert searched.do("SEARCH CHARSET KOI8-R SEEN") == [b"NO [BADCHARSET (UTF-8 US-ASCII)] Charset not known"]


@pytest.mark.parametrize(
    "keys", ["", "WHAT", "NOT", "OR SEEN", "(SEEN", "SEEN)", "ON 1-Foo-2026", "ON 31-Feb-2026", "LARGER x", "9",
             "SUBJECT", "HEADER x", "(" * 60 + "ALL" + ")" * 60, "ALL  ALL", "CHARSET UTF-8"]
)  # fmt: skip
def test_what_is_no_search(searched: Mail, keys: str) -> None:
    assert searched.do(f"SEARCH {keys}")[-1].startswith(b"BAD ")
    assert searched.ok("SEARCH SEEN") == [b"SEARCH 1"]


# -- mailboxes ------------------------------------------------------------------------------------------------------


def listed(client: Mail, command: str) -> dict[str, str]:
    """name -> attributes"""
    found = {}
    for line in client.ok(command):
        attributes, name = re.fullmatch(rb'(?:LIST|LSUB) \(([^)]*)\) "/" (".*")', line).groups()  # type: ignore[union-attr]
        found[name.decode()[1:-1]] = attributes.decode()
    return found


def test_list_and_special_use(house: House) -> None:
    client = Mail(house)
    for name in ("Lists/a/deep", "Lists/b", "&AOQ-", '"say \\"x\\""'):
        client.ok(f"CREATE {name}")
    assert listed(client, 'LIST "" *') == {
        "INBOX": "\\HasNoChildren", "Archive": "\\HasNoChildren \\Archive", "Drafts": "\\HasNoChildren \\Drafts",
        "Junk": "\\HasNoChildren \\Junk", "Sent": "\\HasNoChildren \\Sent", "Trash": "\\HasNoChildren \\Trash",
        "Introductions": "\\HasNoChildren",
        "Lists": "\\HasChildren", "Lists/a": "\\HasChildren", "Lists/a/deep": "\\HasNoChildren",
        "Lists/b": "\\HasNoChildren", "&AOQ-": "\\HasNoChildren", 'say \\"x\\"': "\\HasNoChildren",
    }  # fmt: skip
    assert set(listed(client, 'LIST "" Lists/%')) == {"Lists/a", "Lists/b"}
    assert set(listed(client, 'LIST Lists/ "%"')) == {"Lists/a", "Lists/b"}
    assert set(listed(client, 'LIST "" L*')) == {"Lists", "Lists/a", "Lists/a/deep", "Lists/b"}
    assert set(listed(client, 'LIST "" %/%')) == {"Lists/a", "Lists/b"}
    assert set(listed(client, 'LIST "" inbox')) == {"INBOX"}
    assert set(listed(client, 'LIST "" *a*e*')) == {"Lists/a/deep"}
    assert set(listed(client, 'LIST "" "&AOQ-"')) == {"&AOQ-"}
    assert listed(client, 'LIST "" nowhere') == {}
    assert client.ok('LIST "" ""') == [b'LIST (\\Noselect) "/" ""']
    assert client.do('LIST "" ' + "*a" * 400)[-1].startswith(b"BAD ")


def test_a_level_without_a_mailbox(house: House) -> None:
    """The clients that ask level by level find what is below it."""
    client = Mail(house)
    client.ok("CREATE a/b/c")
    client.ok("DELETE a/b")
    assert listed(client, 'LIST "" a*') == {
        "a": "\\HasChildren", "a/b": "\\Noselect \\HasChildren", "a/b/c": "\\HasNoChildren",
    }  # fmt: skip
    assert listed(client, 'LIST "" a/%') == {"a/b": "\\Noselect \\HasChildren"}
    assert client.do("SELECT a/b") == [b"NO [NONEXISTENT] No such mailbox"]
    client.ok("CREATE a/b")
    assert listed(client, 'LIST "" a/%') == {"a/b": "\\HasChildren"}


def test_subscriptions(house: House) -> None:
    client = Mail(house)
    client.ok("CREATE a/b")
    for name in ("Junk", "Trash", "a"):
        client.ok(f"UNSUBSCRIBE {name}")
    assert set(listed(client, 'LSUB "" *')) == {"INBOX", "Archive", "Drafts", "Introductions", "Sent", "a/b"}
    assert listed(client, 'LSUB "" %')["a"] == "\\Noselect \\HasChildren"
    client.ok("SUBSCRIBE Junk")
    assert "Junk" in listed(Mail(house), 'LSUB "" *')
    there = {"INBOX", "Archive", "Drafts", "Introductions", "Sent", "Junk", "Trash", "a"}
    assert set(listed(client, 'LIST "" %')) == there
    assert client.do("SUBSCRIBE nowhere")[-1].startswith(b"NO ")


def test_create_and_delete(house: House) -> None:
    client = Mail(house)
    client.ok("CREATE new/")
    assert client.do("CREATE new") == [b"NO [ALREADYEXISTS] The mailbox exists"]
    assert client.do("CREATE inbox") == [b"NO [ALREADYEXISTS] The mailbox exists"]
    for bad in ('""', "/", "a//b", "/a", '"\\\\Sent"', "x" * 600):
        assert client.do(f"CREATE {bad}")[-1].startswith(b"NO [CANNOT] a mailbox name has")
    assert client.do('CREATE "a\tb"')[-1].startswith(b"BAD ")
    assert client.do("CREATE a b")[-1].startswith(b"BAD ")
    client.append(mail(1), "new ")
    first = uidvalidity(client, "new")
    client.ok("DELETE new")
    assert client.do("DELETE new") == [b"NO [NONEXISTENT] No such mailbox"]
    assert client.do("DELETE inbox") == [b"NO [CANNOT] INBOX cannot be deleted"]
    client.ok("CREATE new")
    assert uidvalidity(client, "new") > first
    assert client.ok("STATUS new (MESSAGES)") == [b'STATUS "new" (MESSAGES 0)']


def uidvalidity(client: Mail, name: str) -> int:
    (told,) = client.ok(f"STATUS {name} (UIDVALIDITY)")
    return int(told.removesuffix(b")").split()[-1])


def test_rename(house: House) -> None:
    client = Mail(house)
    client.ok("CREATE a/b")
    client.append(mail(1), "a/b ")
    before = uidvalidity(client, "a/b")
    client.ok("RENAME a x/y")
    assert set(listed(client, 'LIST "" %/*')) == {"x/y", "x/y/b"}
    assert uidvalidity(client, "x/y/b") == before
    assert client.ok("STATUS x/y/b (MESSAGES)") == [b'STATUS "x/y/b" (MESSAGES 1)']
    assert client.do("RENAME a z") == [b"NO [NONEXISTENT] No such mailbox"]
    assert client.do("RENAME x Trash") == [b"NO [ALREADYEXISTS] The mailbox exists"]
    assert client.do("RENAME x a//b")[-1].startswith(b"NO [CANNOT]")


def test_rename_of_inbox_moves_its_messages(house: House, three: Mail) -> None:
    three.ok("RENAME INBOX old")
    assert three.ok("STATUS old (MESSAGES)") == [b'STATUS "old" (MESSAGES 3)']
    assert three.do("NOOP")[-1] == b"OK Done"
    assert three.uids() == []
    house.deliver(mail(4))
    assert [line for line in three.ok("NOOP") if b"EXISTS" in line] == [b"1 EXISTS"]
    assert three.uids() == [4]


def test_status(house: House, three: Mail) -> None:
    three.ok("STORE 2 FLAGS (\\Seen)")
    assert three.ok("STATUS inbox (messages RECENT UNSEEN UIDNEXT)") == [
        b'STATUS "INBOX" (MESSAGES 3 RECENT 0 UNSEEN 2 UIDNEXT 4)'
    ]
    assert three.do("STATUS nowhere (MESSAGES)")[-1].startswith(b"NO [NONEXISTENT]")
    for bad in ("STATUS INBOX", "STATUS INBOX (WHAT)", "STATUS INBOX (MESSAGES", "STATUS INBOX (MESSAGES) x"):
        assert three.do(bad)[-1].startswith(b"BAD ")


def test_the_small_commands(house: House) -> None:
    client = Mail(house)
    assert client.ok("NAMESPACE") == [b'NAMESPACE (("" "/")) NIL NIL']
    assert client.ok('ID ("name" "x")') == [b'ID ("name" "gatewayd")']
    assert client.ok("ENABLE CONDSTORE") == [b"ENABLED"]
    (capability,) = client.ok("CAPABILITY")
    assert {b"IMAP4rev1", b"LITERAL+", b"IDLE", b"UIDPLUS", b"MOVE", b"SPECIAL-USE"} <= set(capability.split())
    assert client.do("LOGOUT") == [b"BYE Goodbye", b"OK Done"]
    assert client.ended()


def test_accounts_see_their_own_mail_only(house: House, three: Mail) -> None:
    other = Mail(house, BOB, "INBOX")
    assert other.uids() == []
    other.ok("CREATE mine")
    assert "mine" not in listed(three, 'LIST "" *')
    house.deliver(mail(1), BOB)
    assert three.do("NOOP") == [b"OK Done"]


# -- two sessions ---------------------------------------------------------------------------------------------------


def idle(client: Mail) -> bytes:
    tag = client.begin("IDLE")
    assert client.line() == b"+ idling"
    return tag


def done(client: Mail, tag: bytes) -> list[bytes]:
    client.send(b"DONE\r\n")
    return client.end(tag)


def test_idle_hears_of_a_delivery(house: House) -> None:
    client = Mail(house, ALICE, "INBOX")
    tag = idle(client)
    house.deliver(mail(1))
    assert [client.line(), client.line()] == [b"* 1 EXISTS", b"* 0 RECENT"]
    house.deliver(mail(2))
    assert [client.line(), client.line()] == [b"* 2 EXISTS", b"* 0 RECENT"]
    assert done(client, tag) == [b"OK Done"]
    assert client.ok("FETCH 1:2 UID") == [b"1 FETCH (UID 1)", b"2 FETCH (UID 2)"]


def test_idle_hears_of_flags_expunges_and_moves(house: House, three: Mail) -> None:
    other = Mail(house, ALICE, "INBOX")
    tag = idle(three)
    other.ok("STORE 2 FLAGS (\\Flagged)")
    assert three.line() == b"* 2 FETCH (FLAGS (\\Flagged) UID 2)"
    other.ok("STORE 1,3 +FLAGS.SILENT \\Deleted")
    assert [three.line(), three.line()] == [
        b"* 1 FETCH (FLAGS (\\Deleted) UID 1)", b"* 3 FETCH (FLAGS (\\Deleted) UID 3)",
    ]  # fmt: skip
    other.ok("UID EXPUNGE 3")
    assert three.line() == b"* 3 EXPUNGE"
    other.ok("MOVE 1 Trash")
    assert three.line() == b"* 1 EXPUNGE"
    assert done(three, tag) == [b"OK Done"]
    assert three.uids() == [2]


def test_idle_tells_at_once_what_came_before(house: House, three: Mail) -> None:
    house.deliver(mail(4))
    idle(three)
    assert three.line() == b"* 4 EXISTS"


def test_idle_without_a_mailbox_and_ended_by_a_wrong_word(house: House) -> None:
    client = Mail(house)
    tag = idle(client)
    house.deliver(mail(1))
    assert done(client, tag) == [b"OK Done"]
    client.ok("SELECT INBOX")
    tag = idle(client)
    client.send(b"x NOOP\r\n")
    assert client.end(tag) == [b"BAD DONE was expected"]
    assert client.do("NOOP") == [b"OK Done"]


def test_no_expunge_while_numbers_are_in_use(house: House, three: Mail) -> None:
    other = Mail(house, ALICE, "INBOX")
    other.ok("STORE 1 FLAGS (\\Deleted)")
    other.ok("EXPUNGE")
    house.deliver(mail(4))
    for command in ("FETCH 2 FLAGS", "STORE 2 +FLAGS.SILENT (x)", "SEARCH ALL", "FETCH 1:3 UID"):
        assert not [line for line in three.ok(command) if b"EXPUNGE" in line or b"EXISTS" in line]
    assert three.ok("FETCH 3 BODY.PEEK[HEADER.FIELDS (SUBJECT)]")[0].endswith(b"Subject: number 3\r\n\r\n)")
    assert three.ok("FETCH 1 BODY.PEEK[]") == []  # gone; the client hears why when it may
    assert three.do("NOOP") == [b"1 EXPUNGE", b"3 EXISTS", b"0 RECENT", b"OK Done"]
    assert three.uids() == [2, 3, 4]


def test_news_is_told_while_nothing_is_expunged(house: House, three: Mail) -> None:
    """Even if something was, and the client knows."""
    three.ok("STORE 1 FLAGS (\\Deleted)")
    three.ok("EXPUNGE")
    house.deliver(mail(4))
    assert three.ok("FETCH 1 FLAGS") == [b"1 FETCH (FLAGS ())", b"3 EXISTS", b"0 RECENT"]


def test_uid_commands_may_tell_of_expunges(house: House, three: Mail) -> None:
    other = Mail(house, ALICE, "INBOX")
    other.ok("MOVE 2 Trash")
    assert three.ok("UID FETCH 1 FLAGS") == [b"1 FETCH (UID 1 FLAGS ())", b"2 EXPUNGE"]


def test_flags_of_another_session_are_told_with_the_next_command(house: House, three: Mail) -> None:
    other = Mail(house, ALICE, "INBOX")
    other.ok("STORE 1 FLAGS (\\Answered)")
    assert three.ok("NOOP") == [b"1 FETCH (FLAGS (\\Answered) UID 1)"]
    assert three.ok("NOOP") == []


def test_a_silent_store_tells_what_another_session_did(house: House, three: Mail) -> None:
    """Else this client would never hear of it."""
    other = Mail(house, ALICE, "INBOX")
    other.ok("STORE 1:2 +FLAGS (\\Flagged)")
    assert three.ok("STORE 1 +FLAGS.SILENT (\\Seen)")[0] == b"1 FETCH (FLAGS (\\Flagged \\Seen))"
    assert three.ok("STORE 3 +FLAGS.SILENT (\\Seen)") == []


def test_expunge_spares_what_is_no_longer_deleted(house: House, three: Mail) -> None:
    other = Mail(house, ALICE, "INBOX")
    three.ok("STORE 1:3 FLAGS (\\Deleted)")
    other.ok("STORE 2 -FLAGS (\\Deleted)")
    assert three.do("UID EXPUNGE 2:3")[0] == b"3 EXPUNGE"
    other.ok("STORE 1 -FLAGS (\\Deleted)")
    three.ok("CLOSE")
    assert [line for line in other.ok("NOOP") if b"EXPUNGE" in line] == [b"3 EXPUNGE"]
    assert other.uids() == [1, 2]


def test_a_mailbox_deleted_under_a_session(house: House) -> None:
    client, other = Mail(house), Mail(house)
    client.ok("CREATE x")
    client.append(mail(1), "x ")
    client.ok("SELECT x")
    other.ok("DELETE x")
    assert client.do("NOOP") == [b"1 EXPUNGE", b"OK Done"]
    assert client.do("FETCH 1 FLAGS")[-1].startswith(b"BAD ")
    assert client.do("CLOSE") == [b"OK Closed"]


def test_both_sessions_have_the_same_picture_after_much_traffic(house: House, three: Mail) -> None:
    other = Mail(house, ALICE, "INBOX")
    for number in range(4, 24):
        house.deliver(mail(number))
        (three if number % 2 else other).ok("NOOP")
        three.ok(f"UID STORE {number - 2} +FLAGS.SILENT (\\Deleted)")
        if number % 3 == 0:
            other.do("EXPUNGE")
        other.ok(f"UID STORE {number - 1} +FLAGS (k{number})")
    for client in (three, other):
        client.ok("NOOP")
    picture = three.ok("UID FETCH 1:* (FLAGS)")
    assert other.ok("UID FETCH 1:* (FLAGS)") == picture
    assert Mail(house, ALICE, "INBOX").ok("UID FETCH 1:* (FLAGS)") == picture
    assert 3 < len(picture) < 23


# -- bad company ----------------------------------------------------------------------------------------------------


def test_an_internal_error_closes_its_session_only(house: House, three: Mail, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Mail(house, ALICE, "INBOX")

    async def wrong(*arguments: Any) -> Any:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(house.store, "mails", wrong)
    three.begin("FETCH 1 BODY.PEEK[]")
    assert three.line() == b"* BYE internal error"
    assert three.ended()
    monkeypatch.undo()
    assert other.ok("FETCH 1 UID") == [b"1 FETCH (UID 1)"]


def test_a_failing_store_is_an_answer(house: House, three: Mail, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mails", "mailboxes", "copy", "mailbox"):
        monkeypatch.setattr(house.store, name, broken)
    for command in ("FETCH 1 BODY.PEEK[]", "SEARCH BODY x", 'LIST "" *', "COPY 1 Trash", "STATUS INBOX (MESSAGES)"):
        assert three.do(command) == [b"NO [UNAVAILABLE] broken"]
    monkeypatch.undo()
    assert three.ok("FETCH 1 UID") == [b"1 FETCH (UID 1)"]


def test_a_store_that_fails_at_sign_in(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Mail(house, None)
    monkeypatch.setattr(house.authenticator, "password", broken)
    assert client.do(f"LOGIN {ALICE} x") == [b"NO [UNAVAILABLE] broken"]
    tag = client.begin("AUTHENTICATE PLAIN")
    assert client.line() == b"+ "
    client.send(plain(str(ALICE), PASSWORD).encode() + b"\r\n")
    assert client.end(tag) == [b"NO [UNAVAILABLE] broken"]
    monkeypatch.undo()
    assert client.do(f'LOGIN {ALICE} "{PASSWORD}"')[-1].startswith(b"OK ")


def test_an_endless_line_is_said_goodbye(house: House) -> None:
    client = Mail(house, None)
    client.send(b"x" * 70_000)
    assert client.line() == b"* BYE command line too long"
    assert client.ended()


def test_nonsense_is_bad_and_no_more(house: House, three: Mail) -> None:
    for line in ("", "x", "FETCH", "FETCH 1", "FETCH 1 (FLAGS", "FETCH 1 BODY[", "UID", "UID NOOP", "SELECT",
                 'SELECT "x', "APPEND INBOX", "COPY 1", "SEARCH", "LIST", 'LIST ""', "CREATE", "RENAME x", "STORE 1",
                 "CAPABILITY x", "FETCH 1 FLAGS x", "SELECT INBOX x", "FETCH 1 BODY[\u00b2]", "LOGIN a b"):  # fmt: skip
        three.send(f"t {line}\r\n".encode())
        assert re.match(rb"(t|\*) BAD ", three.response()), line
    assert three.ok("FETCH 1 UID") == [b"1 FETCH (UID 1)"]


def test_pipelined_commands_are_answered_in_order(house: House, three: Mail) -> None:
    three.send(
        b"a FETCH 1 UID\r\nb APPEND INBOX {%d+}\r\n%s\r\nc UID SEARCH ALL\r\nd LOGOUT\r\ne NOOP\r\n"
        % (len(mail(9)), mail(9))
    )
    told = [three.response() for _ in range(9)]
    assert [line for line in told if not line.startswith(b"*")] == [
        b"a OK Done", told[4], b"c OK Done", b"d OK Done",
    ]  # fmt: skip
    assert told[4].startswith(b"b OK [APPENDUID ") and told[5] == b"* SEARCH 1 2 3 4"
    assert three.ended()


@given(
    st.lists(st.sampled_from(["*", "%", "a", "b", "/"]), max_size=8).map("".join),
    st.lists(st.sampled_from(["a", "b", "/"]), max_size=8).map("".join),
)
def test_patterns_match_as_a_regular_expression_does(pattern: str, name: str) -> None:
    expression = re.escape(pattern).replace(r"\*", ".*").replace("%", "[^/]*")
    assert _matches(pattern, name) == bool(re.fullmatch(expression, name))


def test_a_pattern_of_many_wildcards_takes_no_time_without_end() -> None:
    """Or the time that a test may take is over."""
    assert not _matches("*a" * 200 + "b", "a" * 500)
    assert _matches("%*" * 250, "a/" * 250)
