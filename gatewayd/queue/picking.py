"""The rows that the operator means, and what becomes of them: functions over a connection (gatewayctl queue)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from gatewayd.interfaces.queue import Picked, Queued
from gatewayd.queue.destinations import living, reckon
from gatewayd.queue.envelopes import ENVELOPE, envelope
from gatewayd.queue.states import IN_QUEUE, WAITING

PIECE = 2000  # rows in one transaction: between two of them mail goes on


def listing(db: sqlite3.Connection, limit: int, picked: Picked) -> list[Queued]:
    """Soonest first; what waits for a domain that cannot be reached is due with the domain's next probe."""
    where, values = _where(picked, IN_QUEUE)
    query = (
        "SELECT queue_id, recipient, reverse_path, state, attempts,"
        " max(next_attempt, CASE WHEN state=? THEN coalesce(not_before, 0) ELSE 0 END) AS at,"
        " last_code||' '||last_text, accepted, message_key,"
        f" {ENVELOPE}"
        f" FROM queue_recipient LEFT JOIN queue_destination USING (domain) WHERE {where} ORDER BY at LIMIT ?"
    )
    found = db.execute(query, (WAITING, *values, limit)).fetchall()
    return [Queued(*(*row[:9], envelope(*row[9:]))) for row in found]


def some(db: sqlite3.Connection, picked: Picked, states: Sequence[str], after: int) -> list[int]:
    """The ids of the next PIECE of those in one of `states`."""
    where, values = _where(picked, states)
    query = f"SELECT queue_id FROM queue_recipient NOT INDEXED WHERE {where} AND queue_id>? ORDER BY queue_id LIMIT ?"
    return [queue_id for (queue_id,) in db.execute(query, (*values, after, PIECE)).fetchall()]


def move(db: sqlite3.Connection, queue_ids: Sequence[int], states: Sequence[str], state: str, now: float) -> int:
    """Those of them in one of `states` are in `state` from now on. Their domains are taken for reachable, if they
    wait."""
    update = f"UPDATE queue_recipient SET state=?, next_attempt=? WHERE {_named(states)} RETURNING domain"
    found = db.execute(update, (state, now, json.dumps(queue_ids), *states)).fetchall()
    for name in {name for (name,) in found}:
        if state == WAITING:
            living(db, name, now)
        reckon(db, name)
    return len(found)


def put_forward(db: sqlite3.Connection, queue_ids: Sequence[int], seconds: float, now: float) -> int:
    """The clock was set back by so much: those that were tried before are due as if it had always been right."""
    update = (
        "UPDATE queue_recipient SET next_attempt=max(?, next_attempt-?), accepted=min(?, accepted)"
        f" WHERE {_named([WAITING])} AND attempts>0 RETURNING domain"
    )
    found = db.execute(update, (now, seconds, now, json.dumps(queue_ids), WAITING)).fetchall()
    for name in {name for (name,) in found}:
        db.execute("UPDATE queue_destination SET not_before=max(0, min(not_before, ?)) WHERE domain=?", (now, name))
        reckon(db, name)
    return len(found)


def _named(states: Sequence[str]) -> str:
    """By their ids, in one of so many states; the plus keeps SQLite from looking at all rows in those."""
    return f"queue_id IN (SELECT value FROM json_each(?)) AND +state IN ({','.join('?' * len(states))})"


def _where(picked: Picked, states: Sequence[str]) -> tuple[str, tuple[object, ...]]:
    """The condition and its values."""
    terms = [f"state IN ({','.join('?' * len(states))})"]
    values: list[object] = list(states)
    if picked.queue_ids:
        terms.append(f"queue_id IN ({','.join('?' * len(picked.queue_ids))})")
        values += picked.queue_ids
    if picked.domain:
        terms.append("domain=?")
        values.append(picked.domain)
    if picked.address:
        terms.append("(recipient=? COLLATE NOCASE OR reverse_path=? COLLATE NOCASE)")
        values += [picked.address, picked.address]
    if picked.message:
        query = "SELECT message_key FROM queue_message WHERE substr(object_id, 1, ?)=?"
        terms.append(f"message_key IN ({query})")
        values += [len(picked.message), picked.message]
    return " AND ".join(terms), tuple(values)
