"""Who dials: `auth` and `keys`; a user by SCRAM-SHA-256-PLUS, a domain by its key (docs/parley.rst §4, §5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gatewayd.address import AddressError, Domain
from gatewayd.crypto import cose, domain_auth
from gatewayd.crypto.domain_keys import KeySet, KeyStore
from gatewayd.crypto.scram import ScramError, ScramServer
from gatewayd.interfaces.authentication import IAuthenticator
from gatewayd.interfaces.records import Account, ScramCredentials
from gatewayd.interfaces.store import IStore
from gatewayd.session.parley_failed import Failed
from gatewayd.wire.parley.schema import Auth, AuthReply, Keys, KeysReply


class Directory(Protocol):
    async def key_set(self, domain: Domain, kid: bytes) -> KeySet: ...


class Dialler:
    """One connection's other side: nobody yet, then one user or one domain, for good."""

    __slots__ = ("_authenticator", "_directory", "_keys", "_nonce", "_now", "_scram", "_store", "account", "domain")

    def __init__(
        self, authenticator: IAuthenticator, store: IStore, keys: KeyStore, directory: Directory,
        now: Callable[[], float], nonce: Callable[[], str],
    ) -> None:  # fmt: skip
        self._authenticator = authenticator
        self._store = store
        self._keys = keys
        self._directory = directory
        self._now = now
        self._nonce = nonce
        self._scram: tuple[ScramServer, Account | None, ScramCredentials] | None = None
        self.account: Account | None = None
        self.domain: Domain | None = None

    @property
    def known(self) -> bool:
        return self.account is not None or self.domain is not None

    async def key_set(self, body: Keys) -> KeysReply:
        domain = _domain(body.domain)
        if domain not in await self._store.domains():
            raise Failed("not-found", "not a domain of this server")
        try:
            return KeysReply(self._keys.key_set(domain).encode())
        except KeyError:
            raise Failed("unavailable", "the domain has no key") from None

    async def auth(self, body: Auth, exporter: bytes) -> AuthReply:
        if self.known:
            raise Failed("bad-request", "signed in already")
        if body.mechanism == "DOMAIN":
            return await self._domain_auth(body, exporter)
        if body.mechanism != "SCRAM-SHA-256-PLUS":
            raise Failed("mechanism", "SCRAM-SHA-256-PLUS for users, DOMAIN for domains")
        try:
            if self._scram is None:
                server = ScramServer(self._nonce(), exporter, plus=True)
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
        self.account = account
        return AuthReply(True, final)

    async def _domain_auth(self, body: Auth, exporter: bytes) -> AuthReply:
        dialling, listening = _domain(body.domain), _domain(body.to)
        ours = await self._store.domains()
        if listening not in ours or dialling in ours:
            raise Failed("auth-failed", "not a domain of this server, or one of its own")
        try:
            key_set = await self._directory.key_set(dialling, body.kid)
        except LookupError as error:
            raise Failed("keys-unavailable", str(error)) from None  # temporary, always
        try:
            domain_auth.verify(body.data, body.kid, key_set, dialling, listening, exporter, self._now())
        except cose.SignatureError as error:
            raise Failed("auth-failed", str(error)) from None
        self.domain = dialling
        return AuthReply(True)


def _domain(text: str) -> Domain:
    try:
        return Domain.parse(text)
    except AddressError as error:
        raise Failed("bad-request", str(error)) from None
