"""What is to be sent, kept until the server has taken it: in the archive's file, committed before anything is tried.

A draft is sent again until there is an answer for each recipient. The server knows a draft that it has by its id, so
neither a lost answer nor a killed program loses or doubles it. A large file is read when it is sent, and has to stay
where it is until then. What somebody refused stays here until its author sends it again, or gives it up; of what is
left lying the last is kept, and of what came before only who refused it, and why.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cbor2

from gatewayd.client.archive import Archive
from gatewayd.client.message import Draft
from gatewayd.message.model import Content
from gatewayd.wire.parley.schema import Result

REFUSED_DRAFTS, REFUSED_OCTETS = 100, 16 * 1024 * 1024  # kept of what somebody refused, the last first
REFUSALS = 5000  # who refused what and why, kept the same way
WAITS = "recipients != '[]'"  # the others are here only because somebody refused them


@dataclass(frozen=True)
class Waiting:
    """A draft, and who has not got it yet."""

    draft: Draft
    to: tuple[str, ...]
    trouble: str  # why it is here still, or ""


@dataclass(frozen=True)
class Refused:
    """A draft that some recipients will not get, unless it is sent again."""

    id: bytes
    draft: Draft | None  # None: it is kept no more
    reasons: Mapping[str, str]  # by recipient


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
        query = f"SELECT payload, bodies, recipients, trouble FROM outbox WHERE {WAITS} ORDER BY number"
        found = await self._database.read(lambda db: db.execute(query).fetchall())
        return [Waiting(_draft(payload, kept), tuple(json.loads(to)), trouble) for payload, kept, to, trouble in found]

    async def count(self) -> int:
        """Of those that wait."""
        query = f"SELECT count(*) FROM outbox WHERE {WAITS}"
        found: int = await self._database.read(lambda db: db.execute(query).fetchone()[0])
        return found

    async def settle(self, waiting: Waiting, results: Sequence[Result]) -> None:
        """Who is to be tried again (RFC 3463: class 4) stays; who will never get it is remembered, and the draft with
        them."""
        again = [result for result in results if result.code.startswith("4")]
        refused = [result for result in results if result.code.startswith("5")]
        id = waiting.draft.id

        def work(db: sqlite3.Connection) -> None:
            rows = [(id, result.to, f"{result.code} {result.text}") for result in refused]
            db.executemany("INSERT OR REPLACE INTO undelivered VALUES (?,?,?,strftime('%s', 'now'))", rows)
            trouble = f"{again[0].code} {again[0].text}" if again else ""
            row = (json.dumps([result.to for result in again]), trouble, id)
            db.execute("UPDATE outbox SET recipients=?, trouble=? WHERE id=?", row)
            query = f"DELETE FROM outbox WHERE id=? AND NOT ({WAITS}) AND id NOT IN (SELECT id FROM undelivered)"
            db.execute(query, (id,))
            if refused:
                _bound(db)

        await self._database.write(work)

    async def refused(self) -> list[Refused]:
        """The oldest first."""
        query = (
            "SELECT u.id, recipient, reason, payload, bodies FROM undelivered u LEFT JOIN outbox USING (id)"
            " ORDER BY number, u.id"
        )
        found = await self._database.read(lambda db: db.execute(query).fetchall())
        refused: dict[bytes, Refused] = {}
        for id, to, why, payload, kept in found:
            draft = _draft(payload, kept) if payload else None
            refused[id] = Refused(id, draft, {**(refused[id].reasons if id in refused else {}), to: why})
        return list(refused.values())

    async def again(self, id: bytes) -> bool:
        """Who refused it is to be tried once more. Whether it is here to be sent."""

        def work(db: sqlite3.Connection) -> bool:
            found = db.execute("SELECT recipients FROM outbox WHERE id=?", (id,)).fetchone()
            if found is None:
                return False
            refused = db.execute("DELETE FROM undelivered WHERE id=? RETURNING recipient", (id,)).fetchall()
            to = [*json.loads(found[0]), *(recipient for (recipient,) in refused)]
            db.execute("UPDATE outbox SET recipients=? WHERE id=?", (json.dumps(to), id))
            return True

        return await self._database.write(work)

    async def cancel(self, id: bytes) -> bool:
        """Neither waits any more nor is remembered as refused. Whether it was there still."""

        def work(db: sqlite3.Connection) -> bool:
            queries = "DELETE FROM outbox WHERE id=? RETURNING id", "DELETE FROM undelivered WHERE id=? RETURNING id"
            return any([db.execute(query, (id,)).fetchall() for query in queries])

        return await self._database.write(work)


def _bound(db: sqlite3.Connection) -> None:
    """What was refused is no reason for this file to grow for ever, nor for a screen to be slow."""
    lying = (
        "SELECT number, row_number() OVER last AS many, sum(length(payload) + length(bodies)) OVER last AS octets"
        f" FROM outbox WHERE NOT ({WAITS}) WINDOW last AS (ORDER BY number DESC)"
    )
    too_much = "many > ? OR many > 1 AND octets > ?"
    query = f"DELETE FROM outbox WHERE number IN (SELECT number FROM ({lying}) WHERE {too_much})"
    db.execute(query, (REFUSED_DRAFTS, REFUSED_OCTETS))
    db.execute(
        "DELETE FROM undelivered WHERE (id, recipient) IN"
        " (SELECT id, recipient FROM undelivered ORDER BY at DESC LIMIT -1 OFFSET ?)",
        (REFUSALS,),
    )
    db.execute(f"DELETE FROM outbox WHERE NOT ({WAITS}) AND id NOT IN (SELECT id FROM undelivered)")


def _draft(payload: bytes, kept: bytes) -> Draft:
    bodies, blobs = cbor2.loads(kept)
    parts = Content(b"", payload, b"", {}).blobs
    found = ((parts[digest], Path(at) if isinstance(at, str) else at) for digest, at in blobs.items())
    return Draft(payload, tuple(bodies), tuple(found))
