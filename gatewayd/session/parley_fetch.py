"""`fetch`: objects by their ids, as many as one frame holds (docs/parley.rst §7.11)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from twisted.internet.defer import DeferredLock

from gatewayd.interfaces.records import Account
from gatewayd.interfaces.store import IStore
from gatewayd.message.model import Content
from gatewayd.session.link import Link
from gatewayd.session.parley_sync import READ_AHEAD, octets
from gatewayd.wire.parley.schema import Fetch, FetchReply, Object


class Objects:
    """What one signed-in user has. `given` is told what was handed out; `room`: octets of a reply."""

    __slots__ = ("_account", "_given", "_link", "_reading", "_room", "_store")

    def __init__(
        self, account: Account, store: IStore, link: Link, room: int, given: Callable[[Sequence[Content]], None]
    ) -> None:
        self._account = account
        self._store = store
        self._link = link
        self._room = room
        self._given = given
        self._reading = DeferredLock()

    async def fetch(self, body: Fetch) -> FetchReply:
        await self._reading.acquire()  # one reply at a time, and the next when this one is read
        try:
            await self._link.drained()
            found, more = await self._find(list(dict.fromkeys(body.ids)))
        finally:
            self._reading.release()
        self._given(found)
        return FetchReply(tuple(Object(c.id, c.signed, tuple(c.bodies.values())) for c in found), more)

    async def _find(self, ids: Sequence[bytes]) -> tuple[list[Content], bool]:
        found: list[Content] = []
        size = 0
        for begin in range(0, len(ids), READ_AHEAD):
            some: Collection[bytes] = ids[begin : begin + READ_AHEAD]
            there = await self._store.find(self._account.account_id, some)
            for id in some:
                if id not in there:
                    continue
                size += octets(there[id])
                if found and size > self._room:
                    return found, True
                found.append(there[id])
        return found, False
