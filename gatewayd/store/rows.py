"""What happens inside a transaction: functions over a connection, used by the SQLite engine of the store.

UID and modseq are taken here, in the transaction that uses them, so neither repeats (RFC 3501 §2.3.1.1, RFC 7162 §3.1).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any
from unicodedata import category

from gatewayd.errors import QuotaExceeded, StoreError
from gatewayd.interfaces.records import (
    MAX_MAILBOXES,
    MAX_NAME,
    BadMailbox,
    Entry,
    Mailbox,
    MailboxExists,
    NoSuchMailbox,
    Quota,
)
from gatewayd.store.schema import ON_NEED, SPECIAL_USE

MAILBOX = "mailbox_id, name, special_use, uidvalidity, uidnext, highest_modseq, subscribed, changed"
QUOTA = "used_octets, used_messages, max_octets, max_messages"
ENTRY = "mailbox_id, uid, message_id, modseq, flags, internal_date_ms"
ARRIVAL = ("INBOX", "\\Introductions", "\\Junk")  # what comes comes to one of these
_CONTROLS = {"Cc", "Zl", "Zp"}  # RFC 9051 §5.1
USUAL_NAMES = {special_use: name for name, special_use in SPECIAL_USE.items() if special_use}


def as_mailbox(row: Sequence[Any]) -> Mailbox:
    mailbox_id, name, special_use, uidvalidity, uidnext, highest_modseq, subscribed, changed = row
    return Mailbox(mailbox_id, name, special_use, uidvalidity, uidnext, highest_modseq, bool(subscribed), changed)


def mailbox(db: sqlite3.Connection, account_id: int, name: str) -> Mailbox:
    """By name, or by a special-use attribute. Raises NoSuchMailbox."""
    column = "special_use" if name.startswith("\\") else "name"
    key = (account_id, canonical(name))
    row = db.execute(f"SELECT {MAILBOX} FROM mailbox WHERE account_id=? AND {column}=?", key).fetchone()
    if row is None:
        raise NoSuchMailbox(name)
    return as_mailbox(row)


def mailboxes(db: sqlite3.Connection, account_id: int) -> list[Mailbox]:
    """By name."""
    query = f"SELECT {MAILBOX} FROM mailbox WHERE account_id=? ORDER BY name"
    return [as_mailbox(row) for row in db.execute(query, (account_id,)).fetchall()]


def canonical(name: str) -> str:
    """INBOX is the same in any case, as the superior of others too (RFC 9051 §5.1)."""
    top, slash, below = name.partition("/")
    return "INBOX" + slash + below if top.upper() == "INBOX" else name


def message_key(account_id: int, number: int) -> int:
    """The message_id of the account's message of that number; it begins with its account, as every key does."""
    return (account_id << 32) + number


def place(db: sqlite3.Connection, account_id: int, name: str) -> Mailbox:
    """Where to deliver: one named by its special use is made again where its owner deleted it."""
    usual = USUAL_NAMES.get(name)
    try:
        return mailbox(db, account_id, name)
    except NoSuchMailbox:
        if name in ON_NEED:
            return create_mailbox(db, account_id, name, subscribed=False)
        if usual is None:
            raise
    try:
        return mailbox(db, account_id, usual)
    except NoSuchMailbox:
        return create_mailbox(db, account_id, usual, name)


def special(db: sqlite3.Connection, account_id: int, name: str) -> int | None:
    """The id of the mailbox where `place` would deliver, if it is there."""
    for known in (name, USUAL_NAMES.get(name, name)):
        try:
            return mailbox(db, account_id, known).mailbox_id
        except NoSuchMailbox:
            continue
    return None


def next_modseq(db: sqlite3.Connection, account_id: int) -> int:
    row = db.execute("UPDATE account SET modseq=modseq+1 WHERE account_id=? RETURNING modseq", (account_id,)).fetchall()
    if not row:
        raise StoreError("no such account")
    return int(row[0][0])


