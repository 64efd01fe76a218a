"""`put` and `get`: large bodies in chunks, by hash, resumable (docs/parley.rst §7.9, §7.10)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

from gatewayd.core.pulling import blobs_of_user
from gatewayd.interfaces.records import Account, OverQuota, WrongOctets
from gatewayd.interfaces.store import IBlobs, IStore
from gatewayd.message.model import Content, Part
from gatewayd.session.link import Link
from gatewayd.session.parley_failed import Failed
from gatewayd.session.parley_requests import RequestFailed, Requests
from gatewayd.session.parley_transfer import TransferFailed, pieces
from gatewayd.wire.parley import RemoteProtocolError
from gatewayd.wire.parley.connection import Request
from gatewayd.wire.parley.schema import CHUNK, Get, GetReply, Put, PutReply, read

REMEMBERED = 64  # blobs that the user was found to have: not looked up for each chunk


class UserBlobs:
    """What one signed-in user puts and gets."""

    __slots__ = ("_account", "_has", "_quota", "_store")

    def __init__(self, account: Account, store: IStore, quota: int) -> None:
        self._account = account
        self._store = store
        self._quota = quota
        self._has: dict[bytes, None] = {}

    async def put(self, body: Put) -> PutReply:
        if not 0 < body.size <= self._quota:
            raise Failed("quota", f"a blob has 1 to {self._quota} octets")
        part = Part(body.hash, "", body.size)
        try:
            there = await self._store.blobs.add(blobs_of_user(self._account), part, body.offset, body.data, self._quota)
        except OverQuota:
            raise Failed("quota", f"more than {self._quota} octets that no message names, or too many blobs") from None
        except WrongOctets:
            raise Failed("wrong-octets", "what was put does not have this hash; it is gone") from None
        return PutReply(there)

    async def get(self, body: Get) -> GetReply:
        if body.hash not in self._has:
            if not await self._store.names_blob(self._account.account_id, body.hash):
                raise Failed("not-found", "no message of yours has this blob")
            self._has[body.hash] = None
            if len(self._has) > REMEMBERED:
                del self._has[next(iter(self._has))]
        data, size = await self._store.blobs.read(body.hash, body.offset, CHUNK)
        return GetReply(data, size)


class OfferedBlobs:
    """What a dialling domain gives out: blobs of the objects that it is sending on this connection now."""

    def __init__(self, blobs: IBlobs | None) -> None:
        self._blobs = blobs
        self._offers: dict[bytes, list[Content]] = defaultdict(list)

    @contextmanager
    def offering(self, contents: Sequence[Content]) -> Iterator[None]:
        offered = [(digest, content) for content in contents for digest in content.blobs]
        for digest, content in offered:
            self._offers[digest].append(content)
        try:
            yield
        finally:
            for digest, content in offered:
                self._offers[digest].remove(content)
                if not self._offers[digest]:
                    del self._offers[digest]

    async def answer(self, request: Request) -> GetReply:
        """Raises Failed, RemoteProtocolError, StoreError."""
        if request.method != "get" or self._blobs is None:
            raise Failed("unknown-method", "a dialler answers get, of what it sends")
        body = read(Get, request.body)
        if body.hash not in self._offers:
            raise Failed("not-found", "no object on its way to you has this blob")
        octets = self._offers[body.hash][0].bodies.get(body.hash)
        if octets is not None:
            return GetReply(octets[body.offset : body.offset + CHUNK], len(octets))
        data, size = await self._blobs.read(body.hash, body.offset, CHUNK)
        return GetReply(data, size)


class PeerBlobs:
    """core/pulling.Source: the connection on which a peer sends an object."""

    def __init__(self, requests: Requests, link: Link) -> None:
        self._requests = requests
        self._link = link

    async def pieces(self, part: Part, offset: int) -> AsyncIterator[bytes]:
        async def get(offset: int) -> GetReply:
            return read(GetReply, await self._requests.ask(self._link, "get", Get(part.hash, offset)))

        try:
            async for data in pieces(get, offset, part.size):
                yield data
        except (RequestFailed, RemoteProtocolError, TransferFailed) as error:
            raise ConnectionError(str(error)) from None
