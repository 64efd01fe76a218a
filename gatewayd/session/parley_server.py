"""The listening side of Parley: who signed in, a user or a domain, decides what may be asked (docs/parley.rst)."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred

from gatewayd.address import Domain
from gatewayd.core.contacts import Contacts
from gatewayd.core.presence import Presence
from gatewayd.core.pulling import QUOTA
from gatewayd.crypto.domain_keys import KeyStore
from gatewayd.errors import StoreError
from gatewayd.interfaces.authentication import IAuthenticator
from gatewayd.interfaces.store import IStore
from gatewayd.session.link import Link
from gatewayd.session.parley_auth import Dialler, Directory
from gatewayd.session.parley_blobs import PeerBlobs, UserBlobs
from gatewayd.session.parley_consent import Consenting
from gatewayd.session.parley_failed import Failed, failure
from gatewayd.session.parley_fetch import Objects
from gatewayd.session.parley_mailboxes import Folders
from gatewayd.session.parley_requests import ConnectionGone, Requests
from gatewayd.session.parley_send import MAX_RECIPIENTS, Accept, ParleyAcceptor, Sending, Submit
from gatewayd.session.parley_signal import Signals
from gatewayd.session.parley_sync import Log, room
from gatewayd.wire.parley import LocalProtocolError, RemoteProtocolError
from gatewayd.wire.parley.connection import MAX_FRAME, Bye, Event, ParleyConnection, Push, Request, Response
from gatewayd.wire.parley.schema import (
    Auth,
    AuthReply,
    Body,
    Changes,
    Consent,
    Fetch,
    Get,
    Hello,
    Keys,
    Lookup,
    Mailboxes,
    Mark,
    Put,
    Send,
    SendReply,
    Signal,
    Signalled,
    Sync,
    read,
)

ALPN = "parley/1"
BEFORE_SIGN_IN = 30.0  # seconds of silence
SIGN_IN = 120.0  # seconds until it is done, whatever is said meanwhile
IDLE = 3600.0
ANSWER = 120.0  # without any word from a peer that owes an answer
REMEMBER = 30 * 86400  # seconds that peers remember our domains for
CONCURRENT = 16  # requests worked on at once, for one connection
OF_PEER = 64  # the same, of a domain, which sends for many
MAX_AUTH_FAILURES = 3


class ParleyServerSession:
    __slots__ = (  # a connection that idles is mostly memory: what not every one needs is made when it is asked for
        "_acceptor", "_auth_failures", "_blobs", "_consenting", "_dialler", "_ended", "_engine", "_folders",
        "_hostname", "_lane", "_link", "_log", "_objects", "_over", "_peer_blobs", "_presence", "_quota", "_requests",
        "_sending", "_signals", "_store", "_submit", "_working",
    )  # fmt: skip

    def __init__(
        self, hostname: Domain, engine: ParleyConnection, submit: Submit, lane: Callable[[], Accept],
        acceptor: ParleyAcceptor, authenticator: IAuthenticator, store: IStore, keys: KeyStore, directory: Directory,
        now: Callable[[], float], nonce: Callable[[], str], presence: Presence, contacts: Contacts, quota: int = QUOTA,
    ) -> None:  # fmt: skip
        self._hostname = hostname
        self._engine = engine
        self._acceptor = acceptor
        self._presence = presence
        self._store = store
        self._quota = quota
        self._dialler = Dialler(authenticator, store, keys, directory, now, nonce)
        self._submit, self._lane = submit, lane
        self._objects: Objects | None = None
        self._blobs: UserBlobs | None = None
        self._consenting = Consenting(contacts)
        self._requests = Requests(engine, ANSWER, IDLE)
        self._log: Log | None = None
        self._working = 0  # requests that are worked on
        self._ended: Deferred[None] | None = None  # waits for the end of one of them
        self._auth_failures = 0
        self._over = False  # BYE was said

    # -- Session ----------------------------------------------------------------------------------------------------

    def opened(self, link: Link) -> None:
        self._link = link
        link.set_timeout(BEFORE_SIGN_IN)
        link.set_deadline(SIGN_IN)
        self._signals = Signals(self._presence, link, self._signal)
        if link.tls is None or link.tls.version != "TLSv1.3" or link.tls.alpn != ALPN:
            # OpenSSL does not abort when the client offers no ALPN: checked here (docs/parley.rst §Transport)
            self._bye("transport", "TLS 1.3 with ALPN parley/1 is needed")
            return
        link.when_gone(self._gone)
        link.send(Hello(1, self._hostname.name, MAX_FRAME, MAX_RECIPIENTS, REMEMBER))

    def _gone(self, reason: Exception | None) -> None:
        self._requests.lost(ConnectionGone(str(reason) or "connection lost"))

    def tls_started(self) -> None:
        pass

    def protocol_error(self, error: Exception) -> None:
        if isinstance(error, RemoteProtocolError):
            self._say_bye(error.code, error.text)

    def failed(self, why: str = "internal error") -> None:
        self._say_bye("internal", f"{why}; nothing more was done")

    def timed_out(self) -> None:
        self._bye("timeout", "idle for too long" if self._dialler.known else "not signed in in time")

    def closed(self, reason: Exception | None) -> None:
        self._signals.close()
        if self._log is not None:
            self._log.close()

    async def handle(self, event: Event) -> None:
        match event:
            case Bye():
                self._link.close()
            case Request(method="auth"):
                await self._answer(event)  # nothing overtakes it
            case Request():
                if self._working >= (CONCURRENT if self._dialler.domain is None else OF_PEER):
                    self._ended = Deferred()
                    await self._ended
                self._working += 1
                if event.method == "send" and self._dialler.known:
                    self._sent(event)
                else:
                    self._link.spawn(self._answer_and_release(event))
            case Response():
                self._requests.answered(self._link, event)
            case _:
                pass  # HELLO says nothing more that we need; nothing is pushed to a listener

    def _sent(self, request: Request) -> None:
        """The most frequent request has no coroutine of its own."""

        def done(reply: SendReply | Exception) -> None:
            self._link.guard(lambda: self._submitted(request, reply))

        try:
            body = read(Send, request.body)
            if self._log is not None:
                self._sending.from_user(self._log.account, body, done)
            elif self._dialler.domain is not None:
                self._sending.from_peer(self._dialler.domain, body, self._peer_blobs, done)
        except (Failed, RemoteProtocolError) as error:
            self._submitted(request, error)

    def _submitted(self, request: Request, reply: SendReply | Exception) -> None:
        if self._link.full:  # who does not read the answers is asked for no more questions
            self._link.spawn(self._release_when_read())
        else:
            self._release()
        self._reply(request, failure(reply) if isinstance(reply, Exception) else reply)

    async def _answer_and_release(self, request: Request) -> None:
        try:
            await self._answer(request)
        finally:
            self._release()

    async def _release_when_read(self) -> None:
        try:
            await self._link.drained()
        finally:
            self._release()

    def _release(self) -> None:
        self._working -= 1
        if self._ended is not None:
            ended, self._ended = self._ended, None
            ended.callback(None)

    async def _answer(self, request: Request) -> None:
        body: Body
        try:
            body = await self._do(request)
        except (Failed, RemoteProtocolError, StoreError) as error:
            body = failure(error)
            if isinstance(error, Failed) and error.error in ("auth-failed", "keys-unavailable"):
                self._auth_failures += 1  # each of the latter has us look for a domain that anybody may name
                if error.error == "auth-failed":
                    self._link.guessed()
        self._reply(request, body)
        if self._auth_failures >= MAX_AUTH_FAILURES:
            self._bye("auth-failed", "too many failed attempts")
        await self._link.drained()

    async def _do(self, request: Request) -> Body:
        match request.method:
            case "keys":  # before sign-in too, else two domains would wait for each other
                return await self._dialler.key_set(read(Keys, request.body))
            case "auth":
                return await self._auth(read(Auth, request.body))
        if self._log is not None:
            return await self._for_user(request, self._log)
        if self._dialler.domain is not None:
            return await self._for_peer(request, self._dialler.domain)
        raise Failed("auth-required", "sign in first")

    async def _auth(self, body: Auth) -> AuthReply:
        assert self._link.tls is not None
        reply = await self._dialler.auth(body, self._link.tls.exporter)
        if reply.done:
            self._signed_in()
        return reply

    def _signed_in(self) -> None:
        self._engine.trust()
        self._link.set_timeout(IDLE)
        self._link.set_deadline(None)
        if self._dialler.account is not None:
            account, pages = self._dialler.account, room(self._engine.peer_frame)
            self._sending = Sending(self._submit, None)
            self._log = Log(account, self._store, self._link, pages, self._push, self._acceptor.acknowledge)
            self._folders = Folders(account, self._store)
        elif self._dialler.domain is not None:
            self._sending = Sending(self._submit, self._lane())
            self._peer_blobs = PeerBlobs(self._requests, self._link)
            self._acceptor.peer_contact(self._dialler.domain)

    async def _for_user(self, request: Request, log: Log) -> Body:
        match request.method:
            case "sync":
                body = read(Sync, request.body)
                if body.live:
                    self._signals.listen(log.account)
                return await log.sync(body)
            case "signal":
                return await self._signals.from_user(log.account, read(Signal, request.body))
            case "fetch":
                fetch = read(Fetch, request.body)
                if self._objects is None:
                    pages = room(self._engine.peer_frame)
                    self._objects = Objects(log.account, self._store, self._link, pages, log.given)
                return await self._objects.fetch(fetch)
            case "mailboxes":
                return await self._folders.do(read(Mailboxes, request.body))
            case "mark":
                return await log.mark(read(Mark, request.body))
            case "consent":
                return await self._consenting.of_user(log.account, read(Consent, request.body))
            case "lookup":
                return await self._consenting.lookup_of_user(log.account, read(Lookup, request.body))
            case "put":
                return await self._user_blobs(log).put(read(Put, request.body))
            case "get":
                return await self._user_blobs(log).get(read(Get, request.body))
        raise _unknown(request)

    def _user_blobs(self, log: Log) -> UserBlobs:
        if self._blobs is None:
            self._blobs = UserBlobs(log.account, self._store, self._quota)
        return self._blobs

    async def _for_peer(self, request: Request, peer: Domain) -> Body:
        match request.method:
            case "signal":
                return await self._signals.from_peer(peer, read(Signal, request.body))
            case "consent":
                return await self._consenting.of_peer(peer, read(Consent, request.body))
            case "lookup":
                return await self._consenting.lookup_of_peer(peer, read(Lookup, request.body))
        raise _unknown(request)

    # -- what is said -----------------------------------------------------------------------------------------------

    def _reply(self, request: Request, body: Body) -> None:
        self._send(Response(request.stream, request.method, body))

    def _signal(self, signal: Signalled) -> None:
        self._send(Push("signal", signal))

    def _push(self, changes: Changes) -> None:
        self._send(Push("changes", changes))

    def _send(self, event: Response | Push) -> None:
        if self._over:
            return  # an answer that was worked on when BYE was said
        try:
            self._link.send(event)
        except LocalProtocolError as error:
            self._bye("too-big", str(error))

    def _say_bye(self, code: str, text: str) -> None:
        if not self._over:
            self._over = True
            self._link.send(Bye(code, text[:200]))

    def _bye(self, code: str, text: str) -> None:
        self._say_bye(code, text)
        self._link.close()


def _unknown(request: Request) -> Failed:
    return Failed("unknown-method", f"{request.method[:64]} is not for you, or not known")
