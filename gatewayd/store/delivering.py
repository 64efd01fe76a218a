"""Deliveries inside the writer's transaction: many with one statement for each table, or, where one of them is out of
the ordinary, each by itself.

UID and modseq are taken here, in the transaction that uses them, so neither repeats (RFC 3501 §2.3.1.1, RFC 7162 §3.1).
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import cbor2

from gatewayd.database.sqlite import typed
from gatewayd.errors import QuotaExceeded, StoreError
from gatewayd.interfaces.records import Delivery, Placed, Quota
from gatewayd.store import contacts, rows

PLACES = """
    SELECT account, wanted, mailbox_id, name, uidvalidity
    FROM (SELECT value->>0 AS account, value->>1 AS wanted FROM json_each(?)) CROSS JOIN mailbox
    WHERE account_id=account AND (name=wanted OR special_use=wanted)"""
ACCOUNT_NUMBERS = f"""
    UPDATE account SET modseq=modseq+count, next_message=next_message+count,
        used_messages=used_messages+count, used_octets=used_octets+size
    FROM (SELECT value->>0 AS account, value->>1 AS count, value->>2 AS size FROM json_each(?)) WHERE account_id=account
    RETURNING account_id, modseq, next_message, {rows.QUOTA}"""
UIDS = """
    UPDATE mailbox SET uidnext=uidnext+count, highest_modseq=highest
    FROM (SELECT value->>0 AS account, value->>1 AS id, value->>2 AS count, value->>3 AS highest FROM json_each(?))
    WHERE account_id=account AND mailbox_id=id
    RETURNING account_id, mailbox_id, uidnext"""
MESSAGE = """
    INSERT INTO message (account_id, message_id, object_id, protected, payload, signature, trace, bodies, octets)
    VALUES (?,?,?,?,?,?,?,?,?)"""
BLOB = "INSERT INTO message_blob VALUES (?,?,?)"
ENTRY = "INSERT INTO entry VALUES (?,?,?,?,?,?,?)"
SEEN = "INSERT OR IGNORE INTO seen VALUES (?,?,?,?,?,?,?)"
ARRIVED = 0  # where a message came to that is looked for by no mailbox's id, but everywhere where messages come
WAS_SEEN = "SELECT uidvalidity, uid, modseq FROM seen WHERE account_id=? AND object_id=? AND mailbox_id=?"


class _Unusual(Exception):
    """One of them is a repeat, has no mailbox, or no room: each is looked at by itself."""


def deliver(db: sqlite3.Connection, deliveries: Sequence[Delivery], now_ms: int) -> list[Placed | StoreError]:
    """Each stands or falls alone."""
    of_known = iter(_of_known(db, [d for d in deliveries if d.introduction is None], now_ms))
    return [_alone(db, d, now_ms) if d.introduction is not None else next(of_known) for d in deliveries]


def _of_known(db: sqlite3.Connection, deliveries: Sequence[Delivery], now_ms: int) -> list[Placed | StoreError]:
    """Those that are no introductions."""
    if not deliveries:
        return []
    db.execute("SAVEPOINT deliveries")
    placed: list[Placed | StoreError] = []
    try:
        placed += _together(db, deliveries, now_ms)
    except (_Unusual, sqlite3.Error):
        if not db.in_transaction:
            raise
        db.execute("ROLLBACK TO deliveries")
        placed = [_alone(db, delivery, now_ms) for delivery in deliveries]
    db.execute("RELEASE deliveries")
    return placed


def _together(db: sqlite3.Connection, deliveries: Sequence[Delivery], now_ms: int) -> list[Placed]:
    wanted = [(d.account_id, rows.canonical(d.mailbox)) for d in deliveries]
    places = {row[:2]: row[2:] for row in db.execute(PLACES, (json.dumps(list(set(wanted))),)).fetchall()}
    if not all(place in places for place in wanted):
        raise _Unusual
    counts, sizes = Counter[int](), Counter[int]()
    for delivery in deliveries:
        counts[delivery.account_id] += 1
        sizes[delivery.account_id] += _octets(delivery)
    taken = json.dumps([(account_id, count, sizes[account_id]) for account_id, count in counts.items()])
    numbers: dict[int, tuple[int, int]] = {}
    for account_id, modseq, message_id, *used in db.execute(ACCOUNT_NUMBERS, (taken,)).fetchall():
        numbers[account_id] = modseq - counts[account_id], message_id - counts[account_id]
        try:
            rows.check_quota(Quota(*used), 0)
        except QuotaExceeded:
            raise _Unusual from None
    given: list[tuple[int, int]] = []  # modseq and message id of each
    uses: dict[tuple[int, int], list[int]] = {}  # (account, mailbox) -> how many, the highest modseq
    for delivery, place in zip(deliveries, wanted, strict=True):
        modseq, message_id = numbers[delivery.account_id]
        modseq += 1
        numbers[delivery.account_id] = modseq, message_id + 1
        given.append((modseq, message_id))
        use = uses.setdefault((delivery.account_id, places[place][0]), [0, 0])
        use[0] += 1
        use[1] = modseq
    uids = {
        (account_id, mailbox_id): uidnext - uses[account_id, mailbox_id][0]
        for account_id, mailbox_id, uidnext in db.execute(
            UIDS, (json.dumps([(*box, *use) for box, use in uses.items()]),)
        )
    }
    kept: dict[int, bytes] = {}  # by content: most come for two, the sender and the recipient
    placed, messages, blobs, entries, seen = [], [], [], [], []
    for delivery, place, (modseq, message_id) in zip(deliveries, wanted, given, strict=True):
        account_id, content = delivery.account_id, delivery.content
        mailbox_id, name, uidvalidity = places[place]
        uid = uids[account_id, mailbox_id]
        uids[account_id, mailbox_id] = uid + 1
        bodies = kept.get(id(content)) or kept.setdefault(id(content), cbor2.dumps(content.inline))
        messages.append(_message(delivery, message_id, bodies))
        blobs += _blobs(delivery, message_id)
        entries.append(_entry(delivery, mailbox_id, uid, message_id, modseq, now_ms))
        if delivery.once:
            seen.append((account_id, content.id, _repeated_in(place[1], mailbox_id), uidvalidity, uid, modseq, now_ms))
        placed.append(Placed(uidvalidity, uid, modseq, False, name))
    if seen and db.executemany(SEEN, seen).rowcount != len(seen):
        raise _Unusual
    db.executemany(MESSAGE, messages)
    db.executemany(BLOB, blobs)
    db.executemany(ENTRY, entries)
    return placed


def _alone(db: sqlite3.Connection, delivery: Delivery, now_ms: int) -> Placed | StoreError:
    db.execute("SAVEPOINT delivery")
    placed: Placed | StoreError
    try:
        placed = (_introduced if delivery.introduction else _placed)(db, delivery, now_ms)
    except (StoreError, sqlite3.Error) as error:
        if not db.in_transaction:
            raise
        db.execute("ROLLBACK TO delivery")
        placed = typed(error) if isinstance(error, sqlite3.Error) else error
    db.execute("RELEASE delivery")
    return placed


def _introduced(db: sqlite3.Connection, delivery: Delivery, now_ms: int) -> Placed:
    """A repeat is answered as the first time, only then does the allowance count. Raises TooManyIntroductions."""
    introduction, account_id = delivery.introduction, delivery.account_id
    assert introduction is not None
    if contacts.granted(db, account_id, introduction.sender):  # a moment ago
        return _placed(db, replace(delivery, mailbox="INBOX"), now_ms)
    if db.execute(WAS_SEEN, (account_id, delivery.content.id, ARRIVED)).fetchone() is None:
        contacts.admit(db, account_id, introduction, now_ms)
    placed = _placed(db, delivery, now_ms)
    if not placed.duplicate:
        contacts.keep(db, account_id, introduction, placed)
    return placed


def _placed(db: sqlite3.Connection, delivery: Delivery, now_ms: int) -> Placed:
    account_id, content = delivery.account_id, delivery.content
    target = rows.place(db, account_id, delivery.mailbox)
    repeated_in = _repeated_in(rows.canonical(delivery.mailbox), target.mailbox_id)
    if delivery.once:
        seen = db.execute(WAS_SEEN, (account_id, content.id, repeated_in)).fetchone()
        if seen:
            uidvalidity, uid, modseq = seen
            return Placed(uidvalidity, uid, modseq, True, target.name)
    modseq = rows.next_modseq(db, account_id)
    uidvalidity, uid = rows.new_uids(db, account_id, target.mailbox_id, 1, modseq)
    octets = _octets(delivery)
    message_id, *used = db.execute(
        "UPDATE account SET next_message=next_message+1, used_octets=used_octets+?, used_messages=used_messages+1"
        f" WHERE account_id=? RETURNING next_message-1, {rows.QUOTA}",
        (octets, account_id),
    ).fetchall()[0]
    rows.check_quota(Quota(*used), octets)
    db.execute(MESSAGE, _message(delivery, message_id, cbor2.dumps(content.inline)))
    db.executemany(BLOB, _blobs(delivery, message_id))
    db.execute(ENTRY, _entry(delivery, target.mailbox_id, uid, message_id, modseq, now_ms))
    if delivery.once:
        db.execute(SEEN, (account_id, content.id, repeated_in, uidvalidity, uid, modseq, now_ms))
    return Placed(uidvalidity, uid, modseq, False, target.name)


def _repeated_in(name: str, mailbox_id: int) -> int:
    """Where a message arrives depends on what was decided about its sender since it came for the first time."""
    return ARRIVED if name in rows.ARRIVAL else mailbox_id


def _octets(delivery: Delivery) -> int:
    """What it takes of the account's quota."""
    return len(delivery.trace) + delivery.content.size


def _message(delivery: Delivery, message_id: int, bodies: bytes) -> tuple[object, ...]:
    content = delivery.content
    return (
        delivery.account_id, message_id, content.id, content.protected, content.payload, content.signature,
        delivery.trace, bodies, _octets(delivery),
    )  # fmt: skip


def _blobs(delivery: Delivery, message_id: int) -> list[tuple[int, bytes, int]]:
    return [(delivery.account_id, digest, message_id) for digest in delivery.content.blobs]


def _entry(
    delivery: Delivery, mailbox_id: int, uid: int, message_id: int, modseq: int, now_ms: int
) -> tuple[object, ...]:
    date = now_ms if delivery.internal_date_ms is None else delivery.internal_date_ms
    return delivery.account_id, mailbox_id, uid, message_id, modseq, rows.joined(delivery.flags), date
