"""Messages as they are read: the signed object, its mail form, and what mail programs ask of that, derived once."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from typing import Any

import cbor2
from twisted.internet import defer
from twisted.logger import Logger

from gatewayd.database.sqlite import Database
from gatewayd.errors import StoreError
from gatewayd.interfaces.records import Summary
from gatewayd.message.bridge import as_mail, mail_bodies
from gatewayd.message.model import Content
from gatewayd.message.structure import summarize
from gatewayd.store.bodies import Blobs

ROWS = 500  # of one SELECT
DERIVED = 50  # messages at once: bounds the memory for bodies


class Messages:
    """Those that are gone are left out of every answer."""

    log = Logger()

    def __init__(self, database: Database, blobs: Blobs, in_thread: Callable[..., defer.Deferred[Any]]) -> None:
        self._database = database
        self._blobs = blobs
        self._in_thread = in_thread

    async def contents(self, account_id: int, message_ids: Sequence[int]) -> dict[int, tuple[Content, bytes]]:
        """With the trace of each."""
        columns = "message_id, protected, payload, signature, bodies, trace"
        return {
            message_id: (Content(protected, payload, signature, cbor2.loads(bodies)), trace)
            for message_id, protected, payload, signature, bodies, trace in await self._rows(
                account_id, message_ids, columns
            )
        }

    async def mails(self, account_id: int, message_ids: Sequence[int]) -> dict[int, bytes]:
        found = await self.contents(account_id, message_ids)
        return {i: as_mail(await self._with_mail(content), trace) for i, (content, trace) in found.items()}

    async def find(self, account_id: int, object_ids: Collection[bytes]) -> list[int]:
        query = "SELECT message_id FROM message WHERE account_id=? AND object_id=? LIMIT 1"

        def read(db: sqlite3.Connection) -> list[int]:
            rows = (db.execute(query, (account_id, object_id)).fetchone() for object_id in object_ids)
            return [row[0] for row in rows if row]

        return await self._database.read(read)

    async def summaries(self, account_id: int, message_ids: Sequence[int]) -> dict[int, Summary]:
        columns = "message_id, size, envelope, bodystructure, body"
        found = {row[0]: row[1:] for row in await self._rows(account_id, message_ids, columns)}
        ready = {i: Summary(*values) for i, values in found.items() if values[0] is not None}
        missing = [i for i in found if i not in ready]
        for begin in range(0, len(missing), DERIVED):
            ready.update(await self._derive(account_id, missing[begin : begin + DERIVED]))
        return ready

    async def _rows(self, account_id: int, message_ids: Sequence[int], columns: str) -> list[tuple[Any, ...]]:
        def read(db: sqlite3.Connection) -> list[tuple[Any, ...]]:
            found = []
            for begin in range(0, len(message_ids), ROWS):
                some = message_ids[begin : begin + ROWS]
                marks = ",".join("?" * len(some))
                query = f"SELECT {columns} FROM message WHERE account_id=? AND message_id IN ({marks})"
                found += db.execute(query, (account_id, *some)).fetchall()
            return found

        return await self._database.read(read)

    async def _with_mail(self, content: Content) -> Content:
        """With what its mail form needs at hand."""
        return await self._blobs.load(content, mail_bodies(content))

    async def _derive(self, account_id: int, message_ids: Sequence[int]) -> dict[int, Summary]:
        """Made in a thread, from the octets that FETCH would send, and kept in the row."""
        found = await self.contents(account_id, message_ids)
        contents = {i: (await self._with_mail(content), trace) for i, (content, trace) in found.items()}

        def derive() -> dict[int, Summary]:
            return {i: Summary(*summarize(as_mail(content, trace))) for i, (content, trace) in contents.items()}

        derived: dict[int, Summary] = await self._in_thread(derive)
        update = "UPDATE message SET size=?, envelope=?, bodystructure=?, body=? WHERE account_id=? AND message_id=?"
        kept = [(*summary, account_id, i) for i, summary in derived.items()]
        try:
            await self._database.write(lambda db: db.executemany(update, kept))
        except StoreError as error:  # a full disk can be read still
            self.log.warn("what was derived of {count} messages is not kept: {error}", count=len(kept), error=error)
        return derived
