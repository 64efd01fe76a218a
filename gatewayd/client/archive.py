"""What a device keeps of an account: a copy of its log in one SQLite file, which opens at once and is there offline.

The copy is filled page by page, each page with the modseq after it in one transaction: a killed program asks again from
where it was. Several programs may use the file at once. Messages are shown with those bodies that are worth showing;
`message` has them all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatewayd.client import pages
from gatewayd.client.conversation import conversation_of
from gatewayd.client.message import Message, Receipt
from gatewayd.client.pages import IN_CONVERSATIONS, SHOWN
from gatewayd.client.tables import ANSWERS, REPLACES, REPORTS, STEPS
from gatewayd.database.sqlite import Database
from gatewayd.errors import StoreError
from gatewayd.message.model import Content
from gatewayd.wire.parley.schema import Changes, Contact, Object

ENTRY = "e.mailbox, e.uid, e.modseq, e.flags, o.signed, o.id"
ONE = (  # of an object `o` that may stand in several mailboxes
    "JOIN entry e ON (e.mailbox, e.uid)="
    f"(SELECT e.mailbox, e.uid FROM entry e WHERE e.id=o.id AND {IN_CONVERSATIONS} ORDER BY e.mailbox LIMIT 1)"
)
SAID = f"EXISTS (SELECT 1 FROM entry e WHERE e.id=o.id AND {IN_CONVERSATIONS})"
LATEST = "ORDER BY o.date DESC, o.id DESC"


Place = tuple[int, bytes]  # in a conversation: date and id


@dataclass(frozen=True)
class Conversation:
    """Who talks, without ourselves (alone with ourselves: just us)."""

    name: str  # the addresses, a line each
    last: int  # milliseconds since the epoch
    unread: int
    refused: bool = False  # something of ours, by somebody

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(self.name.splitlines())


class Archive:
    """`post` carries results to the thread that asks (reactor.callFromThread). It and all methods may raise
    StoreError."""

    def __init__(self, path: Path, user: str, post: Callable[[Callable[[], None]], None]) -> None:
        self.user = user
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
        except OSError as error:
            raise StoreError(f"{path}: {error}") from error
        self.database = Database(path, post)
        self.database.migrate("archive", STEPS)

    def close(self) -> None:
        """Blocks for a moment."""
        self.database.close()

    # -- filling it -------------------------------------------------------------------------------------------------

    async def place(self) -> tuple[int, bytes]:
        """From where to ask the log: modseq and epoch."""
        found: tuple[int, bytes] = await self.database.read(
            lambda db: db.execute("SELECT modseq, epoch FROM log").fetchone()
        )
        return found

    async def take(self, page: Changes) -> list[Message]:
        """Keep a page of the log. Returns the messages that are new here."""
        return await self.database.write(lambda db: pages.take(db, self.user, page))

    async def missing(self, page: Changes) -> list[bytes]:
        """The ids of objects that a page names only, and that are not here."""
        ids = [change.id for change in page.changes if change.id and not change.signed]
        query = "SELECT 1 FROM object WHERE id=?"
        if not ids:
            return []
        return await self.database.read(lambda db: [id for id in ids if not db.execute(query, (id,)).fetchone()])

    async def keep(self, objects: Sequence[Object]) -> None:
        """For a page that names them only, and is taken next."""
        await self.database.write(lambda db: pages.keep(db, self.user, objects))

    async def begin_anew(self, epoch: bytes) -> None:
        """The server's log is another one now than in that epoch. What was here waits to come again; what does not is
        kept, since this may be the only copy."""
        await self.database.write(lambda db: pages.begin_anew(db, epoch))

    # -- reading it -------------------------------------------------------------------------------------------------

    async def mailbox(self, name: str, last: int = -1) -> list[Message]:
        """Its `last` messages (-1: all), in the order of their UIDs."""
        query = f"SELECT {ENTRY} FROM entry e JOIN object o USING (id) WHERE e.mailbox=? ORDER BY e.uid DESC LIMIT ?"
        return await self._messages(query, (name, last))

    async def mailboxes(self) -> list[str]:
        """Their names; none before the log was read for the first time."""
        found = await self.database.read(lambda db: db.execute("SELECT name FROM mailbox ORDER BY name").fetchall())
        return [name for (name,) in found]

    async def conversation(self, name: str, last: int = -1, until: Place | None = None) -> list[Message]:
        """Its `last` messages (up to that place), by their dates; one that stands in several mailboxes comes once."""
        bound = "(o.date, o.id) <= (?, ?)" if until else "1"
        query = f"SELECT {ENTRY} FROM object o {ONE} WHERE o.conversation=? AND {bound} {LATEST} LIMIT ?"
        return await self._messages(query, (name, *(until or ()), last))

    async def place_after(self, id: bytes, later: int) -> Place | None:
        """Of the message that many further on in its conversation; None when there are not so many."""
        query = (
            "SELECT o.date, o.id FROM object o JOIN object h ON o.conversation=h.conversation"
            " WHERE h.id=? AND (o.date, o.id) > (h.date, h.id)"
            f" AND {SAID} ORDER BY o.date, o.id LIMIT 1 OFFSET ?"
        )
        found: Place | None = await self.database.read(lambda db: db.execute(query, (id, later - 1)).fetchone())
        return found

    async def thread(self, name: str, id: bytes) -> list[Message]:
        """What that message answers, what answers it, and so on, within its conversation."""
        query = (
            "WITH RECURSIVE up(id) AS (SELECT ?1 UNION SELECT l.about FROM link l JOIN up USING (id)),"
            " thread(id) AS (SELECT id FROM up UNION SELECT l.id FROM link l JOIN thread t ON l.about=t.id)"
            f" SELECT {ENTRY} FROM thread CROSS JOIN object o USING (id) {ONE} WHERE o.conversation=?2 {LATEST}"
        )
        return await self._messages(query, (id, name))

    async def beside(self, messages: Sequence[Message]) -> list[Message]:
        """What has to be known to show these: what they answer or react to, what edits, takes back, reacts to or
        reports on any of it, and what takes that back."""
        here = {message.id for message in messages}
        fields = [message.content.fields for message in messages]
        about = {id for one in fields for id in (*one.parents[:1], one.replaces) if id} - here
        all_, about_, here_ = (",".join("?" * many) for many in (len(about) + len(here), len(about), len(here)))
        query = (
            f"WITH change(id) AS (SELECT id FROM link WHERE kind!='{ANSWERS}' AND about IN ({all_})),"
            f" wanted(id) AS (SELECT id FROM change"
            f" UNION SELECT l.id FROM change c CROSS JOIN link l ON l.about=c.id AND l.kind='{REPLACES}'"
            f" UNION SELECT id FROM object WHERE id IN ({about_}) EXCEPT SELECT id FROM object WHERE id IN ({here_}))"
            f" SELECT {ENTRY} FROM wanted CROSS JOIN object o USING (id) {ONE} {LATEST} LIMIT 1000"
        )
        return await self._messages(query, (*about, *here, *about, *here))

    async def reported(self) -> list[tuple[Message, Message]]:
        """Messages that did not reach somebody, and the mails that report so."""
        reports = await self._messages(
            f"SELECT {ENTRY} FROM link l JOIN object o USING (id) {ONE} WHERE l.kind='{REPORTS}' {LATEST}", ()
        )
        found = [(await self.message(report.content.fields.parents[0]), report) for report in reports]
        return [(original, report) for original, report in found if original is not None]

    async def search(self, text: str, most: int) -> list[tuple[str, Message]]:
        """Conversations and messages with all the words, wherever they stand: in what is said, subject, addresses or
        names of files. The newest first; not what was edited since, or taken back."""
        words = text.casefold().split()
        query = (
            "WITH hit(id) AS (SELECT o.id FROM words CROSS JOIN object o USING (id)"
            f" WHERE {' AND '.join(['instr(folded, ?)'] * len(words)) or '0'} AND {SAID} {LATEST} LIMIT ?)"
            f" SELECT {ENTRY} FROM hit CROSS JOIN object o USING (id) {ONE} {LATEST}"
        )
        found = (await self._messages(query, (*words, most)))[::-1]
        replacing = [one for one in await self.beside(found) + found if one.content.fields.replaces]
        return [
            (conversation_of(self.user, message.content.fields), message)
            for message in found
            if not any(one.replaces(message) for one in replacing)
        ]

    async def conversations(self) -> list[Conversation]:
        """The last one first."""

        def work(db: sqlite3.Connection) -> list[Conversation]:
            unread = dict(
                db.execute(
                    "SELECT o.conversation, count(*) FROM entry e JOIN object o USING (id)"
                    f" WHERE instr(e.flags, '\\Seen') = 0 AND {IN_CONVERSATIONS} GROUP BY o.conversation"
                ).fetchall()
            )
            found = db.execute(  # from one to the next by the index: their messages are not looked at
                "WITH RECURSIVE known(name) AS (SELECT min(conversation) FROM object UNION ALL"
                " SELECT (SELECT min(conversation) FROM object WHERE conversation > name) FROM known"
                " WHERE name IS NOT NULL), dated(name, last) AS (SELECT name, (SELECT o.date FROM object o WHERE"
                f" o.conversation=name AND {SAID} ORDER BY o.date DESC LIMIT 1) FROM known)"
                " SELECT name, last FROM dated WHERE last IS NOT NULL ORDER BY last DESC"
            )
            return [Conversation(name, last, unread.get(name, 0)) for name, last in found.fetchall()]

        return await self.database.read(work)

    async def unseen(self, conversation: str) -> dict[str, list[int]]:
        """The UIDs of what was not read, by mailbox."""

        def work(db: sqlite3.Connection) -> dict[str, list[int]]:
            found: dict[str, list[int]] = {}
            query = (
                "SELECT e.mailbox, e.uid FROM entry e JOIN object o USING (id)"
                f" WHERE o.conversation=? AND instr(e.flags, '\\Seen') = 0 AND {IN_CONVERSATIONS}"
            )
            for mailbox, uid in db.execute(query, (conversation,)).fetchall():
                found.setdefault(mailbox, []).append(uid)
            return found

        return await self.database.read(work)

    async def receipts(self, ids: Sequence[bytes]) -> dict[bytes, list[Receipt]]:
        """What is known of messages of ours."""

        def work(db: sqlite3.Connection) -> dict[bytes, list[Receipt]]:
            query = "SELECT status, recipient, at, signed FROM receipt WHERE of=?"
            found = {id: db.execute(query, (id,)).fetchall() for id in ids}
            return {
                id: [Receipt(id, status, by, at, bool(signed)) for status, by, at, signed in rows]
                for id, rows in found.items()
                if rows
            }

        return await self.database.read(work)

    async def contacts(self) -> list[Contact]:
        """Who may write, who may not, and who asks."""
        query = "SELECT address, state, since, modseq FROM contact WHERE state!='none' ORDER BY address"
        found = await self.database.read(lambda db: db.execute(query).fetchall())
        return [Contact(*row) for row in found]

    async def message(self, id: bytes, mailbox: str = "") -> Message | None:
        """With all bodies that are here; as it stands in that mailbox, or in whichever."""
        query = f"SELECT {ENTRY} FROM entry e JOIN object o USING (id) WHERE e.id=? AND ? IN ('', e.mailbox) LIMIT 1"
        found = await self._messages(query, (id, mailbox), whole=True)
        return found[0] if found else None

    async def ids(self, mailbox: str, since: int = 0) -> list[tuple[bytes, int]]:
        """Of what changed there after a modseq, with the number at which it stands; in the order of their UIDs."""
        query = "SELECT id, modseq FROM entry WHERE mailbox=? AND modseq > ? ORDER BY uid"
        return await self.database.read(lambda db: db.execute(query, (mailbox, since)).fetchall())

    async def named(self, prefix: str) -> list[bytes]:
        """The ids of objects that begin so, in hex; at most three."""
        query = "SELECT id FROM object WHERE hex(id) LIKE ? LIMIT 3"
        found = await self.database.read(lambda db: db.execute(query, (prefix + "%",)).fetchall())
        return [id for (id,) in found]

    async def at(self, mailbox: str, uid: int) -> bytes | None:
        """The id of the object there."""
        query = "SELECT id FROM entry WHERE mailbox=? AND uid=?"
        found = await self.database.read(lambda db: db.execute(query, (mailbox, uid)).fetchone())
        return found[0] if found else None

    async def _messages(self, query: str, values: Sequence[Any], *, whole: bool = False) -> list[Message]:
        """By the order of the query, reversed: the last one last."""
        bodies = "SELECT b.hash, b.octets FROM part p JOIN body b USING (hash) WHERE p.id=?" + (
            "" if whole else f" AND p.type LIKE 'text/%' AND length(b.octets) <= {SHOWN}"
        )

        def work(db: sqlite3.Connection) -> list[Message]:
            found = []
            for mailbox, uid, modseq, flags, signed, id in db.execute(query, values).fetchall():
                content = Content.from_signed(signed, dict(db.execute(bodies, (id,)).fetchall()))
                found.append(Message(mailbox, uid, modseq, tuple(flags.split()), content))
            return found[::-1]

        return await self.database.read(work)

    # -- other domains' keys, for verifying offline -------------------------------------------------------------------

    async def keep_key_set(self, domain: str, octets: bytes, now: float) -> None:
        row = (domain, octets, now)
        await self.database.write(lambda db: db.execute("INSERT OR REPLACE INTO key_set VALUES (?,?,?)", row))

    async def key_set(self, domain: str) -> tuple[bytes, float] | None:
        """An encoded key set, and when it was fetched."""
        query = "SELECT octets, fetched FROM key_set WHERE domain=?"
        found = await self.database.read(lambda db: db.execute(query, (domain,)).fetchone())
        return (found[0], found[1]) if found else None
