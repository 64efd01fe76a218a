"""Parley out: one kept connection for each (our domain, peer domain), many sends in flight on it.

Whatever fails between the two servers is temporary: there is no way down to mail (DESIGN §2).
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twisted.internet import defer
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from gatewayd.address import Address, Domain
from gatewayd.core.presence import Signal
from gatewayd.crypto.domain_keys import KeyStore
from gatewayd.interfaces.dns import Endpoint
from gatewayd.interfaces.queue import MailObject
from gatewayd.interfaces.records import Peer
from gatewayd.interfaces.routes import Bridged, ICourier, Mail, Parley, Route
from gatewayd.interfaces.store import IStore
from gatewayd.message.model import Content
from gatewayd.outcome import Deferred, Outcome, Refused, outcome
from gatewayd.session.link import Engine, Session
from gatewayd.session.parley_client import ParleyClientSession
from gatewayd.session.parley_requests import Answer, ConnectionGone, RequestFailed
from gatewayd.wire.parley import LocalProtocolError, RemoteProtocolError
from gatewayd.wire.parley import schema as wire
from gatewayd.wire.parley.connection import ParleyConnection
from gatewayd.wire.parley.schema import Body, Result, Send, SendReply, read

IDLE = 60.0  # seconds that a connection is kept without work
MAX_RETRY = 6 * 3600  # seconds that a peer may have us wait
CODE = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}\Z")  # RFC 3463 §2

FAILURES = (RequestFailed, LocalProtocolError, RemoteProtocolError, KeyError, OSError)  # what `_failure` has words for

Connect = Callable[[Domain, Endpoint, Engine, Session], Awaitable[None]]
RouteOf = Callable[[Domain], Awaitable[Route]]


@implementer(ICourier)
class ParleyCourier:
    """Also fetches other domains' keys: the same dialling, the same check of the listener."""

    def __init__(
        self, connect: Connect, route: RouteOf, keys: KeyStore, store: IStore, hostname: Domain, clock: IReactorTime,
        now: Callable[[], float],
    ) -> None:  # fmt: skip
        self._connect = connect
        self._route = route
        self._keys = keys
        self._store = store
        self._hostname = hostname
        self._clock = clock
        self._now = now
        self._open: dict[tuple[Domain, Domain], ParleyClientSession] = {}
        self._locks: dict[tuple[Domain, Domain], defer.DeferredLock] = {}
        self._timers: dict[ParleyClientSession, Any] = {}

    async def deliver(
        self, route: Parley | Mail | Bridged, objects: Sequence[MailObject]
    ) -> list[dict[Address, Outcome]]:
        assert isinstance(route, Parley)
        answers: dict[int, dict[Address, Outcome]] = {}
        as_whom: dict[Domain, list[int]] = defaultdict(list)
        for at, one in enumerate(objects):
            as_whom[_our_domain(one)].append(at)
        for ours, places in as_whom.items():
            answers.update(zip(places, await self._send(ours, route, [objects[at] for at in places]), strict=True))
        return [answers[at] for at in range(len(objects))]

    async def signal(self, route: Parley, signal: Signal, to: Sequence[Address]) -> None:
        """Raises OSError when the peer cannot be reached, or takes no signals."""
        ours = signal.sender.domain
        try:
            body = wire.Signal(
                tuple(map(str, to)), signal.kind, signal.state, signal.lease, signal.about, str(signal.sender)
            )
            await self.ask(ours, route, "signal", body)
        except (RequestFailed, LocalProtocolError, RemoteProtocolError, KeyError) as error:
            raise ConnectionError(str(error)) from None

    async def ask(self, ours: Domain, route: Parley, method: str, body: Body) -> dict[str, Any]:
        """One request as that domain of ours. Raises OSError, RequestFailed, RemoteProtocolError, KeyError (no key)."""
        session = await self._session(ours, route)
        self._restart_timer(session, (ours, route.domain))
        return await session.request(method, body)

    async def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for session in self._open.values():
            session.close()
        self._open.clear()

    async def fetch_keys(self, domain: Domain) -> bytes:
        """The domain's encoded key set, from its own listener. Raises OSError."""
        try:
            route = await self._route(domain)
            if not isinstance(route, Parley):
                raise ConnectionError(f"{domain} has no Parley service that could be found now")
            session = await self._dial(route)
            try:
                return await session.keys(domain)
            finally:
                session.close()
        except (RequestFailed, RemoteProtocolError) as failed:
            raise ConnectionError(str(failed)) from None

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _send(self, ours: Domain, route: Parley, objects: Sequence[MailObject]) -> list[dict[Address, Outcome]]:
        kept = self._open.get((ours, route.domain))
        try:
            session = await self._session(ours, route)
        except FAILURES as error:
            why = _failure(route.domain, error)
            return [dict.fromkeys(one.envelope.recipients, why) for one in objects]
        most = max(1, session.recipients)
        answers: list[dict[Address, Outcome]] = []
        sends: list[tuple[dict[Address, Outcome], tuple[Address, ...], Send]] = []
        for one in objects:
            content, to = one.content, one.envelope.recipients
            answers.append({})
            for some in (to[begin : begin + most] for begin in range(0, len(to), most)):
                send = Send(
                    tuple(map(str, some)), tuple(content.inline.values()), signed=content.signed,
                    from_=str(one.envelope.reverse_path or ""),
                )  # fmt: skip
                sends.append((answers[-1], some, send))
        contents = [one.content for one in objects]
        replies = await self._exchange(ours, route, session, contents, [send for _, _, send in sends])
        lost = [at for at, reply in enumerate(replies) if isinstance(reply, ConnectionGone)]
        if lost and session is kept:  # the peer may have begun anew; to be asked twice does it no harm
            with contextlib.suppress(*FAILURES):
                session = await self._session(ours, route)
                again = await self._exchange(ours, route, session, contents, [sends[at][2] for at in lost])
                for at, reply in zip(lost, again, strict=True):
                    replies[at] = reply
        for (answer, some, _), reply in zip(sends, replies, strict=True):
            answer.update(_outcomes(route.domain, some, reply))
        return answers

    async def _exchange(
        self, ours: Domain, route: Parley, session: ParleyClientSession, contents: Sequence[Content],
        sends: Sequence[Send],
    ) -> list[Answer]:  # fmt: skip
        self._restart_timer(session, (ours, route.domain))
        with session.offered.offering(contents):
            return await session.request_all("send", sends)

    async def _session(self, ours: Domain, route: Parley) -> ParleyClientSession:
        """Raises OSError, RequestFailed, KeyError."""
        key = (ours, route.domain)
        lock = self._locks.setdefault(key, defer.DeferredLock())
        await lock.acquire()
        try:
            session = self._open.get(key)
            if session is None or not session.usable:
                signing_key = self._keys.signing_key(ours)
                session = await self._dial(route)
                await session.sign_in_domain(signing_key, route.domain)
                self._open[key] = session
            return session
        finally:
            lock.release()

    async def _dial(self, route: Parley) -> ParleyClientSession:
        """The first endpoint that answers and proves to be the domain. Raises OSError."""
        why: OSError = ConnectionError("no endpoint")
        for endpoint in route.endpoints:
            engine = ParleyConnection()
            session = ParleyClientSession(self._hostname.name, engine, self._store.blobs)
            hello_said = session.hello
            assert hello_said is not None
            try:
                await self._connect(route.domain, endpoint, engine, session)
                hello = await hello_said
            except OSError as error:
                why = error
                continue
            if hello.remember:
                peer = await self._store.peer(route.domain) or Peer(route.domain, 0.0, None, 0.0)
                until = self._now() + min(hello.remember, 366 * 86400)
                if until > peer.parley_until + 3600:  # not written for every connection
                    await self._store.remember_peer(Peer(peer.domain, until, peer.keys, peer.keys_until))
            return session
        raise why

    def _restart_timer(self, session: ParleyClientSession, key: tuple[Domain, Domain]) -> None:
        timer = self._timers.get(session)
        if timer is not None and timer.active():
            timer.reset(IDLE)
            return

        def expire() -> None:
            self._timers.pop(session, None)
            if session.idle:
                if self._open.get(key) is session:
                    del self._open[key]
                session.close()
            else:
                self._restart_timer(session, key)

        self._timers[session] = self._clock.callLater(IDLE, expire)


