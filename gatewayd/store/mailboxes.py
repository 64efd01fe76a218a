"""What an account's owner does to mailboxes, inside a transaction (RFC 9051 §6.3). Making one is in rows.py: deliveries
do that too."""

from __future__ import annotations

import sqlite3

from gatewayd.interfaces.records import BadMailbox, Counts, MailboxExists
from gatewayd.store import rows


def delete(db: sqlite3.Connection, account_id: int, name: str, now_ms: int) -> None:
    gone = rows.mailbox(db, account_id, name)
    if gone.name == "INBOX":
        raise BadMailbox("INBOX cannot be deleted")
    rows.expunge(db, account_id, gone.mailbox_id, _uids(db, account_id, gone.mailbox_id), now_ms)
    db.execute("DELETE FROM mailbox WHERE account_id=? AND mailbox_id=?", (account_id, gone.mailbox_id))
    row = (account_id, rows.next_modseq(db, account_id), gone.name, gone.uidvalidity)
    db.execute("INSERT INTO mailbox_deleted (account_id, modseq, name, uidvalidity) VALUES (?,?,?,?)", row)


def rename(db: sqlite3.Connection, account_id: int, name: str, to: str) -> None:
    moved = rows.mailbox(db, account_id, name)
    if moved.name == "INBOX":  # its messages move, it stays (RFC 3501 §6.3.5)
        rows.create_mailbox(db, account_id, to)
        rows.copy(db, account_id, moved.mailbox_id, _uids(db, account_id, moved.mailbox_id), to, True)
        return
    made = rows.create_mailbox(db, account_id, to)  # checks the name, makes its superiors
    db.execute("DELETE FROM mailbox WHERE account_id=? AND mailbox_id=?", (account_id, made.mailbox_id))
    begin = f"{moved.name}/"
    if made.name.startswith(begin):
        raise BadMailbox("a mailbox cannot be its own inferior")
    names = db.execute("SELECT mailbox_id, name FROM mailbox WHERE account_id=?", (account_id,)).fetchall()
    there = {old for _, old in names}
    modseq = rows.next_modseq(db, account_id)
    update = "UPDATE mailbox SET name=?, changed=? WHERE account_id=? AND mailbox_id=?"
    for mailbox_id, old in names:
        if old == moved.name or old.startswith(begin):
            new = made.name + old[len(moved.name) :]
            if new in there:
                raise MailboxExists(new)
            db.execute(update, (new, modseq, account_id, mailbox_id))


def subscribe(db: sqlite3.Connection, account_id: int, name: str, subscribed: bool) -> None:
    mailbox = rows.mailbox(db, account_id, name)
    if mailbox.subscribed is not subscribed:
        row = (subscribed, rows.next_modseq(db, account_id), account_id, mailbox.mailbox_id)
        db.execute("UPDATE mailbox SET subscribed=?, changed=? WHERE account_id=? AND mailbox_id=?", row)


def counts(db: sqlite3.Connection, account_id: int, mailbox_id: int | None) -> dict[int, Counts]:
    only, key = ("", (account_id,)) if mailbox_id is None else (" AND mailbox_id=?", (account_id, mailbox_id))
    query = "SELECT mailbox_id, count(*), sum(instr(flags, '\\Seen') = 0) FROM entry WHERE account_id=?"
    found = db.execute(f"{query}{only} GROUP BY mailbox_id", key).fetchall()
    return {mailbox_id: Counts(*row) for mailbox_id, *row in found}


def _uids(db: sqlite3.Connection, account_id: int, mailbox_id: int) -> list[int]:
    key = (account_id, mailbox_id)
    return [uid for (uid,) in db.execute("SELECT uid FROM entry WHERE account_id=? AND mailbox_id=?", key).fetchall()]
