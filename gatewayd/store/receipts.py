"""Receipts inside a transaction: which a user waits for, and which one owes (docs/parley.rst §8.3).

One that is owed keeps its time and nonce here, so that a repeat after a crash is the same object.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

from gatewayd.address import Address
from gatewayd.interfaces.records import Awaited, Owed

OWED = "account_id, object_id, status, at_ms, nonce"
KEPT = 366 * 86400 * 1000  # milliseconds: after that a receipt is neither believed nor said


def expect(
    db: sqlite3.Connection, account_id: int, object_id: bytes, recipients: Sequence[Address], awaited: Awaited,
    now_ms: int,
) -> None:  # fmt: skip
    asked = (" ".join(sorted(awaited.statuses)), awaited.mail, now_ms)
    db.executemany(
        "INSERT OR IGNORE INTO receipt_awaited VALUES (?,?,?,?,?,?,?)",
        [(account_id, object_id, recipient.domain.name, recipient.key[0], *asked) for recipient in recipients],
    )


def expected(db: sqlite3.Connection, account_id: int, object_id: bytes, recipient: Address) -> Awaited | None:
    query = "SELECT statuses, mail FROM receipt_awaited WHERE account_id=? AND object_id=? AND domain=? AND local=?"
    row = db.execute(query, (account_id, object_id, recipient.domain.name, recipient.key[0])).fetchone()
    return Awaited(frozenset(row[0].split()), bool(row[1])) if row else None


def owe(db: sqlite3.Connection, owed: Collection[Owed]) -> list[Owed]:
    query = f"SELECT {OWED} FROM receipt_owed WHERE account_id=? AND object_id=? AND status=? AND sent=0"
    found = []
    for each in owed:
        db.execute(f"INSERT OR IGNORE INTO receipt_owed ({OWED}) VALUES (?,?,?,?,?)", each)
        found += db.execute(query, each[:3]).fetchall()
    return [Owed(*row) for row in found]


def unsent(db: sqlite3.Connection, limit: int) -> list[Owed]:
    query = f"SELECT {OWED} FROM receipt_owed WHERE sent=0 ORDER BY at_ms LIMIT ?"
    return [Owed(*row) for row in db.execute(query, (limit,))]


def sent(db: sqlite3.Connection, owed: Owed) -> None:
    db.execute("UPDATE receipt_owed SET sent=1 WHERE account_id=? AND object_id=? AND status=?", owed[:3])


def sweep(db: sqlite3.Connection, now_ms: int) -> None:
    db.execute("DELETE FROM receipt_awaited WHERE since_ms<?", (now_ms - KEPT,))
    db.execute("DELETE FROM receipt_owed WHERE at_ms<?", (now_ms - KEPT,))
