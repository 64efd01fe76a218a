"""Contacts inside a transaction: who may write to an account (docs/parley.rst, Consent)."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from gatewayd.address import Address
from gatewayd.interfaces import Contact, ContactState
from gatewayd.store import rows

CONTACT = "address, state, since_ms, modseq"


def as_contact(row: Sequence[Any]) -> Contact:
    address, state, since_ms, modseq = row
    return Contact(Address.parse(address), state, since_ms, modseq)


def contact(db: sqlite3.Connection, account_id: int, address: Address) -> Contact | None:
    query = f"SELECT {CONTACT} FROM contact WHERE account_id=? AND domain=? AND local=?"
    row = db.execute(query, (account_id, address.domain.name, address.key[0])).fetchone()
    return as_contact(row) if row else None


def contacts(db: sqlite3.Connection, account_id: int) -> list[Contact]:
    query = f"SELECT {CONTACT} FROM contact WHERE account_id=? ORDER BY domain, local"
    return [as_contact(row) for row in db.execute(query, (account_id,))]


def set_contact(db: sqlite3.Connection, account_id: int, address: Address, state: ContactState, now_ms: int) -> bool:
    """Whether that changed anything."""
    known = contact(db, account_id, address)
    if known is not None and known.state == state:
        return False
    modseq = rows.next_modseq(db, account_id)
    row = (account_id, address.domain.name, address.key[0], str(address), state, now_ms, modseq)
    db.execute(
        "INSERT OR REPLACE INTO contact (account_id, domain, local, address, state, since_ms, modseq)"
        " VALUES (?,?,?,?,?,?,?)",
        row,
    )
    return True
