"""The IMAP session: signing in, opening a mailbox, IDLE; each command a method (RFC 3501 and its extensions).

What is done to mailboxes is in imap_folders.py, to the messages of the open one in imap_selected.py.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime

from twisted.internet.defer import DeferredLock

from gatewayd.errors import StoreError
from gatewayd.interfaces.authentication import AuthenticationFailed, IAuthenticator
from gatewayd.interfaces.records import Account, Arrival, Placed
from gatewayd.interfaces.store import IStore
from gatewayd.session import imap_search, sasl
from gatewayd.session.imap_failed import No, failure
from gatewayd.session.imap_folders import Folders
from gatewayd.session.imap_mailbox import OpenMailbox
from gatewayd.session.imap_selected import Selected
from gatewayd.session.link import Link
from gatewayd.wire.imap.connection import BadCommand, Command, Continue, Line, NeedLiteral, State, Tagged, Untagged
from gatewayd.wire.imap.syntax import BadSyntax

IDLE = 1800.0  # seconds, RFC 3501 §5.4
BEFORE_SIGN_IN = 120.0
MAX_AUTH_FAILURES = 3
FLAGS = b"(\\Answered \\Flagged \\Deleted \\Seen \\Draft)"
CAPABILITIES = (
    "IMAP4rev1 LITERAL+ SASL-IR IDLE UIDPLUS MOVE NAMESPACE ID SPECIAL-USE UNSELECT CHILDREN ENABLE"
    " QUOTA QUOTA=RES-STORAGE QUOTA=RES-MESSAGE"
)

Append = Callable[[Account, str, bytes, Collection[str], "int | None"], Awaitable[Placed]]


class IMAPSession:
    def __init__(self, store: IStore, authenticator: IAuthenticator, append: Append, *, starttls: bool) -> None:
        self._store = store
        self._authenticator = authenticator
        self._append = append
        self._starttls = starttls
        self._exchange: sasl.Exchange | None = None
        self._account: Account | None = None
        self._folders: Folders | None = None  # None: not signed in
        self._selected: Selected | None = None
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

    def failed(self, why: str = "internal error") -> None:
        self._say(f"BYE {why}")

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
            answer = await self._do(command)
        except BadSyntax as error:
            answer = f"BAD {error}"
        except imap_search.BadCharset:
            answer = "NO [BADCHARSET (UTF-8 US-ASCII)] Charset not known"
        except No as error:
            answer = f"NO {error}"
        except StoreError as error:
            answer = failure(error, command.name)
        if answer is not None:
            if self._selected is not None:
                quiet = command.name in {"FETCH", "STORE", "SEARCH"} and not command.uid
                unknown = await self._tell(expunges=not quiet)
                if unknown is not None and command.name in {"NOOP", "CHECK"}:  # else it is done, and the news is late
                    answer = failure(unknown, command.name)
            self._link.send(Tagged(command.tag, answer.encode("utf-8")))

    async def _do(self, command: Command) -> str | None:
        """The engine has checked that the command exists and the state allows it."""
        answer: str | None
        if command.name in Folders.COMMANDS:
            answer = await getattr(self._folders, command.name.lower())(command.arguments)
        elif command.name in Selected.COMMANDS:
            answer = await getattr(self._selected, command.name.lower())(command)
        else:
            answer = await getattr(self, f"_do_{command.name.lower()}")(command)
        return answer

    # -- any state --------------------------------------------------------------------------------------------------

    def _capabilities(self) -> str:
        if self._link.tls is not None:
            offers = () if self._account else sasl.offered(self._link.tls)
            return " ".join([CAPABILITIES, *(f"AUTH={name}" for name in offers)])
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
        if self._link.tls is None:
            return "NO [PRIVACYREQUIRED] Use STARTTLS first"
        self._exchange = sasl.begin(mechanism, self._authenticator, self._link.tls)
        if self._exchange is None or mechanism == sasl.LOGIN:
            return "NO Mechanism not offered"
        if command.arguments.ended:
            self._challenge(command.tag, self._exchange.first)
            return None
        command.arguments.space()
        return await self._response(command.tag, command.arguments.atom().encode())

    async def _response(self, tag: bytes, letters: bytes) -> str | None:
        assert self._exchange is not None
        if letters == b"*":
            return "BAD Cancelled"
        try:
            answer = await self._exchange.step(sasl.decoded(letters))
        except sasl.BadResponse as error:
            return f"NO [AUTHENTICATIONFAILED] {error}"
        except AuthenticationFailed:
            return self._refused()
        if isinstance(answer, bytes):
            self._challenge(tag, answer)
        else:
            self._signed_in(tag, answer)
        return None

    def _challenge(self, tag: bytes, octets: bytes) -> None:
        self._pending = tag
        self._link.send(Continue(base64.b64encode(octets), State.RESPONSE))

    async def _sign_in(self, tag: bytes, user: str, password: str) -> str | None:
        if self._link.tls is None:
            return "NO [PRIVACYREQUIRED] Use STARTTLS first"
        try:
            self._signed_in(tag, await self._authenticator.password(user, password))
        except AuthenticationFailed:
            return self._refused()
        return None

    def _refused(self) -> str | None:
        self._failures += 1
        self._link.guessed()
        if self._failures < MAX_AUTH_FAILURES:
            return "NO [AUTHENTICATIONFAILED] Wrong user or password"
        self._say("BYE Too many failed attempts")
        self._link.close()
        return None

    def _signed_in(self, tag: bytes, account: Account) -> None:
        self._account = account
        self._link.set_timeout(IDLE)
        self._folders = Folders(account.account_id, self._store, lambda line: self._link.send(Untagged(line)))
        self._stop_watching = self._store.watch(account.account_id, self._changed)
        text = f"OK [CAPABILITY {self._capabilities()}] Signed in"
        self._link.send(Tagged(tag, text.encode(), State.AUTHENTICATED))

    # -- mailboxes --------------------------------------------------------------------------------------------------

    async def _do_select(self, command: Command) -> str | None:
        return await self._select(command, read_only=False)

    async def _do_examine(self, command: Command) -> str | None:
        return await self._select(command, read_only=True)

    async def _select(self, command: Command, *, read_only: bool) -> str | None:
        name = command.arguments.mailbox()
        command.arguments.end()
        self._selected = None  # whether it succeeds or not (RFC 3501 §6.3.1)
        try:
            mailbox = await self._store.mailbox(self._id, name)
            opened = OpenMailbox(self._id, mailbox, read_only=read_only)
            await opened.refresh(self._store, expunges=True)
        except StoreError as error:
            self._link.send(Tagged(command.tag, failure(error, command.name).encode("utf-8"), State.AUTHENTICATED))
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
        self._selected = Selected(opened, self._store, self._link)
        mode = b"READ-ONLY" if read_only else b"READ-WRITE"
        self._link.send(Tagged(command.tag, b"OK [" + mode + b"] Selected", State.SELECTED))
        return None

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
        assert self._selected is not None
        opened = self._selected.opened
        if not opened.read_only:
            await self._selected.expunge_deleted([entry.uid for entry in opened.entries])
        await self._do_unselect(command)

    async def _do_unselect(self, command: Command) -> None:
        self._selected = None
        self._link.send(Tagged(command.tag, b"OK Closed", State.AUTHENTICATED))

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
                answer = await self._response(tag, text)
            except StoreError as error:
                answer = failure(error, "AUTHENTICATE")
            if answer is not None:
                self._link.send(Tagged(tag, answer.encode(), State.NOT_AUTHENTICATED))
            return
        self._idling = False
        state = State.SELECTED if self._selected is not None else State.AUTHENTICATED
        await self._tell(expunges=True)
        good = text.upper() == b"DONE"
        self._link.send(Tagged(tag, b"OK Done" if good else b"BAD DONE was expected", state))

    def _changed(self, _: Sequence[Arrival] = ()) -> None:
        """Called after each commit on the account."""
        if not self._idling or self._selected is None:
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

    async def _tell(self, *, expunges: bool) -> StoreError | None:
        """None, or why it is not known what is new."""
        if self._selected is None:
            return None
        opened = self._selected.opened
        await self._telling.acquire()
        try:
            for line in await opened.refresh(self._store, expunges=expunges):
                self._link.send(Untagged(line))
        except StoreError as error:
            return error
        finally:
            self._telling.release()
        return None

    # -- inside -----------------------------------------------------------------------------------------------------

    @property
    def _id(self) -> int:
        assert self._account is not None
        return self._account.account_id

    def _say(self, text: str) -> None:
        self._link.send(Untagged(text.encode("utf-8")))


def _internal_date(text: bytes) -> int:
    try:
        when = datetime.strptime(text.decode("ascii").strip(), "%d-%b-%Y %H:%M:%S %z")
        return int(when.astimezone(UTC).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise BadSyntax("a date-time is expected") from None
