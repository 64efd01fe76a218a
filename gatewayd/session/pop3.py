"""POP3 over INBOX: sizes and octets as IMAP has them, deletions at QUIT (RFC 1939)."""

from __future__ import annotations

import base64
import re

from gatewayd.errors import StoreError
from gatewayd.interfaces.authentication import AuthenticationFailed, IAuthenticator
from gatewayd.interfaces.records import Account, Entry
from gatewayd.interfaces.store import IStore
from gatewayd.session import sasl
from gatewayd.session.link import Link
from gatewayd.wire.pop3.connection import Answer, AuthResponse, BadCommand, Command, State

IDLE = 600.0  # seconds, RFC 1939 §3
MAX_AUTH_FAILURES = 3
NUMBER = re.compile(r"[0-9]{1,10}")


class POP3Session:
    """`locks` holds the accounts whose maildrop is open, shared by all sessions (RFC 1939 §4)."""

    def __init__(self, store: IStore, authenticator: IAuthenticator, locks: set[int], *, starttls: bool) -> None:
        self._store = store
        self._authenticator = authenticator
        self._locks = locks
        self._starttls = starttls
        self._user = ""
        self._exchange: sasl.Exchange | None = None
        self._account: Account | None = None
        self._failures = 0
        self._entries: list[Entry] = []
        self._sizes: list[int] = []
        self._uidvalidity = 0
        self._deleted: set[int] = set()  # indices

    def opened(self, link: Link) -> None:
        self._link = link
        link.set_timeout(IDLE)
        link.send(Answer(True, "gatewayd POP3 ready"))

    def tls_started(self) -> None:
        self._user = ""

    def protocol_error(self, error: Exception) -> None:
        self._unlock()  # here and below: the client may come back before this connection is gone
        self._link.send(Answer(False, str(error), state=State.OVER))

    def failed(self, why: str = "internal error") -> None:
        self._unlock()
        self._link.send(Answer(False, f"[SYS/TEMP] {why}", state=State.OVER))

    def timed_out(self) -> None:
        self._unlock()
        self._link.close()  # without a word, and without deleting (RFC 1939 §3)

    def closed(self, reason: Exception | None) -> None:
        self._unlock()

    async def handle(self, event: Command | AuthResponse | BadCommand) -> None:
        try:
            match event:
                case BadCommand():
                    self._no(event.text)
                case AuthResponse():
                    await self._auth_response(event.text)
                case Command(verb) if verb in {"USER", "PASS", "AUTH", "CAPA", "STLS", "UTF8", "QUIT"}:
                    await self._authorization(verb, event.argument)
                case Command():
                    await self._transaction(event.verb, event.argument.split())
        except StoreError as error:
            self._no(f"[SYS/TEMP] {error}")

    # -- before sign-in ---------------------------------------------------------------------------------------------

    async def _authorization(self, verb: str, argument: str) -> None:
        link = self._link
        match verb:
            case "CAPA":
                lines = ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "UTF8", "IMPLEMENTATION gatewayd"]
                if link.tls is not None:
                    lines += ["USER", f"SASL {' '.join(sasl.offered(link.tls))}"]
                elif self._starttls:
                    lines.append("STLS")
                link.send(Answer(True, "Capabilities", "".join(f"{line}\r\n" for line in lines).encode()))
            case "QUIT":
                await self._quit()
            case "STLS" if not self._starttls or link.tls is not None:
                self._no("TLS is on already, or not to be had")
            case "UTF8":  # RFC 6856 §2: mail is given as it is, either way
                link.send(Answer(True, "UTF8 enabled"))
            case "STLS":
                link.send(Answer(True, "Begin TLS", state=State.OVER))
                link.start_tls()
            case _ if link.tls is None:
                self._no("[AUTH] Use STLS first")
            case "USER":
                self._user = argument
                link.send(Answer(True, "Password?"))
            case "PASS":
                await self._sign_in(self._user, argument)
            case "AUTH":
                await self._auth(argument.split())

    async def _auth(self, words: list[str]) -> None:
        """RFC 5034."""
        link = self._link
        assert link.tls is not None
        if not words:
            link.send(Answer(True, "Mechanisms", "".join(f"{name}\r\n" for name in sasl.offered(link.tls)).encode()))
            return
        self._exchange = sasl.begin(words[0].upper(), self._authenticator, link.tls)
        if self._exchange is None:
            self._no("Mechanism not offered")
        elif len(words) > 1:
            await self._auth_response(words[1])
        else:
            self._challenge(self._exchange.first)

    async def _auth_response(self, text: str) -> None:
        assert self._exchange is not None
        if text == "*":
            self._no("[AUTH] Cancelled")
            return
        try:
            answer = await self._exchange.step(sasl.decoded(text.encode()))
        except sasl.BadResponse as error:
            self._no(f"[AUTH] {error}")
        except AuthenticationFailed:
            self._failed()
        else:
            if isinstance(answer, bytes):
                self._challenge(answer)
            else:
                await self._open(answer)

    def _challenge(self, octets: bytes) -> None:
        self._link.send(Answer(None, base64.b64encode(octets).decode("ascii"), state=State.RESPONSE))

    async def _sign_in(self, user: str, password: str) -> None:
        try:
            account = await self._authenticator.password(user, password)
        except AuthenticationFailed:
            self._failed()
        else:
            await self._open(account)

    def _failed(self) -> None:
        self._failures += 1
        self._link.guessed()
        self._no("[AUTH] Wrong user or password")
        if self._failures >= MAX_AUTH_FAILURES:
            self._link.close()

    async def _open(self, account: Account) -> None:
        if account.account_id in self._locks:
            self._no("[IN-USE] The maildrop is open in another session")
            return
        self._locks.add(account.account_id)
        self._account = account  # from here on closed() gives the lock back
        try:
            inbox = await self._store.mailbox(account.account_id, "INBOX")
            entries = await self._store.entries(account.account_id, inbox.mailbox_id)
            summaries = await self._store.summaries(account.account_id, [e.message_id for e in entries])
        except StoreError:
            self._unlock()
            raise
        self._uidvalidity = inbox.uidvalidity
        self._entries = [e for e in entries if e.message_id in summaries]  # the others went meanwhile
        self._sizes = [summaries[e.message_id].size for e in self._entries]
        self._link.send(Answer(True, f"{len(self._entries)} messages", state=State.TRANSACTION))

    # -- the maildrop -----------------------------------------------------------------------------------------------

    async def _transaction(self, verb: str, words: list[str]) -> None:
        send = self._link.send
        listed = [i for i in range(len(self._entries)) if i not in self._deleted]
        match verb, words:
            case "NOOP", []:
                send(Answer(True, ""))
            case "RSET", []:
                self._deleted.clear()
                send(Answer(True, f"{len(self._entries)} messages"))
            case "STAT", []:
                send(Answer(True, f"{len(listed)} {sum(self._sizes[i] for i in listed)}"))
            case (("LIST" | "UIDL"), []):
                lines = "".join(f"{i + 1} {self._said(verb, i)}\r\n" for i in listed)
                send(Answer(True, f"{len(listed)} messages", lines.encode()))
            case (("LIST" | "UIDL" | "RETR" | "DELE"), [number]) if (i := self._index(number)) is not None:
                if verb in {"LIST", "UIDL"}:
                    send(Answer(True, f"{i + 1} {self._said(verb, i)}"))
                elif verb == "DELE":
                    self._deleted.add(i)
                    send(Answer(True, f"Message {i + 1} deleted"))
                else:
                    send(Answer(True, f"{self._sizes[i]} octets", await self._octets(i)))
            case "TOP", [number, count] if (i := self._index(number)) is not None and NUMBER.fullmatch(count):
                send(Answer(True, "Top follows", _top(await self._octets(i), int(count))))
            case _, [_, *_]:
                self._no("No such message")
            case _:
                self._no("Bad arguments")

    async def _quit(self) -> None:
        answer = Answer(True, "Goodbye", state=State.OVER)
        if self._account is not None and self._deleted:
            gone = [self._entries[i] for i in self._deleted]
            try:
                await self._store.expunge(self._account.account_id, gone[0].mailbox_id, [entry.uid for entry in gone])
            except StoreError as error:  # it is over all the same (RFC 1939 §6)
                answer = Answer(False, f"[SYS/TEMP] Nothing was deleted: {error}", state=State.OVER)
        self._unlock()
        self._link.send(answer)
        self._link.close()

    def _unlock(self) -> None:
        if self._account is not None:
            self._locks.discard(self._account.account_id)
            self._account = None

    async def _octets(self, i: int) -> bytes:
        assert self._account is not None
        message_id = self._entries[i].message_id
        mails = await self._store.mails(self._account.account_id, [message_id])
        if message_id not in mails:
            raise StoreError("the message is gone")
        return mails[message_id]

    def _index(self, number: str) -> int | None:
        if not NUMBER.fullmatch(number):
            return None
        i = int(number) - 1
        return i if 0 <= i < len(self._entries) and i not in self._deleted else None

    def _said(self, verb: str, i: int) -> str:
        return str(self._sizes[i]) if verb == "LIST" else f"{self._uidvalidity}.{self._entries[i].uid}"

    def _no(self, text: str) -> None:
        self._link.send(Answer(False, text))


def _top(mail: bytes, count: int) -> bytes:
    """The header, the empty line, and so many lines of the body (RFC 1939 §7)."""
    end = 0 if mail.startswith(b"\r\n") else mail.find(b"\r\n\r\n") + 2
    if end == 1:  # no body
        return mail
    end += 2
    while count and end < len(mail):
        end = mail.find(b"\n", end) + 1 or len(mail)
        count -= 1
    return mail[:end]
