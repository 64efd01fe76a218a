"""Deliveries inside the writer's transaction: many with one statement for each table, or, where one of them is out of
the ordinary, each by itself.

UID and modseq are taken here, in the transaction that uses them, so neither repeats (RFC 3501 §2.3.1.1, RFC 7162 §3.1).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import cbor2
from msgspec.structs import replace

from gatewayd.database.sqlite import in_pieces, insert_rows, typed
from gatewayd.errors import QuotaExceeded, StoreError
from gatewayd.interfaces.records import Delivery, Placed, Quota
from gatewayd.store import contacts, rows

# Each is one step of SQLite, for however many: a step gives Python's lock away, and has to win it back.
PLACES = f"""
    SELECT json_group_array(json_array(account, wanted, json_array(mailbox_id, name, mailbox.uidvalidity, uidnext),
        json_array(modseq, next_message, {rows.QUOTA})))
    FROM (SELECT value->>0 AS account, value->>1 AS wanted FROM json_each(?)) CROSS JOIN mailbox CROSS JOIN account
    WHERE mailbox.account_id=account AND (name=wanted OR special_use=wanted) AND account.account_id=account"""
ACCOUNT_NUMBERS = """
    UPDATE account SET modseq=modseq+count, next_message=next_message+count,
        used_messages=used_messages+count, used_octets=used_octets+size
    FROM (SELECT value->>0 AS account, value->>1 AS count, value->>2 AS size FROM json_each(?))
    WHERE account_id=account"""
UIDS = """
    UPDATE mailbox SET uidnext=uidnext+count, highest_modseq=highest
    FROM (SELECT value->>0 AS account, value->>1 AS id, value->>2 AS count, value->>3 AS highest FROM json_each(?))
    WHERE account_id=account AND mailbox_id=id"""
MESSAGE = """
    INSERT INTO message
        (message_id, account_id, object_id, came_to, protected, payload, signature, trace, bodies, octets)"""
BLOB = "INSERT INTO message_blob"
ENTRY = "INSERT INTO entry"
REMOVED = """
    SELECT EXISTS (SELECT 1 FROM ({}) CROSS JOIN removed
    WHERE account_id=column1 AND object_id=column2 AND came_to=column3)"""
CAME = """
    SELECT 1 FROM message WHERE account_id=?1 AND object_id=?2 AND came_to=?3
    UNION ALL SELECT 1 FROM removed WHERE account_id=?1 AND object_id=?2 AND came_to=?3 LIMIT 1"""
ARRIVED = 0  # where a message came to that is looked for by no mailbox's id, but everywhere where messages come


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


@dataclass(slots=True)
class _Numbers:
    """An account's, as they are given out."""

    modseq: int
    next_message: int
    octets: int
    messages: int
    max_octets: int | None
    max_messages: int | None
    new_octets: int = 0
    new_messages: int = 0


@dataclass(slots=True)
class _Box:
    """A mailbox's numbers, as they are given out."""

    account_id: int
    mailbox_id: int
    name: str
    uidvalidity: int
    uidnext: int
    highest: int = 0
    new: int = 0


def _together(db: sqlite3.Connection, deliveries: Sequence[Delivery], now_ms: int) -> list[Placed]:
    """Numbers are read, given out and written back: the transaction is ours alone."""
    wanted = [(delivery.account_id, rows.canonical(delivery.mailbox)) for delivery in deliveries]
    accounts: dict[int, _Numbers] = {}
    boxes: dict[tuple[int, int], _Box] = {}
    places: dict[tuple[int, str], _Box] = {}
    found = db.execute(PLACES, (json.dumps(list(set(wanted))),)).fetchone()[0]
    for account_id, name, mailbox, numbers in json.loads(found):
        if account_id not in accounts:
            accounts[account_id] = _Numbers(*numbers)
        places[account_id, name] = boxes.setdefault((account_id, mailbox[0]), _Box(account_id, *mailbox))
    kept: dict[int, bytes] = {}  # by content: most come for two, the sender and the recipient
    placed, messages, blobs, entries = [], [], [], []
    for delivery, place in zip(deliveries, wanted, strict=True):
        box = places.get(place)
        if box is None:
            raise _Unusual
        account, content = accounts[box.account_id], delivery.content
        uid, message_id = box.uidnext, rows.message_key(box.account_id, account.next_message)
        account.modseq += 1
        account.next_message += 1
        account.new_messages += 1
        account.new_octets += _octets(delivery)
        box.uidnext += 1
        box.new += 1
        box.highest = modseq = account.modseq
        bodies = kept.get(id(content)) or kept.setdefault(id(content), cbor2.dumps(content.inline))
        messages.append(_message(delivery, message_id, _came_to(delivery, place[1], box.mailbox_id), bodies))
        blobs += _blobs(delivery, message_id)
        entries.append(_entry(delivery, box.mailbox_id, uid, message_id, modseq, now_ms))
        placed.append(Placed(box.uidvalidity, uid, modseq, False, box.name))
    for account in accounts.values():
        used = account.octets + account.new_octets, account.messages + account.new_messages
        try:
            rows.check_quota(Quota(*used, account.max_octets, account.max_messages), 0)
        except QuotaExceeded:
            raise _Unusual from None
    if _any_removed(db, [message[1:4] for message in messages]):
        raise _Unusual
    numbers = [(account_id, a.new_messages, a.new_octets) for account_id, a in accounts.items()]
    db.execute(ACCOUNT_NUMBERS, (json.dumps(numbers),))
    db.execute(UIDS, (json.dumps([(b.account_id, b.mailbox_id, b.new, b.highest) for b in boxes.values()]),))
    insert_rows(db, MESSAGE, messages)  # fails where one is there already
    insert_rows(db, BLOB, blobs)
    insert_rows(db, ENTRY, entries)
    return placed


