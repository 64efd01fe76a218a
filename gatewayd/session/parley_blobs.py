"""`put` and `get`: large bodies in chunks, by hash, resumable (docs/parley.rst §7.6, §7.7)."""

from __future__ import annotations

from gatewayd.core.delivery import blob_owner
from gatewayd.interfaces import Account, IStore, OverQuota, WrongOctets
from gatewayd.message.model import Part
from gatewayd.session.parley_failed import Failed
from gatewayd.wire.parley.schema import CHUNK, Get, GetReply, Put, PutReply

QUOTA = 8 * 1024**3  # octets that one user may have put and no message has named yet
REMEMBERED = 64  # blobs that the user was found to have: not looked up for each chunk


class UserBlobs:
    """What one signed-in user puts and gets."""

    def __init__(self, account: Account, store: IStore, quota: int = QUOTA) -> None:
        self._account = account
        self._store = store
        self._quota = quota
        self._has: dict[bytes, None] = {}

    async def put(self, body: Put) -> PutReply:
        if not 0 < body.size <= self._quota:
            raise Failed("quota", f"a blob has 1 to {self._quota} octets")
        part = Part(body.hash, "", body.size)
        try:
            there = await self._store.blobs.add(blob_owner(self._account), part, body.offset, body.data, self._quota)
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
