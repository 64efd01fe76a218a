"""The rows that the operator means, and what becomes of them: functions over a connection (gatewayctl queue)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Any

from gatewayd.interfaces.queue import EVERYTHING, Picked, Queued
from gatewayd.queue.destinations import FAILING, GOOD, NEVER, UNKNOWN, living, reckon
from gatewayd.queue.envelopes import ENVELOPE, envelope
from gatewayd.queue.states import IN_QUEUE, WAITING

_SHOWN = "queue_id, recipient, reverse_path, state, attempts, {}"
_MORE = f"last_code||' '||last_text, accepted, message_key, {ENVELOPE}"
PIECE = 2000  # rows in one transaction: between two of them mail goes on


def listing(db: sqlite3.Connection, limit: int, picked: Picked) -> list[Queued]:
    """Soonest first; what waits for a domain that cannot be reached is due with the domain's next probe."""
    whole = replace(picked, domain="") == EVERYTHING
    found = list(islice(_soonest(db, limit, picked.domain) if whole else _sorted(db, limit, picked), limit))
    return [Queued(*(*row[:9], envelope(*row[9:]))) for row in found]


def _sorted(db: sqlite3.Connection, limit: int, picked: Picked) -> Iterable[tuple[Any, ...]]:
    where, values = _where(picked, IN_QUEUE)
    query = (
        f"SELECT {_SHOWN.format('max(next_attempt, CASE WHEN state=? THEN coalesce(not_before, 0) ELSE 0 END)')} AS at"
        f", {_MORE} FROM queue_recipient LEFT JOIN queue_destination USING (domain) WHERE {where} ORDER BY at LIMIT ?"
    )
    return db.execute(query, (WAITING, *values, limit))


def _soonest(db: sqlite3.Connection, limit: int, domain: str) -> Iterable[tuple[Any, ...]]:
    """Each domain's rows stand in their order, and so do the domains: however many there are, few are looked at."""
    rows = f"SELECT {_SHOWN.format('max(next_attempt, ?)')}, {_MORE} FROM queue_recipient WHERE"
    if domain:
        query = "SELECT domain, not_before FROM queue_destination WHERE domain=? AND standing=?"
    else:
        query = "SELECT domain, not_before FROM queue_destination WHERE due<>? AND standing=? ORDER BY due LIMIT ?"
    domains = [
        found
        for standing in (GOOD, UNKNOWN, FAILING)
        for found in db.execute(query, (domain, standing) if domain else (NEVER, standing, limit))
    ]
    each = [
        db.execute(f"{rows} domain=? AND state=? ORDER BY next_attempt", (not_before, name, WAITING))
        for name, not_before in domains
    ]
    if domain:
        each += [
            db.execute(f"{rows} domain=? AND state=? ORDER BY next_attempt", (0, domain, state))
            for state in IN_QUEUE
            if state != WAITING
        ]
    else:
        each += [
            db.execute(f"{rows} state=? ORDER BY next_attempt", (0, state)) for state in IN_QUEUE if state != WAITING
        ]
    return merge(*each, key=itemgetter(5))


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


def asleep(db: sqlite3.Connection, domain: str, now: float) -> tuple[list[int], bool]:
    """The ids of the next PIECE of the domain's rows that wait for a later attempt, and whether what is due waits only
    because the domain could not be reached. What its sender holds back (RFC 4865) was never tried, and goes in its
    time."""
    query = "SELECT queue_id FROM queue_recipient WHERE domain=? AND state=? AND next_attempt"
    key = (domain, WAITING, now)
    rows = db.execute(f"{query}>? AND attempts>0 LIMIT ?", (*key, PIECE)).fetchall()
    failing = "SELECT 1 FROM queue_destination WHERE domain=? AND standing=?"
    blocked = db.execute(failing, (domain, FAILING)).fetchone() and db.execute(f"{query}<=? LIMIT 1", key).fetchone()
    return [queue_id for (queue_id,) in rows], bool(blocked)


def wake(db: sqlite3.Connection, domain: str, queue_ids: Sequence[int], now: float) -> None:
    """Those of them that wait are due, and the domain is taken for reachable."""
    update = f"UPDATE queue_recipient SET next_attempt=? WHERE {_named([WAITING])}"
    db.execute(update, (now, json.dumps(queue_ids), WAITING))
    living(db, domain, now)
    reckon(db, domain)


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
