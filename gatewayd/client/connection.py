"""A user's connection: it dials, signs in, asks, follows the log's live tail, and dials again when it was lost."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace
from twisted.internet.defer import DeferredLock
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThread

from gatewayd.address import Address
from gatewayd.client.dialling import dial
from gatewayd.client.message import Draft, Message, Receipt, about, compose
from gatewayd.client.patience import Patience
from gatewayd.client.tail import Tail
from gatewayd.client.transfer import Progress, download, ignored, upload
from gatewayd.interfaces.dns import Endpoint
from gatewayd.interfaces.records import RECEIPTS
from gatewayd.message.model import EDIT, MESSAGE, REACTION, RETRACT, Part
from gatewayd.session.parley_client import ConnectionGone, ParleyClientSession, RequestFailed
from gatewayd.wire.parley import LocalProtocolError, RemoteProtocolError
from gatewayd.wire.parley.connection import ParleyConnection
from gatewayd.wire.parley.schema import (
    MAX_FETCH,
    Action,
    Body,
    Changes,
    Consent,
    ConsentReply,
    Contact,
    Extent,
    Fetch,
    FetchReply,
    Keys,
    KeysReply,
    Lookup,
    LookupReply,
    Mailbox,
    MailboxAction,
    Mailboxes,
    MailboxesReply,
    Mark,
    Object,
    Result,
    Send,
    SendReply,
    Signal,
    Signalled,
    SignalReply,
    Sync,
    read,
)

T = TypeVar("T", bound=Body)

PAGE = 100  # changes asked for at once
KEEP_ALIVE = 120.0  # seconds; finds a network that was lost in silence, and keeps the listener from hanging up


async def connect(
    reactor: Any, user: str, password: str, *, server: Endpoint | None = None, authorities: Path | None = None,
    engine: Callable[[], ParleyConnection] = ParleyConnection, patient: bool = False,
) -> ParleyClient:  # fmt: skip
    """Signs in at the user's own domain, which the server must prove to be; `server` instead of what the DNS says,
    `authorities` a PEM file instead of the system's; `patient`: afterwards, see ParleyClient. Raises OSError (no
    connection, not that domain), RequestFailed (not signed in), AddressError."""
    parley = ParleyClient(
        reactor, user, password, server=server, authorities=authorities, engine=engine, patient=patient
    )
    try:
        await parley.online()
    except BaseException:
        parley.close()
        raise
    return parley


class ParleyClient:
    """A user's connection, made when something is asked, and made anew when it was lost.

    What is asked is asked once more if the connection ended before the answer; every request may be repeated. Then, or
    when nothing can be dialled, the method raises OSError (ConnectionGone is one). A live loop does not: it dials again
    and again, each time a little later, and goes on in the log where it was; with `patient` every method does so.
    Every method may raise RequestFailed.
    """

    def __init__(
        self, reactor: Any, user: str, password: str, *, server: Endpoint | None = None,
        authorities: Path | None = None, engine: Callable[[], ParleyConnection] = ParleyConnection,
        patient: bool = False,
    ) -> None:  # fmt: skip
        """Does not dial yet. Raises AddressError."""
        self.user = user
        self.connections = 0  # made so far
        self._failed = False  # the first attempt
        self.on_state: Callable[[Exception | None], None] = lambda why: None  # None: signed in; else why not any more
        self.on_signal: Callable[[Signalled], None] = lambda signal: None
        self._domain = Address.parse(user).domain
        self._reactor = reactor
        self._password = password
        self._patient = patient
        self._where = (server, authorities, engine)
        self._session: ParleyClientSession | None = None
        self._dialling = DeferredLock()
        self._syncing = DeferredLock()
        self._live_on: ParleyClientSession | None = None  # which session's server pushes the log's tail
        self._tails: set[Tail] = set()
        self._patience = Patience(reactor)
        self._keeping_alive = LoopingCall(self._keep_alive)
        self._keeping_alive.clock = reactor

    async def __aenter__(self) -> ParleyClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        return self._patience.over

    @property
    def is_online(self) -> bool:
        return self._session is not None and self._session.usable

    async def online(self) -> ParleyClientSession:
        """The signed-in session, dialled where there is none. Raises OSError, RequestFailed."""
        await self._dialling.acquire()
        try:
            if self.closed:
                raise ConnectionGone("closed by us")
            if self._session is not None and not self._session.usable:
                self._lose(self._session, ConnectionGone("connection lost"))  # it is not closed yet
            if self._session is None:
                try:
                    self._session = await self._sign_in()
                except OSError as error:
                    if not (self._failed or self.connections or self.closed):  # else it was told when it was lost
                        self._failed = True
                        self.on_state(error)
                    raise
                self.connections += 1
                self.on_state(None)
            return self._session
        finally:
            self._dialling.release()

    async def send(
        self, to: Sequence[str], text: str = "", *, subject: str = "", files: Sequence[Path] = (),
        parents: Sequence[bytes] = (), answers: Message | None = None, type: str = MESSAGE,
        replaces: bytes | None = None, receipts: Collection[str] = (), kept: Message | None = None,
        progress: Progress = ignored,
    ) -> tuple[Result, ...]:  # fmt: skip
        """One message, as `compose` makes it; a result for each recipient, in their order."""
        draft = await deferToThread(
            compose, self.user, to, text, now=self._reactor.seconds(), subject=subject, files=files, parents=parents,
            answers=answers, type=type, replaces=replaces, receipts=receipts, kept=kept,
        )  # fmt: skip
        return await self.send_draft(to, draft, progress)

    async def edit(
        self, original: Message, text: str, *, subject: str | None = None, files: Sequence[Path] = ()
    ) -> tuple[Result, ...]:
        """Another text for a message of ours, to those whom it names; its files are kept, and its subject but for
        `subject`. Always of the first version: edits replace no edits. Raises ValueError: it is not ours."""
        subject = original.subject if subject is None else subject
        what = about(EDIT, original, self.user)
        return await self.send(text=text, subject=subject, files=files, kept=original, **what)

    async def retract(self, original: Message) -> tuple[Result, ...]:
        """Asks those whom it names to show a message, an edit or a reaction of ours no more. Raises ValueError: it is
        not ours."""
        return await self.send(**about(RETRACT, original, self.user))

    async def react(self, original: Message, text: str) -> tuple[Result, ...]:
        """With an emoji, or a few, to everybody whom the message names but ourselves."""
        return await self.send(text=text, **about(REACTION, original, self.user))

    async def send_draft(
        self, to: Sequence[str], draft: Draft, progress: Progress = ignored
    ) -> tuple[Result, ...]:  # fmt: skip
        """Safe to repeat, whatever it raised: the same draft arrives once, and what was put is not put again."""
        for part, source in draft.blobs:
            await self.upload(part, source, progress)
        session = await self._ready()
        most = max(1, session.recipients)
        results: tuple[Result, ...] = ()
        for begin in range(0, len(to), most):
            send = Send(tuple(to[begin : begin + most]), draft.bodies, payload=draft.payload)
            results += (await self._ask("send", send, SendReply)).results
        return results

    async def changes(
        self, since: int = 0, *, epoch: bytes = b"", live: bool = False, content: Extent = "all"
    ) -> AsyncIterator[Changes]:
        """The account's log after modseq `since`, page by page; with `live`, on and on as it grows, until `close`.
        `epoch` is the last that came with a page up to there. Messages come whole, "signed" without their bodies, or
        by their "ids"; `fetch` has the rest. Several such loops may run, but those that are live get the same. Raises
        RequestFailed "resync" when the log is another one than `since` was read in."""
        tail = Tail()
        if live:
            self._tails.add(tail)
        try:
            while True:
                tail.restart()  # before the log is asked: nothing falls in between
                more = True
                while more:
                    sync = Sync(since, PAGE, epoch=epoch, content=content)
                    page = await (self._patience.persist(partial(self._live_page, sync)) if live else self._page(sync))
                    more, since, epoch = page.more, page.modseq, page.epoch
                    yield page
                if not live:
                    return
                while (pushed := await tail.next()) is not None:
                    if pushed.modseq > since:  # else the log had it already
                        news = tuple(c for c in pushed.changes if c.modseq > since)
                        contacts = tuple(c for c in pushed.contacts if c.modseq > since)
                        yield replace(pushed, changes=news, contacts=contacts)
                        since = pushed.modseq
        finally:
            self._tails.discard(tail)

    async def messages(
        self, since: int = 0, *, epoch: bytes = b"", live: bool = False, mailbox: str = "INBOX"
    ) -> AsyncIterator[Message]:
        """The messages of one mailbox that are new or changed after modseq `since`, see `changes`. With `live` it goes
        on when the log becomes another one, as that of a server which was restored from a backup: of that come those
        that were not in the one before."""
        known: set[bytes] | None = None  # the ids of what is no news in another log
        anew = False  # such a log is being read
        while True:
            try:
                async for page in self.changes(since, epoch=epoch, live=live):
                    if live and known is None:
                        known = await self._ids_until(since, mailbox)
                    for change in page.changes:
                        if change.mailbox != mailbox or not change.id:  # gone
                            continue
                        if known is not None:
                            if anew and change.id in known:
                                continue
                            known.add(change.id)
                        if change.signed:
                            yield Message.of(change)
                            continue
                        async for objects in self.fetch([change.id]):  # of a group too large for a page
                            yield Message.of(replace(change, signed=objects[0].signed, bodies=objects[0].bodies))
                    anew = anew and page.more
                return
            except RequestFailed as failed:
                if failed.error != "resync" or known is None:
                    raise
            since, epoch, anew = 0, b"", True

    async def _ids_until(self, modseq: int, mailbox: str) -> set[bytes]:
        """What stood in the mailbox then, and stands there unchanged."""
        found: set[bytes] = set()
        if modseq:
            async for page in self.changes(content="ids"):
                found.update(change.id for change in page.changes if change.mailbox == mailbox and change.id)
                if page.modseq >= modseq:
                    break
        return found

    async def fetch(self, ids: Sequence[bytes]) -> AsyncIterator[tuple[Object, ...]]:
        """Those of them that the account has, some at a time."""
        left = list(dict.fromkeys(ids))
        while left:
            reply = await self._ask("fetch", Fetch(tuple(left[:MAX_FETCH])), FetchReply)
            if reply.objects:
                yield reply.objects
            looked_at = left.index(reply.objects[-1].id) + 1 if reply.more and reply.objects else MAX_FETCH
            left = left[looked_at:]

    async def receipts(self, since: int = 0, *, live: bool = False) -> AsyncIterator[Receipt]:
        """What became of our messages, where receipts were asked for."""
        async for message in self.messages(since, live=live, mailbox=RECEIPTS):
            for receipt in message.receipts:
                yield receipt

    async def mark(
        self, mailbox: str, uids: Sequence[int], *, add: Sequence[str] = (), remove: Sequence[str] = (),
        move: str = "", delete: bool = False, displayed: bool = False,
    ) -> int:  # fmt: skip
        """Flags (IMAP's names), another mailbox, or gone. With `displayed` the reader lets those authors know that they
        were read who asked for that. Returns the modseq up to which the log has it."""
        mark = Mark(mailbox, tuple(uids), tuple(add), tuple(remove), move, delete, displayed)
        return (await self._ask("mark", mark, Changes)).modseq

    async def mailboxes(self, action: MailboxAction = "list", mailbox: str = "", to: str = "") -> tuple[Mailbox, ...]:
        """All, or what became of the one that is named: "create", "rename" (`to`), "delete", "subscribe" and
        "unsubscribe". Changes of them come in `changes`."""
        return (await self._ask("mailboxes", Mailboxes(action, mailbox, to), MailboxesReply)).mailboxes

    async def signal(
        self, to: Sequence[str], kind: str, state: str, *, lease: int, about: bytes = b""
    ) -> tuple[str, ...]:
        """Presence ("online", "away", "offline"; at most 120 seconds) or typing ("composing", "paused"; at most 10), to
        be said again before the lease ends. What others signal comes to `on_signal` while a live loop runs. Returns
        those who got nothing, because we have not granted them to write."""
        return (await self._ask("signal", Signal(tuple(to), kind, state, lease, about), SignalReply)).skipped

    async def contacts(self) -> tuple[Contact, ...]:
        """Who may write, who may not, and who asks. Changes of it come in `changes`."""
        return (await self._ask("consent", Consent("list"), ConsentReply)).contacts

    async def consent(self, action: Action, address: str) -> Contact:
        """grant, revoke; request (asks them, without a message), cancel (they are a stranger again, and a request to
        them is withdrawn). Returns what they are now."""
        reply = await self._ask("consent", Consent(action, address), ConsentReply)
        return reply.contacts[0] if reply.contacts else Contact(address, "none", 0, 0)

    async def lookup(self, address: str) -> LookupReply:
        """How somebody is reached, and whether they have consented to what this user writes."""
        return await self._ask("lookup", Lookup(address), LookupReply)

    async def upload(self, part: Part, source: bytes | Path, progress: Progress = ignored) -> None:
        """Put a blob, or what of it is not there yet; goes on when the connection was lost. Raises TransferFailed too,
        and OSError when the file cannot be read."""
        await self._ready()
        await upload(self, self._reactor, part, source, partial(progress, part))

    async def download(self, part: Part, to: Path, progress: Progress = ignored) -> None:
        """Get a blob; goes on when the connection was lost. What is there of it stands in `to` with ".part" behind its
        name until all is there and has the right hash; done again, it goes on from there. Raises TransferFailed too,
        and OSError when the file cannot be written."""
        await self._ready()
        await download(self, self._reactor, part, to, partial(progress, part))

    def try_now(self) -> None:
        """Waits no longer until it dials again."""
        self._patience.try_now()

    def close(self) -> None:
        """Signs out; live loops end with ConnectionGone."""
        self._patience.end()
        if self._keeping_alive.running:
            self._keeping_alive.stop()
        if self._session is not None:
            self._session.close()
            self._lose(self._session, ConnectionGone("closed by us"))

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _sign_in(self) -> ParleyClientSession:
        session = await dial(self._reactor, self._domain, *self._where)
        await session.sign_in_user(self.user, self._password, secrets.token_hex(16))
        if self.closed:
            session.close()
            raise ConnectionGone("closed by us")
        session.on_changes = self._on_changes
        session.on_signal = self._on_signal
        session.on_closed = lambda error: self._lose(session, error)
        if not self._keeping_alive.running:
            self._keeping_alive.start(KEEP_ALIVE, now=False)
        return session

    async def _ready(self) -> ParleyClientSession:
        return await (self._patience.persist(self.online) if self._patient else self.online())

    async def _ask(self, method: str, body: Body, kind: type[T]) -> T:
        async def ask() -> T:
            session = await self.online()
            try:
                return await self._ask_on(session, method, body, kind)
            except ConnectionGone:
                if self.closed:
                    raise
            return await self._ask_on(await self.online(), method, body, kind)

        return await self._patience.persist(ask) if self._patient else await ask()

    async def _ask_on(self, session: ParleyClientSession, method: str, body: Body, kind: type[T]) -> T:
        try:
            return read(kind, await session.request(method, body))
        except LocalProtocolError as error:
            raise RequestFailed("too-big", str(error)) from None
        except RemoteProtocolError as error:
            raise RequestFailed(error.code, f"the server's answer makes no sense: {error}") from None

    async def _page(self, sync: Sync) -> Changes:
        return await self._ask("sync", sync, Changes)

    async def _live_page(self, sync: Sync) -> Changes:
        """Also has the tail pushed on this connection, if it is not already."""
        await self._syncing.acquire()  # two loops must not both ask for the tail
        try:
            session = await self.online()
            live = self._live_on is not session
            page = await self._ask_on(session, "sync", replace(sync, live=live), Changes)
            if live and not page.more:
                self._live_on = session
            return page
        finally:
            self._syncing.release()

    async def _keep_alive(self) -> None:
        """The cheapest question; if no answer comes the session finds that it is gone."""
        if self._session is not None and self._session.usable and self._session.idle:
            try:
                await self._ask_on(self._session, "keys", Keys(self._domain.name), KeysReply)
            except (OSError, RequestFailed):
                return

    def _on_changes(self, changes: Changes) -> None:
        for tail in list(self._tails):
            tail.push(changes)

    def _on_signal(self, signal: Signalled) -> None:
        self.on_signal(signal)

    def _lose(self, session: ParleyClientSession, error: Exception) -> None:
        if session is self._session:
            self._session = None
            for tail in list(self._tails):
                tail.stop()
            self.on_state(error)
