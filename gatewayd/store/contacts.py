"""Contacts inside a transaction: who may write to an account, and what of strangers waits (docs/parley.rst §8.4).

A move out of Introductions or Junk is a decision, whatever protocol asked for it: so it is seen here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import Any

from gatewayd.address import Address, AddressError
from gatewayd.interfaces.records import Allowance, Contact, ContactState, Introduction, Placed, TooManyIntroductions
from gatewayd.message.bridge import NOBODY
from gatewayd.message.model import ObjectError, Payload
from gatewayd.store import rows

CONTACT = "address, state, since_ms, modseq"
DAY = 86400 * 1000  # milliseconds


def as_contact(row: Sequence[Any]) -> Contact:
    address, state, since_ms, modseq = row
    return Contact(Address.parse(address), state, since_ms, modseq)


def contact(db: sqlite3.Connection, account_id: int, address: Address) -> Contact | None:
    query = f"SELECT {CONTACT} FROM contact WHERE account_id=? AND domain=? AND local=? AND state!='none'"
    row = db.execute(query, (account_id, *_key(address))).fetchone()
    return as_contact(row) if row else None


def contacts(db: sqlite3.Connection, account_id: int) -> list[Contact]:
    query = f"SELECT {CONTACT} FROM contact WHERE account_id=? AND state!='none' ORDER BY domain, local"
    return [as_contact(row) for row in db.execute(query, (account_id,))]


def set_contact(
    db: sqlite3.Connection, account_id: int, address: Address, state: ContactState, now_ms: int,
    moved: Collection[int] = (),
) -> bool:  # fmt: skip
    """Whether that changed anything. `moved`: messages whose place is decided already."""
    known = contact(db, account_id, address)
    if (known.state if known else "none") == state:
        return False
    modseq = rows.next_modseq(db, account_id)
    row = (account_id, *_key(address), str(address), state, now_ms, modseq)
    db.execute(
        "INSERT OR REPLACE INTO contact (account_id, domain, local, address, state, since_ms, modseq)"
        " VALUES (?,?,?,?,?,?,?)",
        row,
    )
    if state == "granted":
        _bring(db, account_id, address, ("\\Introductions", "\\Junk"), "INBOX", moved)
        db.execute("DELETE FROM introduction WHERE account_id=? AND domain=? AND local=?", (account_id, *_key(address)))
    elif state == "revoked":
        _bring(db, account_id, address, ("\\Introductions",), "\\Junk", moved)
    return True


def request(db: sqlite3.Connection, account_id: int, address: Address, allowance: Allowance, now_ms: int) -> bool:
    """A stranger becomes "requested". Raises TooManyIntroductions."""
    if contact(db, account_id, address) is not None:
        return False
    query = "SELECT count(*) FROM contact WHERE account_id=? AND state='requested' AND since_ms>?"
    if db.execute(query, (account_id, now_ms - DAY)).fetchone()[0] >= allowance.account:
        raise TooManyIntroductions("Too many strangers have written to this recipient today")
    return set_contact(db, account_id, address, "requested", now_ms)


def granted(db: sqlite3.Connection, account_id: int, address: Address) -> bool:
    known = contact(db, account_id, address)
    return known is not None and known.state == "granted"


def admit(db: sqlite3.Connection, account_id: int, introduction: Introduction, now_ms: int) -> None:
    """Before a stranger's message is kept, or that of one who was revoked. Raises TooManyIntroductions."""
    sender, allowance = introduction.sender, introduction.allowance
    if allowance is None:
        return
    query = "SELECT count(*) FROM introduction WHERE account_id=? AND domain=? AND local=? AND requests"
    if not allowance.sender or db.execute(query, (account_id, *_key(sender))).fetchone()[0] >= allowance.sender:
        raise TooManyIntroductions("Earlier messages of this sender wait for the recipient's consent")
    request(db, account_id, sender, allowance, now_ms)


def keep(db: sqlite3.Connection, account_id: int, introduction: Introduction, placed: Placed) -> None:
    """It stands there, and waits."""
    query = "SELECT message_id FROM entry WHERE account_id=? AND modseq=? AND uid=?"
    (message_id,) = db.execute(query, (account_id, placed.modseq, placed.uid)).fetchone()
    row = (account_id, message_id, *_key(introduction.sender), introduction.allowance is not None)
    db.execute("INSERT INTO introduction (account_id, message_id, domain, local, requests) VALUES (?,?,?,?,?)", row)


def copy(
    db: sqlite3.Connection, account_id: int, mailbox_id: int, uids: Sequence[int], target: str, move: bool, now_ms: int
) -> tuple[tuple[int, list[tuple[int, int]]], list[Address]]:
    """What `rows.copy` returns, and about whom it was a decision."""
    introductions, junk = (rows.special(db, account_id, name) for name in ("\\Introductions", "\\Junk"))
    to = rows.mailbox(db, account_id, target).mailbox_id
    undecided = (introductions, rows.special(db, account_id, "\\Trash"), mailbox_id)
    decided: list[Address] = []
    if mailbox_id not in (introductions, junk) or to in undecided:
        return rows.copy(db, account_id, mailbox_id, uids, target, move), decided
    messages = [entry.message_id for entry in rows.entries(db, account_id, mailbox_id, uids)]
    done = rows.copy(db, account_id, mailbox_id, uids, target, move)
    for sender in _senders(db, account_id, messages):
        if set_contact(db, account_id, sender, "revoked" if to == junk else "granted", now_ms, messages):
            decided.append(sender)
    return done, decided


def _senders(db: sqlite3.Connection, account_id: int, messages: Sequence[int]) -> list[Address]:
    """The authors that they name."""
    found: dict[tuple[str, str], Address] = {}
    for message_id in messages:
        query = "SELECT payload FROM message WHERE account_id=? AND message_id=?"
        (payload,) = db.execute(query, (account_id, message_id)).fetchone()
        try:
            author = Payload.decode(payload).from_
            sender = Address.parse(author)
        except (ObjectError, AddressError):  # taken in by an earlier release
            continue
        if author != NOBODY:
            found.setdefault(sender.key, sender)
    return list(found.values())


def _bring(
    db: sqlite3.Connection, account_id: int, sender: Address, sources: Sequence[str], target: str,
    moved: Collection[int],
) -> None:  # fmt: skip
    """What waits of this sender goes to another mailbox."""
    query = (
        "SELECT uid, message_id FROM entry CROSS JOIN introduction USING (account_id, message_id)"
        " WHERE account_id=? AND domain=? AND local=? AND mailbox_id=?"
    )
    for name in sources:
        source = rows.special(db, account_id, name)
        waiting = db.execute(query, (account_id, *_key(sender), source)).fetchall()
        uids = [uid for uid, message_id in waiting if message_id not in moved]
        if source is not None and uids:
            rows.copy(db, account_id, source, uids, rows.place(db, account_id, target).name, True)


def _key(address: Address) -> tuple[str, str]:
    local, domain = address.key
    return domain, local
