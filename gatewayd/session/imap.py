"""The IMAP session: each command a method; the store does the work (RFC 3501 and its extensions)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from datetime import UTC, datetime

from twisted.internet.defer import DeferredLock

from gatewayd.errors import StoreError, StoreFull
from gatewayd.interfaces import (
    Account,
    AuthenticationFailed,
    Entry,
    IAuthenticator,
    IStore,
    MailboxExists,
    NoSuchMailbox,
    Placed,
)
from gatewayd.session import imap_fetch, imap_search, sasl
from gatewayd.session.imap_mailbox import OpenMailbox, flags_response
from gatewayd.session.link import Link
from gatewayd.wire.imap.connection import BadCommand, Command, Continue, Line, NeedLiteral, State, Tagged, Untagged
from gatewayd.wire.imap.syntax import BadSyntax, Reader, compact, encoded_name

IDLE = 1800.0  # seconds, RFC 3501 §5.4
BEFORE_SIGN_IN = 120.0
MAX_AUTH_FAILURES = 3
MAX_NAME = 500  # characters of a mailbox name
FLAGS = b"(\\Answered \\Flagged \\Deleted \\Seen \\Draft)"
CAPABILITIES = "IMAP4rev1 LITERAL+ SASL-IR IDLE UIDPLUS MOVE NAMESPACE ID SPECIAL-USE UNSELECT CHILDREN ENABLE"

Append = Callable[[Account, str, bytes, Collection[str], "int | None"], Awaitable[Placed]]


class No(Exception):
    """The command fails with NO and these words."""


class IMAPSession:
    def __init__(self, store: IStore, authenticator: IAuthenticator, append: Append, *, starttls: bool) -> None:
        self._store = store
        self._authenticator = authenticator
        self._append = append
        self._starttls = starttls
        self._account: Account | None = None
        self._open: OpenMailbox | None = None
        self._failures = 0
        self._pending: bytes | None = None  # the tag that IDLE or AUTHENTICATE waits with
        self._idling = False
        self._stop_watching: Callable[[], None] | None = None
        self._pushing = False
        self._push_again = False
        self._telling = DeferredLock()  # a push must not overtake a command's own look

    # -- Session ----------------------------------------------------------------------------------------------------

    def opened(self, link: Link) -> None:
        self._link = link
        link.set_timeout(BEFORE_SIGN_IN)
        self._say(f"OK [CAPABILITY {self._capabilities()}] gatewayd ready")

    def tls_started(self) -> None:
        pass

    def protocol_error(self, error: Exception) -> None:
        self._say(f"BYE {error}")

    def failed(self) -> None:
        self._say("BYE Internal error")

    def timed_out(self) -> None:
        self._say("BYE Idle for too long")
        self._link.close()

    def closed(self, reason: Exception | None) -> None:
        if self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching = None

    async def handle(self, event: Command | Line | BadCommand | NeedLiteral) -> None:
        match event:
            case NeedLiteral():
                self._link.send(Continue(b"Go on"))
            case BadCommand():
                kind = b"NO " if event.text.startswith("[TOOBIG]") else b"BAD "
                self._link.send(Tagged(event.tag, kind + event.text.encode()))
            case Line():
                await self._line(event.text)
            case Command():
                await self._command(event)

    async def _command(self, command: Command) -> None:
        answer: str | None
        try:
            answer = await getattr(self, f"_do_{command.name.lower()}")(command)
        except BadSyntax as error:
            answer = f"BAD {error}"
        except imap_search.BadCharset:
            answer = "NO [BADCHARSET (UTF-8 US-ASCII)] Charset not known"
        except No as error:
            answer = f"NO {error}"
        except StoreError as error:
            answer = _failure(error, command.name)
        if answer is not None:
            if self._open is not None:
                quiet = command.name in {"FETCH", "STORE", "SEARCH"} and not command.uid
                await self._tell(expunges=not quiet)
            self._link.send(Tagged(command.tag, answer.encode("utf-8")))

    # -- any state --------------------------------------------------------------------------------------------------

    def _capabilities(self) -> str:
        if self._link.tls is not None:
            return CAPABILITIES + ("" if self._account else " AUTH=PLAIN")
        return CAPABILITIES + (" STARTTLS" if self._starttls else "") + " LOGINDISABLED"

    async def _do_capability(self, command: Command) -> str:
        command.arguments.end()
        self._say(f"CAPABILITY {self._capabilities()}")
        return "OK Done"

    async def _do_noop(self, command: Command) -> str:
        return "OK Done"

    _do_check = _do_noop

    async def _do_id(self, command: Command) -> str:
        self._say('ID ("name" "gatewayd")')
        return "OK Done"

    async def _do_logout(self, command: Command) -> None:
        self._say("BYE Goodbye")
        self._link.send(Tagged(command.tag, b"OK Done", State.OVER))
        self._link.close()

    async def _do_starttls(self, command: Command) -> str | None:
        if not self._starttls or self._link.tls is not None:
            return "BAD TLS is on already, or not to be had"
        self._link.send(Tagged(command.tag, b"OK Begin TLS", State.OVER))
        self._link.start_tls()
        return None

    # -- signing in -------------------------------------------------------------------------------------------------

    async def _do_login(self, command: Command) -> str | None:
        user = command.arguments.astring()
        command.arguments.space()
        password = command.arguments.astring()
        command.arguments.end()
        try:
            return await self._sign_in(command.tag, user.decode("utf-8"), password.decode("utf-8"))
        except UnicodeDecodeError:
            return "NO [AUTHENTICATIONFAILED] Not UTF-8"

    async def _do_authenticate(self, command: Command) -> str | None:
        mechanism = command.arguments.word()
        if mechanism != "PLAIN":
            return "NO Mechanism not offered"
        if self._link.tls is None:
            return "NO [PRIVACYREQUIRED] Use STARTTLS first"
        if command.arguments.ended:
            self._pending = command.tag
            self._link.send(Continue(b"", State.RESPONSE))
            return None
        command.arguments.space()
        return await self._plain(command.tag, command.arguments.atom().encode())

    async def _plain(self, tag: bytes, response: bytes) -> str | None:
        if response == b"*":
            return "BAD Cancelled"
        try:
            user, password = sasl.plain_base64(response)
        except sasl.BadResponse as error:
            return f"NO [AUTHENTICATIONFAILED] {error}"
        return await self._sign_in(tag, user, password)

    async def _sign_in(self, tag: bytes, user: str, password: str) -> str | None:
        if self._link.tls is None:
            return "NO [PRIVACYREQUIRED] Use STARTTLS first"
        try:
            self._account = await self._authenticator.password(user, password)
        except AuthenticationFailed:
            self._failures += 1
            if self._failures < MAX_AUTH_FAILURES:
                return "NO [AUTHENTICATIONFAILED] Wrong user or password"
            self._say("BYE Too many failed attempts")
            self._link.close()
            return None
        self._link.set_timeout(IDLE)
        self._stop_watching = self._store.watch(self._account.account_id, self._changed)
        text = f"OK [CAPABILITY {self._capabilities()}] Signed in"
        self._link.send(Tagged(tag, text.encode(), State.AUTHENTICATED))
        return None

    # -- mailboxes --------------------------------------------------------------------------------------------------

    async def _do_select(self, command: Command) -> str | None:
        return await self._select(command, read_only=False)

    async def _do_examine(self, command: Command) -> str | None:
        return await self._select(command, read_only=True)

    async def _select(self, command: Command, *, read_only: bool) -> str | None:
        name = command.arguments.mailbox()
        command.arguments.end()
        self._open = None  # whether it succeeds or not (RFC 3501 §6.3.1)
        try:
            mailbox = await self._store.mailbox(self._id, name)
            opened = OpenMailbox(self._id, mailbox, read_only=read_only)
            await opened.refresh(self._store, expunges=True)
        except StoreError as error:
            self._link.send(Tagged(command.tag, _failure(error, command.name).encode("utf-8"), State.AUTHENTICATED))
            return None
        self._say(f"{len(opened.entries)} EXISTS")
        self._say("0 RECENT")
        self._link.send(Untagged(b"FLAGS " + FLAGS))
        kept = b"()" if read_only else FLAGS[:-1] + b" \\*)"
        self._link.send(Untagged(b"OK [PERMANENTFLAGS " + kept + b"] Kept"))
        unseen = next((n for n, e in enumerate(opened.entries, 1) if "\\Seen" not in e.flags), None)
        if unseen is not None:
            self._say(f"OK [UNSEEN {unseen}] First unseen")
        uidnext = max(mailbox.uidnext, opened.entries[-1].uid + 1 if opened.entries else 1)
        self._say(f"OK [UIDVALIDITY {mailbox.uidvalidity}] UIDs valid")
        self._say(f"OK [UIDNEXT {uidnext}] Next UID")
        self._open = opened
        mode = b"READ-ONLY" if read_only else b"READ-WRITE"
        self._link.send(Tagged(command.tag, b"OK [" + mode + b"] Selected", State.SELECTED))
        return None

    async def _do_create(self, command: Command) -> str:
        name = _new_name(command.arguments)
        command.arguments.end()
        await self._store.create_mailbox(self._id, name)
        return "OK Created"

    async def _do_delete(self, command: Command) -> str:
        name = command.arguments.mailbox()
        command.arguments.end()
        if name == "INBOX":
            raise No("INBOX cannot be deleted")
        await self._store.delete_mailbox(self._id, name)
        return "OK Deleted"

    async def _do_rename(self, command: Command) -> str:
        name = command.arguments.mailbox()
        command.arguments.space()
        to = _new_name(command.arguments)
        command.arguments.end()
        await self._store.rename_mailbox(self._id, name, to)
        return "OK Renamed"

    async def _do_subscribe(self, command: Command) -> str:
        return await self._subscribe(command, True)

    async def _do_unsubscribe(self, command: Command) -> str:
        return await self._subscribe(command, False)

    async def _subscribe(self, command: Command, subscribed: bool) -> str:
        name = command.arguments.mailbox()
        command.arguments.end()
        await self._store.subscribe_mailbox(self._id, name, subscribed)
        return "OK Done"

    async def _do_list(self, command: Command) -> str:
        return await self._list(command.arguments, "LIST")

    async def _do_lsub(self, command: Command) -> str:
        return await self._list(command.arguments, "LSUB")

    async def _list(self, reader: Reader, response: str) -> str:
        reference = reader.mailbox()
        reader.space()
        pattern = reader.list_mailbox()
        reader.end()
        if not pattern:  # asks for the separator (RFC 3501 §6.3.8)
            self._say(f'{response} (\\Noselect) "/" ""')
            return "OK Done"
        pattern = reference + pattern
        if len(pattern) > MAX_NAME:
            raise BadSyntax("the pattern is too long")
        mailboxes = await self._store.mailboxes(self._id)
        superior = _superiors(mailbox.name for mailbox in mailboxes)
        shown = {mailbox.name: mailbox.special_use for mailbox in mailboxes if response == "LIST" or mailbox.subscribed}
        levels = superior if response == "LIST" else _superiors(shown) if pattern.endswith("%") else set()
        for name in sorted(shown.keys() | levels):
            if _matches(pattern, name):
                marks = [] if name in shown else ["\\Noselect"]  # a level, and no mailbox (RFC 3501 §6.3.8, §6.3.9)
                marks.append("\\HasChildren" if name in superior else "\\HasNoChildren")
                marks.append(shown.get(name) or "")
                line = f'{response} ({" ".join(marks).strip()}) "/" '.encode() + encoded_name(name)
                self._link.send(Untagged(line))
        return "OK Done"

    async def _do_status(self, command: Command) -> str:
        name = command.arguments.mailbox()
        command.arguments.space()
        command.arguments.need(b"(")
        wanted: list[str] = []
        while not command.arguments.skip(b")"):
            if wanted:
                command.arguments.space()
            wanted.append(command.arguments.word())
        command.arguments.end()
        mailbox = await self._store.mailbox(self._id, name)
        entries = await self._store.entries(self._id, mailbox.mailbox_id)
        values = {
            "MESSAGES": len(entries),
            "RECENT": 0,
            "UIDNEXT": mailbox.uidnext,
            "UIDVALIDITY": mailbox.uidvalidity,
            "UNSEEN": sum("\\Seen" not in entry.flags for entry in entries),
        }
        if not set(wanted) <= set(values):
            raise BadSyntax("no such status item")
        items = " ".join(f"{item} {values[item]}" for item in wanted)
        self._link.send(Untagged(b"STATUS " + encoded_name(name) + f" ({items})".encode()))
        return "OK Done"

    async def _do_namespace(self, command: Command) -> str:
        self._say('NAMESPACE (("" "/")) NIL NIL')
        return "OK Done"

    async def _do_enable(self, command: Command) -> str:
        self._say("ENABLED")  # nothing of what can be enabled is here yet (RFC 5161 §3.1)
        return "OK Done"

    async def _do_append(self, command: Command) -> str:
        assert self._account is not None
        reader = command.arguments
        name = reader.mailbox()
        reader.space()
        flags: list[str] = []
        if reader.peek(b"("):
            flags = reader.flags()
            reader.space()
        when = None
        if reader.peek(b'"'):
            when = _internal_date(reader.string())
            reader.space()
        mail = reader.string()
        reader.end()
        placed = await self._append(self._account, name, mail, flags, when)
        return f"OK [APPENDUID {placed.uidvalidity} {placed.uid}] Appended"

    # -- the selected mailbox ---------------------------------------------------------------------------------------

    async def _do_close(self, command: Command) -> None:
        opened = self._selected
        if not opened.read_only:
            await self._expunge([entry.uid for entry in opened.entries])
        await self._do_unselect(command)

    async def _do_unselect(self, command: Command) -> None:
        self._open = None
        self._link.send(Tagged(command.tag, b"OK Closed", State.AUTHENTICATED))

    async def _do_expunge(self, command: Command) -> str:
        self._writable()
        uids = [entry.uid for entry in self._selected.entries]
        if command.uid:
            uids = [entry.uid for _, entry in self._chosen(command)]
        await self._expunge(uids)
        return "OK Expunged"

    async def _do_search(self, command: Command) -> str:
        test = imap_search.read(command.arguments, self._selected)
        found = []
        for number, entry in enumerate(self._selected.entries, 1):
            if await test(imap_search.Candidate(number, entry, lambda entry=entry: self._mail(entry))):  # type: ignore[misc]
                found.append(entry.uid if command.uid else number)
        self._say(" ".join(["SEARCH", *map(str, found)]))
        return "OK Done"

    async def _do_fetch(self, command: Command) -> str:
        chosen = self._chosen(command)
        command.arguments.space()
        wanted = imap_fetch.attributes(command.arguments)
        command.arguments.end()
        if command.uid and "UID" not in wanted:
            wanted.insert(0, "UID")
        if imap_fetch.sets_seen(wanted) and not self._selected.read_only:
            unseen = [entry.uid for _, entry in chosen if "\\Seen" not in entry.flags]
            if unseen:
                await self._flag(unseen, "+", ["\\Seen"])
                chosen = [(n, self._selected.entries[n - 1]) for n, _ in chosen]
                if "FLAGS" not in wanted:
                    wanted.append("FLAGS")
        async for line in imap_fetch.responses(self._store, self._id, chosen, wanted):
            self._link.send(Untagged(line))
            await self._link.drained()
        return "OK Done"

    async def _do_store(self, command: Command) -> str:
        self._writable()
        chosen = self._chosen(command)
        command.arguments.space()
        item = command.arguments.word()
        command.arguments.space()
        flags = command.arguments.flags()
        command.arguments.end()
        silent = item.endswith(".SILENT")
        item = item.removesuffix(".SILENT")
        if item not in {"FLAGS", "+FLAGS", "-FLAGS"}:
            raise BadSyntax("FLAGS, +FLAGS or -FLAGS is expected")
        await self._flag([entry.uid for _, entry in chosen], item[0] if item[0] in "+-" else "=", flags)
        given = set(flags) - {"\\Recent"}
        for number, before in chosen:
            entry, old = self._selected.entries[number - 1], set(before.flags.split())
            expected = old | given if item[0] == "+" else old - given if item[0] == "-" else given
            if not silent or set(entry.flags.split()) != expected:  # another session's change came in with ours
                self._link.send(Untagged(flags_response(number, entry, uid=command.uid)))
        return "OK Done"

    async def _do_copy(self, command: Command) -> str:
        return await self._copy(command, move=False)

    async def _do_move(self, command: Command) -> str:
        self._writable()
        return await self._copy(command, move=True)

    async def _copy(self, command: Command, *, move: bool) -> str:
        uids = [entry.uid for _, entry in self._chosen(command)]
        command.arguments.space()
        target = command.arguments.mailbox()
        command.arguments.end()
        opened = self._selected
        validity, pairs = await self._store.copy(self._id, opened.mailbox_id, uids, target, move)
        if not pairs:
            return "OK Nothing to do"
        code = b"[COPYUID %d %s %s]" % (validity, compact([a for a, _ in pairs]), compact([b for _, b in pairs]))
        if move:  # RFC 6851 §4.3: the code comes before the expunges
            self._link.send(Untagged(b"OK " + code + b" Moved"))
            return "OK Moved"
        return f"OK {code.decode()} Copied"

    # -- IDLE, and what others change -------------------------------------------------------------------------------

    async def _do_idle(self, command: Command) -> None:
        self._pending = command.tag
        self._idling = True
        self._link.send(Continue(b"idling", State.IDLE))
        self._changed()

    async def _line(self, text: bytes) -> None:
        tag, self._pending = self._pending or b"*", None
        if not self._idling:
            try:
                answer = await self._plain(tag, text)
            except StoreError as error:
                answer = _failure(error, "AUTHENTICATE")
            if answer is not None:
                self._link.send(Tagged(tag, answer.encode(), State.NOT_AUTHENTICATED))
            return
        self._idling = False
        state = State.SELECTED if self._open is not None else State.AUTHENTICATED
        await self._tell(expunges=True)
        good = text.upper() == b"DONE"
        self._link.send(Tagged(tag, b"OK Done" if good else b"BAD DONE was expected", state))

    def _changed(self) -> None:
        """Called after each commit on the account."""
        if not self._idling or self._open is None:
            return
        if self._pushing:
            self._push_again = True
            return
        self._pushing = True
        self._link.spawn(self._push())

    async def _push(self) -> None:
        try:
            self._push_again = True
            while self._push_again and self._idling:
                self._push_again = False
                await self._tell(expunges=True)
        finally:
            self._pushing = False

    async def _tell(self, *, expunges: bool) -> None:
        opened = self._open
        if opened is None:
            return
        await self._telling.acquire()
        try:
            for line in await opened.refresh(self._store, expunges=expunges):
                self._link.send(Untagged(line))
        finally:
            self._telling.release()

    # -- inside -----------------------------------------------------------------------------------------------------

    @property
    def _id(self) -> int:
        assert self._account is not None
        return self._account.account_id

    @property
    def _selected(self) -> OpenMailbox:
        assert self._open is not None
        return self._open

    def _writable(self) -> None:
        if self._selected.read_only:
            raise No("[READ-ONLY] The mailbox is open for reading only")

    def _chosen(self, command: Command) -> list[tuple[int, Entry]]:
        try:
            return self._selected.select(command.arguments.sequence_set(), uid=command.uid)
        except ValueError as error:
            raise BadSyntax(str(error)) from None

    async def _mail(self, entry: Entry) -> bytes:
        return (await self._store.mails(self._id, [entry.message_id])).get(entry.message_id, b"")

    async def _flag(self, uids: list[int], mode: str, flags: list[str]) -> None:
        opened = self._selected
        opened.update(await self._store.store_flags(self._id, opened.mailbox_id, uids, mode, flags))

    async def _expunge(self, uids: list[int]) -> None:
        opened = self._selected
        doomed = await opened.flagged(self._store, uids, "\\Deleted")
        if doomed:
            await self._store.expunge(self._id, opened.mailbox_id, doomed)

    def _say(self, text: str) -> None:
        self._link.send(Untagged(text.encode("utf-8")))


def _failure(error: StoreError, command: str) -> str:
    match error:
        case NoSuchMailbox():
            code = "TRYCREATE" if command in {"APPEND", "COPY", "MOVE"} else "NONEXISTENT"
            return f"NO [{code}] No such mailbox"
        case MailboxExists():
            return "NO [ALREADYEXISTS] The mailbox exists"
        case StoreFull():
            return "NO [OVERQUOTA] No space is left"
    return f"NO [UNAVAILABLE] {error}"


def _new_name(reader: Reader) -> str:
    """Raises No for a name that no mailbox can have."""
    name = reader.mailbox().removesuffix("/")  # which announces inferiors (RFC 3501 §6.3.3)
    if not all(name.split("/")) or name.startswith("\\") or len(name) > MAX_NAME:
        raise No("[CANNOT] A mailbox cannot have this name")
    return name


def _superiors(names: Iterable[str]) -> set[str]:
    return {name[:i] for name in names for i, letter in enumerate(name) if letter == "/"}


def _matches(pattern: str, name: str) -> bool:
    """ "*" is anything, "%" anything within a level; at worst this takes the product of the lengths."""
    at = {0}  # how much of the name the pattern so far can stand for
    for letter in pattern:
        if letter in "*%":
            grown: set[int] = set()
            for i in sorted(at):
                while i not in grown:
                    grown.add(i)
                    if i < len(name) and (letter == "*" or name[i] != "/"):
                        i += 1
            at = grown
        else:
            at = {i + 1 for i in at if name.startswith(letter, i)}
    return len(name) in at


def _internal_date(text: bytes) -> int:
    try:
        when = datetime.strptime(text.decode("ascii").strip(), "%d-%b-%Y %H:%M:%S %z")
        return int(when.astimezone(UTC).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise BadSyntax("a date-time is expected") from None
