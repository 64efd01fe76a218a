"""The dialling side of Parley, for a user and for a domain: sign in, ask, and be told of what is pushed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock

from gatewayd.address import Domain
from gatewayd.crypto import domain_auth
from gatewayd.crypto.domain_keys import SigningKey
from gatewayd.crypto.scram import ScramClient, ScramError
from gatewayd.errors import StoreError
from gatewayd.interfaces.store import IBlobs
from gatewayd.session.link import Link
from gatewayd.session.parley_blobs import OfferedBlobs
from gatewayd.session.parley_failed import Failed, failure
from gatewayd.session.parley_requests import Answer, ConnectionGone, RequestFailed, Requests
from gatewayd.wire.parley import RemoteProtocolError
from gatewayd.wire.parley.connection import MAX_REPLY, Bye, Event, ParleyConnection, Push, Request, Response
from gatewayd.wire.parley.schema import Auth, AuthReply, Body, Changes, Hello, Keys, KeysReply, Signalled, read

__all__ = ["ConnectionGone", "ParleyClientSession", "RequestFailed"]

TIMEOUT = 120.0  # seconds without any word from the server while we wait for one; and until we are signed in


class ParleyClientSession:
    def __init__(self, name: str, engine: ParleyConnection, blobs: IBlobs | None = None) -> None:
        self._name = name
        self._engine = engine
        self._requests = Requests(engine, TIMEOUT, None)
        self._answering = DeferredLock()
        self.offered = OfferedBlobs(blobs)
        self.recipients = 1  # that the listener takes in one send
        self.hello: Deferred[Hello] | None = Deferred()
        self.on_changes: Callable[[Changes], None] = lambda changes: None
        self.on_signal: Callable[[Signalled], None] = lambda signal: None
        self.on_closed: Callable[[Exception], None] = lambda error: None

    # -- Session ----------------------------------------------------------------------------------------------------

    def opened(self, link: Link) -> None:
        self._link = link
        self._engine.trust(MAX_REPLY)  # the listener has proved who it is
        link.set_timeout(TIMEOUT)
        link.set_deadline(TIMEOUT)
        link.send(Hello(1, self._name, MAX_REPLY))

    def tls_started(self) -> None:
        pass

    async def handle(self, event: Event) -> None:
        match event:
            case Hello():
                if self.hello is not None:
                    self.recipients = event.recipients
                    hello, self.hello = self.hello, None
                    if self._requests.idle:
                        self._link.set_timeout(None)
                    hello.callback(event)
            case Response():
                self._requests.answered(self._link, event)
            case Request():
                self._link.spawn(self._answer(event))
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
        if isinstance(error, RemoteProtocolError) and self.usable:
            self._link.send(Bye(error.code, error.text))
        self._lost(ConnectionGone(str(error)))

    def failed(self, why: str = "internal error") -> None:
        self._lost(ConnectionGone(why))

    def timed_out(self) -> None:
        self._lost(ConnectionGone("no answer in time"))
        self._link.abort()

    def closed(self, reason: Exception | None) -> None:
        self._lost(ConnectionGone(str(reason) or "connection lost"))
        self.on_closed(self._requests.gone or ConnectionGone("connection lost"))

    # -- what is asked ----------------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        return self._requests.gone is None

    @property
    def idle(self) -> bool:
        return self._requests.idle

    async def request(self, method: str, body: Body) -> dict[str, Any]:
        """The reply's body. Raises RequestFailed, ConnectionGone."""
        return await self._requests.ask(self._link, method, body)

    async def request_all(self, method: str, bodies: Sequence[Body]) -> list[Answer]:
        """Of each the reply's body, or why there is none."""
        return await self._requests.ask_all(self._link, method, bodies)

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
        self._link.set_deadline(None)

    async def sign_in_domain(self, key: SigningKey, listening: Domain) -> None:
        """Raises RequestFailed, ConnectionGone."""
        assert self._link.tls is not None
        proof = domain_auth.sign(key, listening, self._link.tls.exporter)
        try:
            await self.request("auth", Auth("DOMAIN", proof, key.domain.name, listening.name, key.kid))
        except RequestFailed:
            self.close()
            raise
        self._link.set_deadline(None)

    async def keys(self, domain: Domain) -> bytes:
        """The domain's encoded key set. Raises RequestFailed, ConnectionGone."""
        return read(KeysReply, await self.request("keys", Keys(domain.name))).keys

    def close(self) -> None:
        if self.usable:
            self._link.send(Bye("", ""))
            self._lost(ConnectionGone("closed by us"))
            self._link.close()

    async def _answer(self, request: Request) -> None:
        """The listener asks back for what we offered: one chunk at a time, as it reads them."""
        await self._answering.acquire()
        try:
            await self._link.drained()
            body: Body
            try:
                body = await self.offered.answer(request)
            except (Failed, RemoteProtocolError, StoreError) as error:
                body = failure(error)
            if self.usable:
                self._link.send(Response(request.stream, request.method, body))
        finally:
            self._answering.release()

    def _lost(self, error: Exception) -> None:
        if not self.usable:
            return
        self._requests.lost(error)
        if self.hello is not None:
            hello, self.hello = self.hello, None
            hello.addErrback(lambda failure: None)
            hello.errback(error)
