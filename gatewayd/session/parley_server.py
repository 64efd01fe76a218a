"""The listening side of Parley: who signed in, a user or a domain, decides what may be asked (docs/parley.rst)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Protocol

from msgspec.structs import replace
from twisted.internet.defer import DeferredLock, DeferredSemaphore

from gatewayd.address import Address, AddressError, Domain
from gatewayd.crypto import cose, domain_auth
from gatewayd.crypto.domain_keys import KeySet, KeyStore
from gatewayd.crypto.scram import ScramError, ScramServer
from gatewayd.errors import StoreError
from gatewayd.interfaces import Account, IAuthenticator, IStore, NoSuchMailbox, ScramCredentials
from gatewayd.message.model import MAIL, Content, ObjectError
from gatewayd.outcome import BAD_ADDRESS, Deferred, Outcome, Refused
from gatewayd.session.link import Link
from gatewayd.wire.parley import LocalProtocolError, RemoteProtocolError
from gatewayd.wire.parley.connection import MAX_FRAME, Bye, Event, ParleyConnection, Push, Request, Response
from gatewayd.wire.parley.schema import (
    Auth,
    AuthReply,
    Body,
    Change,
    Changes,
    Error,
    Hello,
    Keys,
    KeysReply,
    Mark,
    Result,
    Send,
    SendReply,
    Sync,
    read,
)

ALPN = "parley/1"
BEFORE_SIGN_IN = 30.0  # seconds
IDLE = 3600.0
REMEMBER = 30 * 86400  # seconds that peers remember our domains for
CONCURRENT = 16  # requests worked on at once, for one connection
MAX_RECIPIENTS = 1000
MAX_AUTH_FAILURES = 3
MAX_SYNC = 500
PAGE = 4 * 1024 * 1024  # octets of bodies after which a page of the log ends
READ_AHEAD = 4  # messages


class ParleyAcceptor(Protocol):
    async def submit_object(
        self, account: Account, payload: bytes, bodies: Mapping[bytes, bytes], recipients: Sequence[Address]
    ) -> dict[Address, Outcome]: ...

    async def accept_object(
        self, peer: Domain, content: Content, reverse_path: Address | None, recipients: Sequence[Address]
    ) -> dict[Address, Outcome]: ...

    def peer_contact(self, domain: Domain) -> None: ...


class Verifier(Protocol):
    async def verify(self, content: Content) -> Domain: ...


class Directory(Protocol):
    async def key_set(self, domain: Domain, kid: bytes) -> KeySet: ...


class Failed(Exception):
    """The request fails with this error; the connection goes on."""

    def __init__(self, error: str, text: str) -> None:
        super().__init__(text)
        self.error = error


class ParleyServerSession:
    def __init__(
        self, hostname: Domain, engine: ParleyConnection, acceptor: ParleyAcceptor, authenticator: IAuthenticator,
        store: IStore, keys: KeyStore, verifier: Verifier, directory: Directory, now: Callable[[], float],
        nonce: Callable[[], str],
    ) -> None:  # fmt: skip
        self._hostname = hostname
        self._engine = engine
        self._acceptor = acceptor
        self._authenticator = authenticator
        self._store = store
        self._keys = keys
        self._verifier = verifier
        self._directory = directory
        self._now = now
        self._nonce = nonce
        self._account: Account | None = None
        self._domain: Domain | None = None
        self._scram: tuple[ScramServer, Account | None, ScramCredentials] | None = None
        self._slots = DeferredSemaphore(CONCURRENT)
        self._reading = DeferredLock()
        self._live = -1  # the modseq up to which the client was told; -1: no live tail
        self._stop_watching: Callable[[], None] | None = None
        self._pushing = False
        self._push_again = False
        self._auth_failures = 0
        self._over = False  # BYE was said

    # -- Session ----------------------------------------------------------------------------------------------------

    def opened(self, link: Link) -> None:
        self._link = link
        link.set_timeout(BEFORE_SIGN_IN)
        if link.tls is None or link.tls.version != "TLSv1.3" or link.tls.alpn != ALPN:
            # OpenSSL does not abort when the client offers no ALPN: checked here (docs/parley.rst §Transport)
            self._bye("transport", "TLS 1.3 with ALPN parley/1 is needed")
            return
        link.send(Hello(1, self._hostname.name, MAX_FRAME, MAX_RECIPIENTS, REMEMBER))

    def tls_started(self) -> None:
        pass

    def protocol_error(self, error: Exception) -> None:
        if isinstance(error, RemoteProtocolError):
            self._say_bye(error.code, error.text)

    def failed(self) -> None:
        self._say_bye("internal", "internal error; nothing more was done")

    def timed_out(self) -> None:
        self._bye("timeout", "idle for too long")

    def closed(self, reason: Exception | None) -> None:
        if self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching = None

    async def handle(self, event: Event) -> None:
        match event:
            case Bye():
                self._link.close()
            case Request(method="auth"):
                await self._answer(event)  # nothing overtakes it
            case Request():
                await self._slots.acquire()
                self._link.spawn(self._answer_and_release(event))
            case _:
                pass  # HELLO says nothing more that we need; nothing is pushed to a listener

    async def _answer_and_release(self, request: Request) -> None:
        try:
            await self._answer(request)
        finally:
            self._slots.release()

    async def _answer(self, request: Request) -> None:
        body: Body
        try:
            body = await self._do(request)
        except Failed as failed:
            body = Error(failed.error, str(failed))
            self._auth_failures += failed.error == "auth-failed"
        except RemoteProtocolError as error:
            body = Error(error.code, error.text)
        except NoSuchMailbox as error:
            body = Error("not-found", f"no mailbox {error}")
        except StoreError as error:
            body = Error("unavailable", str(error))
        self._send(Response(request.stream, request.method, body))
        if self._auth_failures >= MAX_AUTH_FAILURES:
            self._bye("auth-failed", "too many failed attempts")
        await self._link.drained()

    async def _do(self, request: Request) -> Body:
        match request.method:
            case "keys":  # before sign-in too, else two domains would wait for each other
                return await self._do_keys(read(Keys, request.body))
            case "auth":
                return await self._do_auth(read(Auth, request.body))
        if self._account is None and self._domain is None:
            raise Failed("auth-required", "sign in first")
        match request.method:
            case "send":
                return await self._do_send(read(Send, request.body))
            case "sync" if self._account is not None:
                return await self._do_sync(read(Sync, request.body), self._account)
            case "mark" if self._account is not None:
                return await self._do_mark(read(Mark, request.body), self._account)
        raise Failed("unknown-method", f"{request.method[:64]} is not for you, or not known")

    # -- authentication ---------------------------------------------------------------------------------------------

    async def _do_keys(self, body: Keys) -> KeysReply:
        domain = _domain(body.domain)
        if domain not in await self._store.domains():
            raise Failed("not-found", "not a domain of this server")
        try:
            return KeysReply(self._keys.key_set(domain).encode())
        except KeyError:
            raise Failed("unavailable", "the domain has no key") from None

    async def _do_auth(self, body: Auth) -> AuthReply:
        assert self._link.tls is not None
        if self._account is not None or self._domain is not None:
            raise Failed("bad-request", "signed in already")
        if body.mechanism == "DOMAIN":
            return await self._domain_auth(body)
        if body.mechanism != "SCRAM-SHA-256-PLUS":
            raise Failed("mechanism", "SCRAM-SHA-256-PLUS for users, DOMAIN for domains")
        try:
            if self._scram is None:
                server = ScramServer(self._nonce(), self._link.tls.exporter, plus=True)
                account, credentials = await self._authenticator.scram(server.first(body.data))
                self._scram = server, account, credentials
                return AuthReply(False, server.challenge(credentials.salt, credentials.iterations))
            (server, account, credentials), self._scram = self._scram, None
            final = server.final(body.data, credentials.stored_key, credentials.server_key)
        except ScramError as error:
            self._scram = None
            raise Failed("auth-failed", str(error)) from None
        if account is None:
            raise Failed("auth-failed", "invalid-proof")
        self._account = account
        self._signed_in()
        return AuthReply(True, final)

    async def _domain_auth(self, body: Auth) -> AuthReply:
        assert self._link.tls is not None
        dialling, listening = _domain(body.domain), _domain(body.to)
        ours = await self._store.domains()
        if listening not in ours or dialling in ours:
            raise Failed("auth-failed", "not a domain of this server, or one of its own")
        try:
            key_set = await self._directory.key_set(dialling, body.kid)
        except LookupError as error:
            raise Failed("keys-unavailable", str(error)) from None  # temporary, always
        try:
            domain_auth.verify(body.data, body.kid, key_set, dialling, listening, self._link.tls.exporter, self._now())
        except cose.SignatureError as error:
            raise Failed("auth-failed", str(error)) from None
        self._domain = dialling
        self._signed_in()
        self._acceptor.peer_contact(dialling)
        return AuthReply(True)

    def _signed_in(self) -> None:
        self._engine.trust()
        self._link.set_timeout(IDLE)

    # -- send -------------------------------------------------------------------------------------------------------

    async def _do_send(self, body: Send) -> SendReply:
        if not 0 < len(body.to) <= MAX_RECIPIENTS:
            raise Failed("bad-request", f"1 to {MAX_RECIPIENTS} recipients")
        addresses: dict[str, Address] = {}
        for text in body.to:
            try:
                addresses[text] = Address.parse(text)
            except AddressError:
                continue
        recipients = list(dict.fromkeys(addresses.values()))
        bodies = {sha256(octets).digest(): octets for octets in body.bodies}
        if self._account is not None:
            outcomes = await self._acceptor.submit_object(self._account, body.payload, bodies, recipients)
        else:
            assert self._domain is not None
            outcomes = await self._from_peer(self._domain, body, bodies, recipients)
        return SendReply(tuple(_result(text, outcomes, addresses.get(text)) for text in body.to))

    async def _from_peer(
        self, peer: Domain, body: Send, bodies: Mapping[bytes, bytes], recipients: Sequence[Address]
    ) -> dict[Address, Outcome]:
        """One place checks that the sender is who signed in: the reverse-path, the author and the signer agree."""
        try:
            content = Content.from_signed(body.signed, bodies)
            fields = content.fields
            reverse_path = Address.parse(body.from_) if body.from_ else None
            if reverse_path is not None and reverse_path.domain != peer:
                return dict.fromkeys(recipients, Refused("5.7.1", "The reverse-path is not of your domain"))
            if fields.type != MAIL and Address.parse(fields.from_).domain != peer:
                return dict.fromkeys(recipients, Refused("5.7.1", "The author is not of your domain"))
        except (ObjectError, AddressError) as error:
            return dict.fromkeys(recipients, Refused("5.6.0", str(error)))
        try:
            signer = await self._verifier.verify(content)
        except LookupError as error:
            return dict.fromkeys(recipients, Deferred("4.7.5", str(error)))
        except ValueError as error:
            return dict.fromkeys(recipients, Refused("5.7.7", f"The signature does not hold: {error}"))
        if signer != peer:
            return dict.fromkeys(recipients, Refused("5.7.7", "Signed by another domain than yours"))
        return await self._acceptor.accept_object(peer, content, reverse_path, recipients)

    # -- sync and mark ----------------------------------------------------------------------------------------------

    async def _do_sync(self, body: Sync, account: Account) -> Changes:
        await self._reading.acquire()  # one page at a time, and the next when this one is read
        try:
            await self._link.drained()
            reply = await self._changes(account, body.since, min(body.limit, MAX_SYNC))
        finally:
            self._reading.release()
        if body.live and not reply.more:
            self._live = reply.modseq
            if self._stop_watching is None:
                self._stop_watching = self._store.watch(account.account_id, self._changed)
            self._changed()
        return reply

    async def _changes(self, account: Account, since: int, limit: int) -> Changes:
        """A page of the log, cut where its bodies pass PAGE octets: never inside one modseq, which may stand for many
        messages; of such a group the messages beyond PAGE come by their ids alone."""
        found = await self._store.changes(account.account_id, since, limit)
        names = {m.mailbox_id: m.name for m in await self._store.mailboxes(account.account_id)}
        entries = sorted(found.entries, key=lambda entry: entry.modseq)
        changes: list[Change] = []
        size, last, modseq, more = 0, since, found.modseq, found.more
        for at, entry in enumerate(entries):
            if at % READ_AHEAD == 0:
                ids = [ahead.message_id for ahead in entries[at : at + READ_AHEAD]]
                contents = await self._store.contents(account.account_id, ids)
            content, name = contents.get(entry.message_id), names.get(entry.mailbox_id)
            if content is None or name is None:
                continue  # gone meanwhile: the log says so next
            if size > PAGE and entry.modseq != last:
                modseq, more = last, True
                break
            change = Change(name, entry.uid, entry.modseq, flags=tuple(entry.flags.split()), id=content.id)
            if size <= PAGE:
                bodies = tuple(content.bodies.values())
                change = replace(change, signed=content.signed, bodies=bodies)
                size += len(content.payload) + sum(map(len, bodies))
            changes.append(change)
            last = entry.modseq
        gone = [Change(names.get(e.mailbox_id, ""), e.uid, e.modseq, gone=True) for e in found.expunged]
        changes += [change for change in gone if change.modseq <= modseq]
        return Changes(tuple(sorted(changes, key=lambda change: change.modseq)), modseq, more)

    def _changed(self) -> None:
        if self._pushing:
            self._push_again = True
            return
        self._pushing = True
        self._link.spawn(self._push())

    async def _push(self) -> None:
        """The live tail: the same log, read on from where the client is."""
        assert self._account is not None
        try:
            self._push_again = True
            while self._push_again:
                self._push_again = False
                tail = await self._changes(self._account, self._live, MAX_SYNC)
                if tail.changes:
                    self._send(Push("changes", tail))
                    await self._link.drained()
                self._live = tail.modseq
                self._push_again = self._push_again or tail.more
        finally:
            self._pushing = False

    async def _do_mark(self, body: Mark, account: Account) -> Changes:
        mailbox = await self._store.mailbox(account.account_id, body.mailbox)
        where = (account.account_id, mailbox.mailbox_id, body.uids)
        for mode, flags in (("+", body.add), ("-", body.remove)):
            if flags:
                await self._store.store_flags(*where, mode, flags)
        if body.delete:
            await self._store.expunge(*where)
        elif body.move:
            await self._store.copy(*where, body.move, True)
        return Changes((), mailbox.highest_modseq)

    # -- what is said -----------------------------------------------------------------------------------------------

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


def _domain(text: str) -> Domain:
    try:
        return Domain.parse(text)
    except AddressError as error:
        raise Failed("bad-request", str(error)) from None


def _result(text: str, outcomes: Mapping[Address, Outcome], address: Address | None) -> Result:
    outcome = BAD_ADDRESS if address is None else outcomes[address]
    retry = outcome.retry_after if isinstance(outcome, Deferred) else None
    return Result(text, outcome.code, outcome.text, None if retry is None else int(retry))
