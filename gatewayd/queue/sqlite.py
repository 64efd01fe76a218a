"""The outbound spool in the store's SQLite file (RFC 5321 §4.5.4): leases, retries, and answers to repeats."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from twisted.internet import defer
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from gatewayd.address import Address, Domain
from gatewayd.database.foreign import ForeignCommits
from gatewayd.database.sqlite import Database
from gatewayd.errors import StoreError
from gatewayd.interfaces.queue import EVERYTHING, IQueue, Leased, MailObject, Picked, Queued, Settlement
from gatewayd.message.model import Content
from gatewayd.outcome import Outcome
from gatewayd.queue import destinations, messages, picking, settling
from gatewayd.queue.envelopes import envelope
from gatewayd.queue.fresh import Fresh
from gatewayd.queue.schema import STEPS
from gatewayd.queue.states import DROPPED, ENDED, HELD, LEASED, WAITING

ENDED_FOR = 7 * 86400.0  # seconds that an ended row answers repeats
SWEPT = 500  # rows forgotten in one transaction
REACHED_FOR = 30 * 86400.0  # seconds that a domain is known to have been reached
PAUSE = 0.05  # seconds between two pieces of what is done to many rows
JUMP = 10.0  # seconds: a clock that runs slower is not set back


@implementer(IQueue)
class SQLiteQueue:
    log = Logger()

    def __init__(self, database: Database, clock: IReactorTime, now: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._now = now
        self._ahead = now() - clock.seconds()
        self._callbacks: list[Callable[[], None]] = []
        self._foreign = ForeignCommits(database, clock, self._call)
        self._fresh = Fresh()
        self._waking: set[Domain] = set()  # of which more rows are made due
        database.migrate("queue", STEPS)

    async def enqueue(self, objects: Sequence[MailObject]) -> list[dict[Address, Outcome]]:
        now = self._now()
        put = await self._database.write(lambda db: messages.put(db, objects, now))
        for one, (key, _) in zip(objects, put, strict=True):
            self._fresh.keep(key, one)
        self._call()
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
        found = self._fresh.among(message_keys)
        if missing := [key for key in message_keys if key not in found]:
            found |= await self._database.read(lambda db: messages.read(db, missing))
        return found

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        now = self._now()
        if await self._database.write(lambda db: settling.settle(db, settlements, now)):
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
        self._foreign.start()

    def stop(self) -> None:
        self._foreign.stop()

    async def heed_clock(self) -> None:
        """To be repeated: were it set back, what waits for its next attempt would wait for as long."""
        now = self._now()
        ahead = now - self._clock.seconds()
        back = self._ahead - ahead
        if back > JUMP:
            self.log.warn("the clock was set back by {back:.0f} s", back=back)
            await self._in_pieces(EVERYTHING, (WAITING,), partial(picking.put_forward, seconds=back, now=now))
            self._call()
        self._ahead = ahead

    def _call(self) -> None:
        for callback in self._callbacks:
            callback()


def _leased(row: Sequence[Any]) -> Leased:
    queue_id, message_key, attempts, accepted, warned, *said, probe, failures = row
    found = envelope(*said)
    to = found.recipients[0]
    return Leased(queue_id, to, found, message_key, attempts, accepted, bool(warned), probe, failures)
