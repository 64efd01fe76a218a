"""The courier by SMTP: hosts in order, what each has to prove, and connections that are kept for the next message."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from gatewayd.address import Address, Domain
from gatewayd.core.tls_policy import Demand, Level
from gatewayd.errors import StoreError
from gatewayd.interfaces.dns import Endpoint, IResolver, ResolutionFailed
from gatewayd.interfaces.queue import TLS_OPTIONAL, Envelope, MailObject
from gatewayd.interfaces.routes import Bridged, ICourier, Mail, Parley
from gatewayd.message.model import Content
from gatewayd.outcome import STORE_FAILED, Deferred, Outcome, Refused
from gatewayd.session.link import Engine, Session
from gatewayd.session.smtp_client import (
    NO_BINARY,
    NO_REQUIRETLS,
    TOO_MANY,
    HandshakeFailed,
    SMTPClientSession,
)
from gatewayd.session.smtp_sign_in import Credentials
from gatewayd.session.smtp_tls import Proof, lacking, needed, prove
from gatewayd.wire.smtp.client import SMTPClient

IDLE = 15.0  # seconds that a connection waits for the next message
MAX_IDLE = 20  # waiting connections for each endpoint

Connect = Callable[[str, int, str, Engine, Session], Awaitable[None]]  # address, port, the host's name
# content, trace, and whether it has to be seven-bit, to what goes on the wire
Render = Callable[[Content, bytes, bool], Awaitable[bytes]]
NO_ANSWER = Deferred("4.4.1", "No host of the domain answers")


class Policies(Protocol):
    async def demand(self, domain: Domain) -> Demand: ...

    async def learn(self, domain: Domain, before: Level, level: Level) -> None: ...


class Reports(Protocol):
    def note(self, domain: Domain, demand: Demand, endpoint: Endpoint, failure: str) -> None:
        """A session with a host of the domain, and what was wrong with its TLS ("": nothing)."""


@implementer(ICourier)
class SMTPCourier:
    """For Mail and Bridged routes. `policies` None: TLS where it is offered, and nothing is remembered. `credentials`
    are for the hosts of these names; such a host has to prove its name before it sees them."""

    log = Logger()

    def __init__(
        self, connect: Connect, resolver: IResolver, hostname: Domain, render: Render, clock: IReactorTime, *,
        policies: Policies | None = None, reports: Reports | None = None,
        credentials: Mapping[str, Credentials] | None = None,
    ) -> None:  # fmt: skip
        self._connect = connect
        self._resolver = resolver
        self._hostname = hostname
        self._render = render
        self._clock = clock
        self._policies = policies
        self._reports = reports
        self._credentials = credentials or {}
        self._idle: dict[Endpoint, list[tuple[SMTPClientSession, Any]]] = {}

    async def deliver(
        self, route: Parley | Mail | Bridged, objects: Sequence[MailObject]
    ) -> list[dict[Address, Outcome]]:
        assert not isinstance(route, Parley)
        return [await self._deliver(route, one.envelope, one.content, one.trace) for one in objects]

    async def _deliver(
        self, route: Mail | Bridged, envelope: Envelope, content: Content, trace: bytes
    ) -> dict[Address, Outcome]:
        demand, endpoints = Demand(), (route.endpoint,) if isinstance(route, Bridged) else route.endpoints
        domain, lmtp = (None, route.lmtp) if isinstance(route, Bridged) else (route.domain, False)
        if domain is not None and self._policies is not None:
            try:
                demand = await self._policies.demand(domain)
            except StoreError:
                return dict.fromkeys(envelope.recipients, STORE_FAILED)
        demand = replace(demand, waived=TLS_OPTIONAL in envelope.options)
        why: Outcome = NO_ANSWER
        places = deque(endpoints)
        while places:
            endpoint = places.popleft()
            session, failed = await self._session(domain, endpoint, demand, lmtp)
            if session is None:
                if failed is not None and (why is NO_ANSWER or isinstance(failed, Deferred)):
                    why = failed  # for good only where each of them says so
                continue
            if "REQUIRETLS" in envelope.options and not (session.proof.dane or demand.sts):
                why = NO_REQUIRETLS  # nobody vouches for the name of the host (RFC 8689 §4.2.1)
                self._keep(endpoint, session)
                continue
            used = session.transactions > 0
            answers = await self._transact(session, envelope, content, trace)
            self._keep(endpoint, session)
            lost = all(isinstance(o, Deferred) and o.code == "4.4.2" for o in answers.values())
            if lost and used:  # that connection has come to its end, which says nothing of the host
                places.appendleft(endpoint)
            if not lost and NO_REQUIRETLS not in answers.values():
                return {to: _said_by(endpoint, outcome) for to, outcome in answers.items()}
            why = next(iter(answers.values()))
        return dict.fromkeys(envelope.recipients, why)

    async def probe(self, route: Bridged, address: Address) -> Outcome:
        """Whether the server behind us takes mail for the address."""
        session, failed = await self._session(None, route.endpoint, Demand(), route.lmtp)
        if session is None:
            return failed or NO_ANSWER
        answer = await session.probe(address)
        self._keep(route.endpoint, session)
        return answer

    async def close(self) -> None:
        for waiting in self._idle.values():
            for session, timer in waiting:
                timer.cancel()
                session.quit()
        self._idle.clear()

    async def _transact(
        self, session: SMTPClientSession, envelope: Envelope, content: Content, trace: bytes
    ) -> dict[Address, Outcome]:
        """What the server cannot take as it is goes in seven bits (RFC 6152 §3, RFC 3030 §3)."""
        mail = await self._render(content, trace, False)
        body = mail.partition(b"\r\n\r\n")[2]
        if seven := not body.isascii() and not session.takes("8BITMIME"):
            mail = await self._render(content, trace, True)
        answers: dict[Address, Outcome] = {}
        waiting = envelope.recipients
        while waiting:
            some, waiting = waiting[: session.most_recipients], waiting[session.most_recipients :]
            said = await session.deliver(msgspec.structs.replace(envelope, recipients=some), mail)
            if NO_BINARY in said.values() and not seven:
                seven, waiting, mail = True, some + waiting, await self._render(content, trace, True)
                continue
            crowded = tuple(to for to in some if said[to].code == TOO_MANY)
            if len(crowded) < len(some):  # RFC 5321 §4.5.3.1.10: the rest at once
                waiting = crowded + waiting
            answers.update(said)
        return answers

    async def _session(
        self, domain: Domain | None, endpoint: Endpoint, demand: Demand, lmtp: bool = False
    ) -> tuple[SMTPClientSession | None, Outcome | None]:
        """One that is connected and has proved what it must, or why there is none."""
        need, name = needed(endpoint, demand), endpoint.name or endpoint.host
        credentials = self._credentials.get(name)
        if credentials is not None:
            need = Level.VERIFIED
        if demand.enforced and not demand.enforced.allows(name):
            self._note(domain, demand, endpoint, "validation-failure")
            return None, Deferred("4.7.5", f"{name} is no mail host in the domain's MTA-STS policy")
        while waiting := self._idle.get(endpoint):
            kept, timer = waiting.pop()
            timer.cancel()
            self._forget_if_none(endpoint)
            if kept.usable and kept.proof.level >= need:
                return kept, None
            kept.quit()
        failed: Outcome | None = None
        try:
            addresses = (await self._resolver.addresses(endpoint.host)).records
        except ResolutionFailed as error:
            return None, Deferred("4.4.3", f"No address of {endpoint.host} for now: {error}")
        for address in addresses:
            meet = partial(self._meet, domain, endpoint, str(address), demand, need, lmtp)
            try:
                try:
                    session, failed = await meet()
                except HandshakeFailed:  # whoever can break TLS can hide that it is offered: nothing is lost
                    if need > Level.PLAIN:
                        raise
                    session, failed = await meet(starttls=False)
            except OSError as error:
                failed = Deferred("4.4.1", f"{name} [{address}]:{endpoint.port}: {error}")
                continue
            if session is not None:
                return session, None
        return None, failed

    async def _meet(
        self, domain: Domain | None, endpoint: Endpoint, address: str, demand: Demand, need: Level, lmtp: bool, *,
        starttls: bool = True,
    ) -> tuple[SMTPClientSession | None, Outcome | None]:  # fmt: skip
        """As `_session`, at one address. Raises OSError."""
        name = endpoint.name or endpoint.host
        credentials = self._credentials.get(name)
        session = SMTPClientSession(
            self._hostname, lmtp=lmtp, starttls=starttls, prove=partial(prove, endpoint=endpoint),
            credentials=credentials,
        )  # fmt: skip
        try:
            await self._connect(address, endpoint.port, name, SMTPClient(), session)
            refused = await session.greet(need)
        except OSError as error:
            if "TLS handshake" in str(error):
                self._note(domain, demand, endpoint, "validation-failure")
            raise
        if starttls:
            self._note(domain, demand, endpoint, _failure(session.proof, demand))
        if session.proof.level < need:
            session.quit()
            reason = "sign in there" if credentials else ""
            return None, Deferred("4.7.5", lacking(name, need, session.proof, demand, reason))
        if refused is None:
            if domain is not None and self._policies is not None:
                await self._policies.learn(domain, demand.level, session.proof.level)
            return session, None
        session.quit()
        said = f"{name} [{address}]:{endpoint.port}: {refused.text}"
        if refused.code == "5.3.2":
            return None, Refused(refused.code, said)
        return None, Deferred(refused.code if credentials else "4.4.1", said)

    def _note(self, domain: Domain | None, demand: Demand, endpoint: Endpoint, failure: str) -> None:
        if domain is not None and self._reports is not None:
            self._reports.note(domain, demand, endpoint, failure)

    def _keep(self, endpoint: Endpoint, session: SMTPClientSession) -> None:
        if not session.usable or len(self._idle.get(endpoint, ())) >= MAX_IDLE:
            session.quit()
            return
        item: tuple[SMTPClientSession, Any]

        def expire() -> None:
            self._idle[endpoint].remove(item)
            self._forget_if_none(endpoint)
            session.quit()

        item = (session, self._clock.callLater(IDLE, expire))
        self._idle.setdefault(endpoint, []).append(item)

    def _forget_if_none(self, endpoint: Endpoint) -> None:
        if not self._idle[endpoint]:
            del self._idle[endpoint]


def _said_by(endpoint: Endpoint, outcome: Outcome) -> Outcome:
    """Of a domain's several hosts, the one whose postmaster can say more."""
    if outcome.ok or not endpoint.name:
        return outcome
    return msgspec.structs.replace(outcome, text=f"{endpoint.name} [{endpoint.host}]: {outcome.text}")


def _failure(proof: Proof, demand: Demand) -> str:
    """What is worth a report: a certificate counts only where a policy asks for one (RFC 8460 §4.3)."""
    if proof.dane or demand.sts is not None or proof.level is Level.PLAIN:
        return proof.failure
    return ""
