"""When a domain is due, and which rows are leased: functions over a connection, inside a transaction.

Fair: domains take turns, each giving what waits longest. A domain that was not reached lately is a stranger: of what
waits for it one message is a probe, and the rest stays as it is until the probe got an answer. So a million rows for
dead domains are never walked through.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from gatewayd.queue.envelopes import ENVELOPE
from gatewayd.queue.states import LEASED, WAITING

GOOD, UNKNOWN, FAILING = 0, 1, 2  # standing: reached lately; not yet; not reached the last time
NEVER = 1e18  # due: nothing waits
NOTED = 86400.0  # seconds: how exactly it is known when a domain was reached
PROBE = 100  # recipients of the one message
COLUMNS = f"queue_id, message_key, attempts, accepted, warned, {ENVELOPE}"


def reckon(db: sqlite3.Connection, domain: str, not_before: float = 0.0) -> None:
    """Says anew when the domain is due: after every change of its rows."""
    query = "SELECT min(next_attempt) FROM queue_recipient WHERE domain=? AND state=?"
    found = [db.execute(query, (domain, state)).fetchone()[0] for state in (WAITING, LEASED)]
    due = min((when for when in found if when is not None), default=None)
    if due is None:
        if not db.execute("DELETE FROM queue_destination WHERE domain=? AND standing<>?", (domain, GOOD)).rowcount:
            db.execute("UPDATE queue_destination SET due=? WHERE domain=?", (NEVER, domain))
        return
    db.execute(
        "INSERT INTO queue_destination (domain, due) VALUES (?1, ?2)"
        " ON CONFLICT (domain) DO UPDATE SET due=max(?2, not_before)",
        (domain, max(due, not_before)),
    )


def failing(db: sqlite3.Connection, domain: str, failures: int, not_before: float) -> None:
    """It could not be reached, for the `failures`th time; its next probe is then."""
    db.execute(
        "UPDATE queue_destination SET standing=?, failures=max(failures, ?), not_before=? WHERE domain=?",
        (FAILING, failures, not_before, domain),
    )


def living(db: sqlite3.Connection, domain: str, now: float) -> bool:
    """It answered. Returns whether it was a stranger."""
    key = (domain,)
    row = db.execute("SELECT standing, reached FROM queue_destination WHERE domain=?", key).fetchone()
    if row is None or (row[0] == GOOD and row[1] > now - NOTED):
        return False
    update = "UPDATE queue_destination SET standing=?, failures=0, not_before=0, reached=? WHERE domain=?"
    db.execute(update, (GOOD, now, domain))
    return bool(row[0] != GOOD)


def lease(
    db: sqlite3.Connection, now: float, until: float, limit: int, exclude: Collection[str], strangers: int
) -> list[tuple[Any, ...]]:
    """(COLUMNS..., whether it is a probe, failures of the destination) of rows that are leased now."""
    good = _domains(db, GOOD, now, exclude, limit)
    share = -(-limit // len(good)) if good else 0
    due = {name: _due(db, name, now, share) for name, _ in good}
    if sum(map(len, due.values())) < limit:  # some have less: the others give more
        due.update((name, _due(db, name, now, limit)) for name, rows in due.items() if len(rows) == share)
    taken = list(_in_turns([(name, (False, 0), iter(rows)) for name, rows in due.items()], limit))
    room = max(0, min(strangers, limit - len(taken)))
    unknown = _domains(db, UNKNOWN, now, exclude, room)
    failed = _domains(db, FAILING, now, exclude, min(room - len(unknown), (room + 1) // 2))
    for name, failures in unknown + failed:
        taken += [(name, (*row, True, failures)) for row in _probe(db, name, now)]
    db.execute(
        "UPDATE queue_recipient SET state=?, next_attempt=? WHERE queue_id IN (SELECT value FROM json_each(?))",
        (LEASED, until, json.dumps([row[0] for _, row in taken])),
    )
    for name in {name for name, _ in taken}:
        reckon(db, name, not_before=now)  # behind those who wait now
    probed = [(until, until, name) for name, _ in unknown + failed]  # one probe at a time
    db.executemany("UPDATE queue_destination SET due=max(due, ?), not_before=max(not_before, ?) WHERE domain=?", probed)
    return [row for _, row in taken]


def _domains(
    db: sqlite3.Connection, standing: int, now: float, exclude: Collection[str], limit: int
) -> list[tuple[str, int]]:
    marks = ",".join("?" * len(exclude))
    query = (
        "SELECT domain, failures FROM queue_destination WHERE standing=? AND due<=?"
        f" AND domain NOT IN ({marks}) ORDER BY due LIMIT ?"
    )
    return db.execute(query, (standing, now, *exclude, max(0, limit))).fetchall() if limit > 0 else []


def _probe(db: sqlite3.Connection, domain: str, now: float) -> list[tuple[Any, ...]]:
    """What waits longest, and the other recipients of that message there."""
    first = next(iter(_due(db, domain, now, 1)), None)
    if first is None:
        return []
    query = (
        f"SELECT {COLUMNS} FROM queue_recipient INDEXED BY sqlite_autoindex_queue_recipient_1"
        " WHERE message_key=? AND domain=? AND state IN (?,?) AND next_attempt<=? LIMIT ?"
    )
    others = db.execute(query, (first[1], domain, WAITING, LEASED, now, PROBE))
    return [first, *(row for row in others if row[0] != first[0])]


def _due(db: sqlite3.Connection, domain: str, now: float, limit: int) -> list[tuple[Any, ...]]:
    """The oldest, lapsed leases among them; in one step of SQLite for each state, however many there are."""
    query = (
        f"SELECT json_group_array(json_array({COLUMNS}, next_attempt)) FROM (SELECT * FROM queue_recipient"
        " WHERE domain=? AND state=? AND next_attempt<=? ORDER BY next_attempt LIMIT ?)"
    )
    states = (WAITING, LEASED)
    found = [json.loads(db.execute(query, (domain, state, now, limit)).fetchone()[0]) for state in states]
    oldest = sorted([row for rows in found for row in rows], key=lambda row: row[-1])
    return [tuple(row[:-1]) for row in oldest[:limit]]


def _in_turns(
    sources: Iterable[tuple[str, tuple[Any, ...], Iterator[tuple[Any, ...]]]], limit: int
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Each domain's first, then each domain's second, and so on."""
    waiting, count = list(sources), 0
    while waiting:
        still = []
        for name, more, rows in waiting:
            if count >= limit:
                return
            row = next(rows, None)
            if row is not None:
                count += 1
                yield name, (*row, *more)
                still.append((name, more, rows))
        waiting = still
