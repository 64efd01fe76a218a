"""SMTP in: for the world (MX), for our users (submission, RFC 6409), from a server in front (LMTP, RFC 2033). Thin: the
core decides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from msgspec.structs import replace

from gatewayd.address import Address, Domain
from gatewayd.core.filtering import Visits
from gatewayd.core.posting import Answers
from gatewayd.core.receiving import Arrival
from gatewayd.interfaces.authentication import IAuthenticator
from gatewayd.interfaces.queue import Asked, Envelope
from gatewayd.interfaces.records import Account
from gatewayd.interfaces.routes import Origin
from gatewayd.message.mime import Mail
from gatewayd.outcome import SENDER_OK, Deferred, Delivered, Outcome, Refused
from gatewayd.session.link import Link
from gatewayd.session.received import goes_round, received
from gatewayd.session.smtp_auth import SignIn
from gatewayd.session.smtp_terms import Role, Terms
from gatewayd.wire.smtp import commands as wire
from gatewayd.wire.smtp.commands import Reply, State, reply
from gatewayd.wire.smtp.parameters import MailParameters

IDLE = 300.0  # seconds, RFC 5321 §4.5.3.2.7
MAX_ERRORS = 20
MAX_AUTH_FAILURES = 3
MAX_IDLE_COMMANDS = 100  # EHLO, RSET, NOOP, VRFY, HELP in a row without a message


Receive = Callable[[Arrival], Awaitable[Answers]]  # an outcome for each recipient


class PostOffice(Protocol):
    def visit(self, origin: Origin, submitter: Account | None) -> Visits | None: ...

    async def recipient(self, address: Address, submitter: Account | None, client: str, octets: int) -> Outcome: ...

    async def reverse_path(self, address: Address | None, submitter: Account | None, client: str) -> Outcome: ...

    def turned_away(self, origin: Origin, sender: Address | None, recipient: Address | None, why: Outcome) -> None: ...


def as_reply(outcome: Outcome, state: State | None = None) -> Reply:
    """The one table from outcomes to replies (RFC 5321 §4.2.3, RFC 3463), but for what a filter wants said."""
    match outcome:
        case Delivered():
            return reply(250, outcome.code, outcome.text, state=state)
        case Deferred():
            basic = outcome.reply or (452 if outcome.code in {"4.3.1", "4.2.2"} else 451)
            return reply(basic, outcome.code, *outcome.text.split("\n"))
        case Refused():
            codes = {"5.3.4": 552, "5.2.2": 552, "5.1.3": 553, "5.1.6": 551, "5.1.10": 556, "5.4.6": 554}
            return reply(outcome.reply or codes.get(outcome.code, 550), outcome.code, *outcome.text.split("\n"))


def _named(outcome: Outcome, trace_id: str) -> Outcome:
    """By what both sides' operators find the message."""
    return replace(outcome, text=f"{outcome.text}, id {trace_id}") if outcome.ok and trace_id else outcome


