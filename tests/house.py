"""A gateway of a test: its core, couriers and Parley listener over real sockets, without the process around them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet import defer, threads
from twisted.internet.threads import blockingCallFromThread

from gatewayd.address import Address, Domain
from gatewayd.cli.gatewayctl import credentials
from gatewayd.core.authentication import Authenticator
from gatewayd.core.batch import Gathered
from gatewayd.core.consent import Consent
from gatewayd.core.contacts import Contacts
from gatewayd.core.delivery import PostOffice
from gatewayd.core.keys import KeyDirectory
from gatewayd.core.presence import Presence
from gatewayd.core.recipients import Recipients
from gatewayd.core.signing import DomainSigner
from gatewayd.crypto import cose
from gatewayd.crypto.certificates import issue
from gatewayd.crypto.domain_keys import KeyStore, SigningKey
from gatewayd.crypto.scram import derive
from gatewayd.database.sqlite import Database
from gatewayd.interfaces.dns import Endpoint
from gatewayd.interfaces.records import Delivery
from gatewayd.interfaces.routes import Local, Parley, Route
from gatewayd.message.model import Content, Part, Payload
from gatewayd.net.dial import dial_parley
from gatewayd.net.limits import Limits
from gatewayd.net.listen import listen
from gatewayd.net.tls import Trust, server_context
from gatewayd.outcome import Deferred
from gatewayd.queue.sqlite import SQLiteQueue
from gatewayd.session.parley_client import ParleyClientSession
from gatewayd.session.parley_courier import ParleyCourier
from gatewayd.session.parley_peers import ParleyPeers
from gatewayd.session.parley_send import Accept
from gatewayd.session.parley_server import ParleyServerSession
from gatewayd.store.blobs import BlobStore
from gatewayd.store.sqlite import SQLiteStore
from gatewayd.wire.parley.connection import Event, ParleyConnection
from gatewayd.wire.parley.schema import (
    Body,
    Send,
    SendReply,
    read,
)

ALPHA, BETA = Domain.parse("alpha.test"), Domain.parse("beta.test")
ALICE, BOB = Address.parse("alice@alpha.test"), Address.parse("bob@alpha.test")
CAROL = Address.parse("carol@beta.test")
PASSWORD = "parley-test"
TIMEOUT = 20.0  # seconds; less than what a session waits for
SCRAM = "SCRAM-SHA-256-PLUS"

T = TypeVar("T")
Authority = tuple[bytes, bytes]


def wait(reactor: Any, work: Coroutine[Any, Any, T]) -> T:
    """Runs on the reactor's thread; raises what it raises, or TimeoutError."""

    def run() -> defer.Deferred[T]:
        return defer.Deferred.fromCoroutine(work).addTimeout(TIMEOUT, reactor)

    try:
        result: T = blockingCallFromThread(reactor, run)  # type: ignore[arg-type]
    except defer.TimeoutError:
        raise TimeoutError from None
    return result


class CountingEngine(ParleyConnection):
    """Knows how many octets it has said."""

    said = 0

    def send(self, event: Event) -> bytes:
        octets = super().send(event)
        self.said += len(octets)
        return octets


class Routes:
    """The DNS of all houses, as the core asks it."""

    def __init__(self, route: Callable[[Domain], Coroutine[Any, Any, Route]]) -> None:
        self.route = route


