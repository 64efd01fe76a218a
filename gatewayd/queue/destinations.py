"""When a domain is due, and which rows are leased: functions over a connection, inside a transaction.

Fair: domains take turns, each giving what waits longest. One that cannot be reached is failing: its rows stay as they
are, and one of them is a probe from time to time. So a million rows for dead domains are never walked through.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from gatewayd.queue.envelopes import ENVELOPE
from gatewayd.queue.states import LEASED, WAITING

COLUMNS = f"queue_id, message_key, attempts, accepted, warned, {ENVELOPE}"


def reckon(db: sqlite3.Connection, domain: str, not_before: float = 0.0) -> None:
    """Says anew when the domain is due: after every change of its rows."""
    query = "SELECT min(next_attempt) FROM queue_recipient WHERE domain=? AND state=?"
    found = [db.execute(query, (domain, state)).fetchone()[0] for state in (WAITING, LEASED)]
    due = min((when for when in found if when is not None), default=None)
    if due is None:
        db.execute("DELETE FROM queue_destination WHERE domain=?", (domain,))
        return
    db.execute(
        "INSERT INTO queue_destination (domain, due) VALUES (?1, ?2)"
        " ON CONFLICT (domain) DO UPDATE SET due=max(?2, not_before)",
        (domain, max(due, not_before)),
    )


def failing(db: sqlite3.Connection, domain: str, failures: int, not_before: float) -> None:
    """It could not be reached, for the `failures`th time; its next probe is then."""
    db.execute(
        "UPDATE queue_destination SET failing=1, failures=max(failures, ?), not_before=max(not_before, ?)"
        " WHERE domain=?",
        (failures, not_before, domain),
    )


def living(db: sqlite3.Connection, domain: str) -> bool:
    """It answered. Returns whether that is news."""
    query = "UPDATE queue_destination SET failing=0, failures=0, not_before=0 WHERE domain=? AND failing=1"
    return db.execute(query, (domain,)).rowcount > 0


def lease(
    db: sqlite3.Connection, now: float, until: float, limit: int, exclude: Collection[str], probes: int
) -> list[tuple[Any, ...]]:
    """(COLUMNS..., failures of the destination) of rows that are leased now."""
    marks = ",".join("?" * len(exclude))
    query = (
        "SELECT domain, failures FROM queue_destination WHERE failing=? AND due<=?"
        f" AND domain NOT IN ({marks}) ORDER BY due LIMIT ?"
    )
    healthy = db.execute(query, (0, now, *exclude, limit)).fetchall()
    taken = list(_in_turns([(name, 0, _due(db, name, now)) for name, _ in healthy], limit))
    for name, failures in db.execute(query, (1, now, *exclude, max(0, min(probes, limit - len(taken))))).fetchall():
        taken += _in_turns([(name, failures, _due(db, name, now))], 1)
    values = [(LEASED, until, row[0]) for _, row in taken]
    db.executemany("UPDATE queue_recipient SET state=?, next_attempt=? WHERE queue_id=?", values)
    for name in {name for name, _ in taken}:
        reckon(db, name, not_before=now)  # behind those who wait now
    return [row for _, row in taken]


def _due(db: sqlite3.Connection, domain: str, now: float) -> Iterator[tuple[Any, ...]]:
    """Lapsed leases among them, oldest first; read as far as it is asked for."""
    query = (
        f"SELECT {COLUMNS}, next_attempt FROM queue_recipient WHERE domain=? AND state=? AND next_attempt<=?"
        " ORDER BY next_attempt"
    )
    waiting, lapsed = (iter(db.execute(query, (domain, state, now))) for state in (WAITING, LEASED))
    one, other = next(waiting, None), next(lapsed, None)
    while one or other:
        if other is None or (one is not None and one[-1] <= other[-1]):
            assert one is not None
            yield one[:-1]
            one = next(waiting, None)
        else:
            yield other[:-1]
            other = next(lapsed, None)


def _in_turns(
    sources: Iterable[tuple[str, int, Iterator[tuple[Any, ...]]]], limit: int
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Each domain's first, then each domain's second, and so on."""
    waiting, count = list(sources), 0
    while waiting:
        still = []
        for name, failures, rows in waiting:
            if count >= limit:
                return
            row = next(rows, None)
            if row is not None:
                count += 1
                yield name, (*row, failures)
                still.append((name, failures, rows))
        waiting = still
