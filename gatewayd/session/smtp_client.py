"""SMTP out: one connection to another mail server, and the courier that keeps such connections for reuse."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet import defer
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from gatewayd.address import Address, Domain
from gatewayd.interfaces import Bridged, Endpoint, Envelope, ICourier, IResolver, Mail, Parley, ResolutionFailed
from gatewayd.message.model import Content as MessageContent
from gatewayd.outcome import Deferred, Outcome, Refused, outcome
from gatewayd.session.link import Engine, Link, Session
from gatewayd.wire.smtp import LocalProtocolError
from gatewayd.wire.smtp.client import Command, Content, ServerReply, SMTPClient

TIMEOUT = 300.0  # seconds for any one reply, RFC 5321 §4.5.3.2
IDLE = 15.0  # seconds that a connection waits for the next message
MAX_IDLE = 2  # waiting connections for each endpoint

Connect = Callable[[str, int, Engine, Session], Awaitable[None]]
Render = Callable[[MessageContent, bytes], Awaitable[bytes]]  # content and trace to what goes on the wire


class ConnectionGone(ConnectionError):
    """The server closed, or said something that is not SMTP."""


class SMTPClientSession:
    """`deliver` may be called again and again while `usable`."""

    def __init__(self, hostname: Domain) -> None:
        self._hostname = hostname
        self._replies: deque[ServerReply] = deque()
        self._waiter: defer.Deferred[ServerReply] | None = None
        self._gone: Exception | None = None
        self._tls_up: defer.Deferred[None] | None = None
        self._extensions: dict[str, str] = {}
        self._greeted = False

    # -- Session ----------------------------------------------------------------------------------------------------

    def opened(self, link: Link) -> None:
        self._link = link
        link.set_timeout(TIMEOUT)

    def tls_started(self) -> None:
        if self._tls_up is not None:
            self._tls_up.callback(None)
            self._tls_up = None

    async def handle(self, event: ServerReply) -> None:
        if self._waiter is None:
            self._replies.append(event)
        else:
            waiter, self._waiter = self._waiter, None
            waiter.callback(event)

    def protocol_error(self, error: Exception) -> None:
        self._lost(ConnectionGone(str(error)))

    def failed(self, why: str = "internal error") -> None:
        self._lost(ConnectionGone(why))

    def timed_out(self) -> None:
        self._lost(ConnectionGone("no reply in time"))
        self._link.abort()

    def closed(self, reason: Exception | None) -> None:
        self._lost(ConnectionGone(str(reason) or "connection lost"))

    # -- what the courier calls -------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        return self._gone is None and self._greeted

    async def greet(self) -> Outcome | None:
        """Banner, EHLO, TLS where it is offered (RFC 7435). None, or why not. Raises ConnectionGone."""
        banner = await self._reply()
        if banner.code != 220:
            return _outcome(banner)
        failed = await self._hello()
        if failed is None and "STARTTLS" in self._extensions and self._link.tls is None:
            if (await self._ask("STARTTLS")).code == 220:
                if self._replies:
                    raise ConnectionGone("replies sent ahead of the TLS handshake")
                up: defer.Deferred[None] = defer.Deferred()
                self._tls_up = up
                self._link.start_tls()
                await up
            failed = await self._hello()
        self._greeted = failed is None
        return failed

    async def deliver(self, envelope: Envelope, mail: bytes) -> dict[Address, Outcome]:
        """One transaction. Raises nothing for what the server or the network does."""
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

    def quit(self) -> None:
        if self._gone is None:
            self._link.send(Command("QUIT"))
            self._link.close()

    def abort(self) -> None:
        if self._gone is None:
            self._link.abort()

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _transaction(self, envelope: Envelope, mail: bytes, answers: dict[Address, Outcome]) -> None:
        addresses = [a for a in (envelope.reverse_path, *envelope.recipients) if a is not None]
        head = mail.partition(b"\r\n\r\n")[0]
        utf8 = not all(a.is_ascii for a in addresses) or not head.isascii()
        if utf8 and "SMTPUTF8" not in self._extensions:
            if not all(a.is_ascii for a in addresses):
                answers.update(
                    dict.fromkeys(envelope.recipients, Refused("5.6.7", "The next server knows no SMTPUTF8"))
                )
                return
            utf8 = False  # 8-bit in the header of ASCII mail is damage that most servers carry; we do not lose it
        words = [f"MAIL FROM:<{envelope.reverse_path or ''}>"]
        if "SIZE" in self._extensions:
            words.append(f"SIZE={len(mail)}")
        if "8BITMIME" in self._extensions and not mail.isascii():
            words.append("BODY=8BITMIME")
        if utf8:
            words.append("SMTPUTF8")
        commands = [" ".join(words), *(f"RCPT TO:<{a}>" for a in envelope.recipients)]
        if "PIPELINING" in self._extensions:  # RFC 2920 §3.1
            for command in commands:
                self._link.send(Command(command))
            replies = [await self._reply() for _ in commands]
        else:
            replies = [await self._ask(command) for command in commands]
        if replies[0].code // 100 != 2:
            answers.update(dict.fromkeys(envelope.recipients, _outcome(replies[0])))
            await self._ask("RSET")
            return
        accepted = []
        for address, said in zip(envelope.recipients, replies[1:], strict=True):
            if said.code // 100 == 2:
                accepted.append(address)
            else:
                answers[address] = _outcome(said)
        if not accepted:
            await self._ask("RSET")
            return
        said = await self._ask("DATA")
        if said.code == 354:
            self._link.send(Content(mail))
            said = await self._reply()
        answers.update(dict.fromkeys(accepted, _outcome(said)))

    async def _hello(self) -> Outcome | None:
        said = await self._ask(f"EHLO {self._hostname}")
        if said.code // 100 == 2:
            words = [line.split(None, 1) for line in said.lines[1:] if line.strip()]
            self._extensions = {word[0].upper(): word[1] if len(word) > 1 else "" for word in words}
            return None
        self._extensions = {}
        said = await self._ask(f"HELO {self._hostname}")  # RFC 5321 §3.2
        return None if said.code // 100 == 2 else _outcome(said)

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


def _outcome(said: ServerReply) -> Outcome:
    if said.code // 100 in (2, 4, 5):
        return outcome(said.enhanced, said.text or str(said.code))
    return Deferred("4.5.0", f"Unexpected reply {said.code} {said.text}")


@implementer(ICourier)
class SMTPCourier:
    """For Mail and Bridged routes: endpoints in order, each of its addresses; a connection is kept for a while."""

    log = Logger()

    def __init__(
        self, connect: Connect, resolver: IResolver, hostname: Domain, render: Render, clock: IReactorTime
    ) -> None:
        self._connect = connect
        self._resolver = resolver
        self._hostname = hostname
        self._render = render
        self._clock = clock
        self._idle: dict[Endpoint, list[tuple[SMTPClientSession, Any]]] = defaultdict(list)

    async def deliver(
        self, route: Parley | Mail | Bridged, envelope: Envelope, content: MessageContent, trace: bytes
    ) -> dict[Address, Outcome]:
        endpoints = (route.endpoint,) if isinstance(route, Bridged) else route.endpoints
        mail = await self._render(content, trace)
        why: Outcome = Deferred("4.4.1", "No host of the domain answers")
        for endpoint in endpoints:
            session, failed = await self._session(endpoint)
            if session is None:
                why = failed or why
                continue
            answers = await session.deliver(envelope, mail)
            self._keep(endpoint, session)
            lost = all(isinstance(o, Deferred) and o.code == "4.4.2" for o in answers.values())
            if not lost:
                return answers
            why = next(iter(answers.values()))
        return dict.fromkeys(envelope.recipients, why)

    async def close(self) -> None:
        for waiting in self._idle.values():
            for session, timer in waiting:
                timer.cancel()
                session.quit()
        self._idle.clear()

    async def _session(self, endpoint: Endpoint) -> tuple[SMTPClientSession | None, Outcome | None]:
        waiting = self._idle[endpoint]
        while waiting:
            session, timer = waiting.pop()
            timer.cancel()
            if session.usable:
                return session, None
        failed: Outcome | None = None
        try:
            addresses = (await self._resolver.addresses(endpoint.host)).records
        except ResolutionFailed as error:
            return None, Deferred("4.4.3", f"No address of {endpoint.host} for now: {error}")
        for address in addresses:
            session = SMTPClientSession(self._hostname)
            try:
                await self._connect(str(address), endpoint.port, SMTPClient(), session)
                refused = await session.greet()
            except OSError as error:
                session_failed = f"{endpoint.host} [{address}]:{endpoint.port}: {error}"
                failed = Deferred("4.4.1", session_failed)
                continue
            if refused is None:
                return session, None
            session.quit()
            failed = Deferred("4.4.1", f"{endpoint.host}: {refused.text}")  # another host may take it
        return None, failed

    def _keep(self, endpoint: Endpoint, session: SMTPClientSession) -> None:
        if not session.usable:
            return
        if len(self._idle[endpoint]) >= MAX_IDLE:
            session.quit()
            return
        item: tuple[SMTPClientSession, Any]

        def expire() -> None:
            self._idle[endpoint].remove(item)
            session.quit()

        item = (session, self._clock.callLater(IDLE, expire))
        self._idle[endpoint].append(item)
