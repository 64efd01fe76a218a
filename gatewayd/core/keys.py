"""Other domains' keys: from their DNSSEC-signed zones, or fetched from the domains themselves; kept until they expire,
one fetch a domain at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from twisted.internet import defer
from twisted.logger import Logger

from gatewayd.address import Domain
from gatewayd.crypto.domain_keys import KeySet, KeySetError, record_name
from gatewayd.errors import StoreError
from gatewayd.interfaces.dns import IResolver, ResolutionFailed
from gatewayd.interfaces.records import Peer
from gatewayd.interfaces.store import IStore

REFETCH = 60.0  # seconds between two fetches that an unknown key id asks for; and that records are kept for at least
MAX_KEPT = 7 * 86400.0  # seconds: however long the domain says that its set is good


class KeysUnavailable(LookupError):
    """The domain's keys cannot be had now: a temporary error, always."""


class KeyDirectory:
    """`fetch` asks a domain itself; `resolver`, where its AD bit is believed, is asked before."""

    log = Logger()

    def __init__(
        self, store: IStore, fetch: Callable[[Domain], Awaitable[bytes]], steady: Callable[[], float],
        now: Callable[[], float], resolver: IResolver | None = None,
    ) -> None:  # fmt: skip
        self._store = store
        self._resolver = resolver
        self._fetch = fetch
        self._steady = steady
        self._now = now
        self._fetching: dict[Domain, list[defer.Deferred[KeySet | str]]] = {}
        self._fetched_at: dict[Domain, float] = {}  # by `steady`

    async def key_set(self, domain: Domain, kid: bytes) -> KeySet:
        """A set with that key; an unknown `kid` has the set fetched anew (rotation). Raises KeysUnavailable, also where
        the domain does not show such a key: perhaps it is new, and not everywhere yet (docs/parley.rst §5)."""
        peer = await self._store.peer(domain)
        if peer is not None and peer.keys is not None and self._now() < peer.keys_until:
            known = _decoded(peer.keys, domain)
            if known is not None and known.knows(kid):
                return known
            if known is not None and self._steady() < self._fetched_at.get(domain, -REFETCH) + REFETCH:
                raise KeysUnavailable(f"the keys of {domain} were fetched just now, and this one was not among them")
            if known is not None:
                self._fetched_at[domain] = self._steady()  # whatever comes of it
        fetched = await self._fetch_once(domain)
        if not fetched.knows(kid):
            raise KeysUnavailable(f"{domain} does not show this key")
        return fetched

    async def _fetch_once(self, domain: Domain) -> KeySet:
        """Nobody who asks owns the fetch: one who goes away takes it from no other."""
        waiter: defer.Deferred[KeySet | str] = defer.Deferred()
        if domain in self._fetching:
            self._fetching[domain].append(waiter)
        else:
            self._fetching[domain] = [waiter]
            defer.Deferred.fromCoroutine(self._fetch_for_all(domain))
        answer = await waiter
        if isinstance(answer, str):
            raise KeysUnavailable(answer)
        return answer

    async def _fetch_for_all(self, domain: Domain) -> None:
        answer: KeySet | str
        try:
            answer = await self._fetch_now(domain)
        except KeysUnavailable as error:
            answer = str(error)
        except Exception:  # whatever it was, nobody may be left waiting
            self.log.failure("the keys of {domain} could not be fetched", domain=str(domain))
            answer = f"the keys of {domain} cannot be had"
        for waiter in self._fetching.pop(domain):
            waiter.callback(answer)

    async def _fetch_now(self, domain: Domain) -> KeySet:
        now = self._now()
        try:
            key_set = await self._published(domain, now) or KeySet.decode(await self._fetch(domain), domain)
        except (OSError, KeySetError, ResolutionFailed, StoreError) as error:
            raise KeysUnavailable(f"the keys of {domain} cannot be had: {error}") from None
        self._fetched_at[domain] = self._steady()
        peer = await self._store.peer(domain) or Peer(domain, 0.0, None, 0.0)
        until = float(min(key_set.expires, now + MAX_KEPT))
        await self._store.remember_peer(replace(peer, keys=key_set.encode(), keys_until=until))
        return key_set

    async def _published(self, domain: Domain, now: float) -> KeySet | None:
        """By the domain's zone, if all of the answer is DNSSEC-secure and says a key: then these, and no others."""
        if self._resolver is None:
            return None
        answer = await self._resolver.txt(record_name(domain))
        if not answer.secure:
            return None
        texts = [text for text in answer.records if isinstance(text, bytes)]
        return KeySet.of_records(domain, texts, int(now + max(REFETCH, answer.ttl)))


def _decoded(octets: bytes, domain: Domain) -> KeySet | None:
    try:
        return KeySet.decode(octets, domain)
    except KeySetError:  # what another release kept
        return None
