"""IBlobs over files: large bodies as the core and the sessions use them, never whole in memory unless asked for."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from msgspec.structs import replace
from twisted.internet import defer
from zope.interface import implementer

from gatewayd.errors import StoreError, StoreFull
from gatewayd.interfaces.store import IBlobs
from gatewayd.message.model import Content, Part
from gatewayd.store.blobs import BlobStore
from gatewayd.store.holdings import Holdings

T = TypeVar("T")


@implementer(IBlobs)
class Blobs:
    def __init__(self, files: BlobStore, holdings: Holdings, in_thread: Callable[..., defer.Deferred[Any]]) -> None:
        self._files = files
        self._holdings = holdings
        self._in_thread = in_thread
        self._locks: dict[tuple[str, bytes], defer.DeferredLock] = {}
        self._users: Counter[tuple[str, bytes]] = Counter()

    async def keep(self, content: Content) -> Content:
        if not content.blobs:
            return content

        def put() -> None:
            for digest in content.blobs:
                if digest in content.bodies:
                    self._files.put(digest, content.bodies[digest])
                else:
                    self._files.touch(digest)

        await self._done(put)
        return replace(content, bodies=content.inline)

    async def load(self, content: Content, digests: Collection[bytes]) -> Content:
        absent = [part.hash for part in content.absent if part.hash in digests]
        if not absent:
            return content
        bodies = await self._done(lambda: {digest: self._files.get(digest) for digest in absent})
        return replace(content, bodies={**content.bodies, **bodies})

    async def read(self, digest: bytes, offset: int, length: int) -> tuple[bytes, int]:
        return await self._done(lambda: self._files.read(digest, offset, length))

    async def add(self, owner: str, part: Part, offset: int, data: bytes, quota: int) -> int:
        return await self._in_turn(
            owner, part, lambda: self._holdings.add(owner, part.hash, part.size, offset, data, quota)
        )

    async def claim(self, owner: str, part: Part) -> bool:
        return await self._in_turn(owner, part, lambda: self._holdings.claim(owner, part.hash, part.size))

    async def sweep(self, wanted: Collection[bytes], older_than: float) -> None:
        await self._done(lambda: (self._holdings.sweep(older_than), self._files.sweep(wanted, older_than)))

    def _in_turn(self, owner: str, part: Part, work: Callable[[], T]) -> defer.Deferred[T]:
        """One at a time for each owner and hash, in the order in which they came. Who is cancelled goes away; the
        thread goes on, and the next waits for it."""
        waiter: defer.Deferred[T] = defer.Deferred()
        defer.Deferred.fromCoroutine(self._turn((owner, part.hash), work)).addBoth(waiter.callback)
        return waiter

    async def _turn(self, key: tuple[str, bytes], work: Callable[[], T]) -> T:
        self._users[key] += 1
        lock = self._locks.setdefault(key, defer.DeferredLock())
        try:
            await lock.acquire()
            try:
                return await self._done(work)
            finally:
                lock.release()
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]

    async def _done(self, work: Callable[[], T]) -> T:
        try:
            result: T = await self._in_thread(work)
        except FileNotFoundError as error:
            raise StoreError("a body is missing") from error
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise (StoreFull if full else StoreError)(str(error)) from error
        return result
