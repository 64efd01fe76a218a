"""A blob over a connection, either way: chunks in order, a window of them in flight, from wherever it was cut off."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred

from gatewayd.wire.parley.schema import CHUNK, GetReply, PutReply

T = TypeVar("T")
WINDOW = 16  # chunks in flight: 1 MiB


class TransferFailed(Exception):
    """The other side does not do what `get` and `put` promise."""


async def pieces(get: Callable[[int], Coroutine[Any, Any, GetReply]], offset: int, size: int) -> AsyncIterator[bytes]:
    """What a blob of `size` octets has from `offset` on; `get` asks for a chunk. Raises TransferFailed, and what `get`
    raises."""
    flight = _Flight[GetReply]()
    to_ask = iter(range(offset, size, CHUNK))
    try:
        for begin in range(offset, size, CHUNK):
            while not flight.full and (ask := next(to_ask, None)) is not None:
                flight.add(get(ask))
            reply = await flight.next()
            if reply.size != size or len(reply.data) != min(CHUNK, size - begin):
                raise TransferFailed("a blob of another size, or a chunk that is cut off")
            yield reply.data
    finally:
        flight.abandon()


async def push(
    put: Callable[[int, bytes], Coroutine[Any, Any, PutReply]], read: Callable[[int], Awaitable[bytes]], size: int,
    progress: Callable[[int], None],
) -> None:  # fmt: skip
    """Has the other side hold all of a blob: asks how much is there, and goes on. `read` gives the chunk at an offset;
    `progress` is told how much is there. Raises TransferFailed, and what `put` and `read` raise."""
    there = (await put(0, b"")).offset
    flight = _Flight[PutReply]()
    try:
        for begin in range(there, size, CHUNK):
            progress(there)
            data = await read(begin)
            flight.add(put(begin, data))
            if flight.full:
                there = _advanced(await flight.next(), there, size)
        while flight:
            progress(there)
            there = _advanced(await flight.next(), there, size)
    finally:
        flight.abandon()
    progress(there)
    if there != size:
        raise TransferFailed("it holds another size than was put")


def _advanced(reply: PutReply, there: int, size: int) -> int:
    end = min(there + CHUNK, size)
    if not end <= reply.offset <= size:
        raise TransferFailed("a chunk was left out")
    return end


class _Flight(Generic[T]):
    """Requests whose answers are taken in the order in which they were asked."""

    def __init__(self) -> None:
        self._asked: deque[Deferred[T]] = deque()

    def __len__(self) -> int:
        return len(self._asked)

    @property
    def full(self) -> bool:
        return len(self._asked) >= WINDOW

    def add(self, request: Coroutine[Any, Any, T]) -> None:
        self._asked.append(Deferred.fromCoroutine(request))

    async def next(self) -> T:
        return await self._asked.popleft()

    def abandon(self) -> None:
        """Nobody waits for the rest."""
        for asked in self._asked:
            asked.addErrback(lambda failure: None)