class House:
    """One domain's gateway, as far as Parley goes. `routes` is the DNS of all houses."""

    def __init__(
        self, reactor: Any, root: Path, domain: Domain, accounts: tuple[Address, ...], routes: dict[Domain, Route],
        authority: Authority, *, certified: Authority | None = None, trust: Authority | None = None,
    ) -> None:  # fmt: skip
        self.reactor = reactor
        self.domain = domain
        self.routes = routes
        self.sessions: list[ParleyServerSession] = []
        self.engines: list[CountingEngine] = []
        root.mkdir()
        key, certificate = certified or issue(*authority, [domain.name])
        (root / "key.pem").write_bytes(key)
        (root / "certificate.pem").write_bytes(certificate)
        (root / "ca.pem").write_bytes((trust or authority)[1])
        self.authorities = root / "ca.pem"
        self.root = root
        self._context = server_context(root / "certificate.pem", root / "key.pem", parley=True)
        blockingCallFromThread(reactor, self._build)
        self.listen()
        self.wait(self.store.add_domain(domain))
        for address in accounts:
            self.wait(self.store.add_account(address, credentials(PASSWORD)))
        self.key = self.keys.create(domain)

    def _build(self) -> None:
        reactor, root, now = self.reactor, self.root, self.reactor.seconds

        async def connect(domain: Domain, endpoint: Endpoint, engine: Any, session: Any) -> None:
            await dial_parley(reactor, endpoint.host, endpoint.port, domain, Trust(self.authorities), engine, session)

        async def route(domain: Domain) -> Route:
            if domain == self.domain:
                return Local()
            return self.routes.get(domain, Deferred("4.4.3", "no DNS"))

        async def at_once(function: Callable[..., Any], *arguments: Any) -> Any:
            return function(*arguments)

        self.hostname = Domain.parse(f"mx.{self.domain}")
        self.database = Database(root / "test.sqlite", reactor.callFromThread)
        self.store = SQLiteStore(self.database, BlobStore(root / "blobs"), reactor, now)
        self.queue = SQLiteQueue(self.database, reactor, now)
        self.keys = KeyStore(root / "keys", now)
        self.courier = ParleyCourier(connect, route, self.keys, self.store, self.hostname, reactor, now)
        self.directory = KeyDirectory(self.store, self.courier.fetch_keys, now, now)
        self.signer = DomainSigner(self.keys, self.directory, self.store, reactor, now, threads.deferToThread)
        consent = Consent(self.store, now)
        self.office = PostOffice(
            self.store, self.queue, self.signer, self.hostname, now, secrets.token_bytes, consent=consent
        )
        self._submit = Gathered(self.office.submit, reactor, self.office.takes_long)
        recipients = Recipients(self.store, self.hostname, None)
        self.contacts = Contacts(self.store, consent, recipients, Routes(route), ParleyPeers(self.courier), now)
        self.presence = Presence(self.store, route, self.courier, now)
        self.authenticator = Authenticator(self.store, derive, at_once, b"secret")

    def _lane(self) -> Accept:
        return Gathered(self.office.accept, self.reactor, self.office.takes_long)

    def _make(self) -> tuple[CountingEngine, ParleyServerSession]:
        engine = CountingEngine()
        session = ParleyServerSession(
            self.hostname, engine, self._submit, self._lane, self.office, self.authenticator, self.store, self.keys,
            self.directory, self.reactor.seconds, secrets.token_hex, self.presence, self.contacts,
        )  # fmt: skip
        self.engines.append(engine)
        self.sessions.append(session)
        return engine, session

    def listen(self) -> None:
        """At a free port, which the DNS tells."""

        def start() -> Any:
            return listen(self.reactor, "127.0.0.1", 0, self._make, Limits(200, 200), tls=self._context)

        self._listening = blockingCallFromThread(self.reactor, start)
        self.port: int = self._listening.getHost().port
        self.routes[self.domain] = Parley(self.domain, (Endpoint("127.0.0.1", self.port),))

    def hush(self) -> None:
        """Takes no new connections, and breaks off those that are there."""
        blockingCallFromThread(self.reactor, self._listening.stopListening)

        def abort() -> None:
            for session in self.sessions:
                if hasattr(session, "_link"):
                    session._link.abort()

        self.call(abort)

    def stop(self) -> None:
        self.wait(self.courier.close())
        self.hush()
        self.database.close()

    def call(self, function: Callable[[], T]) -> T:
        result: T = blockingCallFromThread(self.reactor, function)
        return result

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """On the reactor's thread: begins it, and does not wait."""
        self.begun = defer.Deferred.fromCoroutine(work)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return wait(self.reactor, work)

    def settle(self) -> None:
        """Whatever the store's threads and the reactor were at is done."""

        for _ in range(40):
            self.wait(self._turn())

    async def _turn(self) -> None:
        nothing = [defer.Deferred.fromCoroutine(self.database.read(lambda db: None)) for _ in range(4)]
        nothing.append(defer.Deferred.fromCoroutine(self.database.write(lambda db: None)))
        await defer.gatherResults(nothing)

    # -- who dials --------------------------------------------------------------------------------------------------

    def dial(self, domain: Domain | None = None, authorities: Path | None = None) -> ParleyClientSession:
        """A connection that has not signed in. Raises OSError."""

        async def run() -> ParleyClientSession:
            engine = ParleyConnection()
            session = ParleyClientSession("test", engine)
            hello = session.hello
            trust = Trust(authorities or self.authorities)
            await dial_parley(self.reactor, "127.0.0.1", self.port, domain or self.domain, trust, engine, session)
            assert hello is not None
            assert (await hello).name == self.hostname.name
            return session

        return self.wait(run())

    def ask(self, session: ParleyClientSession, method: str, body: Body | dict[str, Any]) -> dict[str, Any]:
        """The reply's body. Raises RequestFailed, ConnectionGone."""
        return self.wait(session.request(method, body))  # type: ignore[arg-type]

    def user(self, address: Address, password: str = PASSWORD) -> ParleyClientSession:
        session = self.dial()
        self.wait(session.sign_in_user(str(address), password, secrets.token_hex(8)))
        return session

    def peer(self, key: SigningKey, listening: Domain | None = None) -> ParleyClientSession:
        session = self.dial()
        self.wait(session.sign_in_domain(key, listening or self.domain))
        return session

    # -- what is there ----------------------------------------------------------------------------------------------

    def inbox(self, address: Address, mailbox: str = "INBOX") -> list[Content]:
        async def run() -> list[Content]:
            account = await self.store.account(address)
            assert account is not None
            box = await self.store.mailbox(account.account_id, mailbox)
            entries = await self.store.entries(account.account_id, box.mailbox_id)
            ids = [entry.message_id for entry in entries]
            contents = await self.store.contents(account.account_id, ids)
            return [contents[i] for i in ids]

        return self.wait(run())

    def grant(self, address: Address, *senders: Address) -> None:
        """They may write to this user of ours."""

        async def run() -> None:
            account = await self.store.account(address)
            assert account is not None
            for sender in senders:
                await self.store.set_contact(account.account_id, sender, "granted")

        self.wait(run())

    def fill(self, address: Address, count: int, size: int = 10) -> list[Content]:
        """Messages of that many octets, as if they had come."""

        async def run() -> list[Content]:
            account = await self.store.account(address)
            assert account is not None
            made = [signed(message(str(CAROL), secrets.token_bytes(size)), self.key) for _ in range(count)]
            await self.store.deliver([Delivery(account.account_id, content) for content in made])
            return made

        return self.wait(run())


