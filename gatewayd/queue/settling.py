"""What comes of attempts: functions over a connection, inside a transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from gatewayd.interfaces.queue import Settlement
from gatewayd.outcome import Deferred, Delivered, Refused
from gatewayd.queue import destinations
from gatewayd.queue.states import DELIVERED, LEASED, REFUSED, WAITING

# the plus keeps SQLite from looking at all rows in that state, for each of those that are named
LEASED_DOMAINS = """
    SELECT json_group_array(json_array(queue_id, domain)) FROM queue_recipient
    WHERE queue_id IN (SELECT value FROM json_each(?)) AND +state=?"""
SETTLE = """
    UPDATE queue_recipient
    SET state=new_state, next_attempt=at, attempts=attempts+tried, last_code=code, last_text=said
    FROM (SELECT value->>0 AS id, value->>1 AS new_state, value->>2 AS at, value->>3 AS tried, value->>4 AS code,
        value->>5 AS said FROM json_each(?))
    WHERE queue_id=id AND +state=?"""


def settle(db: sqlite3.Connection, settlements: Sequence[Settlement], now: float) -> bool:
    """Whether a domain was unreachable that is not now."""
    ids = json.dumps([settlement.queue_id for settlement in settlements])
    domains = dict(json.loads(db.execute(LEASED_DOMAINS, (ids, LEASED)).fetchone()[0]))
    db.execute(SETTLE, (json.dumps([_settled(settlement, now) for settlement in settlements]), LEASED))
    living: set[str] = set()
    news = False
    for settlement in settlements:
        name = domains.get(settlement.queue_id)
        if name is not None and settlement.failures is not None:
            destinations.failing(db, name, settlement.failures, settlement.next_attempt or now)
            living.discard(name)
        elif name is not None and name not in living:
            news = destinations.living(db, name, now) or news
            living.add(name)
    for name in set(domains.values()):
        destinations.reckon(db, name)
    return news


def _settled(settlement: Settlement, now: float) -> tuple[object, ...]:
    """As SETTLE reads it."""
    outcome, when, tried = settlement.outcome, now, 0
    match outcome:
        case Delivered():
            state = DELIVERED
        case Refused():
            state = REFUSED
        case Deferred():
            assert settlement.next_attempt is not None
            state, when, tried = WAITING, settlement.next_attempt, 1
    return settlement.queue_id, state, when, tried, outcome.code, outcome.text[:1000]
