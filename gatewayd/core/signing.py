"""Signs with our domains' keys, and tells who signed: ours by the key files, others by the key directory.

For all that comes in one turn of the reactor, in a thread where it is much: one signature covers a batch
(docs/parley.rst §8.5).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from twisted.internet.interfaces import IReactorTime

from gatewayd.address import Domain
from gatewayd.core.batch import Batched, InThread
from gatewayd.crypto import cose
from gatewayd.crypto.domain_keys import KeySet, KeyStore, SigningKey
from gatewayd.interfaces.store import IStore
from gatewayd.message.model import Content

R = TypeVar("R")
Signed = tuple[bytes, bytes]  # the protected header and the signature


class Directory(Protocol):
    def key_set(self, domain: Domain, kid: bytes) -> Awaitable[KeySet]:
        """Another domain's keys. Raises LookupError when they cannot be had now."""


class _Claim(NamedTuple):
    """That a content is signed by one of these keys, at that time."""

    content: Content
    keys: KeySet
    when: float


FEW = 64  # as many are signed in half a millisecond, most of it Python's: a thread would only add the hand-over


class DomainSigner:
    def __init__(
        self, keys: KeyStore, directory: Directory, store: IStore, clock: IReactorTime, now: Callable[[], float],
        in_thread: InThread,
    ) -> None:  # fmt: skip
        self._keys = keys
        self._directory = directory
        self._store = store
        self._now = now
        self._sign = Batched(_sign, cose.MAX_BATCH, clock, in_thread, few=FEW)
        self._verify = Batched(_verify, cose.MAX_BATCH, clock, in_thread)

    async def sign(self, domain: Domain, payload: bytes) -> Signed:
        """Raises KeyError when the domain has no key."""
        return _answer(await self._sign([(self._keys.signing_key(domain), payload)]))

    async def sign_all(self, payloads: Sequence[tuple[Domain, bytes]]) -> list[Signed | None]:
        """One signature for all of a domain. None where the domain has no key."""
        keys = {domain: self._key(domain) for domain in {domain for domain, _ in payloads}}
        items = [(key, payload) for domain, payload in payloads if (key := keys[domain]) is not None]
        signed = iter(_sign(items) if len(items) <= FEW else await self._sign(items))
        return [None if keys[domain] is None else _answer([next(signed)]) for domain, _ in payloads]

    def _key(self, domain: Domain) -> SigningKey | None:
        try:
            return self._keys.signing_key(domain)
        except KeyError:
            return None

    async def verify(self, content: Content) -> Domain:
        """The domain whose key signed. Raises SignatureError (a ValueError), or LookupError without its keys."""
        return _answer(await self.verify_all([content]))

    async def verify_all(self, contents: Sequence[Content]) -> list[Domain | Exception]:
        """As `verify`, for many at once: what it would raise stands in the list."""
        key_sets: dict[tuple[Domain, bytes], KeySet | Exception] = {}
        claims: list[_Claim | Exception] = []
        for content in contents:
            try:
                signer = cose.signer(content.protected)
            except cose.SignatureError as error:
                claims.append(error)
                continue
            if signer not in key_sets:
                key_sets[signer] = await self._key_set(*signer)
            keys = key_sets[signer]
            claims.append(keys if isinstance(keys, Exception) else _Claim(content, keys, self._now()))
        asked = [claim for claim in claims if isinstance(claim, _Claim)]
        found = iter(await self._verify(asked) if asked else [])
        return [claim if isinstance(claim, Exception) else next(found) for claim in claims]

    async def _key_set(self, domain: Domain, kid: bytes) -> KeySet | Exception:
        try:
            if domain in await self._store.domains():
                return self._keys.key_set(domain)
            return await self._directory.key_set(domain, kid)
        except LookupError as error:
            return error


def _answer(answers: Sequence[R | Exception]) -> R:
    (answer,) = answers
    if isinstance(answer, Exception):
        raise answer
    return answer


def _sign(items: Sequence[tuple[SigningKey, bytes]]) -> list[Signed]:
    """A batch for each domain."""
    signed: dict[int, Signed] = {}
    for key in {item[0].kid: item[0] for item in items}.values():
        numbers = [number for number, item in enumerate(items) if item[0].kid == key.kid]
        for begin in range(0, len(numbers), cose.MAX_BATCH):
            some = numbers[begin : begin + cose.MAX_BATCH]
            signed.update(zip(some, cose.sign_batch([items[n][1] for n in some], key), strict=True))
    return [signed[number] for number in range(len(items))]


def _verify(claims: Sequence[_Claim]) -> list[Domain | Exception]:
    answers: list[Domain | Exception] = []
    for content, keys, when in claims:
        try:
            answers.append(cose.verify(content.protected, content.payload, content.signature, keys, when))
        except cose.SignatureError as error:
            answers.append(error)
    return answers