class SMTPServerSession:
    """One listener's client, held to the listener's terms."""

    def __init__(
        self, hostname: Domain, post_office: PostOffice, receive: Receive, authenticator: IAuthenticator,
        now: Callable[[], float], terms: Terms,
    ) -> None:  # fmt: skip
        self._hostname = hostname
        self._post_office = post_office
        self._receive = receive
        self._authenticator = authenticator
        self._now = now
        self._terms = terms
        self._hello = wire.Hello("", False)
        self._sign_in = SignIn(authenticator)
        self._mail: wire.MailFrom | None = None
        self._recipients: dict[Address, Asked] = {}
        self._accepted: list[Address] = []  # one for each RCPT that was answered with 250
        self._asked = 0  # RCPT commands of this transaction
        self._errors = 0  # since the last mail that was taken
        self._idle = 0  # commands that bring no mail nearer, since the last message
        self._count = 0  # MAIL commands
        self._visit: Visits | None = None  # of this client at the filters, from its first MAIL on

    # -- Session ----------------------------------------------------------------------------------------------------

    def opened(self, link: Link) -> None:
        self._link = link
        link.set_timeout(IDLE)
        link.send(reply(220, "", f"{self._hostname} ESMTP gatewayd"))

    def tls_started(self) -> None:
        self._end_visit()
        self._hello = wire.Hello("", False)
        self._sign_in = SignIn(self._authenticator)
        self._reset()

    def protocol_error(self, error: Exception) -> None:
        self._link.send(reply(421, "4.7.0", str(error), state=State.OVER))

    def failed(self, why: str = "internal error") -> None:
        self._link.send(reply(421, "4.3.0", f"Nothing was accepted: {why}", state=State.OVER))

    def timed_out(self) -> None:
        self._bye(421, "4.4.2", "Idle for too long")

    def closed(self, reason: Exception | None) -> None:
        self._end_visit()

    async def handle(self, event: wire.Event) -> None:
        match event:
            case wire.MailFrom():
                await self._mail_from(event)
            case wire.RcptTo():
                await self._rcpt_to(event)
            case wire.Message():
                await self._message(event.content)
            case wire.StartData():
                await self._start_data()
            case wire.Chunk():
                self._link.send(reply(250, "2.0.0", f"{event.size} octets received", state=State.CHUNKS))
            case wire.Hello() | wire.Simple() if self._idles(event):
                self._bye(421, "4.7.0", "Too many commands without mail")
            case wire.Hello():
                self._greet(event)
            case wire.RefusedMessage():
                self._refuse(reply(event.code, event.enhanced, event.text), one=event.chunk)
            case wire.Auth() if self._terms.role is not Role.SUBMISSION:
                self._error(reply(502, "5.5.1", "No AUTH here; use the submission port"))
            case wire.Auth():
                self._signed_in(await self._sign_in.begin(event, self._link.tls))
            case wire.AuthResponse():
                self._signed_in(await self._sign_in.respond(event.response))
            case wire.BadCommand() if event.fatal:
                self._bye(event.code, event.enhanced, event.text)
            case wire.BadCommand():
                self._error(reply(event.code, event.enhanced, event.text))
            case wire.Simple():
                self._simple(event.verb)

    def _idles(self, event: wire.Hello | wire.Simple) -> bool:
        self._idle += not (isinstance(event, wire.Simple) and event.verb in {"QUIT", "STARTTLS"})
        return self._idle > MAX_IDLE_COMMANDS

    # -- commands ---------------------------------------------------------------------------------------------------

    def _greet(self, event: wire.Hello) -> None:
        self._end_visit()
        self._hello = event
        self._reset()
        if not event.extended:
            self._link.send(reply(250, "", str(self._hostname), state=State.READY))
            return
        signed_in = self._sign_in.account is not None
        keywords = self._terms.keywords(self._link.tls, signed_in=signed_in, now=self._now())
        self._link.send(reply(250, "", f"{self._hostname} greets {event.name}", *keywords, state=State.READY))

    async def _mail_from(self, event: wire.MailFrom) -> None:
        terms, account = self._terms, self._sign_in.account
        if terms.role is Role.SUBMISSION and account is None:
            if self._link.tls is None:
                self._error(reply(530, "5.7.0", "Must issue a STARTTLS command first"))
            else:
                self._error(reply(530, "5.7.0", "Authentication required"))
            return
        self._count += 1
        if self._count > terms.max_transactions:
            self._bye(421, "4.7.0", f"No more than {terms.max_transactions} transactions; come again (LIMITS MAILMAX)")
            return
        said = event.parameters
        if said.given and (unknown := said.given - terms.parameters(self._link.tls)):
            self._error(reply(555, "5.5.4", f"Parameter {min(unknown)} is not offered here"))
            return
        if said.size > terms.max_size:
            self._error(reply(552, "5.3.4", f"Message larger than {terms.max_size} octets"))
            return
        if self._not_before(said) > self._now() + terms.max_hold:
            self._error(reply(501, "5.5.4", f"Held for no longer than {terms.max_hold} seconds"))  # RFC 4865 §5
            return
        address = event.reverse_path
        if address is not None and not address.is_ascii and not said.smtputf8:
            self._error(reply(550, "5.6.7", "A non-ASCII address needs SMTPUTF8"))
            return
        outcome: Outcome = SENDER_OK
        if terms.role is not Role.LMTP:
            outcome = await self._post_office.reverse_path(address, account, self._link.peer_address)
        if outcome.ok and self._visit is None:
            self._visit = self._post_office.visit(self._origin(), account)
        if outcome.ok and self._visit is not None:
            outcome = await self._visit.mail(address) or outcome
        if outcome.ok:
            self._reset()
            self._mail = event
        else:
            self._post_office.turned_away(self._origin(), address, None, outcome)
        self._answer(outcome, State.MAIL)

    async def _rcpt_to(self, event: wire.RcptTo) -> None:
        assert self._mail is not None
        self._asked += 1
        if self._asked > 2 * self._terms.max_recipients:
            self._bye(421, "4.7.0", "Too many recipients, refused ones counted")
            return
        if self._asked > self._terms.max_recipients:  # RFC 5321 §4.5.3.1.10; all RCPT commands count (RFC 9422 §4.2)
            self._link.send(reply(452, "4.5.3", "Too many recipients; send the rest in another transaction"))
            return
        recipient = event.recipient or Address("postmaster", self._hostname)
        if not recipient.is_ascii and not self._mail.parameters.smtputf8:
            self._error(reply(553, "5.6.7", "A non-ASCII address needs SMTPUTF8"))
            return
        size, account = self._mail.parameters.size, self._sign_in.account  # RFC 1870 §6.3
        outcome = await self._post_office.recipient(recipient, account, self._link.peer_address, size)
        if outcome.ok and self._visit is not None:
            outcome = await self._visit.rcpt(recipient) or outcome
        if outcome.ok:
            self._accepted.append(recipient)
            self._recipients[recipient] = Asked(event.parameters.notify, event.parameters.orcpt)
        else:
            self._post_office.turned_away(self._origin(), self._mail.reverse_path, recipient, outcome)
        self._answer(outcome, State.RCPT)

    async def _start_data(self) -> None:
        refused = await self._visit.data() if self._visit is not None else None
        if refused is None:
            self._link.send(reply(354, "", "End with <CR><LF>.<CR><LF>", state=State.DATA))
        else:
            self._reset()
            self._error(replace(as_reply(refused), state=State.READY))

    async def _message(self, octets: bytes) -> None:
        assert self._mail is not None
        self._idle = 0
        said = self._mail.parameters
        options = {name for name, said_so in (("SMTPUTF8", said.smtputf8), ("REQUIRETLS", said.requiretls)) if said_so}
        envelope = Envelope(
            self._mail.reverse_path,
            tuple(self._recipients),
            frozenset(options),
            said.ret,
            said.envid,
            {address: asked for address, asked in self._recipients.items() if asked != Asked()},
            self._not_before(said),
        )
        mail = Mail(octets)
        if goes_round(mail):
            self._refuse(reply(554, "5.4.6", "Too many hops: the message goes round in a loop"))
            return
        account, each = self._sign_in.account, self._terms.role is Role.LMTP
        protocol = self._protocol(envelope)
        trace_id = ""
        trace = partial(
            received, helo=self._hello.name, peer=self._link.peer_address, by=self._hostname, tls=self._link.tls,
            protocol=protocol, envelope=envelope, now=self._now(),
        )  # fmt: skip

        def stamp(name: str) -> bytes:
            nonlocal trace_id
            trace_id = name
            return trace(name)

        origin = self._origin(protocol)
        accepted = self._accepted
        self._reset()
        answers = await self._receive(Arrival(envelope, mail, stamp, account, origin, each, self._visit))
        if any(answer.ok for answer in answers.values()):
            self._errors = 0
        if each:  # RFC 2033 §4.2
            self._answer_each([as_reply(_named(answers[address], trace_id)) for address in accepted])
            return
        # one reply for all: it is ours as soon as one copy is, and the core tells the sender of the others
        outcome = min(answers.values(), key=lambda o: (not o.ok, not isinstance(o, Deferred)))
        self._answer(_named(outcome, trace_id), None)

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
            case "STARTTLS" if not self._terms.starttls or self._link.tls is not None:
                self._error(reply(503, "5.5.1", "TLS is on already" if self._link.tls else "No TLS here"))
            case "STARTTLS":
                self._link.send(reply(220, "2.0.0", "Ready to start TLS", state=State.OVER))
                self._link.start_tls()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _origin(self, protocol: str = "SMTP") -> Origin:
        tls, lmtp = self._link.tls, self._terms.role is Role.LMTP
        said = (tls.version, tls.cipher) if tls is not None else ("", "")
        return Origin(self._link.peer_address, self._hello.name, protocol, lmtp, *said, self._sign_in.mechanism)

    def _end_visit(self) -> None:
        """What filters were told of the client does not hold any more."""
        if self._visit is not None:
            self._visit.close()
        self._visit = None

    def _signed_in(self, answer: Reply) -> None:
        self._end_visit()
        if answer.code == 535:
            self._link.guessed()
        if self._sign_in.failures >= MAX_AUTH_FAILURES:
            self._bye(421, "4.7.0", "Too many failed attempts")
        elif answer.code >= 400:
            self._error(answer)
        else:
            self._link.send(answer)

    def _not_before(self, said: MailParameters) -> float:
        if said.hold_for is not None:
            return self._now() + said.hold_for
        return said.hold_until or 0.0

    def _refuse(self, answer: Reply, *, one: bool = False) -> None:
        """The whole message, or with `one` a chunk of it that was not the last."""
        count = len(self._accepted) if self._terms.role is Role.LMTP and not one else 1
        self._reset()
        if count > 1:
            self._answer_each([answer] * count)
        else:
            self._error(answer)

    def _answer_each(self, answers: list[Reply]) -> None:
        for answer in answers[:-1]:
            self._link.send(replace(answer, final=False))
        self._link.send(answers[-1])

    def _answer(self, outcome: Outcome, state: State | None) -> None:
        (self._link.send if outcome.ok else self._error)(as_reply(outcome, state))

    def _error(self, answer: Reply) -> None:
        self._errors += 1
        if self._errors > MAX_ERRORS:
            self._bye(421, "4.7.0", "Too many errors")
        else:
            self._link.send(answer)
            if answer.code == 421:  # a filter has had enough of this client (RFC 5321 §3.8)
                self._link.close()

    def _bye(self, code: int, enhanced: str, text: str) -> None:
        self._link.send(reply(code, enhanced, text, state=State.OVER))
        self._link.close()

    def _reset(self) -> None:
        self._mail = None
        self._recipients = {}
        self._accepted = []
        self._asked = 0

    def _protocol(self, envelope: Envelope) -> str:
        """The names of RFC 3848 and RFC 6531 §4.3."""
        utf8 = "SMTPUTF8" in envelope.options
        lmtp = self._terms.role is Role.LMTP
        if not (self._hello.extended or utf8):
            return "SMTP"
        protocol = ("UTF8" if utf8 else "") + ("LMTP" if lmtp else "SMTP" if utf8 else "ESMTP")
        return protocol + ("S" if self._link.tls else "") + ("A" if self._sign_in.account else "")
