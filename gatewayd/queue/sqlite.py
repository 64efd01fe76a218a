"""The outbound spool in the store's SQLite file (RFC 5321 §4.5.4): leases, retries, and answers to repeats."""

from __future__ import annotations

import json
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import cbor2
from twisted.internet import defer
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from gatewayd.address import Address, Domain
from gatewayd.database.sqlite import Database, insert_rows
from gatewayd.errors import StoreError
from gatewayd.interfaces.queue import EVERYTHING, IQueue, Leased, MailObject, Picked, Queued, Settlement
from gatewayd.message.model import Content
from gatewayd.outcome import Deferred, Delivered, Outcome, Refused
from gatewayd.queue import destinations, picking
from gatewayd.queue.envelopes import ENVELOPE, columns, envelope
from gatewayd.queue.schema import STEPS
from gatewayd.queue.states import DELIVERED, DROPPED, ENDED, HELD, LEASED, REFUSED, WAITING

ENDED_FOR = 7 * 86400.0  # seconds that an ended row answers repeats
SWEPT = 500  # rows forgotten in one transaction
FRESH = 16 * 1024 * 1024  # octets of messages kept at hand for their first attempt
FRESH_SIZE = 64 * 1024  # octets of one
FRESH_LEAST = 2048  # octets that one counts for at least
REACHED_FOR = 30 * 86400.0  # seconds that a domain is known to have been reached
PAUSE = 0.05  # seconds between two pieces of what is done to many rows
JUMP = 10.0  # seconds: a clock that runs slower is not set back
FOREIGN_POLL = 1.0  # seconds between looks for other processes' commits (gatewayctl)
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


