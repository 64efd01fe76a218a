"""What is to be sent, kept until the server has taken it: in the archive's file, committed before anything is tried.

A draft is sent again until there is an answer for each recipient. The server knows a draft that it has by its id, so
neither a lost answer nor a killed program loses or doubles it. A large file is read when it is sent, and has to stay
where it is until then.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cbor2

from gatewayd.client.archive import Archive
from gatewayd.client.message import Draft
from gatewayd.message.model import Content
from gatewayd.wire.parley.schema import Result


@dataclass(frozen=True)
class Waiting:
    """A draft, and who has not got it yet."""

    draft: Draft
    to: tuple[str, ...]
    trouble: str  # why it is here still, or ""


@dataclass(frozen=True)
class Undelivered:
    """A recipient who will not get the draft."""

    id: bytes
    recipient: str
    reason: str


class Outbox:
    """All methods may raise StoreError."""

    def __init__(self, archive: Archive) -> None:
        self._database = archive.database

    async def put(self, to: Sequence[str], draft: Draft) -> None:
        blobs = {part.hash: str(at.absolute()) if isinstance(at, Path) else at for part, at in draft.blobs}
        row = (draft.id, json.dumps(list(to)), draft.payload, cbor2.dumps([list(draft.bodies), blobs]))
        query = "INSERT OR IGNORE INTO outbox (id, recipients, payload, bodies) VALUES (?,?,?,?)"
        await self._database.write(lambda db: db.execute(query, row))

    async def waiting(self) -> list[Waiting]:
        """The oldest first."""
        query = "SELECT payload, bodies, recipients, trouble FROM outbox ORDER BY number"
        found = await self._database.read(lambda db: db.execute(query).fetchall())
        return [
            Waiting(_draft(payload, *cbor2.loads(kept)), tuple(json.loads(to)), trouble)
            for payload, kept, to, trouble in found
        ]

    async def count(self) -> int:
        found: int = await self._database.read(lambda db: db.execute("SELECT count(*) FROM outbox").fetchone()[0])
        return found

    async def settle(self, waiting: Waiting, results: Sequence[Result]) -> None:
        """Who is to be tried again (RFC 3463: class 4) stays; who will never get it is remembered."""
        again = [result for result in results if result.code.startswith("4")]
        refused = [result for result in results if result.code.startswith("5")]
        id = waiting.draft.id

        def work(db: sqlite3.Connection) -> None:
            rows = [(id, result.to, f"{result.code} {result.text}") for result in refused]
            db.executemany("INSERT OR REPLACE INTO undelivered VALUES (?,?,?)", rows)
            if again:
                row = (json.dumps([result.to for result in again]), f"{again[0].code} {again[0].text}", id)
                db.execute("UPDATE outbox SET recipients=?, trouble=? WHERE id=?", row)
            else:
                db.execute("DELETE FROM outbox WHERE id=?", (id,))

        await self._database.write(work)

    async def cancel(self, id: bytes) -> bool:
        """Whether it was there still."""
        query = "DELETE FROM outbox WHERE id=? RETURNING id"
        return bool(await self._database.write(lambda db: db.execute(query, (id,)).fetchall()))

    async def undelivered(self) -> list[Undelivered]:
        query = "SELECT id, recipient, reason FROM undelivered"
        found = await self._database.read(lambda db: db.execute(query).fetchall())
        return [Undelivered(*row) for row in found]


def _draft(payload: bytes, bodies: list[bytes], blobs: dict[bytes, bytes | str]) -> Draft:
    parts = Content(b"", payload, b"", {}).blobs
    found = ((parts[digest], Path(at) if isinstance(at, str) else at) for digest, at in blobs.items())
    return Draft(payload, tuple(bodies), tuple(found))
