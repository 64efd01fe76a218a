"""The dialling side of Parley, for a user and for a domain: sign in, ask, and be told of what is pushed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from gatewayd.address import Domain
from gatewayd.crypto import domain_auth
from gatewayd.crypto.domain_keys import SigningKey
from gatewayd.crypto.scram import ScramClient, ScramError
from gatewayd.session.link import Link
from gatewayd.wire.parley import RemoteProtocolError
from gatewayd.wire.parley.connection import MAX_FRAME, Bye, Event, ParleyConnection, Push, Request, Response
from gatewayd.wire.parley.schema import Auth, AuthReply, Body, Changes, Hello, Keys, KeysReply, Signalled, plain, read

TIMEOUT = 120.0  # seconds without any word from the server while we wait for one


class ConnectionGone(ConnectionError):
    """The connection ended before the answer came; whether it was done is not known: repeat it."""


class RequestFailed(Exception):
    """The server answered with an error; `error` is the registry's name."""

    def __init__(self, error: str, text: str) -> None:
        super().__init__(f"{error}: {text}")
        self.error = error
        self.text = text


class ParleyClientSession:
    def __init__(self, name: str, engine: ParleyConnection) -> None:
        self._name = name
        self._engine = engine
        self._waiting: dict[int, Deferred[Any]] = {}
        self._gone: Exception | None = None
        self.recipients = 1  # that the listener takes in one send
        self.hello: Deferred[Hello] | None = Deferred()
        self.on_changes: Callable[[Changes], None] = lambda changes: None
        self.on_signal: Callable[[Signalled], None] = lambda signal: None
        self.on_closed: Callable[[Exception], None] = lambda error: None

    # -- Session ----------------------------------------------------------------------------------------------------

    def opened(self, link: Link) -> None:
        self._link = link
        self._engine.trust()  # the listener has proved who it is
        link.set_timeout(TIMEOUT)
        link.send(Hello(1, self._name, MAX_FRAME))

    def tls_started(self) -> None:
        pass

    async def handle(self, event: Event) -> None:
        match event:
            case Hello():
                if self.hello is not None:
                    self.recipients = event.recipients
                    hello, self.hello = self.hello, None
                    self._got_word()
                    hello.callback(event)
            case Response(stream, _, body):
                waiter = self._waiting.pop(stream)
                self._got_word()
                waiter.callback(body)
            case Push(method, body):
                try:
                    self._pushed(method, body)
                except RemoteProtocolError as error:
                    self.protocol_error(error)
                    self._link.close()
            case Bye(code, text):
                self._lost(ConnectionGone(f"{code}: {text}"))
                self._link.close()

    def _pushed(self, method: str, body: Any) -> None:
        """What we do not know of is for newer ones. Raises RemoteProtocolError."""
        match method:
            case "changes":
                self.on_changes(read(Changes, body))
            case "signal":
                self.on_signal(read(Signalled, body))

    def protocol_error(self, error: Exception) -> None:
        if isinstance(error, RemoteProtocolError) and self._gone is None:
            self._link.send(Bye(error.code, error.text))
        self._lost(ConnectionGone(str(error)))

    def failed(self, why: str = "internal error") -> None:
        self._lost(ConnectionGone(why))

    def timed_out(self) -> None:
        self._lost(ConnectionGone("no answer in time"))
        self._link.abort()

    def closed(self, reason: Exception | None) -> None:
        self._lost(ConnectionGone(str(reason) or "connection lost"))
        self.on_closed(self._gone or ConnectionGone("connection lost"))

    # -- what is asked ----------------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        return self._gone is None

    @property
    def idle(self) -> bool:
        return not self._waiting

    async def request(self, method: str, body: Body) -> dict[str, Any]:
        """The reply's body. Raises RequestFailed, ConnectionGone."""
        if self._gone is not None:
            raise self._gone
        stream = self._engine.new_stream()
        self._link.send(Request(stream, method, plain(body)))
        waiter: Deferred[Any] = Deferred()
        self._waiting[stream] = waiter
        self._link.set_timeout(TIMEOUT)
        reply: dict[str, Any] = await waiter
        if "error" in reply:
            raise RequestFailed(str(reply["error"]), str(reply.get("text", "")))
        return reply

    async def sign_in_user(self, user: str, password: str, nonce: str) -> None:
        """SCRAM-SHA-256-PLUS; the server proves that it knows us too. Raises RequestFailed, ConnectionGone."""
        assert self._link.tls is not None
        scram = ScramClient(user, password, nonce, self._link.tls.exporter)
        mechanism = "SCRAM-SHA-256-PLUS"
        try:
            challenge = await self.request("auth", Auth(mechanism, scram.first()))
            final = await self.request("auth", Auth(mechanism, scram.final(read(AuthReply, challenge).data)))
            scram.check(read(AuthReply, final).data)
        except ScramError as error:
            self._link.abort()
            raise RequestFailed("auth-failed", f"the server does not prove itself: {error}") from None
        except RemoteProtocolError as error:
            self.close()
            raise RequestFailed(error.code, error.text) from None
        except RequestFailed:
            self.close()
            raise

    async def sign_in_domain(self, key: SigningKey, listening: Domain) -> None:
        """Raises RequestFailed, ConnectionGone."""
        assert self._link.tls is not None
        proof = domain_auth.sign(key, listening, self._link.tls.exporter)
        try:
            await self.request("auth", Auth("DOMAIN", proof, key.domain.name, listening.name, key.kid))
        except RequestFailed:
            self.close()
            raise

    async def keys(self, domain: Domain) -> bytes:
        """The domain's encoded key set. Raises RequestFailed, ConnectionGone."""
        return read(KeysReply, await self.request("keys", Keys(domain.name))).keys

    def close(self) -> None:
        if self._gone is None:
            self._link.send(Bye("", ""))
            self._lost(ConnectionGone("closed by us"))
            self._link.close()

    def _got_word(self) -> None:
        if not self._waiting and self.hello is None:
            self._link.set_timeout(None)

    def _lost(self, error: Exception) -> None:
        if self._gone is not None:
            return
        self._gone = error
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting.values():
            waiter.errback(error)
        if self.hello is not None:
            hello, self.hello = self.hello, None
            hello.addErrback(lambda failure: None)
            hello.errback(error)