def _our_domain(one: MailObject) -> Domain:
    """Who we sign in as: the sender's domain; for a bounce, the domain that signed it as bridged."""
    if one.envelope.reverse_path is not None:
        return one.envelope.reverse_path.domain
    bridged = one.content.fields.ext.get("bridged")
    if isinstance(bridged, dict):
        return Domain.parse(str(bridged.get("by")))
    return Address.parse(one.content.fields.from_).domain


def _outcomes(domain: Domain, recipients: Sequence[Address], reply: Answer) -> dict[Address, Outcome]:
    try:
        if isinstance(reply, Exception):
            raise reply
        said = {result.to: _outcome(domain, result) for result in read(SendReply, reply).results}
    except FAILURES as error:
        return dict.fromkeys(recipients, _failure(domain, error))
    left_out = Deferred("4.5.0", f"{domain} left the recipient out")
    return {to: said.get(str(to), left_out) for to in recipients}


def _outcome(domain: Domain, result: Result) -> Outcome:
    if not CODE.match(result.code):
        return Deferred("4.5.0", f"{domain} answered with the code {result.code[:20]!r}")
    return outcome(result.code, result.text, min(result.retry, MAX_RETRY) if isinstance(result.retry, int) else None)


def _failure(domain: Domain, error: Exception) -> Outcome:
    match error:
        case RequestFailed():
            return Deferred("4.7.0", f"{domain} answered {error}")
        case LocalProtocolError():
            return Refused("5.3.4", str(error))
        case RemoteProtocolError():
            return Deferred("4.5.0", str(error))
        case KeyError():
            return Deferred("4.7.0", f"{error.args[0]} has no key to sign in with")
    return Deferred("4.4.1", f"{domain}: {error}")
