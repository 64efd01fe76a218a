"""Who tried to send mail that nobody vouched for, and when first (RFC 6647)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from gatewayd.database.sqlite import Database

STEPS = ["CREATE TABLE greylist (key BLOB PRIMARY KEY, first REAL NOT NULL, until REAL NOT NULL) WITHOUT ROWID"]


class SQLiteAttempts:
    """Keys are digests of who writes to whom. Every method raises StoreError."""

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self._database = database
        self._now = now
        database.migrate("greylist", STEPS)

    async def seen(self, keys: Sequence[bytes], window: float) -> float:
        """Notes an attempt; when the first one of the newest of these keys was. A new one is kept for `window`
        seconds."""
        now = self._now()

        def note(db: sqlite3.Connection) -> float:
            for key in keys:
                db.execute("DELETE FROM greylist WHERE key=? AND until<?", (key, now))
                db.execute("INSERT OR IGNORE INTO greylist VALUES (?,?,?)", (key, now, now + window))
            marks = ",".join("?" * len(keys))
            (first,) = db.execute(f"SELECT max(first) FROM greylist WHERE key IN ({marks})", keys).fetchone()
            return float(first)

        return await self._database.write(note)

    async def passed(self, keys: Sequence[bytes], until: float) -> None:
        """They are remembered until then."""
        update = "UPDATE greylist SET until=? WHERE key=?"
        await self._database.write(lambda db: db.executemany(update, [(until, key) for key in keys]))

    async def sweep(self) -> None:
        now = self._now()
        await self._database.write(lambda db: db.execute("DELETE FROM greylist WHERE until<?", (now,)))
