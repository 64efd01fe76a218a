"""What was seen of each domain that wants DMARC reports, counted until the day's report is sent (RFC 7489 §7.2)."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from gatewayd.database.sqlite import Database

STEPS = [
    """
    CREATE TABLE dmarc_seen (
        day INTEGER NOT NULL, domain TEXT NOT NULL, policy TEXT NOT NULL, sighting TEXT NOT NULL,
        count INTEGER NOT NULL,
        PRIMARY KEY (day, domain, policy, sighting)) WITHOUT ROWID
    """
]

# day since 1970, domain of the policy, the policy and what was seen as core/dmarc_reports.py writes them
Kind = tuple[int, str, str, str]


class SQLiteSightings:
    """Every method raises StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("dmarc", STEPS)

    async def add(self, counts: Mapping[Kind, int]) -> None:
        def add(db: sqlite3.Connection) -> None:
            db.executemany(
                "INSERT INTO dmarc_seen VALUES (?,?,?,?,?)"
                " ON CONFLICT (day, domain, policy, sighting) DO UPDATE SET count = count + excluded.count",
                [(*kind, count) for kind, count in counts.items()],
            )

        await self._database.write(add)

    async def finished(self, today: int) -> list[tuple[int, str]]:
        """(day, domain) of the days before, oldest first."""
        query = "SELECT DISTINCT day, domain FROM dmarc_seen WHERE day<? ORDER BY day, domain"
        return await self._database.read(lambda db: db.execute(query, (today,)).fetchall())

    async def of(self, day: int, domain: str) -> list[tuple[str, str, int]]:
        """(policy, sighting, count)."""
        query = "SELECT policy, sighting, count FROM dmarc_seen WHERE day=? AND domain=? ORDER BY policy, sighting"
        return await self._database.read(lambda db: db.execute(query, (day, domain)).fetchall())

    async def forget(self, day: int, domain: str) -> None:
        query = "DELETE FROM dmarc_seen WHERE day=? AND domain=?"
        await self._database.write(lambda db: db.execute(query, (day, domain)))
