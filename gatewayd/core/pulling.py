"""Blobs of an object that a peer sends: fetched from that peer before the object is accepted (docs/parley.rst §7.3).

What came before a connection broke is kept, and the next attempt goes on from there. That another user or peer has
brought the same octets is no reason to take this peer's word for them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from twisted.logger import Logger

from gatewayd.address import Domain
from gatewayd.interfaces.records import Account, OverQuota, WrongOctets
from gatewayd.interfaces.store import IBlobs
from gatewayd.message.model import Part
from gatewayd.outcome import Deferred, Outcome, Refused

PER_PEER = 4  # objects fetched at once: fewer than a connection works on, so that others overtake them
TOTAL = 32
QUOTA = 8 * 1024**3  # octets that one user or peer may have brought and no message has named yet
AGAIN = 30.0  # seconds until a peer that must wait asks again


class Source(Protocol):
    """The peer's connection on which the object came."""

    def pieces(self, part: Part, offset: int) -> AsyncIterator[bytes]:
        """The blob's octets from there on. Raises OSError: the connection is gone, or the peer does not have it."""


class Puller:
    log = Logger()

    def __init__(self, blobs: IBlobs, quota: int = QUOTA) -> None:
        self._blobs = blobs
        self._quota = quota
        self._running: list[tuple[Domain, frozenset[bytes]]] = []

    async def pull(self, peer: Domain, parts: Sequence[Part], source: Source) -> Outcome | None:
        """None when all of them are here, for a message to name. Raises StoreError."""
        owner = blobs_of_peer(peer)
        missing = [part for part in parts if not await self._blobs.claim(owner, part)]
        if not missing:
            return None
        hashes = frozenset(part.hash for part in missing)
        of_peer = [running for domain, running in self._running if domain == peer]
        if any(running & hashes for running in of_peer):
            return Deferred("4.3.2", "A blob of it is being fetched for another message", AGAIN)
        if len(of_peer) >= PER_PEER or len(self._running) >= TOTAL:
            return Deferred("4.3.2", "Too many large messages at once", AGAIN)
        entry = peer, hashes
        self._running.append(entry)
        try:
            for part in missing:
                failed = await self._pull(owner, part, source)
                if failed is not None:
                    return failed
        finally:
            self._running.remove(entry)
        return None

    async def _pull(self, owner: str, part: Part, source: Source) -> Outcome | None:
        began = 0
        try:
            began = there = await self._blobs.add(owner, part, 0, b"", self._quota)
            async for data in source.pieces(part, there):
                there = await self._blobs.add(owner, part, there, data, self._quota)
            if await self._blobs.claim(owner, part):
                return None
        except WrongOctets:
            self.log.warn("{owner}: a blob with other octets than its hash says", owner=owner)
            if began == 0:
                return Refused("5.6.0", "A body does not have the hash that was signed")
            return Deferred("4.5.0", "A body does not have the hash that was signed; it is fetched anew")
        except OverQuota:
            return Deferred("4.3.1", "Too much of your domain is being fetched; try again later")
        except OSError as error:
            return Deferred("4.5.0", f"A body could not be fetched: {error}")
        return Deferred("4.5.0", "A body was cut short")


def blobs_of_peer(peer: Domain) -> str:
    """The owner, for IBlobs."""
    return f"peer-{peer}"


def blobs_of_user(account: Account) -> str:
    """The owner, for IBlobs."""
    return f"user-{account.account_id}"
