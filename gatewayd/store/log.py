"""An account's log, read in pages: what takes a modseq, and stands at its latest."""

from __future__ import annotations

import sqlite3
from typing import Any

from gatewayd.errors import StoreError
from gatewayd.interfaces.records import Changes, Deleted, Entry, Expunged, LogBeganAnew
from gatewayd.store import epochs, rows
from gatewayd.store.contacts import CONTACT, as_contact


def read_log(db: sqlite3.Connection, account_id: int, since_modseq: int, limit: int, epoch: bytes) -> Changes:
    """One modseq is never cut in two: a single one larger than the limit comes whole. Raises LogBeganAnew."""
    row = db.execute("SELECT modseq FROM account WHERE account_id=?", (account_id,)).fetchone()
    if row is None:
        raise StoreError("no such account")
    if not epochs.holds(db, account_id, since_modseq, epoch, row[0]):
        raise LogBeganAnew("that place is not in this log, or too old: ask from 0")

    def found(table: str, columns: str) -> list[tuple[Any, ...]]:
        query = f"SELECT {columns}, modseq FROM {table} WHERE account_id=? AND modseq>? ORDER BY modseq LIMIT ?"
        return db.execute(query, (account_id, since_modseq, limit + 1)).fetchall()

    def at(table: str, columns: str, modseq: int) -> list[tuple[Any, ...]]:
        query = f"SELECT {columns}, modseq FROM {table} WHERE account_id=? AND modseq=?"
        return db.execute(query, (account_id, modseq)).fetchall()

    tables = (("entry", rows.ENTRY), ("expunged", "mailbox_id, uid, modseq"), ("contact", CONTACT))
    pages = [found(*table) for table in tables]
    numbers = sorted(row[-1] for page in pages for row in page)
    upto, more = row[0], len(numbers) > limit
    if more:
        last = numbers[limit]
        upto = max((n for n in numbers if n < last), default=last)
        pages = (
            [at(*table, last) for table in tables]
            if upto == last
            else [[row for row in page if row[-1] <= upto] for page in pages]
        )
    entries, expunged, contacts = pages
    query = "SELECT name, uidvalidity, modseq FROM mailbox_deleted WHERE account_id=? AND modseq>? ORDER BY modseq"
    deleted = db.execute(query, (account_id, since_modseq)).fetchall()
    return Changes(
        [Entry(*r[:-1]) for r in entries],
        [Expunged(*r[:-1]) for r in expunged],
        [as_contact(r[:-1]) for r in contacts],
        rows.mailboxes(db, account_id),
        [Deleted(*row) for row in deleted],
        upto,
        more,
        epochs.current(db),
    )
