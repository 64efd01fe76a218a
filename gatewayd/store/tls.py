"""What is remembered of other domains' TLS: MTA-STS policies, the level that their mail hosts had, what to report."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from gatewayd.address import Domain
from gatewayd.database.sqlite import Database

STEPS = [
    """
    CREATE TABLE sts_policy (
        domain TEXT PRIMARY KEY, policy_id TEXT NOT NULL, text BLOB NOT NULL, fetched REAL NOT NULL);
    CREATE TABLE tls_level (domain TEXT PRIMARY KEY, level INTEGER NOT NULL, since REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE tls_session (
        day INTEGER NOT NULL, domain TEXT NOT NULL, result TEXT NOT NULL, count INTEGER NOT NULL,
        PRIMARY KEY (day, domain, result)) WITHOUT ROWID
    """
]


class SQLiteTLSMemory:
    """Every method raises StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("tls", STEPS)

    async def policy(self, domain: Domain) -> tuple[str, bytes, float] | None:
        """(the id in the DNS, the policy as it came, when)."""
        query = "SELECT policy_id, text, fetched FROM sts_policy WHERE domain=?"
        return await self._database.read(lambda db: db.execute(query, (domain.name,)).fetchone())

    async def keep_policy(self, domain: Domain, policy_id: str, text: bytes, fetched: float) -> None:
        row = (domain.name, policy_id, text, fetched)
        await self._database.write(lambda db: db.execute("INSERT OR REPLACE INTO sts_policy VALUES (?,?,?,?)", row))

    async def level(self, domain: Domain) -> int:
        query = "SELECT level FROM tls_level WHERE domain=?"
        row = await self._database.read(lambda db: db.execute(query, (domain.name,)).fetchone())
        return int(row[0]) if row else 0

    async def raise_level(self, domain: Domain, level: int, now: float) -> None:
        row = (domain.name, level, now)
        raised = (
            "INSERT INTO tls_level VALUES (?,?,?) ON CONFLICT (domain) DO UPDATE"
            " SET level=excluded.level, since=excluded.since WHERE excluded.level>level"
        )
        await self._database.write(lambda db: db.execute(raised, row))

    async def levels(self) -> list[tuple[str, int, float]]:
        """(domain, level, since when)."""
        query = "SELECT domain, level, since FROM tls_level ORDER BY domain"
        return await self._database.read(lambda db: db.execute(query).fetchall())

    async def forget(self, domain: Domain) -> bool:
        """The level and the policy; returns whether there was one."""

        def forget(db: sqlite3.Connection) -> bool:
            tables = ("tls_level", "sts_policy")
            return any([db.execute(f"DELETE FROM {t} WHERE domain=?", (domain.name,)).rowcount for t in tables])

        return await self._database.write(forget)

    # -- what is reported (RFC 8460) --------------------------------------------------------------------------------

    async def add(self, counts: Mapping[tuple[int, str, str], int]) -> None:
        """(day since 1970, domain, the result as core/tls_reports.py writes it) -> sessions."""
        rows = [(*kind, count) for kind, count in counts.items()]
        insert = (
            "INSERT INTO tls_session VALUES (?,?,?,?)"
            " ON CONFLICT (day, domain, result) DO UPDATE SET count = count + excluded.count"
        )
        await self._database.write(lambda db: db.executemany(insert, rows))

    async def finished(self, today: int) -> list[tuple[int, str]]:
        """(day, domain) of the days before, oldest first."""
        query = "SELECT DISTINCT day, domain FROM tls_session WHERE day<? ORDER BY day, domain"
        return await self._database.read(lambda db: db.execute(query, (today,)).fetchall())

    async def results(self, day: int, domain: str) -> list[tuple[str, int]]:
        query = "SELECT result, count FROM tls_session WHERE day=? AND domain=?"
        return await self._database.read(lambda db: db.execute(query, (day, domain)).fetchall())

    async def reported(self, day: int, domain: str) -> None:
        query = "DELETE FROM tls_session WHERE day=? AND domain=?"
        await self._database.write(lambda db: db.execute(query, (day, domain)))
