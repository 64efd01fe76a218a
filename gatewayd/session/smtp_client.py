"""SMTP out: one connection to another mail server, transaction after transaction. LMTP too (RFC 2033)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from twisted.internet import defer

from gatewayd.address import Address, Domain
from gatewayd.core.tls_policy import Level
from gatewayd.interfaces.queue import Envelope
from gatewayd.outcome import Deferred, Delivered, Outcome, Refused, outcome
from gatewayd.session.link import Link, TLSInfo
from gatewayd.session.smtp_sign_in import Credentials, sign_in
from gatewayd.session.smtp_tls import Proof
from gatewayd.wire.smtp import LocalProtocolError
from gatewayd.wire.smtp.client import Chunk, Command, Content, ServerReply, Unasked
from gatewayd.wire.smtp.data import has_bare
from gatewayd.wire.smtp.parameters import xtext

TIMEOUT = 300.0  # seconds for any one reply, RFC 5321 §4.5.3.2
MAX_RECIPIENTS = 100  # of a transaction, unless the server says otherwise: so many all take (RFC 5321 §4.5.3.1.8)
MAX_TRANSACTIONS = 100  # on one connection: then others at the server have their turn
TOO_MANY = "4.5.3"  # recipients: RFC 5321 §4.5.3.1.10 has 452 for it, which not every server explains
MAX_TEXT = 1000  # characters that are kept of a reply
NO_MAIL_HERE = 521  # RFC 7504 §3: the host takes no mail at all
NO_BINARY = Refused("5.6.1", "The next server takes no binary mail")  # RFC 3030 §3; the courier converts where it can
NO_REQUIRETLS = Refused("5.7.30", "The sender demands TLS all the way, and the next server does not promise it")


class ConnectionGone(ConnectionError):
    """The server closed, or said something that is not SMTP."""


class HandshakeFailed(ConnectionGone):
    """It offered STARTTLS, and then there was no TLS."""


def _anything(tls: TLSInfo | None) -> Proof:
    return Proof(Level.ENCRYPTED if tls else Level.PLAIN)


class SMTPClientSession:
    """`deliver` may be called again and again while `usable`. `prove` judges what TLS has shown; with `credentials` it
    signs in. `starttls` False: TLS is not asked for."""

    def __init__(
        self, hostname: Domain, *, lmtp: bool = False, starttls: bool = True,
        prove: Callable[[TLSInfo | None], Proof] = _anything, credentials: Credentials | None = None,
    ) -> None:  # fmt: skip
        self._hostname = hostname
        self._lmtp = lmtp
        self._starttls = starttls
        self._prove = prove
        self._credentials = credentials
        self._replies: deque[ServerReply] = deque()
        self._waiter: defer.Deferred[ServerReply] | None = None
        self._gone: Exception | None = None
        self._tls_up: defer.Deferred[None] | None = None
        self._extensions: dict[str, str] = {}
        self._greeted = False
        self.proof = Proof(Level.PLAIN)
        self.transactions = 0

    # -- Session ----------------------------------------------------------------------------------------------------

    def opened(self, link: Link) -> None:
        self._link = link
        link.set_timeout(TIMEOUT)

    def tls_started(self) -> None:
        if self._tls_up is not None:
            self._tls_up.callback(None)
            self._tls_up = None

    async def handle(self, event: ServerReply | Unasked) -> None:
        if isinstance(event, Unasked):  # mostly a farewell
            self._is_over(ConnectionGone(event.reply.text or "a reply to nothing"))
        elif self._waiter is None:
            self._replies.append(event)
        else:
            waiter, self._waiter = self._waiter, None
            waiter.callback(event)

    def protocol_error(self, error: Exception) -> None:
        self._lost(ConnectionGone(str(error)))

    def failed(self, why: str = "internal error") -> None:
        self._lost(ConnectionGone(why))

    def timed_out(self) -> None:
        self._is_over(ConnectionGone("no reply in time"))

    def closed(self, reason: Exception | None) -> None:
        self._lost(ConnectionGone(str(reason) or "connection lost"))

    # -- what the courier calls -------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        spent = self.transactions >= self._limit("MAILMAX", MAX_TRANSACTIONS)
        return self._gone is None and self._greeted and not spent

    @property
    def most_recipients(self) -> int:
        """Of one transaction."""
        return self._limit("RCPTMAX", MAX_RECIPIENTS)

    def takes(self, extension: str) -> bool:
        """Whether the server's EHLO named it."""
        return extension in self._extensions

    async def greet(self, need: Level = Level.PLAIN) -> Outcome | None:
        """Banner, EHLO, TLS where it is offered, AUTH if there are credentials. None, or why not; of TLS that is less
        than `need` only `proof` tells. Raises ConnectionGone."""
        banner = await self._reply()
        if banner.code != 220:
            return _outcome(banner)
        failed = await self._hello()
        if failed is None and self._starttls and "STARTTLS" in self._extensions and self._link.tls is None:
            if (await self._ask("STARTTLS")).code == 220:
                if self._replies:
                    raise ConnectionGone("replies sent ahead of the TLS handshake")
                up: defer.Deferred[None] = defer.Deferred()
                self._tls_up = up
                self._link.start_tls()
                try:
                    await up
                except ConnectionGone as gone:
                    raise HandshakeFailed(f"TLS handshake failed: {gone}") from None
            failed = await self._hello()
        self.proof = self._prove(self._link.tls)
        if self.proof.level < need:
            return None
        if failed is None and self._credentials is not None:
            failed = await sign_in(self._ask, self._extensions.get("AUTH", ""), self._link.tls, self._credentials)
        self._greeted = failed is None
        return failed

    async def deliver(self, envelope: Envelope, mail: bytes) -> dict[Address, Outcome]:
        """One transaction. Raises nothing for what the server or the network does."""
        self.transactions += 1
        answers: dict[Address, Outcome] = {}
        try:
            await self._transaction(envelope, mail, answers)
        except ConnectionGone as gone:
            lost = Deferred("4.4.2", f"Connection lost: {gone}")
            answers.update((a, lost) for a in envelope.recipients if a not in answers)
        except LocalProtocolError as error:
            self.abort()
            return dict.fromkeys(envelope.recipients, Refused("5.6.0", str(error)))
        return answers

    async def probe(self, recipient: Address) -> Outcome:
        """Whether mail to it would be taken: a transaction that ends before any content. Raises nothing either."""
        self.transactions += 1
        envelope, answers = Envelope(None, (recipient,)), dict[Address, Outcome]()
        try:
            replies = [await self._ask("MAIL FROM:<>"), await self._ask(self._rcpt_to(envelope, recipient))]
            await self._ask("RSET")
        except (ConnectionGone, LocalProtocolError) as gone:
            return Deferred("4.4.2", f"Connection lost: {gone}")
        if self._accepted((recipient,), replies, answers):
            return _outcome(replies[1])
        return answers[recipient]

    def quit(self) -> None:
        if self._gone is None:
            self._link.send(Command("QUIT"))
            self._link.close()

    def abort(self) -> None:
        if self._gone is None:
            self._link.abort()

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _transaction(self, envelope: Envelope, mail: bytes, answers: dict[Address, Outcome]) -> None:
        refused, words = self._mail_from(envelope, mail)
        if refused is not None:
            answers.update(dict.fromkeys(envelope.recipients, refused))
            return
        binary = "BODY=BINARYMIME" in words
        commands = [" ".join(words), *(self._rcpt_to(envelope, recipient) for recipient in envelope.recipients)]
        if "PIPELINING" in self._extensions:  # RFC 2920 §3.1: DATA may be the last of a group
            commands += [] if binary else ["DATA"]
            for command in commands:
                self._link.send(Command(command))
            replies = [await self._reply() for _ in commands]
        else:
            replies = [await self._ask(command) for command in commands]
        go = replies.pop() if commands[-1] == "DATA" else None
        self._are_fit(replies)
        accepted = self._accepted(envelope.recipients, replies, answers)
        if not accepted:
            if go is not None and go.code == 354:  # it waits for content all the same: there is none
                self._link.send(Content(b"", self._promised(envelope.recipients)))
                await self._finished(envelope.recipients)
            else:
                await self._ask("RSET")
            return
        if binary:
            self._link.send(Chunk(mail, self._promised(accepted)))
        else:
            go = go or await self._ask("DATA")
            if go.code != 354:
                self._are_fit([go], (4, 5))
                answers.update(dict.fromkeys(accepted, _outcome(go)))
                await self._ask("RSET")  # the next MAIL would be one too many
                return
            self._link.send(Content(mail, self._promised(accepted)))
        finished = await self._finished(accepted)
        self._are_fit(finished)
        for address, said in zip(accepted, finished, strict=True):
            answers[address] = _outcome(said, reports="DSN" in self._extensions)

    def _promised(self, accepted: Sequence[Address]) -> int:
        return len(accepted) if self._lmtp else 1

    async def _finished(self, accepted: Sequence[Address]) -> list[ServerReply]:
        """One reply for all, or by LMTP one for each (RFC 2033 §4.2)."""
        return [await self._reply() for _ in accepted] if self._lmtp else [await self._reply()] * len(accepted)

    def _accepted(
        self, recipients: Sequence[Address], replies: Sequence[ServerReply], answers: dict[Address, Outcome]
    ) -> list[Address]:
        """Who is left; the others have their answers."""
        if replies[0].code // 100 != 2:
            answers.update(dict.fromkeys(recipients, _outcome(replies[0])))
            return []
        accepted = []
        for address, said in zip(recipients, replies[1:], strict=True):
            if said.code // 100 == 2:
                accepted.append(address)
            else:
                answers[address] = _outcome(said)
                if said.code == 452 and answers[address].code == "4.0.0":
                    answers[address] = Deferred(TOO_MANY, answers[address].text)
        return accepted

    def _are_fit(self, replies: Sequence[ServerReply], classes: tuple[int, ...] = (2, 4, 5)) -> None:
        """A server that has lost count would have mail counted as delivered that it never got. Raises
        ConnectionGone."""
        if not all(said.code // 100 in classes for said in replies):
            self._is_over(gone := ConnectionGone("a reply that does not fit what was asked"))
            raise gone

    def _is_over(self, error: Exception) -> None:
        self._lost(error)
        self._link.abort()

    def _mail_from(self, envelope: Envelope, mail: bytes) -> tuple[Refused | None, list[str]]:
        """Why it cannot go this way, or the words of the command."""
        extensions = self._extensions
        words = [f"MAIL FROM:<{envelope.reverse_path or ''}>"]
        if "SIZE" in extensions:
            words.append(f"SIZE={len(mail)}")
            limit = extensions["SIZE"]
            if limit.isdigit() and 0 < int(limit) < len(mail):
                return Refused("5.3.4", f"The next server takes no more than {limit} octets"), []
        if has_bare(mail) or b"\0" in mail:
            if not ("BINARYMIME" in extensions and "CHUNKING" in extensions):
                return NO_BINARY, []
            words.append("BODY=BINARYMIME")
        elif "8BITMIME" in extensions and not mail.isascii():
            words.append("BODY=8BITMIME")
        addresses = [a for a in (envelope.reverse_path, *envelope.recipients) if a is not None]
        if not all(a.is_ascii for a in addresses) and "SMTPUTF8" not in extensions:
            return Refused("5.6.7", "The next server knows no SMTPUTF8"), []
        # 8-bit in the header of ASCII mail is damage that most servers carry; we do not lose it
        utf8 = not all(a.is_ascii for a in addresses) or not mail.partition(b"\r\n\r\n")[0].isascii()
        if utf8 and "SMTPUTF8" in extensions:
            words.append("SMTPUTF8")
        if "REQUIRETLS" in envelope.options:  # RFC 8689 §4.2.1
            if "REQUIRETLS" not in extensions or self.proof.level < Level.VERIFIED:
                return NO_REQUIRETLS, []
            words.append("REQUIRETLS")
        if "DSN" in extensions:
            words += [f"RET={envelope.ret}"] if envelope.ret else []
            words += [f"ENVID={xtext(envelope.envid)}"] if envelope.envid else []
        return None, words

    def _rcpt_to(self, envelope: Envelope, recipient: Address) -> str:
        """What the sender wants to be told goes on to a server that will tell it (RFC 3461 §5.2.1)."""
        words, asked = [f"RCPT TO:<{recipient}>"], envelope.asked_of(recipient)
        if "DSN" in self._extensions:
            words += [f"NOTIFY={','.join(sorted(asked.notify))}"] if asked.notify else []
            kind, _, address = asked.orcpt.partition(";")
            if address.isascii() and address:
                words.append(f"ORCPT={kind};{xtext(address)}")
        return " ".join(words)

    async def _hello(self) -> Outcome | None:
        said = await self._ask(f"{'LHLO' if self._lmtp else 'EHLO'} {self._hostname}")
        if said.code // 100 == 2:
            words = [line.split(None, 1) for line in said.lines[1:] if line.strip()]
            self._extensions = {word[0].upper(): word[1] if len(word) > 1 else "" for word in words}
            return None
        self._extensions = {}
        if self._lmtp:
            return _outcome(said)
        said = await self._ask(f"HELO {self._hostname}")  # RFC 5321 §3.2
        return None if said.code // 100 == 2 else _outcome(said)

    def _limit(self, name: str, usual: int) -> int:
        """What the server has said of it (RFC 9422)."""
        said = dict(word.partition("=")[::2] for word in self._extensions.get("LIMITS", "").upper().split())
        number = said.get(name, "")
        return max(1, int(number)) if number.isdecimal() and len(number) < 7 else usual

    async def _ask(self, command: str) -> ServerReply:
        self._link.send(Command(command))
        return await self._reply()

    async def _reply(self) -> ServerReply:
        if self._replies:
            said = self._replies.popleft()
        elif self._gone is not None:
            raise self._gone
        else:
            self._waiter = defer.Deferred()
            said = await self._waiter
        if said.code == 421:  # it closes, whatever we asked (RFC 5321 §3.8)
            self._lost(ConnectionGone(said.text))
            self._link.close()
        return said

    def _lost(self, error: Exception) -> None:
        if self._gone is None:
            self._gone = error
        for waiter in (self._waiter, self._tls_up):
            if waiter is not None:
                waiter.errback(error)
        self._waiter = self._tls_up = None


def _outcome(said: ServerReply, reports: bool = False) -> Outcome:
    text = said.text[:MAX_TEXT]
    if said.code // 100 not in (2, 4, 5):
        return Deferred("4.5.0", f"Unexpected reply {said.code} {text}")
    found = outcome("5.3.2" if said.code == NO_MAIL_HERE else said.enhanced, text or str(said.code))
    return Delivered(found.code, found.text, reports) if isinstance(found, Delivered) else found
