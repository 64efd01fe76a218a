"""A page of the log, laid into the copy of it that a device keeps (archive.py, tables.py): each function is part of one
transaction."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence

from msgspec.structs import replace

from gatewayd.client.conversation import RANK, conversation_of
from gatewayd.client.message import Message
from gatewayd.client.tables import ANSWERS, DELAYS, REACTS, REPLACES, REPORTS
from gatewayd.interfaces.records import RECEIPTS
from gatewayd.message.model import ObjectError
from gatewayd.wire.parley.schema import Change, Changes, Mailbox, Object

SHOWN = 256 * 1024  # octets: a longer text is not read for a list
INTRODUCTIONS = "Introductions"  # the mailbox where strangers wait (docs/parley.rst §8.4)
KEPT = "\\Kept"  # what the server has lost; no mailbox of its own can be called so
APART = ("Junk", "Trash", INTRODUCTIONS, RECEIPTS)  # mailboxes that are no part of conversations
IN_CONVERSATIONS = f"e.mailbox NOT IN ({', '.join(repr(name) for name in APART)})"


def take(db: sqlite3.Connection, user: str, page: Changes) -> list[Message]:
    """Returns the messages that are new here."""
    (known,) = db.execute("SELECT modseq FROM log").fetchone()
    if page.modseq <= known:
        return []  # another program was here before us, and may have gone further
    _name(db, page.mailboxes)
    new = [message for change in page.changes if (message := _apply(db, user, change)) is not None]
    rows = [(one.address, one.state, one.since, one.modseq) for one in page.contacts]
    db.executemany("INSERT OR REPLACE INTO contact VALUES (?,?,?,?)", rows)
    db.execute("UPDATE log SET modseq=?1, epoch=iif(?2=x'', epoch, ?2)", (page.modseq, page.epoch))
    if not page.more:
        came = "DELETE FROM entry WHERE mailbox=?1 AND id IN (SELECT id FROM entry WHERE mailbox!=?1)"
        db.execute(came, (KEPT,))
    return new


def keep(db: sqlite3.Connection, user: str, objects: Sequence[Object]) -> None:
    """For a page that names them only, and is taken next."""
    for one in objects:
        with contextlib.suppress(ObjectError):  # as below
            _keep(db, user, Message.of(Change("", 0, 0, id=one.id, signed=one.signed, bodies=one.bodies)))


def begin_anew(db: sqlite3.Connection, epoch: bytes) -> None:
    """The server's log is another one now than in that epoch. What was here waits to come again; what does not is
    kept, since this may be the only copy."""
    if db.execute("SELECT epoch FROM log").fetchone()[0] != epoch:
        return  # another program was here before us
    there = db.execute("SELECT mailbox, uid FROM entry WHERE mailbox!=?", (KEPT,)).fetchall()
    db.execute(
        "INSERT INTO entry SELECT ?1, row_number() OVER () + (SELECT coalesce(max(uid), 0) FROM entry WHERE"
        " mailbox=?1), 0, '\\Seen', e.id FROM (SELECT DISTINCT e.id FROM entry e WHERE e.mailbox!=?1 AND"
        f" {IN_CONVERSATIONS} AND NOT EXISTS (SELECT 1 FROM entry k WHERE k.mailbox=?1 AND k.id=e.id)) e",
        (KEPT,),
    )
    for mailbox, uid in there:
        _drop(db, mailbox, uid)
    db.execute("DELETE FROM contact")
    db.execute("DELETE FROM mailbox")
    db.execute("UPDATE log SET modseq=0, epoch=x''")


def _name(db: sqlite3.Connection, mailboxes: Sequence[Mailbox]) -> None:
    """What is in one that is gone is gone too; one that is renamed keeps what is in it, though two change names."""
    known = dict(db.execute("SELECT uidvalidity, name FROM mailbox").fetchall())
    for gone in (one for one in mailboxes if one.gone and one.uidvalidity in known):
        for (uid,) in db.execute("SELECT uid FROM entry WHERE mailbox=?", (known[gone.uidvalidity],)).fetchall():
            _drop(db, known[gone.uidvalidity], uid)
        db.execute("DELETE FROM mailbox WHERE uidvalidity=?", (gone.uidvalidity,))
    named = [one for one in mailboxes if not one.gone]
    moved = [(one, f"\0{one.uidvalidity}") for one in named if known.get(one.uidvalidity, one.name) != one.name]
    for one, between in moved:
        db.execute("UPDATE entry SET mailbox=? WHERE mailbox=?", (between, known[one.uidvalidity]))
    for one, between in moved:
        db.execute("UPDATE entry SET mailbox=? WHERE mailbox=?", (one.name, between))
    db.executemany("INSERT OR REPLACE INTO mailbox VALUES (?,?)", [(one.uidvalidity, one.name) for one in named])


def _apply(db: sqlite3.Connection, user: str, change: Change) -> Message | None:
    if change.gone:
        _drop(db, change.mailbox, change.uid)
        return None
    message = None
    try:
        if change.signed:
            message = Message.of(change)
            _keep(db, user, message)
        elif found := db.execute("SELECT signed FROM object WHERE id=?", (change.id,)).fetchone():
            message = Message.of(replace(change, signed=found[0], bodies=_bodies(db, change.id)))
    except ObjectError:  # what no reader could show; the next version of this program may
        return None
    row = (change.mailbox, change.uid, change.modseq, " ".join(change.flags), change.id)
    known = db.execute(
        "SELECT 1 FROM entry WHERE (mailbox, uid)=(?, ?) OR (mailbox, id)=(?, ?)", (*row[:2], KEPT, change.id)
    ).fetchone()
    db.execute("INSERT OR REPLACE INTO entry VALUES (?,?,?,?,?)", row)
    return None if known else message


def _keep(db: sqlite3.Connection, user: str, message: Message) -> None:
    content, fields = message.content, message.content.fields
    row = (content.id, content.signed, fields.date, conversation_of(user, fields))
    db.execute("INSERT OR IGNORE INTO object VALUES (?,?,?,?)", row)
    for part in fields.parts:
        db.execute("INSERT OR IGNORE INTO part VALUES (?,?,?)", (content.id, part.hash, part.type))
    if fields.replaces:
        db.execute("INSERT OR IGNORE INTO link VALUES (?,?,?)", (fields.replaces, content.id, REPLACES))
    said = {receipt.status for receipt in message.receipts}
    answers = ANSWERS if message.reaction is None else REACTS
    kind = REPORTS if "failed" in said else DELAYS if "delayed" in said else answers
    db.executemany(
        "INSERT OR IGNORE INTO link VALUES (?,?,?)", [(parent, content.id, kind) for parent in fields.parents]
    )
    files = (part.name or "" for part in message.files)
    words = "\n".join((message.text[:SHOWN], fields.subject, fields.from_, *fields.to, *files)).casefold()
    db.execute("INSERT OR IGNORE INTO words VALUES (?,?)", (content.id, words))
    known = [(one.of, one.by, one.status, one.at, one.signed) for one in message.receipts if one.status in RANK]
    db.executemany("INSERT OR IGNORE INTO receipt VALUES (?,?,?,?,?)", known)
    for digest, octets in content.bodies.items():
        db.execute("INSERT OR IGNORE INTO body VALUES (?,?)", (digest, octets))


def _drop(db: sqlite3.Connection, mailbox: str, uid: int) -> None:
    """With the object and the bodies that nothing names any more."""
    found = db.execute("DELETE FROM entry WHERE mailbox=? AND uid=? RETURNING id", (mailbox, uid)).fetchall()
    for (id,) in found:
        if db.execute("SELECT 1 FROM entry WHERE id=?", (id,)).fetchone() is None:
            db.execute("DELETE FROM object WHERE id=?", (id,))
            db.execute("DELETE FROM link WHERE id=?", (id,))
            db.execute("DELETE FROM words WHERE id=?", (id,))
            for (digest,) in db.execute("DELETE FROM part WHERE id=? RETURNING hash", (id,)).fetchall():
                db.execute(
                    "DELETE FROM body WHERE hash=?1 AND NOT EXISTS (SELECT 1 FROM part WHERE hash=?1)", (digest,)
                )


def _bodies(db: sqlite3.Connection, id: bytes) -> tuple[bytes, ...]:
    query = "SELECT b.octets FROM part p JOIN body b USING (hash) WHERE p.id=?"
    return tuple(octets for (octets,) in db.execute(query, (id,)))
