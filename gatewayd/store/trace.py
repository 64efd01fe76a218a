"""What became of each message, step by step, kept for some days: an append-only table that nothing waits for.

Events are written a few times a second, all that there are in one statement. A killed gateway may
lose the last of them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from gatewayd.database.sqlite import Database, insert_rows
from gatewayd.errors import StoreError
from gatewayd.interfaces.story import Event

FLUSH = 0.2  # seconds
MAX_WAITING = 50_000  # events, while the disk is full; more are not kept
SWEPT = 20_000  # events forgotten in one transaction
MAX_TEXT = 1000

STEPS = [
    """
    CREATE TABLE trace (
        event_id INTEGER PRIMARY KEY, trace_id TEXT NOT NULL, at REAL NOT NULL, address TEXT NOT NULL,
        text TEXT NOT NULL);
    CREATE INDEX trace_story ON trace (trace_id);
    CREATE INDEX trace_address ON trace (address COLLATE NOCASE, at) WHERE address<>''
    """
]


class TraceLog:
    log = Logger()

    def __init__(self, database: Database, clock: IReactorTime) -> None:
        self._database = database
        self._clock = clock
        self._waiting: list[Event] = []
        self._call: IDelayedCall | None = None
        database.migrate("trace", STEPS)

    def record(self, event: Event) -> None:
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(event)
        if self._call is None:
            self._call = self._clock.callLater(FLUSH, self._flush_later)

    def _flush_later(self) -> None:
        defer.Deferred.fromCoroutine(self.flush())

    async def flush(self) -> None:
        """What waits is written; an error is logged, and it waits on."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
        events, self._waiting = self._waiting, []
        if not events:
            return
        rows = [(e.trace_id, e.at, e.address, e.text[:MAX_TEXT]) for e in events]
        insert = "INSERT INTO trace (trace_id, at, address, text)"
        try:
            await self._database.write(lambda db: insert_rows(db, insert, rows))
        except StoreError as error:
            self.log.error("{count} steps of messages are not recorded yet: {error}", count=len(rows), error=error)
            self._waiting = events + self._waiting

    async def story(self, trace_id: str) -> list[Event]:
        """Of one message, oldest first."""
        query = "SELECT trace_id, at, address, text FROM trace WHERE trace_id=? ORDER BY at, event_id"
        return await self._read(query, (trace_id,))

    async def about(self, address: str, limit: int) -> list[Event]:
        """The newest events that name an address, newest first."""
        query = (
            "SELECT trace_id, at, address, text FROM trace WHERE address=? COLLATE NOCASE AND address<>''"
            " ORDER BY at DESC LIMIT ?"
        )
        return await self._read(query, (address, limit))

    async def _read(self, query: str, values: Sequence[object]) -> list[Event]:
        return [Event(*row) for row in await self._database.read(lambda db: db.execute(query, values).fetchall())]

    async def sweep(self, before: float) -> None:
        """Forget what is older, some at a time."""
        query = "DELETE FROM trace WHERE event_id < (SELECT min(event_id) + ? FROM trace) AND at<?"

        def sweep(db: sqlite3.Connection) -> int:
            return db.execute(query, (SWEPT, before)).rowcount

        while await self._database.write(sweep):
            pass