@implementer(IQueue)
class SQLiteQueue:
    log = Logger()

    def __init__(self, database: Database, clock: IReactorTime, now: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._now = now
        self._ahead = now() - clock.seconds()
        self._callbacks: list[Callable[[], None]] = []
        self._foreign: int | None = None
        self._poll = LoopingCall(self._look_for_foreign_commits)
        self._fresh: OrderedDict[int, tuple[Content, bytes]] = OrderedDict()  # by key: most are sent on at once
        self._fresh_octets = 0
        self._waking: set[Domain] = set()  # of which more rows are made due
        database.migrate("queue", STEPS)

    async def enqueue(self, objects: Sequence[MailObject]) -> list[dict[Address, Outcome]]:
        now = self._now()
        put = await self._database.write(lambda db: _put(db, objects, now))
        self._have_come(objects, [key for key, _ in put])
        return [answers for _, answers in put]

    async def lease(
        self, limit: int, seconds: float, exclude: Collection[Domain] = (), strangers: int | None = None
    ) -> list[Leased]:
        """Fair: within what is due, each domain's oldest first, then each domain's second, and so on."""
        due = await self.due_in()
        if due is None or due > 0:
            return []
        now = self._now()
        names = [domain.name for domain in exclude]
        most = limit if strangers is None else strangers
        taken = await self._database.write(lambda db: destinations.lease(db, now, now + seconds, limit, names, most))
        return [_leased(row) for row in taken]

    async def messages(self, message_keys: Collection[int]) -> dict[int, tuple[Content, bytes]]:
        found = {key: self._fresh[key] for key in message_keys if key in self._fresh}
        if missing := [key for key in message_keys if key not in found]:
            rows = await self._database.read(lambda db: db.execute(CONTENTS, (json.dumps(missing),)).fetchall())
            for key, protected, payload, signature, bodies, trace in rows:
                found[key] = Content(protected, payload, signature, cbor2.loads(bodies)), trace
        return found

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        now = self._now()
        if await self._database.write(lambda db: _settle(db, settlements, now)):
            self._call()

    async def give_back(self, queue_ids: Sequence[int]) -> None:
        now = self._now()

        def give_back(db: sqlite3.Connection) -> None:
            update = "UPDATE queue_recipient SET state=?, next_attempt=? WHERE queue_id=? AND state=? RETURNING domain"
            for name in {n for i in queue_ids for (n,) in db.execute(update, (WAITING, now, i, LEASED)).fetchall()}:
                destinations.reckon(db, name)

        await self._database.write(give_back)

    async def overdue(self, domain: Domain, age: float, seconds: float, limit: int) -> list[Leased]:
        until = self._now() + seconds
        found = await self._old(domain, age, limit, "")

        def take(db: sqlite3.Connection) -> list[Leased]:
            update = "UPDATE queue_recipient SET state=?, next_attempt=? WHERE queue_id=? AND state=?"
            taken = [r for r in found if db.execute(update, (LEASED, until, r.queue_id, WAITING)).rowcount]
            destinations.reckon(db, domain.name)
            return taken

        return await self._database.write(take) if found else []

    async def unwarned(self, domain: Domain, age: float, limit: int) -> list[Leased]:
        return await self._old(domain, age, limit, " AND warned=0")

    async def _old(self, domain: Domain, age: float, limit: int, and_: str) -> list[Leased]:
        query = (
            f"SELECT {destinations.COLUMNS}, 0, 0 FROM queue_recipient"
            f" WHERE domain=? AND state=? AND accepted<?{and_} LIMIT ?"
        )
        key = (domain.name, WAITING, self._now() - age, limit)
        return [_leased(row) for row in await self._database.read(lambda db: db.execute(query, key).fetchall())]

    async def warned(self, queue_ids: Sequence[int]) -> None:
        update = "UPDATE queue_recipient SET warned=1 WHERE queue_id=?"
        await self._database.write(lambda db: db.executemany(update, [(queue_id,) for queue_id in queue_ids]))

    async def wake(self, domain: Domain) -> bool:
        """Asked at every contact of a peer, so looked up before anything is written."""
        now = self._now()
        rows, blocked = await self._database.read(lambda db: picking.asleep(db, domain.name, now))
        if not rows and not blocked:
            return False
        await self._database.write(lambda db: picking.wake(db, domain.name, rows, now))
        self._call()
        if len(rows) == picking.PIECE and domain not in self._waking:  # the peer does not wait for it
            self._waking.add(domain)
            defer.Deferred.fromCoroutine(self._wake_all(domain, now))
        return True

    async def _wake_all(self, domain: Domain, now: float) -> None:
        """The rest, some at a time."""
        try:
            rows: Sequence[int] = [0]
            while rows:
                await self._pause()
                rows, _ = await self._database.read(lambda db: picking.asleep(db, domain.name, now))
                await self._database.write(lambda db, rows=rows: picking.wake(db, domain.name, rows, now))  # type: ignore[misc]
                self._call()
        except StoreError as error:
            self.log.error("not all that waits for {domain} is due now: {e}", domain=domain.name, e=error)
        finally:
            self._waking.discard(domain)

    async def _pause(self) -> None:
        pause: defer.Deferred[None] = defer.Deferred()
        self._clock.callLater(PAUSE, pause.callback, None)
        await pause

    async def blobs(self) -> set[bytes]:
        query = (
            "SELECT DISTINCT blobs FROM queue_message WHERE blobs<>x'' AND EXISTS (SELECT 1 FROM queue_recipient"
            " WHERE queue_recipient.message_key=queue_message.message_key AND state NOT IN (?,?,?))"
        )
        found = await self._database.read(lambda db: db.execute(query, ENDED).fetchall())
        return {blobs[i : i + 32] for (blobs,) in found for i in range(0, len(blobs), 32)}

    async def recover(self) -> int:
        now = self._now()

        def recover(db: sqlite3.Connection) -> int:
            query = "UPDATE queue_recipient SET state=?, next_attempt=? WHERE state=? RETURNING domain"
            found = db.execute(query, (WAITING, now, LEASED)).fetchall()
            for name in {name for (name,) in found}:
                db.execute("UPDATE queue_destination SET not_before=0 WHERE domain=?", (name,))  # a probe that was cut
                destinations.reckon(db, name)
            return len(found)

        return await self._database.write(recover)

    async def due_in(self) -> float | None:
        query = "SELECT min(due) FROM queue_destination WHERE standing=?"
        standings = (destinations.GOOD, destinations.UNKNOWN, destinations.FAILING)
        found = await self._database.read(lambda db: [db.execute(query, (s,)).fetchone()[0] for s in standings])
        due = min((when for when in found if when is not None), default=destinations.NEVER)
        return due - self._now() if due < destinations.NEVER else None

    async def listing(self, limit: int = 1000, picked: Picked = EVERYTHING) -> list[Queued]:
        return await self._database.read(lambda db: picking.listing(db, limit, picked))

    async def hold(self, picked: Picked) -> int:
        return await self._move(picked, (WAITING,), HELD)

    async def release(self, picked: Picked) -> int:
        return await self._move(picked, (HELD,), WAITING)

    async def retry(self, picked: Picked) -> int:
        return await self._move(picked, (WAITING,), WAITING)

    async def drop(self, picked: Picked) -> int:
        return await self._move(picked, (WAITING, HELD), DROPPED)

    async def _move(self, picked: Picked, states: Sequence[str], state: str) -> int:
        now = self._now()
        count = await self._in_pieces(picked, states, partial(picking.move, states=states, state=state, now=now))
        if state == WAITING and count:
            self._call()
        return count

    async def _in_pieces(self, picked: Picked, states: Sequence[str], work: Callable[..., int]) -> int:
        """`work` of a connection and queue_ids, however many they are: deliveries, and other processes, have their turn
        between two pieces."""
        count = last = 0
        while found := await self._database.read(partial(picking.some, picked=picked, states=states, after=last)):
            count += await self._database.write(partial(work, queue_ids=found))
            last = found[-1]
            if len(found) == picking.PIECE:
                await self._pause()
        return count

    def watch(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    async def sweep(self) -> None:
        """Forget rows that ended long ago, and messages whose last row that was: some at a time, mail goes between."""
        before = self._now() - ENDED_FOR

        def sweep(db: sqlite3.Connection) -> bool:
            marks = ",".join("?" * len(ENDED))
            old = f"SELECT queue_id FROM queue_recipient WHERE state IN ({marks}) AND next_attempt<? LIMIT ?"
            delete = f"DELETE FROM queue_recipient WHERE queue_id IN ({old}) RETURNING message_key"
            keys = [key for (key,) in db.execute(delete, (*ENDED, before, SWEPT)).fetchall()]
            db.executemany(
                "DELETE FROM queue_message WHERE message_key=?1"
                " AND NOT EXISTS (SELECT 1 FROM queue_recipient WHERE message_key=?1)",
                [(key,) for key in set(keys)],
            )
            return len(keys) == SWEPT

        def forget(db: sqlite3.Connection) -> None:
            reached = (destinations.NEVER, self._now() - REACHED_FOR)
            db.execute("DELETE FROM queue_destination WHERE due=? AND reached<?", reached)

        while await self._database.write(sweep):
            pass
        await self._database.write(forget)

    def follow(self) -> None:
        """From now on see what other processes commit: the operator's gatewayctl."""
        self._poll.clock = self._clock
        self._poll.start(FOREIGN_POLL)

    def stop(self) -> None:
        if self._poll.running:
            self._poll.stop()

    def _look_for_foreign_commits(self) -> defer.Deferred[None]:
        async def look() -> None:
            try:
                version = await self._database.data_version()
                await self._look_at_clock()
            except StoreError:  # closed, or for now unreadable: the next look tells
                return
            if self._foreign is not None and version != self._foreign:
                self._call()
            self._foreign = version

        return defer.Deferred.fromCoroutine(look())

    async def _look_at_clock(self) -> None:
        """Set back, it would leave what waits for its next attempt waiting for as long. Raises StoreError."""
        now = self._now()
        ahead = now - self._clock.seconds()
        back = self._ahead - ahead
        if back > JUMP:
            self.log.warn("the clock was set back by {back:.0f} s", back=back)
            await self._in_pieces(EVERYTHING, (WAITING,), partial(picking.put_forward, seconds=back, now=now))
            self._call()
        self._ahead = ahead

    def _have_come(self, objects: Sequence[MailObject], keys: Sequence[int]) -> None:
        """They are at hand for their first attempt."""
        for one, key in zip(objects, keys, strict=True):
            if key not in self._fresh and _octets(one.content) <= FRESH_SIZE:
                self._fresh[key] = one.content, one.trace
                self._fresh_octets += _octets(one.content)
        while self._fresh_octets > FRESH:
            _, (oldest, _) = self._fresh.popitem(last=False)
            self._fresh_octets -= _octets(oldest)
        self._call()

    def _call(self) -> None:
        for callback in self._callbacks:
            callback()


def _octets(content: Content) -> int:
    return FRESH_LEAST + sum(map(len, content.bodies.values()))


def _put(db: sqlite3.Connection, objects: Sequence[MailObject], now: float) -> list[tuple[int, dict[Address, Outcome]]]:
    """The key of each message, and the answers."""
    done = _put_new(db, objects, now) or [_put_one(db, one, now) for one in objects]
    for name in {address.domain.name for _, answers in done for address in answers}:
        destinations.reckon(db, name)
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


def _settle(db: sqlite3.Connection, settlements: Sequence[Settlement], now: float) -> bool:
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


def _leased(row: Sequence[Any]) -> Leased:
    queue_id, message_key, attempts, accepted, warned, *said, probe, failures = row
    found = envelope(*said)
    to = found.recipients[0]
    return Leased(queue_id, to, found, message_key, attempts, accepted, bool(warned), probe, failures)