def _any_removed(db: sqlite3.Connection, keys: Sequence[Sequence[object]]) -> bool:
    """Whether one of them was here and is gone."""
    return any(db.execute(REMOVED.format(values), flat).fetchone()[0] for values, flat in in_pieces(keys))


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
    if db.execute(CAME, (account_id, delivery.content.id, ARRIVED)).fetchone() is None:
        contacts.admit(db, account_id, introduction, now_ms)
    placed = _placed(db, delivery, now_ms)
    if not placed.duplicate:
        contacts.keep(db, account_id, introduction, placed)
    return placed


def _placed(db: sqlite3.Connection, delivery: Delivery, now_ms: int) -> Placed:
    account_id, content = delivery.account_id, delivery.content
    target = rows.place(db, account_id, delivery.mailbox)
    came_to = _came_to(delivery, rows.canonical(delivery.mailbox), target.mailbox_id)
    if came_to is not None and db.execute(CAME, (account_id, content.id, came_to)).fetchone():
        return Placed(target.uidvalidity, 0, 0, True, target.name)
    modseq = rows.next_modseq(db, account_id)
    uidvalidity, uid = rows.new_uids(db, account_id, target.mailbox_id, 1, modseq)
    octets = _octets(delivery)
    number, *used = db.execute(
        "UPDATE account SET next_message=next_message+1, used_octets=used_octets+?, used_messages=used_messages+1"
        f" WHERE account_id=? RETURNING next_message-1, {rows.QUOTA}",
        (octets, account_id),
    ).fetchall()[0]
    rows.check_quota(Quota(*used), octets)
    message_id = rows.message_key(account_id, number)
    insert_rows(db, MESSAGE, [_message(delivery, message_id, came_to, cbor2.dumps(content.inline))])
    insert_rows(db, BLOB, _blobs(delivery, message_id))
    insert_rows(db, ENTRY, [_entry(delivery, target.mailbox_id, uid, message_id, modseq, now_ms)])
    return Placed(uidvalidity, uid, modseq, False, target.name)


def _came_to(delivery: Delivery, name: str, mailbox_id: int) -> int | None:
    """Where a message arrives depends on what was decided about its sender since it came for the first time."""
    if not delivery.once:
        return None
    return ARRIVED if name in rows.ARRIVAL else mailbox_id


def _octets(delivery: Delivery) -> int:
    """What it takes of the account's quota."""
    return len(delivery.trace) + delivery.content.size


def _message(delivery: Delivery, message_id: int, came_to: int | None, bodies: bytes) -> tuple[object, ...]:
    content = delivery.content
    return (
        message_id, delivery.account_id, content.id, came_to, content.protected, content.payload, content.signature,
        delivery.trace, bodies, _octets(delivery),
    )  # fmt: skip


def _blobs(delivery: Delivery, message_id: int) -> list[tuple[int, bytes, int]]:
    return [(delivery.account_id, digest, message_id) for digest in delivery.content.blobs]


def _entry(
    delivery: Delivery, mailbox_id: int, uid: int, message_id: int, modseq: int, now_ms: int
) -> tuple[object, ...]:
    date = now_ms if delivery.internal_date_ms is None else delivery.internal_date_ms
    return delivery.account_id, mailbox_id, uid, message_id, modseq, rows.joined(delivery.flags), date
