"""Messages of the queue: put in, repeats answered, read again. Functions over a connection, inside a transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

import cbor2

from gatewayd.address import Address
from gatewayd.database.sqlite import insert_rows
from gatewayd.interfaces.queue import MailObject
from gatewayd.message.model import Content
from gatewayd.outcome import Delivered, Outcome, Refused
from gatewayd.queue.destinations import reckon
from gatewayd.queue.envelopes import ENVELOPE, columns
from gatewayd.queue.states import DROPPED, REFUSED, WAITING

DROPPED_HERE = Refused("5.7.1", "Taken out of the queue by the operator")
QUEUED = Delivered("2.0.0", "Queued")
AT_ONCE = 64  # messages whose keys are looked up in one step

MESSAGE = """
    INSERT OR IGNORE INTO queue_message (object_id, protected, payload, signature, bodies, trace, blobs)"""
RECIPIENT = f"INSERT INTO queue_recipient (message_key, domain, state, next_attempt, accepted, {ENVELOPE})"
KEYS = "SELECT json_group_object(hex(object_id), message_key) FROM queue_message WHERE object_id IN ({})"
CONTENTS = """
    SELECT message_key, protected, payload, signature, bodies, trace FROM queue_message
    WHERE message_key IN (SELECT value FROM json_each(?))"""


def put(db: sqlite3.Connection, objects: Sequence[MailObject], now: float) -> list[tuple[int, dict[Address, Outcome]]]:
    """The key of each message, and the answers."""
    done = _put_new(db, objects, now) or [_put_one(db, one, now) for one in objects]
    for name in {address.domain.name for _, answers in done for address in answers}:
        reckon(db, name)
    return done


def _put_new(
    db: sqlite3.Connection, objects: Sequence[MailObject], now: float
) -> list[tuple[int, dict[Address, Outcome]]] | None:
    """All in a few steps. None: not all of them are new, and each has to be looked at."""
    if insert_rows(db, MESSAGE, [_message(one) for one in objects]) != len(objects):
        return None
    keys: dict[str, int] = {}
    for begin in range(0, len(objects), AT_ONCE):
        ids = [one.content.id for one in objects[begin : begin + AT_ONCE]]
        (found,) = db.execute(KEYS.format(",".join("?" * len(ids))), ids).fetchone()
        keys.update(json.loads(found))
    of_each = [(keys[one.content.id.hex().upper()], one) for one in objects]
    each = [(key, one, address) for key, one in of_each for address in dict.fromkeys(one.envelope.recipients)]
    rows = [_recipient(key, one, address, now) for key, one, address in each]
    insert_rows(db, RECIPIENT, rows)
    return [(key, dict.fromkeys(one.envelope.recipients, QUEUED)) for key, one in of_each]


def _message(one: MailObject) -> tuple[object, ...]:
    content = one.content
    return (
        content.id, content.protected, content.payload, content.signature, cbor2.dumps(dict(content.bodies)),
        one.trace, b"".join(part.hash for part in content.absent),
    )  # fmt: skip


def _recipient(key: int, one: MailObject, address: Address, now: float) -> tuple[object, ...]:
    # what is held is as good as accepted when it is let go: that is when the patience with its next hop begins
    due = max(now, one.envelope.not_before)
    return key, address.domain.name, WAITING, due, due, *columns(one.envelope, address)


def _put_one(db: sqlite3.Connection, one: MailObject, now: float) -> tuple[int, dict[Address, Outcome]]:
    insert_rows(db, MESSAGE, [_message(one)])
    (key,) = db.execute("SELECT message_key FROM queue_message WHERE object_id=?", (one.content.id,)).fetchone()
    answers: dict[Address, Outcome] = {}
    for address in one.envelope.recipients:
        row = db.execute(
            "SELECT state, last_code, last_text FROM queue_recipient WHERE message_key=? AND recipient=?",
            (key, str(address)),
        ).fetchone()
        answers[address] = QUEUED
        if row is not None and row[0] == REFUSED:
            answers[address] = Refused(row[1], row[2])
        elif row is not None and row[0] == DROPPED:
            answers[address] = DROPPED_HERE
        elif row is None:
            insert_rows(db, RECIPIENT, [_recipient(key, one, address, now)])
    return key, answers


def read(db: sqlite3.Connection, keys: Sequence[int]) -> dict[int, tuple[Content, bytes]]:
    """The content and the trace of each that is there."""
    return {
        key: (Content(protected, payload, signature, cbor2.loads(bodies)), trace)
        for key, protected, payload, signature, bodies, trace in db.execute(CONTENTS, (json.dumps(keys),))
    }