def create_mailbox(
    db: sqlite3.Connection, account_id: int, name: str, special_use: str | None = None, *, subscribed: bool = True
) -> Mailbox:
    """Superiors too (RFC 3501 §6.3.3). Raises MailboxExists, BadMailbox."""
    name = canonical(name)
    levels = name.split("/")
    if not all(levels) or name.startswith("\\") or _CONTROLS.intersection(map(category, name)) or len(name) > MAX_NAME:
        raise BadMailbox(
            f"a mailbox name has up to {MAX_NAME} characters, none a control, no empty level, no backslash first"
        )
    if _count(db, account_id) >= MAX_MAILBOXES:
        raise BadMailbox(f"an account has at most {MAX_MAILBOXES} mailboxes")
    for depth in range(1, len(levels)):
        superior = "/".join(levels[:depth])
        if not db.execute("SELECT 1 FROM mailbox WHERE account_id=? AND name=?", (account_id, superior)).fetchone():
            create_mailbox(db, account_id, superior)
    if db.execute("SELECT 1 FROM mailbox WHERE account_id=? AND name=?", (account_id, name)).fetchone():
        raise MailboxExists(name)
    modseq = next_modseq(db, account_id)
    # a recreated mailbox has a greater UIDVALIDITY than the one before it (RFC 3501 §6.3.3)
    uidvalidity, mailbox_id = db.execute(
        "UPDATE account SET uidvalidity=uidvalidity+1, next_mailbox=next_mailbox+1 WHERE account_id=?"
        " RETURNING uidvalidity, next_mailbox-1",
        (account_id,),
    ).fetchall()[0]
    db.execute(
        "INSERT INTO mailbox (account_id, mailbox_id, name, special_use, uidvalidity, highest_modseq, subscribed,"
        " changed) VALUES (?,?,?,?,?,?,?,?)",
        (account_id, mailbox_id, name, special_use, uidvalidity, modseq, subscribed, modseq),
    )
    return mailbox(db, account_id, name)


def _count(db: sqlite3.Connection, account_id: int) -> int:
    query = "SELECT count(*) FROM mailbox WHERE account_id=?"
    return int(db.execute(query, (account_id,)).fetchone()[0])


def new_uids(db: sqlite3.Connection, account_id: int, mailbox_id: int, count: int, modseq: int) -> tuple[int, int]:
    """(uidvalidity, the first of `count` UIDs)."""
    rows = db.execute(
        "UPDATE mailbox SET uidnext=uidnext+?, highest_modseq=? WHERE account_id=? AND mailbox_id=?"
        " RETURNING uidvalidity, uidnext",
        (count, modseq, account_id, mailbox_id),
    ).fetchall()
    return int(rows[0][0]), int(rows[0][1]) - count


def check_quota(used: Quota, octets: int) -> None:
    """After a message of so many octets was added. Raises QuotaExceeded, which undoes it."""
    if used.max_octets is not None and used.octets > used.max_octets:
        raise QuotaExceeded(never=octets > used.max_octets)
    if used.max_messages is not None and used.messages > used.max_messages:
        raise QuotaExceeded(never=used.max_messages == 0)


def joined(flags: Iterable[str]) -> str:
    return _joined(flags) if isinstance(flags, tuple) else _joined(tuple(flags))


@lru_cache(1024)
def _joined(flags: tuple[str, ...]) -> str:
    return " ".join(sorted({flag for flag in flags if flag.lower() != "\\recent"}))


def entries(db: sqlite3.Connection, account_id: int, mailbox_id: int, uids: Sequence[int]) -> list[Entry]:
    """Those of `uids` that exist, each once, by rising UID."""
    found = []
    uids = list(dict.fromkeys(uids))
    for begin in range(0, len(uids), 500):  # below SQLite's limit on parameters
        some = uids[begin : begin + 500]
        marks = ",".join("?" * len(some))
        found += db.execute(
            f"SELECT {ENTRY} FROM entry WHERE account_id=? AND mailbox_id=? AND uid IN ({marks})",
            (account_id, mailbox_id, *some),
        ).fetchall()
    return sorted((Entry(*row) for row in found), key=lambda entry: entry.uid)


