"""One device of a user: the connection, the copy of the log and the outbox, kept in step.

Everything can be used offline; what is sent then leaves when the server is reached again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.task import LoopingCall

from gatewayd.client.archive import Archive, Conversation, Place
from gatewayd.client.connection import ParleyClient
from gatewayd.client.conversation import Said, conversation_of, laid_together, most_known
from gatewayd.client.message import Draft, Message, Receipt, about, compose
from gatewayd.client.outbox import Outbox, Waiting
from gatewayd.client.pages import INTRODUCTIONS
from gatewayd.client.transfer import Progress, ignored
from gatewayd.errors import StoreError
from gatewayd.message.model import EDIT, Part, Payload
from gatewayd.session.parley_client import RequestFailed
from gatewayd.session.parley_transfer import TransferFailed
from gatewayd.wire.parley.schema import Result

RETRY = 60.0  # seconds until a recipient who could not be reached is tried again
HOPELESS = {"bad-request", "too-big", "quota", "wrong-octets"}  # answers that a draft would get again


class Cancelled(Exception):
    """Raised by a transfer's progress, to end it."""


class Device:
    """`on_changed` is called when the archive or the outbox has changed, with the messages that are new."""

    def __init__(self, reactor: Any, parley: ParleyClient, archive: Archive) -> None:
        self.parley = parley
        self.archive = archive
        self.outbox = Outbox(archive)
        self.on_changed: Callable[[list[Message]], None] = lambda new: None
        self.progress: Progress = ignored  # of large files on their way to the server
        self.at_rest: Callable[[Sequence[Part]], None] = lambda parts: None  # those are not, whatever became of them
        self._reactor = reactor
        self._cancelled: set[bytes] = set()  # drafts that are not to be sent after all
        self._lanes = {False: DeferredLock(), True: DeferredLock()}  # for messages, and for those with large files

    async def __aenter__(self) -> Device:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.parley.close()
        self.archive.close()

    async def sync(self, *, large: bool = True) -> list[Message]:
        """Sends what waits, large files last if at all, and brings the copy up to date. Returns what is new. Raises
        OSError (offline), RequestFailed, StoreError."""
        await self._flush(large=False)
        new = [message async for page in self.follow(live=False) for message in page]
        if large and await self._flush(large=True):
            new += [message async for page in self.follow(live=False) for message in page]
        return new

    async def run(self) -> None:
        """Stays in step, through lost connections, until `parley.close()`: then ConnectionGone. Raises RequestFailed
        when the server does not let us in, StoreError."""
        retrying = LoopingCall(self._flush_if_online)
        retrying.clock = self._reactor
        retrying.start(RETRY, now=False)
        flushed_on = 0  # which connection
        try:
            async for new in self.follow(live=True):
                self.on_changed(new)
                if self.parley.connections != flushed_on:
                    flushed_on = self.parley.connections
                    Deferred.fromCoroutine(self._flush_if_online())
        finally:
            retrying.stop()

    async def send(self, to: Sequence[str], draft: Draft) -> tuple[Result, ...]:
        """Kept, then tried; a result for each recipient. Raises StoreError: it is not kept. Raises OSError (offline)
        or RequestFailed (we are not let in): it waits in the outbox."""
        await self.outbox.put(to, draft)
        self.on_changed([])
        return (await self.flush()).get(draft.id, ())

    async def cancel(self, id: bytes) -> None:
        """Does not send what waits, nor the rest of a large file that is on its way, and forgets who refused it. What
        the server was already asked to take it may take all the same. Raises StoreError."""
        self._cancelled.add(id)
        await self.outbox.cancel(id)
        self.on_changed([])

    async def forget(self, reports: Sequence[Message]) -> None:
        """Reports of failure that were heeded. Raises OSError, RequestFailed."""
        for report in reports:
            await self.parley.mark(report.mailbox, [report.uid], move="Trash")

    async def send_again(self, id: bytes) -> tuple[Result, ...]:
        """To those who refused it: the same draft, which arrives once; to those of whom a report says that they will
        not get it a new one, since servers give the same object the same answer. As `send`; raises ValueError: nobody
        has refused it, or it is not here any more."""
        if not await self.outbox.again(id):
            id = await self._anew(id)
        self.on_changed([])
        return (await self.flush()).get(id, ())

    async def _anew(self, id: bytes) -> bytes:
        """The id of a draft that says the same. Raises ValueError."""
        message = await self.archive.message(id)
        (said,) = await self.shown([message]) if message else [None]
        if said is None or not said.undelivered:
            raise ValueError("it is not here any more to be sent")
        draft = compose(
            self.parley.user, said.message.content.fields.to, said.text, now=self._reactor.seconds(),
            subject=said.subject, parents=said.message.content.fields.parents, receipts=said.message.asks_for,
            kept=await self.archive.message(said.version.id),
        )  # fmt: skip
        await self.outbox.put(list(said.undelivered), draft)
        await self.forget(said.reports)
        return draft.id

    async def flush(self) -> dict[bytes, tuple[Result, ...]]:
        """Tries all that waits, the oldest first, but no large file keeps a message waiting. Returns the answers.
        Raises OSError, RequestFailed, StoreError."""
        return {**await self._flush(large=False), **await self._flush(large=True)}

    async def _flush(self, *, large: bool) -> dict[bytes, tuple[Result, ...]]:
        answers: dict[bytes, tuple[Result, ...]] = {}
        lane = self._lanes[large]
        await lane.acquire()
        try:
            for waiting in await self.outbox.waiting():
                if bool(waiting.draft.blobs) is large and waiting.draft.id not in self._cancelled:
                    results = await self._answers(waiting)
                    await self.outbox.settle(waiting, results)
                    answers[waiting.draft.id] = results
                    self.on_changed([])
        finally:
            lane.release()
        return answers

    async def _answers(self, waiting: Waiting) -> tuple[Result, ...]:
        """What no server would take, or is not there any more to be sent, is refused here."""

        def told(part: Part, octets: int) -> None:
            if waiting.draft.id in self._cancelled:
                raise Cancelled
            self.progress(part, octets)

        why: Exception
        try:
            for _, source in waiting.draft.blobs:
                if isinstance(source, Path):
                    source.open("rb").close()
        except OSError as error:
            why = error
        else:
            try:
                return await self.parley.send_draft(waiting.to, waiting.draft, told)
            except Cancelled:
                return ()
            except TransferFailed as failed:
                why = failed
            except RequestFailed as failed:
                if failed.error not in HOPELESS:
                    raise
                why = failed
            finally:
                self.at_rest([part for part, _ in waiting.draft.blobs])
        return tuple(Result(to, "5.0.0", str(why)) for to in waiting.to)

    async def read(self, conversation: str, *, displayed: bool) -> None:
        """All of it is read; with `displayed` those authors are told who asked for that. Raises OSError, RequestFailed,
        StoreError."""
        for mailbox, uids in (await self.archive.unseen(conversation)).items():
            await self.parley.mark(mailbox, uids, add=["\\Seen"], displayed=displayed)

    async def conversations(self) -> list[Conversation]:
        """The last one first, those too of which only drafts are here; before them all, if somebody waits there, what
        strangers wrote."""
        known = {one.name: one for one in await self.archive.conversations()}
        refused = [one.draft for one in await self.outbox.refused() if one.draft]
        for draft in (*(one.draft for one in await self.outbox.waiting()), *refused):
            fields = Payload.decode(draft.payload)
            name = conversation_of(self.parley.user, fields)
            one = known.get(name, Conversation(name, 0, 0))
            known[name] = replace(one, last=max(one.last, fields.date), refused=one.refused or draft in refused)
        for original, _ in await self.archive.reported():
            name = conversation_of(self.parley.user, original.content.fields)
            known[name] = replace(known.get(name, Conversation(name, 0, 0)), refused=True)
        found = sorted(known.values(), key=lambda one: one.last, reverse=True)
        waiting = await self.archive.mailbox(INTRODUCTIONS)
        newest = max((message.content.fields.date for message in waiting), default=0)
        return [Conversation(INTRODUCTIONS, newest, len(waiting)), *found] if waiting else found

    async def decide(self, introduction: Message, *, accept: bool) -> None:
        """Its author may write from now on, or may not (docs/parley.rst §8.4). Raises OSError, RequestFailed."""
        await self.parley.mark(INTRODUCTIONS, [introduction.uid], move="INBOX" if accept else "Junk")

    async def conversation(self, name: str, last: int, until: Place | None = None) -> list[Said]:
        """Its `last` messages as they are to be shown, and then what waits in the outbox; with `until`, those up to
        there."""
        if name == INTRODUCTIONS:
            return laid_together(await self.archive.mailbox(INTRODUCTIONS, last))
        shown = await self.shown(await self.archive.conversation(name, last, until), name)
        return [said for said in shown if said.waiting is None] if until else shown

    async def thread(self, name: str, id: bytes) -> list[Said]:
        """Of a conversation what answers that message and what that answers, and then what waits in the outbox."""
        shown = await self.shown(await self.archive.thread(name, id), name)
        return [said for said in shown if said.waiting is None or said.answers]

    async def about(self, type: str, id: bytes, text: str = "", subject: str | None = None) -> Draft:
        """An EDIT, a RETRACT or a REACTION for that message, to be sent to whom it names. An edit keeps the files, and
        but for `subject` the subject, of what is shown now. Raises ValueError: no server would take it."""
        original = await self.archive.message(id)
        if original is None:
            raise ValueError("the message is not here any more")
        what = about(type, original, self.parley.user)
        if type == EDIT:
            (said,) = await self.shown([original])
            if said.retracted:
                raise ValueError("it is taken back, and shown no more")
            what["subject"] = said.subject if subject is None else subject
            what["kept"] = await self.archive.message(said.version.id) or said.version
        return compose(self.parley.user, text=text, now=self._reactor.seconds(), **what)

    async def whom(self, change: Draft) -> list[str]:
        """To whom a change goes: not to who did not get what it changes, unless that is everybody."""
        fields = Payload.decode(change.payload)
        original = await self.archive.message(fields.replaces) if fields.replaces else None
        without = {to for said in await self.shown([original]) for to in said.undelivered} if original else set()
        return [to for to in fields.to if to not in without] or list(fields.to)

    async def shown(self, messages: list[Message], conversation: str = "") -> list[Said]:
        """Those that change no others, with what does laid upon them; behind them the drafts of the conversation."""
        waiting = {one.draft.id: one for one in await self.outbox.waiting()}
        refused = {one.id: one for one in await self.outbox.refused()}
        kept = {id: one.draft for id, one in refused.items() if one.draft}
        kept |= {id: one.draft for id, one in waiting.items()}
        put_off: dict[bytes, dict[str, Receipt]] = {}
        for message in messages:  # what the log has does not wait any more, but for some of its recipients
            one = waiting.pop(message.id, None)
            if one is not None:
                put_off[one.draft.id] = {
                    to: Receipt(message.id, "delayed", to, 0.0, False, one.trouble) for to in one.to
                }
            kept.pop(message.id, None)
        drafts = [draft.message for draft in kept.values()]
        behind = [one for one in drafts if conversation_of(self.parley.user, one.content.fields) == conversation]
        beside = [*await self.archive.beside([*messages, *drafts]), *(one for one in drafts if one not in behind)]
        receipts = await self.archive.receipts([m.id for m in messages if m.sender == self.parley.user])
        return [
            replace(
                said,
                receipts=most_known(receipts.get(said.message.id, ())),
                waiting=waiting[said.message.id].trouble if said.message.id in waiting else None,
                put_off=put_off.get(said.message.id, {}),
                waiting_changes=[id for id in said.changes if id in waiting],
                refused={id: refused[id].reasons for id in (said.message.id, *said.changes) if id in refused},
            )
            for said in laid_together([*messages, *behind], beside)
        ]

    async def _flush_if_online(self) -> None:
        if self.parley.is_online:
            try:
                await self.flush()
            except (OSError, RequestFailed, StoreError):
                return  # it waits

    async def follow(self, *, live: bool = True) -> AsyncIterator[list[Message]]:
        """Keeps each page of the log, and says what is new in it. Raises as `run`."""
        while True:
            since, epoch = await self.archive.place()
            try:
                async for page in self.parley.changes(since, epoch=epoch, live=live):
                    epoch = page.epoch or epoch
                    async for objects in self.parley.fetch(await self.archive.missing(page)):
                        await self.archive.keep(objects)
                    yield await self.archive.take(page)
                return
            except RequestFailed as failed:
                if failed.error != "resync":
                    raise
            await self.archive.begin_anew(epoch)
