"""`sync` and `mark`: the account's log, its live tail, what a user does to messages (docs/parley.rst §7.4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

from msgspec.structs import replace
from twisted.internet.defer import DeferredLock

from gatewayd.interfaces.records import Account, Arrival
from gatewayd.interfaces.store import IStore
from gatewayd.message.model import Content
from gatewayd.message.receipts import DELIVERED, DISPLAYED, asked, may_ask
from gatewayd.session.link import Link
from gatewayd.session.parley_consent import as_contact
from gatewayd.session.parley_failed import Failed
from gatewayd.session.parley_mailboxes import changed
from gatewayd.wire.parley.schema import Change, Changes, Extent, Mark, Sync

MAX_SYNC = 500
PAGE = 4 * 1024 * 1024  # octets: where a page of the log ends, whatever the client takes
ENVELOPE = 256  # octets: what is around the changes of a frame
HEADS = 128  # octets: what is around the texts of one change, or of one object
READ_AHEAD = 4  # messages

MDN_SENT = "$MDNSent"  # a notification was sent, or refused (RFC 3503 §2)

Acknowledge = Callable[[Account, Collection[Content], str], Awaitable[None]]


class Log:
    """One signed-in user's view of the account's log. `room`: octets of a page; `push` sends what the live tail has;
    `acknowledge` is told what became of messages."""

    __slots__ = (
        "_acknowledge", "_extent", "_link", "_live", "_push_again", "_push_changes", "_pushing", "_reading", "_room",
        "_stop_watching", "_store", "account",
    )  # fmt: skip

    def __init__(
        self, account: Account, store: IStore, link: Link, room: int, push: Callable[[Changes], None],
        acknowledge: Acknowledge,
    ) -> None:  # fmt: skip
        self.account = account
        self._store = store
        self._link = link
        self._room = room
        self._push_changes = push
        self._acknowledge = acknowledge
        self._reading = DeferredLock()
        self._live = -1  # the modseq up to which the client was told; -1: no live tail
        self._extent: Extent = "all"  # of what the live tail brings
        self._stop_watching: Callable[[], None] | None = None
        self._pushing = False
        self._push_again = False

    def close(self) -> None:
        if self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching = None

    async def sync(self, body: Sync) -> Changes:
        await self._reading.acquire()  # one page at a time, and the next when this one is read
        try:
            await self._link.drained()
            reply = await self._changes(body.since, min(body.limit, MAX_SYNC), body.content, body.epoch)
        finally:
            self._reading.release()
        if body.live and not reply.more:
            self._live = reply.modseq
            if self._stop_watching is None:
                self._extent = body.content
                self._stop_watching = self._store.watch(self.account.account_id, self._changed)
            self._changed()
        return reply

    async def _changes(self, since: int, limit: int, extent: Extent, epoch: bytes = b"") -> Changes:
        """A page of the log, cut where there is no more room: never inside one modseq, which may stand for many
        messages; of such a group those that do not fit come by their ids alone."""
        while True:
            found = await self._store.changes(self.account.account_id, since, limit, epoch)
            names = {mailbox.mailbox_id: mailbox.name for mailbox in found.mailboxes}
            size = sum(_heads(names.get(each.mailbox_id, ""), "") for each in found.expunged)
            size += sum(_heads(str(contact.address), "") for contact in found.contacts)
            if size <= self._room // 2 or limit == 1:
                break
            limit //= 2
        mailboxes = tuple(changed(found, since))
        entries = sorted(found.entries, key=lambda entry: entry.modseq)
        changes: list[Change] = []
        given: list[Content] = []
        size += sum(_heads(mailbox.name, "") for mailbox in mailboxes)
        last, modseq, more = since, found.modseq, found.more
        for at, entry in enumerate(entries):
            if at % READ_AHEAD == 0:
                ids = [ahead.message_id for ahead in entries[at : at + READ_AHEAD]]
                contents = await self._store.contents(self.account.account_id, ids)
            content, name = contents.get(entry.message_id), names.get(entry.mailbox_id)
            if content is None or name is None:
                continue  # gone meanwhile: the log says so next
            shown = _shown(content, extent)
            heads, whole = _heads(name, entry.flags), octets(shown) if shown else 0
            if changes and size + heads + whole > self._room and entry.modseq != last:
                modseq, more = last, True
                break
            change = Change(name, entry.uid, entry.modseq, flags=tuple(entry.flags.split()), id=content.id)
            if shown and size + heads + whole <= self._room:
                change = replace(change, signed=content.signed, bodies=tuple(shown.bodies.values()))
                size += whole
                if shown.bodies == content.bodies:
                    given.append(content)
            size += heads
            changes.append(change)
            last = entry.modseq
        self.given(given)
        gone = [
            Change(names[e.mailbox_id], e.uid, e.modseq, gone=True) for e in found.expunged if e.mailbox_id in names
        ]
        changes += [change for change in gone if change.modseq <= modseq]
        contacts = tuple(as_contact(contact) for contact in found.contacts if contact.modseq <= modseq)
        changes.sort(key=lambda change: change.modseq)
        return Changes(tuple(changes), modseq, more, contacts, mailboxes, found.epoch)

    def given(self, contents: Sequence[Content]) -> None:
        """The client has been handed them: those who asked are told."""
        asking = [content for content in contents if may_ask(content)]
        if asking:
            self._link.spawn(self._delivered(asking))

    async def _delivered(self, contents: Collection[Content]) -> None:
        await self._acknowledge(self.account, contents, DELIVERED)

    def _changed(self, arrivals: Sequence[Arrival] = ()) -> None:
        if self._pushing:
            self._push_again = True
        elif arrivals and self._follow(arrivals):
            changes = tuple(_change(arrival) for arrival in arrivals)
            self._live = changes[-1].modseq
            self._push_changes(Changes(changes, self._live))
            self.given([arrival.content for arrival in arrivals])
        else:
            self._pushing = True
            self._link.spawn(self._push())

    def _follow(self, arrivals: Sequence[Arrival]) -> bool:
        """They are all that the client lacks, and it reads along: the log need not be read."""
        first, last = arrivals[0].modseq, arrivals[-1].modseq
        whole = first == self._live + 1 and last == self._live + len(arrivals)
        return (
            whole
            and self._extent == "all"
            and not self._link.full
            and sum(octets(a.content) + _heads(a.mailbox, a.flags) for a in arrivals) <= self._room
        )

    async def _push(self) -> None:
        """The live tail: the same log, read on from where the client is."""
        try:
            self._push_again = True
            while self._push_again:
                self._push_again = False
                tail = await self._changes(self._live, MAX_SYNC, self._extent)
                if tail.changes or tail.contacts or tail.mailboxes:
                    self._push_changes(tail)
                    await self._link.drained()
                self._live = tail.modseq
                self._push_again = self._push_again or tail.more
        finally:
            self._pushing = False

    async def mark(self, body: Mark) -> Changes:
        _check(body)
        mailbox = await self._store.mailbox(self.account.account_id, body.mailbox)
        target = await self._store.mailbox(self.account.account_id, body.move) if body.move else mailbox
        where = (self.account.account_id, mailbox.mailbox_id, body.uids)
        for mode, flags in (("+", body.add), ("-", body.remove)):
            if flags:
                await self._store.store_flags(*where, mode, flags)
        if body.displayed:
            await self._displayed(mailbox.mailbox_id, body.uids)
        if body.delete:
            await self._store.expunge(*where)
        elif target.mailbox_id != mailbox.mailbox_id:
            await self._store.copy(*where, body.move, True)
        return Changes((), (await self._store.mailbox(self.account.account_id, body.mailbox)).highest_modseq)

    async def _displayed(self, mailbox_id: int, uids: Sequence[int]) -> None:
        """Those who asked learn of it, once: not if a mail program has told them (RFC 3503 §3.1), nor will it then."""
        account_id = self.account.account_id
        seen = await self._store.store_flags(account_id, mailbox_id, uids, "+", ("\\Seen",))
        untold = [entry for entry in seen if MDN_SENT not in entry.flags.split()]
        contents = await self._store.contents(account_id, [entry.message_id for entry in untold])
        asking = {i: content for i, content in contents.items() if DISPLAYED in asked(content.fields)}
        await self._acknowledge(self.account, list(asking.values()), DISPLAYED)
        told = [entry.uid for entry in untold if entry.message_id in asking]
        await self._store.store_flags(account_id, mailbox_id, told, "+", (MDN_SENT,))


def _check(body: Mark) -> None:
    """That it does not contradict itself (docs/parley.rst §7.5)."""
    added = {*body.add, "\\Seen"} if body.displayed else {*body.add}
    if body.move and body.delete:
        raise Failed("bad-request", "move and delete exclude each other")
    if both := added.intersection(body.remove):
        raise Failed("bad-request", f"to be added and removed: {min(both)}")


def _change(arrival: Arrival) -> Change:
    mailbox, uid, modseq, flags, content = arrival
    bodies = tuple(content.bodies.values())
    return Change(mailbox, uid, modseq, flags=tuple(flags.split()), id=content.id, signed=content.signed, bodies=bodies)


def _shown(content: Content, extent: Extent) -> Content | None:
    """What of it the client wants."""
    if extent == "all":
        return content
    return replace(content, bodies={}) if extent == "signed" else None


def octets(content: Content) -> int:
    """What it takes of a frame, at most."""
    signed = len(content.protected) + len(content.payload) + len(content.signature)
    return HEADS + signed + sum(len(body) + 9 for body in content.bodies.values())


def _heads(mailbox: str, flags: str) -> int:
    """What a change takes of a frame without its content, at most."""
    return HEADS + 4 * len(mailbox) + len(flags)


def room(frame: int) -> int:
    """Octets of a page, for a client that takes such frames."""
    return min(PAGE, frame - ENVELOPE)