def store_flags(
    db: sqlite3.Connection, account_id: int, mailbox_id: int, uids: Sequence[int], mode: str, flags: Collection[str],
    unchanged_since: int | None,
) -> list[Entry]:  # fmt: skip
    given = set(flags)
    result, modseq = [], 0
    for entry in entries(db, account_id, mailbox_id, uids):
        if unchanged_since is not None and entry.modseq > unchanged_since:
            continue
        old = set(entry.flags.split())
        new = joined(old | given if mode == "+" else old - given if mode == "-" else given)
        if new != entry.flags:
            modseq = modseq or next_modseq(db, account_id)
            entry = entry._replace(flags=new, modseq=modseq)
            db.execute(
                "UPDATE entry SET flags=?, modseq=? WHERE account_id=? AND mailbox_id=? AND uid=?",
                (new, modseq, account_id, mailbox_id, entry.uid),
            )
        result.append(entry)
    if modseq:
        touch(db, account_id, mailbox_id, modseq)
    return result


def touch(db: sqlite3.Connection, account_id: int, mailbox_id: int, modseq: int) -> None:
    db.execute(
        "UPDATE mailbox SET highest_modseq=? WHERE account_id=? AND mailbox_id=?", (modseq, account_id, mailbox_id)
    )


def expunge(
    db: sqlite3.Connection, account_id: int, mailbox_id: int, uids: Sequence[int], now_ms: int | None = None
) -> list[int]:
    """Without `now_ms` the messages stay: they have other entries."""
    gone = entries(db, account_id, mailbox_id, uids)
    if not gone:
        return []
    modseq = next_modseq(db, account_id)
    for entry in gone:
        key = (account_id, mailbox_id, entry.uid)
        db.execute("DELETE FROM entry WHERE account_id=? AND mailbox_id=? AND uid=?", key)
        db.execute("INSERT INTO expunged VALUES (?,?,?,?)", (account_id, modseq, mailbox_id, entry.uid))
    if now_ms is not None:
        _free(db, account_id, [entry.message_id for entry in gone], now_ms)
    touch(db, account_id, mailbox_id, modseq)
    return [entry.uid for entry in gone]


def _free(db: sqlite3.Connection, account_id: int, message_ids: Sequence[int], now_ms: int) -> None:
    """Each has an entry less; those that have none go, and are known when they come again."""
    messages = octets = 0
    for message_id in message_ids:
        db.execute("UPDATE message SET entries=entries-1 WHERE message_id=?", (message_id,))
        gone = "DELETE FROM message WHERE message_id=? AND entries=0 RETURNING object_id, came_to, octets"
        for object_id, came_to, size in db.execute(gone, (message_id,)).fetchall():
            messages += 1
            octets += size
            if came_to is not None:
                db.execute("INSERT INTO removed VALUES (?,?,?,?)", (account_id, object_id, came_to, now_ms))
            db.execute("DELETE FROM introduction WHERE account_id=? AND message_id=?", (account_id, message_id))
    if messages:
        db.execute(
            "UPDATE account SET used_octets=used_octets-?, used_messages=used_messages-? WHERE account_id=?",
            (octets, messages, account_id),
        )


def copy(
    db: sqlite3.Connection, account_id: int, mailbox_id: int, uids: Sequence[int], target: str, move: bool
) -> tuple[int, list[tuple[int, int]]]:
    there = mailbox(db, account_id, target)
    sources = entries(db, account_id, mailbox_id, uids)
    if not sources:
        return there.uidvalidity, []
    modseq = next_modseq(db, account_id)
    uidvalidity, first = new_uids(db, account_id, there.mailbox_id, len(sources), modseq)
    pairs = []
    for uid, entry in enumerate(sources, first):
        row = (account_id, there.mailbox_id, uid, entry.message_id, modseq, entry.flags, entry.internal_date_ms)
        db.execute("INSERT INTO entry VALUES (?,?,?,?,?,?,?)", row)
        pairs.append((entry.uid, uid))
    if move:
        expunge(db, account_id, mailbox_id, [entry.uid for entry in sources])
    else:
        more = "UPDATE message SET entries=entries+1 WHERE message_id=?"
        db.executemany(more, [(entry.message_id,) for entry in sources])
    return uidvalidity, pairs
