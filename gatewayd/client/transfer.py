"""Files that are too large for one frame: put and got in chunks, with many cuts in between if it must be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import file_digest
from pathlib import Path
from typing import Protocol, TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from gatewayd.message.model import Part
from gatewayd.session.parley_client import ParleyClientSession, RequestFailed
from gatewayd.session.parley_transfer import TransferFailed, pieces, push
from gatewayd.wire.parley import RemoteProtocolError
from gatewayd.wire.parley.schema import CHUNK, Body, Get, GetReply, Put, PutReply, read

T = TypeVar("T")
Progress = Callable[[Part, int], None]  # told how many octets of a blob are there

WAITS = (0.1, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0)  # seconds between attempts; after the last without an octet it gives up


class Connection(Protocol):
    """A ParleyClient, as far as this goes."""

    @property
    def closed(self) -> bool: ...

    async def online(self) -> ParleyClientSession: ...


def ignored(part: Part, octets: int) -> None:
    """The progress that nobody looks at."""


async def upload(
    parley: Connection, clock: IReactorTime, part: Part, source: bytes | Path, progress: Callable[[int], None]
) -> None:
    def chunk(offset: int) -> bytes:
        if isinstance(source, bytes):
            return source[offset : offset + CHUNK]
        with source.open("rb") as file:
            file.seek(offset)
            return file.read(CHUNK)

    async def attempt(session: ParleyClientSession, told: Callable[[int], None]) -> None:
        async def put(offset: int, data: bytes) -> PutReply:
            return await _ask(session, "put", Put(part.hash, part.size, offset, data), PutReply)

        await push(put, lambda offset: deferToThread(chunk, offset), part.size, told)

    await _persist(parley, clock, attempt, progress)


async def download(
    parley: Connection, clock: IReactorTime, part: Part, to: Path, progress: Callable[[int], None]
) -> None:  # fmt: skip
    unfinished = to.with_name(f"{to.name}.part")

    async def attempt(session: ParleyClientSession, told: Callable[[int], None]) -> None:
        async def get(offset: int) -> GetReply:
            return await _ask(session, "get", Get(part.hash, offset), GetReply)

        with unfinished.open("ab") as file:
            there = file.tell()
            if there > part.size:
                there = file.truncate(0)
            told(there)
            async for data in pieces(get, there, part.size):
                await deferToThread(file.write, data)
                there += len(data)
                told(there)

    await _persist(parley, clock, attempt, progress)
    if await deferToThread(_sha256, unfinished) != part.hash:
        unfinished.unlink()
        raise TransferFailed("what came does not have the hash that was signed; it is removed")
    unfinished.rename(to)


async def _persist(
    parley: Connection, clock: IReactorTime,
    attempt: Callable[[ParleyClientSession, Callable[[int], None]], Awaitable[None]], progress: Callable[[int], None],
) -> None:  # fmt: skip
    """Attempts until one succeeds, as long as the connection is all that fails and something has come now and then. A
    server that is not there at the beginning is not waited for."""
    await parley.online()
    most, waits = 0, list(WAITS)

    def told(octets: int) -> None:
        nonlocal most, waits
        if octets > most:
            most, waits = octets, list(WAITS)
        progress(octets)

    while True:
        try:
            await attempt(await parley.online(), told)
        except ConnectionError:
            if not waits or parley.closed:
                raise
            await deferLater(clock, waits.pop(0))
        else:
            return


async def _ask(session: ParleyClientSession, method: str, body: Body, kind: type[T]) -> T:
    try:
        return read(kind, await session.request(method, body))
    except RemoteProtocolError as error:
        raise RequestFailed(error.code, f"the server's answer makes no sense: {error}") from None


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return file_digest(file, "sha256").digest()
