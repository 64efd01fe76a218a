"""Signs with our domains' keys, and tells who signed: ours by the key files, others by the key directory.

Both in a thread, for all that comes in one turn of the reactor: one signature covers a batch (docs/parley.rst §8.5).
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import NamedTuple, Protocol

from twisted.internet.interfaces import IReactorTime

from gatewayd.address import Domain
from gatewayd.core.batch import Batched, InThread
from gatewayd.crypto import cose
from gatewayd.crypto.domain_keys import KeySet, KeyStore, SigningKey
from gatewayd.interfaces.store import IStore
from gatewayd.message.model import Content


class Directory(Protocol):
    def key_set(self, domain: Domain, kid: bytes) -> Awaitable[KeySet]:
        """Another domain's keys. Raises LookupError when they cannot be had now."""


class _Claim(NamedTuple):
    """That a content is signed by one of these keys, at that time."""

    content: Content
    keys: KeySet
    when: float


class DomainSigner:
    def __init__(
        self, keys: KeyStore, directory: Directory, store: IStore, clock: IReactorTime, in_thread: InThread
    ) -> None:
        self._keys = keys
        self._directory = directory
        self._store = store
        self._clock = clock
        self._sign = Batched(_sign, cose.MAX_BATCH, clock, in_thread)
        self._verify = Batched(_verify, cose.MAX_BATCH, clock, in_thread)

    async def sign(self, domain: Domain, payload: bytes) -> tuple[bytes, bytes]:
        """(protected header, signature). Raises KeyError when the domain has no key."""
        return await self._sign((self._keys.signing_key(domain), payload))

    async def verify(self, content: Content) -> Domain:
        """The domain whose key signed. Raises SignatureError (a ValueError), or LookupError without its keys."""
        domain, kid = cose.signer(content.protected)
        ours = domain in await self._store.domains()
        key_set = self._keys.key_set(domain) if ours else await self._directory.key_set(domain, kid)
        return await self._verify(_Claim(content, key_set, self._clock.seconds()))


def _sign(items: Sequence[tuple[SigningKey, bytes]]) -> list[tuple[bytes, bytes]]:
    """A batch for each domain."""
    signed: dict[int, tuple[bytes, bytes]] = {}
    for key in {item[0].kid: item[0] for item in items}.values():
        numbers = [number for number, item in enumerate(items) if item[0].kid == key.kid]
        signed.update(zip(numbers, cose.sign_batch([items[n][1] for n in numbers], key), strict=True))
    return [signed[number] for number in range(len(items))]


def _verify(claims: Sequence[_Claim]) -> list[Domain | Exception]:
    answers: list[Domain | Exception] = []
    for content, keys, when in claims:
        try:
            answers.append(cose.verify(content.protected, content.payload, content.signature, keys, when))
        except cose.SignatureError as error:
            answers.append(error)
    return answers
