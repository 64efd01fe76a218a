"""SMTP in: a listener for the world (MX) or for our users (submission, RFC 6409). Thin: the core decides."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import partial
from typing import Protocol

from gatewayd.address import Address, Domain
from gatewayd.errors import StoreError
from gatewayd.interfaces import Account, Asked, AuthenticationFailed, Envelope, IAuthenticator, Origin
from gatewayd.outcome import Deferred, Delivered, Outcome, Refused
from gatewayd.session import sasl
from gatewayd.session.link import Link
from gatewayd.session.received import goes_round, received
from gatewayd.wire.smtp import commands as wire
from gatewayd.wire.smtp.commands import Reply, State, reply

IDLE = 300.0  # seconds, RFC 5321 §4.5.3.2.7
MAX_ERRORS = 20
MAX_AUTH_FAILURES = 3
MAIL_PARAMETERS = frozenset({"SIZE", "BODY", "SMTPUTF8", "AUTH", "RET", "ENVID"})  # everywhere


class MailAcceptor(Protocol):
    async def recipient(self, address: Address, submitter: Account | None) -> Outcome: ...

    async def reverse_path(self, address: Address | None, submitter: Account | None) -> Outcome: ...

    async def accept_mail(
        self, envelope: Envelope, mail: bytes, stamp: Callable[[str], bytes], submitter: Account | None, origin: Origin
    ) -> dict[Address, Outcome]: ...


def as_reply(outcome: Outcome, state: State | None = None) -> Reply:
    """The one table from outcomes to replies (RFC 5321 §4.2.3, RFC 3463)."""
    match outcome:
        case Delivered():
            return reply(250, outcome.code, outcome.text, state=state)
        case Deferred():
            return reply(452 if outcome.code in {"4.3.1", "4.2.2"} else 451, outcome.code, outcome.text)
        case Refused():
            codes = {"5.3.4": 552, "5.2.2": 552, "5.1.3": 553, "5.1.6": 551, "5.4.6": 554}
            return reply(codes.get(outcome.code, 550), outcome.code, outcome.text)


class SMTPServerSession:
    """`submission`: sign in first, under TLS; then anywhere. Else: for local recipients only, and no AUTH."""

    def __init__(
        self, hostname: Domain, acceptor: MailAcceptor, authenticator: IAuthenticator, now: Callable[[], float], *,
        submission: bool, starttls: bool, max_size: int, max_recipients: int = 1000, max_transactions: int = 10_000,
    ) -> None:  # fmt: skip
        self._hostname = hostname
        self._acceptor = acceptor
        self._authenticator = authenticator
        self._now = now
        self._submission = submission
        self._starttls = starttls
        self._max_size = max_size
        self._max_recipients = max_recipients
        self._max_transactions = max_transactions
        self._hello = wire.Hello("", False)
        self._account: Account | None = None
        self._mail: wire.MailFrom | None = None
        self._recipients: dict[Address, Asked] = {}
        self._asked = 0  # RCPT commands of this transaction
        self._exchange: sasl.Exchange | None = None
        self._errors = 0
        self._auth_failures = 0
        self._count = 0  # MAIL commands

    # -- Session ----------------------------------------------------------------------------------------------------

    def opened(self, link: Link) -> None:
        self._link = link
        link.set_timeout(IDLE)
        link.send(reply(220, "", f"{self._hostname} ESMTP gatewayd"))

    def tls_started(self) -> None:
        self._hello = wire.Hello("", False)
        self._account = None
        self._reset()

    def protocol_error(self, error: Exception) -> None:
        self._link.send(reply(421, "4.7.0", str(error), state=State.OVER))

    def failed(self) -> None:
        self._link.send(reply(421, "4.3.0", "Internal error; nothing was accepted", state=State.OVER))

    def timed_out(self) -> None:
        self._bye(421, "4.4.2", "Idle for too long")

    def closed(self, reason: Exception | None) -> None:
        pass

    async def handle(self, event: wire.Event) -> None:
        match event:
            case wire.Hello():
                self._greet(event)
            case wire.MailFrom():
                await self._mail_from(event)
            case wire.RcptTo():
                await self._rcpt_to(event)
            case wire.StartData():
                self._link.send(reply(354, "", "End with <CR><LF>.<CR><LF>", state=State.DATA))
            case wire.Chunk():
                self._link.send(reply(250, "2.0.0", f"{event.size} octets received", state=State.CHUNKS))
            case wire.Message():
                await self._message(event.content)
            case wire.RefusedMessage():
                self._reset()
                self._error(reply(event.code, event.enhanced, event.text))
            case wire.Auth():
                await self._auth(event)
            case wire.AuthResponse():
                await self._auth_response(event.response)
            case wire.BadCommand() if event.fatal:
                self._bye(event.code, event.enhanced, event.text)
            case wire.BadCommand():
                self._error(reply(event.code, event.enhanced, event.text))
            case wire.Simple():
                self._simple(event.verb)

    # -- commands ---------------------------------------------------------------------------------------------------

    def _greet(self, event: wire.Hello) -> None:
        self._hello = event
        self._reset()
        if not event.extended:
            self._link.send(reply(250, "", str(self._hostname), state=State.READY))
            return
        lines = [
            f"{self._hostname} greets {event.name}", "PIPELINING", f"SIZE {self._max_size}", "8BITMIME", "BINARYMIME",
            "CHUNKING", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES",
            f"LIMITS RCPTMAX={self._max_recipients} MAILMAX={self._max_transactions}",  # RFC 9422
        ]  # fmt: skip
        if self._starttls and self._link.tls is None:
            lines.append("STARTTLS")
        if self._submission and self._link.tls is not None and self._account is None:
            lines.append(
                f"AUTH {' '.join(sasl.offered(self._link.tls))} LOGIN"
            )  # in the clear it is not even offered (RFC 4954 §4)
        self._link.send(reply(250, "", *lines, state=State.READY))

    async def _mail_from(self, event: wire.MailFrom) -> None:
        if self._submission and self._account is None:
            if self._link.tls is None:
                self._error(reply(530, "5.7.0", "Must issue a STARTTLS command first"))
            else:
                self._error(reply(530, "5.7.0", "Authentication required"))
            return
        self._count += 1
        if self._count > self._max_transactions:
            self._bye(421, "4.7.0", f"No more than {self._max_transactions} transactions; come again (LIMITS MAILMAX)")
            return
        said = event.parameters
        unknown = sorted(said.given - MAIL_PARAMETERS)
        if unknown:
            self._error(reply(555, "5.5.4", f"Parameter {unknown[0]} is not offered here"))
            return
        if said.size > self._max_size:
            self._error(reply(552, "5.3.4", f"Message larger than {self._max_size} octets"))
            return
        address = event.reverse_path
        if address is not None and not address.is_ascii and not said.smtputf8:
            self._error(reply(550, "5.6.7", "A non-ASCII address needs SMTPUTF8"))
            return
        outcome = await self._acceptor.reverse_path(address, self._account)
        if outcome.ok:
            self._reset()
            self._mail = event
        self._answer(outcome, State.MAIL)

    async def _rcpt_to(self, event: wire.RcptTo) -> None:
        assert self._mail is not None
        self._asked += 1
        if self._asked > 2 * self._max_recipients:
            self._bye(421, "4.7.0", "Too many recipients, refused ones counted")
            return
        if self._asked > self._max_recipients:  # RFC 5321 §4.5.3.1.10; all RCPT commands count (RFC 9422 §4.2)
            self._link.send(reply(452, "4.5.3", "Too many recipients; send the rest in another transaction"))
            return
        recipient = event.recipient or Address("postmaster", self._hostname)
        if not recipient.is_ascii and not self._mail.parameters.smtputf8:
            self._error(reply(553, "5.6.7", "A non-ASCII address needs SMTPUTF8"))
            return
        outcome = await self._acceptor.recipient(recipient, self._account)
        if outcome.ok:
            self._recipients[recipient] = Asked(event.parameters.notify, event.parameters.orcpt)
        self._answer(outcome, State.RCPT)

    async def _message(self, mail: bytes) -> None:
        assert self._mail is not None
        said = self._mail.parameters
        envelope = Envelope(
            self._mail.reverse_path,
            tuple(self._recipients),
            frozenset({"SMTPUTF8"} if said.smtputf8 else ()),
            said.ret,
            said.envid,
            {address: asked for address, asked in self._recipients.items() if asked != Asked()},
        )
        if goes_round(mail):
            self._reset()
            self._error(reply(554, "5.4.6", "Too many hops: the message goes round in a loop"))
            return
        protocol = self._protocol(envelope)
        stamp = partial(
            received, helo=self._hello.name, peer=self._link.peer_address, by=self._hostname, tls=self._link.tls,
            protocol=protocol, envelope=envelope, now=self._now(),
        )  # fmt: skip
        origin = Origin(self._link.peer_address, self._hello.name, protocol)
        self._reset()
        answers = await self._acceptor.accept_mail(envelope, mail, stamp, self._account, origin)
        # one reply for all: it is ours as soon as one copy is, and the core tells the sender of the others
        outcomes = sorted(answers.values(), key=lambda o: (not o.ok, not isinstance(o, Deferred)))
        self._answer(outcomes[0], None)

    def _simple(self, verb: str) -> None:
        match verb:
            case "QUIT":
                self._bye(221, "2.0.0", "Goodbye")
            case "RSET":
                self._reset()
                state = State.READY if self._hello.name else State.NEW
                self._link.send(reply(250, "2.0.0", "Reset", state=state))
            case "NOOP":
                self._link.send(reply(250, "2.0.0", "Still here"))
            case "HELP":
                self._link.send(reply(214, "2.0.0", "See RFC 5321"))
            case "VRFY":
                self._link.send(reply(252, "2.5.0", "Not told; send and see"))  # RFC 5321 §7.3
            case "STARTTLS" if not self._starttls or self._link.tls is not None:
                self._error(reply(503, "5.5.1", "TLS is on already" if self._link.tls else "No TLS here"))
            case "STARTTLS":
                self._link.send(reply(220, "2.0.0", "Ready to start TLS", state=State.OVER))
                self._link.start_tls()

    # -- authentication (RFC 4954) ----------------------------------------------------------------------------------

    async def _auth(self, event: wire.Auth) -> None:
        if not self._submission:
            self._error(reply(502, "5.5.1", "No AUTH here; use the submission port"))
        elif self._link.tls is None:
            self._error(reply(538, "5.7.11", "Encryption required for authentication"))
        elif self._account is not None:
            self._error(reply(503, "5.5.1", "Signed in already"))
        elif (exchange := sasl.begin(event.mechanism, self._authenticator, self._link.tls)) is None:
            self._error(reply(504, "5.5.4", "Mechanism not offered"))
        else:
            self._exchange = exchange
            if event.initial is None:
                self._challenge(exchange.first)
            else:
                await self._auth_response(event.initial)

    async def _auth_response(self, response: bytes | None) -> None:
        assert self._exchange is not None
        if response is None:
            self._error(reply(501, "5.7.0", "Cancelled", state=State.READY))
            return
        try:
            answer = await self._exchange.step(response)
        except sasl.BadResponse as error:
            self._error(reply(501, "5.5.2", str(error), state=State.READY))
        except AuthenticationFailed:
            self._auth_failures += 1
            if self._auth_failures >= MAX_AUTH_FAILURES:
                self._bye(421, "4.7.0", "Too many failed attempts")
            else:
                self._error(reply(535, "5.7.8", "Authentication credentials invalid", state=State.READY))
        except StoreError:
            self._error(reply(454, "4.7.0", "Temporary authentication failure", state=State.READY))
        else:
            if isinstance(answer, bytes):
                self._challenge(answer)
                return
            self._account = answer
            self._link.send(reply(235, "2.7.0", "Authentication successful", state=State.READY))

    def _challenge(self, octets: bytes) -> None:
        self._link.send(reply(334, "", base64.b64encode(octets).decode("ascii"), state=State.AUTH))

    # -- inside -----------------------------------------------------------------------------------------------------

    def _answer(self, outcome: Outcome, state: State | None) -> None:
        (self._link.send if outcome.ok else self._error)(as_reply(outcome, state))

    def _error(self, answer: Reply) -> None:
        self._errors += 1
        if self._errors > MAX_ERRORS:
            self._bye(421, "4.7.0", "Too many errors")
        else:
            self._link.send(answer)

    def _bye(self, code: int, enhanced: str, text: str) -> None:
        self._link.send(reply(code, enhanced, text, state=State.OVER))
        self._link.close()

    def _reset(self) -> None:
        self._mail = None
        self._recipients = {}
        self._asked = 0

    def _protocol(self, envelope: Envelope) -> str:
        """The names of RFC 3848 and RFC 6531 §4.3."""
        utf8 = "SMTPUTF8" in envelope.options
        protocol = ("UTF8SMTP" if utf8 else "ESMTP") if self._hello.extended or utf8 else "SMTP"
        if protocol != "SMTP":
            protocol += ("S" if self._link.tls else "") + ("A" if self._account else "")
        return protocol
