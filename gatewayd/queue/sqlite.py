"""The outbound spool in the store's SQLite file (RFC 5321 §4.5.4): leases, retries, and answers to repeats."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from typing import TypeVar

import cbor2
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from gatewayd.address import Address, Domain
from gatewayd.database.sqlite import Database
from gatewayd.errors import StoreError
from gatewayd.interfaces import Asked, Envelope, IQueue, Leased, Queued
from gatewayd.message.model import Content
from gatewayd.outcome import Deferred, Delivered, Outcome, Refused
from gatewayd.queue.states import DELIVERED, LEASED, REFUSED, WAITING

T = TypeVar("T")

ENDED_FOR = 7 * 86400.0  # seconds that an ended row answers repeats

STEPS = [
    """
    CREATE TABLE queue_message (
        message_key INTEGER PRIMARY KEY AUTOINCREMENT, object_id BLOB NOT NULL UNIQUE,
        protected BLOB NOT NULL, payload BLOB NOT NULL, signature BLOB NOT NULL, bodies BLOB NOT NULL,
        trace BLOB NOT NULL);
    CREATE TABLE queue_recipient (
        queue_id INTEGER PRIMARY KEY AUTOINCREMENT, message_key INTEGER NOT NULL,
        recipient TEXT NOT NULL, domain TEXT NOT NULL, reverse_path TEXT NOT NULL,
        state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, next_attempt REAL NOT NULL,
        accepted REAL NOT NULL, last_code TEXT NOT NULL DEFAULT '', last_text TEXT NOT NULL DEFAULT '',
        UNIQUE (message_key, recipient));
    CREATE INDEX queue_due ON queue_recipient (state, next_attempt);
    CREATE INDEX queue_domain ON queue_recipient (domain, state)
    """,
    """
    ALTER TABLE queue_recipient ADD COLUMN options TEXT NOT NULL DEFAULT '';
    ALTER TABLE queue_recipient ADD COLUMN ret TEXT NOT NULL DEFAULT '';
    ALTER TABLE queue_recipient ADD COLUMN envid TEXT NOT NULL DEFAULT '';
    ALTER TABLE queue_recipient ADD COLUMN notify TEXT NOT NULL DEFAULT '';
    ALTER TABLE queue_recipient ADD COLUMN orcpt TEXT NOT NULL DEFAULT ''
    """,
]
ENVELOPE = "recipient, reverse_path, options, ret, envid, notify, orcpt"


@implementer(IQueue)
class SQLiteQueue:
    def __init__(self, database: Database, clock: IReactorTime) -> None:
        self._database = database
        self._clock = clock
        self._callbacks: list[Callable[[], None]] = []
        database.migrate("queue", STEPS)

    async def enqueue(self, content: Content, trace: bytes, envelope: Envelope) -> dict[Address, Outcome]:
        # what is held is as good as accepted when it is let go: that is when the patience with its next hop begins
        due = max(self._clock.seconds(), envelope.not_before)

        def put(db: sqlite3.Connection) -> dict[Address, Outcome]:
            db.execute(
                "INSERT OR IGNORE INTO queue_message (object_id, protected, payload, signature, bodies, trace)"
                " VALUES (?,?,?,?,?,?)",
                (content.id, content.protected, content.payload, content.signature,
                 cbor2.dumps(dict(content.bodies)), trace),
            )  # fmt: skip
            (key,) = db.execute("SELECT message_key FROM queue_message WHERE object_id=?", (content.id,)).fetchone()
            answers: dict[Address, Outcome] = {}
            for address in envelope.recipients:
                row = db.execute(
                    "SELECT state, last_code, last_text FROM queue_recipient WHERE message_key=? AND recipient=?",
                    (key, str(address)),
                ).fetchone()
                answers[address] = Delivered("2.0.0", "Queued")
                if row is not None and row[0] == REFUSED:
                    answers[address] = Refused(row[1], row[2])
                elif row is None:
                    db.execute(
                        f"INSERT INTO queue_recipient (message_key, domain, state, next_attempt, accepted, {ENVELOPE})"
                        " VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
                        (key, address.domain.name, WAITING, due, due, *_columns(envelope, address)),
                    )
            return answers

        answers = await self._database.write(put)
        self._call()
        return answers

    async def lease(self, limit: int, seconds: float, exclude: Collection[Domain] = ()) -> list[Leased]:
        """Fair: within what is due, each domain's oldest first, then each domain's second, and so on."""
        now = self._clock.seconds()
        marks = ",".join("?" * len(exclude))

        def take(db: sqlite3.Connection) -> list[Leased]:
            due = db.execute(
                f"SELECT queue_id, message_key, attempts, accepted, {ENVELOPE} FROM ("
                " SELECT *, row_number() OVER (PARTITION BY domain ORDER BY next_attempt) AS turn FROM ("
                "  SELECT * FROM queue_recipient WHERE state IN (?,?) AND next_attempt<=?"
                f" AND domain NOT IN ({marks}) ORDER BY next_attempt LIMIT 5000)"
                ") ORDER BY turn, next_attempt LIMIT ?",
                (WAITING, LEASED, now, *(domain.name for domain in exclude), limit),
            ).fetchall()
            db.executemany(
                "UPDATE queue_recipient SET state=?, next_attempt=? WHERE queue_id=?",
                [(LEASED, now + seconds, row[0]) for row in due],
            )
            return [_leased(*row) for row in due]

        if await self.next_due() is None:
            return []
        return await self._database.write(take)

    async def message(self, message_key: int) -> tuple[Content, bytes]:
        query = "SELECT protected, payload, signature, bodies, trace FROM queue_message WHERE message_key=?"
        row = await self._database.read(lambda db: db.execute(query, (message_key,)).fetchone())
        if row is None:
            raise StoreError(f"queued message {message_key} is gone")
        return Content(row[0], row[1], row[2], cbor2.loads(row[3])), row[4]

    async def settle(self, queue_id: int, outcome: Outcome, next_attempt: float | None = None) -> None:
        match outcome:
            case Delivered():
                state, when, tried = DELIVERED, self._clock.seconds(), 0
            case Refused():
                state, when, tried = REFUSED, self._clock.seconds(), 0
            case Deferred():
                assert next_attempt is not None
                state, when, tried = WAITING, next_attempt, 1
        values = (state, when, tried, outcome.code, outcome.text[:1000], queue_id, LEASED)
        await self._database.write(
            lambda db: db.execute(
                "UPDATE queue_recipient SET state=?, next_attempt=?, attempts=attempts+?, last_code=?, last_text=?"
                " WHERE queue_id=? AND state=?",
                values,
            )
        )

    async def wake(self, domain: Domain) -> int:
        """Asked at every contact of a peer, so looked up before anything is written. What was never tried is held."""
        now = self._clock.seconds()
        key = (domain.name, WAITING, now)
        query = "SELECT count(*) FROM queue_recipient WHERE domain=? AND state=? AND next_attempt>? AND attempts>0"
        (waiting,) = await self._database.read(lambda db: db.execute(query, key).fetchone())
        if waiting:
            await self._database.write(
                lambda db: db.execute(
                    "UPDATE queue_recipient SET next_attempt=? WHERE domain=? AND state=? AND attempts>0",
                    (now, domain.name, WAITING),
                )
            )
            self._call()
        return int(waiting)

    async def recover(self) -> int:
        values = (WAITING, self._clock.seconds(), LEASED)
        query = "UPDATE queue_recipient SET state=?, next_attempt=? WHERE state=?"
        found: int = await self._database.write(lambda db: db.execute(query, values).rowcount)
        return found

    async def next_due(self) -> float | None:
        query = "SELECT min(next_attempt) FROM queue_recipient WHERE state=?"
        found = await self._database.read(lambda db: [db.execute(query, (s,)).fetchone()[0] for s in (WAITING, LEASED)])
        return min((when for when in found if when is not None), default=None)

    async def listing(self, limit: int = 1000) -> list[Queued]:
        query = (
            "SELECT queue_id, recipient, reverse_path, state, attempts, next_attempt,"
            " last_code||' '||last_text, accepted FROM queue_recipient"
            " WHERE state IN (?,?) ORDER BY next_attempt LIMIT ?"
        )
        return [
            Queued(*row)
            for row in await self._database.read(lambda db: db.execute(query, (WAITING, LEASED, limit)).fetchall())
        ]

    def watch(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    async def sweep(self) -> None:
        """Forget rows that ended long ago, then messages without rows."""
        before = self._clock.seconds() - ENDED_FOR

        def sweep(db: sqlite3.Connection) -> None:
            db.execute(
                "DELETE FROM queue_recipient WHERE state IN (?,?) AND next_attempt<?", (DELIVERED, REFUSED, before)
            )
            db.execute("DELETE FROM queue_message WHERE message_key NOT IN (SELECT message_key FROM queue_recipient)")

        await self._database.write(sweep)

    def _call(self) -> None:
        for callback in self._callbacks:
            callback()


def _columns(envelope: Envelope, recipient: Address) -> tuple[str, ...]:
    asked = envelope.asked_of(recipient)
    words = " ".join(sorted(envelope.options)), envelope.ret, envelope.envid, " ".join(sorted(asked.notify))
    return str(recipient), str(envelope.reverse_path or ""), *words, asked.orcpt


def _leased(
    queue_id: int, message_key: int, attempts: int, accepted: float,
    to: str, path: str, options: str, ret: str, envid: str, notify: str, orcpt: str,
) -> Leased:  # fmt: skip
    recipient = Address.parse(to)
    asked = {recipient: Asked(frozenset(notify.split()), orcpt)} if notify or orcpt else {}
    envelope = Envelope(
        Address.parse(path) if path else None, (recipient,), frozenset(options.split()), ret, envid, asked
    )
    return Leased(queue_id, recipient, envelope, message_key, attempts, accepted)
