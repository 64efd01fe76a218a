"""The rows that the operator means, and what becomes of them: functions over a connection (gatewayctl queue)."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from gatewayd.interfaces.queue import Picked, Queued
from gatewayd.queue.destinations import living, reckon
from gatewayd.queue.envelopes import ENVELOPE, envelope
from gatewayd.queue.states import IN_QUEUE, WAITING


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


def move(db: sqlite3.Connection, picked: Picked, states: Sequence[str], state: str, now: float) -> int:
    """Those in one of `states` are in `state` from now on. Their domains are taken for reachable, if they wait."""
    where, values = _where(picked, states)
    domains = db.execute(f"SELECT DISTINCT domain FROM queue_recipient WHERE {where}", values).fetchall()
    update = f"UPDATE queue_recipient SET state=?, next_attempt=? WHERE {where}"
    count = db.execute(update, (state, now, *values)).rowcount
    for (name,) in domains:
        if state == WAITING:
            living(db, name, now)
        reckon(db, name)
    return count


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