BRIDGED = {"bridged": {"by": "beta.test"}}


def message(author: str, text: bytes = b"Hello", **fields: Any) -> Content:
    """Unsigned."""
    digest = sha256(text).digest()
    part = Part(digest, "text/plain; charset=utf-8", len(text))
    payload = Payload(author, (str(BOB),), 1735689600000, secrets.token_bytes(16), parts=(part,), **fields)
    return Content(b"", payload.encode(), b"", {digest: text})


def signed(content: Content, key: SigningKey) -> Content:
    protected, signature = cose.sign(content.payload, key)
    return Content(protected, content.payload, signature, content.bodies)


def of_user(content: Content, *to: str) -> Send:
    return Send(to or (str(BOB),), tuple(content.bodies.values()), payload=content.payload)


def of_domain(content: Content, reverse_path: str = str(CAROL), to: tuple[str, ...] = (str(BOB),)) -> Send:
    return Send(to, tuple(content.bodies.values()), signed=content.signed, from_=reverse_path)


def codes(reply: dict[str, Any]) -> list[str]:
    return [result.code for result in read(SendReply, reply).results]


def wait_until(house: House, condition: Callable[[], bool]) -> None:
    """Fails with TimeoutError."""

    async def run() -> None:
        while not condition():
            await defer_later(house.reactor)

    house.wait(run())


def defer_later(reactor: Any) -> defer.Deferred[None]:
    later: defer.Deferred[None] = defer.Deferred()
    reactor.callLater(0.01, later.callback, None)
    return later
