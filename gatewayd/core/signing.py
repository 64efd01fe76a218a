"""Signs with our domains' keys, and tells who signed: ours by the key files, others by the key directory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from gatewayd.address import Domain
from gatewayd.crypto import cose
from gatewayd.crypto.domain_keys import KeySet, KeyStore
from gatewayd.interfaces import IStore
from gatewayd.message.model import Content


class Directory(Protocol):
    def key_set(self, domain: Domain, kid: bytes) -> Awaitable[KeySet]:
        """Another domain's keys. Raises LookupError when they cannot be had now."""


class DomainSigner:
    def __init__(self, keys: KeyStore, directory: Directory, store: IStore, now: Callable[[], float]) -> None:
        self._keys = keys
        self._directory = directory
        self._store = store
        self._now = now

    def sign(self, domain: Domain, payload: bytes) -> tuple[bytes, bytes]:
        """(protected header, signature). Raises KeyError when the domain has no key."""
        return cose.sign(payload, self._keys.signing_key(domain))

    async def verify(self, content: Content) -> Domain:
        """The domain whose key signed. Raises SignatureError (a ValueError), or LookupError without its keys."""
        domain, kid = cose.signer(content.protected)
        ours = domain in await self._store.domains()
        key_set = self._keys.key_set(domain) if ours else await self._directory.key_set(domain, kid)
        return cose.verify(content.protected, content.payload, content.signature, key_set, self._now())
