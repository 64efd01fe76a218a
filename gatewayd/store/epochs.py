"""Whether a place in an account's log is one of this log, or of one that was lost with the disk (docs/parley.rst §7.4).

Each time that a gateway begins to serve the store it begins an *epoch*, with a stamp that no other ever had, and notes
how far each account's log had come in the one before. A store restored from a backup goes on with numbers that were
given already, but in an epoch of its own: what a client read in the lost one is beyond the end of an epoch that is
known here, or of one that is not. Mail programs know no epochs (RFC 9051 §2.3.1.1): for them a file beside the
database, the *witness*, says how far the store had come; when that is further than the store is, each mailbox gets a
new UIDVALIDITY.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from gatewayd.database.sqlite import connect, typed
from gatewayd.errors import StoreError

KEPT = 400  # epochs: a client that was away for longer reads its log anew
CURRENT = "SELECT number, stamp FROM epoch ORDER BY number DESC LIMIT 1"


def current(db: sqlite3.Connection) -> bytes:
    stamp: bytes = db.execute(CURRENT).fetchone()[1]
    return stamp


def holds(db: sqlite3.Connection, account_id: int, modseq: int, epoch: bytes, last: int) -> bool:
    """Whether this log, which has come to `last`, was at that modseq in that epoch; b"": in whichever."""
    if modseq > last:
        return False
    if not epoch or not modseq:
        return True
    row = db.execute("SELECT number FROM epoch WHERE stamp=?", (epoch,)).fetchone()
    if row is None or row[0] == db.execute(CURRENT).fetchone()[0]:
        return row is not None
    query = "SELECT modseq FROM epoch_end WHERE account_id=? AND number<=? ORDER BY number DESC LIMIT 1"
    end = db.execute(query, (account_id, row[0])).fetchone()
    return end is not None and modseq <= end[0]


def begin(database: Path, witness: Path, now: float) -> bool:
    """Before anything is served. True: the store is an older one than the witness saw. Raises StoreError."""
    try:
        with contextlib.closing(connect(database)) as db:
            db.execute("BEGIN IMMEDIATE")
            older = _is_older(db, witness)
            if older:
                _renew(db, int(now))
            _begin(db)
            db.execute("COMMIT")
        testify(database, witness)
    except sqlite3.Error as error:
        raise typed(error, f"{database}: ") from error
    return older


def testify(database: Path, witness: Path) -> None:
    """To be repeated: what comes between the last time and a backup's return is not noticed by `begin`. Raises
    StoreError."""
    try:
        with contextlib.closing(connect(database)) as db:
            said = f"{current(db).hex()} {_total(db)}\n"
        partial = witness.with_suffix(".new")
        with partial.open("w") as file:
            file.write(said)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(witness)
    except sqlite3.Error as error:
        raise typed(error, f"{database}: ") from error
    except OSError as error:
        raise StoreError(f"{witness}: {error}") from error


def _is_older(db: sqlite3.Connection, witness: Path) -> bool:
    number, stamp = db.execute(CURRENT).fetchone()
    try:
        seen, total = witness.read_text().split()
        return bool(seen != stamp.hex() or int(total) > _total(db))
    except FileNotFoundError:
        return bool(number > 1)  # the first epoch is the schema's: no gateway has served this store
    except ValueError:
        return True  # who knows
    except OSError as error:
        raise StoreError(f"{witness}: {error}") from error


def _total(db: sqlite3.Connection) -> int:
    """How far the store has come: it never falls."""
    return int(db.execute("SELECT coalesce(sum(modseq), 0) FROM account").fetchone()[0])


def _renew(db: sqlite3.Connection, now: int) -> None:
    """No number that the lost store may have given means anything any more. Its UIDVALIDITYs were less than the
    time."""
    db.execute("DELETE FROM epoch_end")
    db.execute("DELETE FROM epoch")
    db.execute("UPDATE account SET uidvalidity=max(uidvalidity, ?)", (now,))
    query = "SELECT account_id, mailbox_id FROM mailbox ORDER BY account_id, mailbox_id"
    for account_id, mailbox_id in db.execute(query).fetchall():
        taken = "UPDATE account SET uidvalidity=uidvalidity+1 WHERE account_id=? RETURNING uidvalidity"
        (uidvalidity,) = db.execute(taken, (account_id,)).fetchall()[0]
        update = "UPDATE mailbox SET uidvalidity=? WHERE account_id=? AND mailbox_id=?"
        db.execute(update, (uidvalidity, account_id, mailbox_id))


def _begin(db: sqlite3.Connection) -> None:
    """Only the accounts whose log has grown in an epoch have a row for its end."""
    row = db.execute(CURRENT).fetchone()
    if row is not None:
        for table in ("epoch", "epoch_end"):
            db.execute(f"DELETE FROM {table} WHERE number<=?", (row[0] - KEPT,))
        db.execute(
            "INSERT INTO epoch_end SELECT account_id, ?, modseq FROM account WHERE modseq > coalesce((SELECT e.modseq"
            " FROM epoch_end e WHERE e.account_id=account.account_id ORDER BY number DESC LIMIT 1), 0)",
            (row[0],),
        )
    db.execute("INSERT INTO epoch (stamp) VALUES (randomblob(8))")
