"""Every way a domain can be reached, and that none leads from Parley down to mail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from twisted.internet import defer
from twisted.internet.task import Clock

from gatewayd.address import Domain
from gatewayd.crypto.dane import TLSA
from gatewayd.errors import StoreError
from gatewayd.interfaces.dns import Answer, Endpoint, ResolutionFailed
from gatewayd.interfaces.records import Peer
from gatewayd.interfaces.routes import Bridged, Local, Mail, Parley, Route
from gatewayd.outcome import NO_MAIL_SERVICE, STORE_FAILED, Deferred
from gatewayd.routing import DNS_FAILED, KNOWN_FOR, LOOPS_BACK, MOST, NO_MAIL_HOST, NO_SUCH_DOMAIN, Router

THERE = Domain("there.test")
SRV = "SRV _parley._tcp.there.test"
PARLEY = Answer((Endpoint("p.there.test", 5299),), exists=True)
EXCHANGES = Answer(((10, "mx.there.test"), (20, "backup.there.test")), exists=True)
HOSTS = {"A mx.there.test": Answer(("192.0.2.1",), exists=True), "A p.there.test": Answer(("::1",), exists=True)}
FAILED = ResolutionFailed("SERVFAIL")


class Names:
    """What the DNS says; what it does not say is absent."""

    def __init__(self, said: dict[str, Answer | Exception]) -> None:
        self._said = said

    async def _ask(self, question: str) -> Answer:
        answer = self._said.get(question, Answer())
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def srv(self, name: str) -> Answer:
        return await self._ask(f"SRV {name}")

    async def mx(self, domain: Domain) -> Answer:
        return await self._ask(f"MX {domain}")

    async def addresses(self, host: str) -> Answer:
        return await self._ask(f"A {host}")

    async def tlsa(self, name: str) -> Answer:
        return await self._ask(f"TLSA {name}")


class Store:
    def __init__(self, peer: Peer | None = None) -> None:
        self._peer = peer

    async def domains(self) -> frozenset[Domain]:
        return frozenset({Domain("here.test")})

    async def peer(self, domain: Domain) -> Peer | None:
        return self._peer


def route(said: dict[str, Any], domain: Domain = THERE, peer: Peer | None = None) -> Route:
    clock = Clock()
    clock.advance(1000)
    router: Any = Router(
        Store(peer),  # type: ignore[arg-type]
        Names({**HOSTS, **said}),  # type: ignore[arg-type]
        clock.seconds,
        clock.seconds,
        2525,
        {Domain("behind.test"): Bridged(Endpoint("127.0.0.1", 24))},
        Domain("mx.here.test"),
    )
    found: list[Route] = []
    defer.Deferred.fromCoroutine(router.route(domain)).addCallback(found.append)
    return found[0]


def test_ours() -> None:
    assert route({}, Domain("here.test")) == Local()
    assert route({}, Domain("behind.test")) == Bridged(Endpoint("127.0.0.1", 24))


def test_parley_comes_before_mail() -> None:
    assert route({SRV: PARLEY, "MX there.test": EXCHANGES}) == Parley(THERE, (Endpoint("::1", 5299, "p.there.test"),))


@pytest.mark.parametrize("absent", [Answer(), Answer(exists=True)])
def test_mail_where_parley_is_not_offered(absent: Answer) -> None:
    assert route({SRV: absent, "MX there.test": EXCHANGES}) == Mail(
        THERE, (Endpoint("192.0.2.1", 2525, "mx.there.test"),)
    )


@pytest.mark.parametrize(
    "said",
    [
        {SRV: FAILED},
        {SRV: PARLEY, "A p.there.test": FAILED},
        {SRV: PARLEY, "A p.there.test": Answer()},
    ],
)
def test_no_way_down(said: dict[str, Any]) -> None:
    assert isinstance(route({"MX there.test": EXCHANGES, **said}), Deferred)


@pytest.mark.parametrize("absent", [Answer(), Answer(exists=True)])
def test_a_remembered_peer_cannot_be_hidden(absent: Answer) -> None:
    said = {SRV: absent, "MX there.test": EXCHANGES}
    hidden = route(said, peer=Peer(THERE, 1001, None, 0))
    assert isinstance(hidden, Deferred) and hidden.code == "4.4.3"
    assert isinstance(route(said, peer=Peer(THERE, 1000, None, 0)), Mail)


def test_mail_hosts() -> None:
    assert route({"MX there.test": FAILED}) == Deferred("4.4.3", "The DNS did not answer for the domain")
    assert route({"MX there.test": Answer(exists=True)}) == NO_MAIL_SERVICE
    assert route({"MX there.test": Answer(((5, "gone.test"),), exists=True)}) == NO_MAIL_HOST
    assert route({"A there.test": Answer(("192.0.2.9",), exists=True)}) == Mail(
        THERE, (Endpoint("192.0.2.9", 2525, "there.test"),)
    )
    assert route({}) == NO_SUCH_DOMAIN
    assert route({"MX there.test": EXCHANGES, "A backup.there.test": FAILED}) == Mail(
        THERE, (Endpoint("192.0.2.1", 2525, "mx.there.test"),)
    )


def test_no_circles_where_we_are_an_exchange() -> None:
    ours = Answer(((10, "mx.there.test"), (20, "mx.here.test"), (30, "p.there.test")), exists=True)
    assert route({"MX there.test": ours}) == Mail(THERE, (Endpoint("192.0.2.1", 2525, "mx.there.test"),))
    assert route({"MX there.test": Answer(((20, "mx.here.test"),), exists=True)}) == LOOPS_BACK
    first = Answer(((0, "mx.here.test"), (0, "mx.there.test"), (10, "p.there.test")), exists=True)
    assert route({"MX there.test": first}) == LOOPS_BACK  # as good as we are is none better


def test_a_domain_that_names_thousands_of_hosts_costs_no_more_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would be looked up, and then waited for, and they may be anybody's."""
    asked: list[str] = []

    async def addresses(self: Names, host: str) -> Answer:
        asked.append(host)
        return Answer(("192.0.2.1", "192.0.2.2", "192.0.2.3"), exists=True) if host != "mx0.there.test" else Answer()

    monkeypatch.setattr(Names, "addresses", addresses)
    many = Answer(tuple((n, f"mx{n}.there.test") for n in range(1000)), exists=True)
    found = route({"MX there.test": many})
    assert isinstance(found, Mail)
    assert (len(found.endpoints), len(asked)) == (MOST, 5)
    monkeypatch.setattr(Names, "addresses", lambda self, host: self._ask(asked.append(host) or host))
    asked.clear()
    assert route({"MX there.test": many}) == NO_MAIL_HOST and len(asked) == MOST


def secure(answer: Answer) -> Answer:
    return replace(answer, secure=True)


TLSA_SAID = Answer((TLSA(3, 1, 1, b"digest"),), secure=True, exists=True)
SIGNED = {SRV: secure(PARLEY), "A p.there.test": secure(HOSTS["A p.there.test"])}


def test_tlsa_records_count_where_all_that_led_there_is_secure() -> None:
    said = {**SIGNED, "TLSA _5299._tcp.p.there.test": TLSA_SAID}
    with_them = Parley(THERE, (Endpoint("::1", 5299, "p.there.test", (TLSA(3, 1, 1, b"digest"),)),))
    without = Parley(THERE, (Endpoint("::1", 5299, "p.there.test"),))
    assert route(said) == with_them
    for question, answer in said.items():
        assert route({**said, question: replace(answer, secure=False)}) == without
    assert route(SIGNED) == without


def test_tlsa_records_that_are_bogus_or_withheld_lower_nothing() -> None:
    failed = {**SIGNED, "TLSA _5299._tcp.p.there.test": FAILED}
    assert route({**failed, "MX there.test": EXCHANGES}) == DNS_FAILED
    two = Answer((Endpoint("p.there.test", 5299), Endpoint("p.there.test", 443)), secure=True, exists=True)
    assert route({**failed, SRV: two}) == Parley(THERE, (Endpoint("::1", 443, "p.there.test"),))


def test_store_failure_is_temporary(monkeypatch: pytest.MonkeyPatch) -> None:
    async def domains(self: Store) -> frozenset[Domain]:
        raise StoreError("disk")

    monkeypatch.setattr(Store, "domains", domains)
    assert route({}) == STORE_FAILED


def test_a_parley_route_is_asked_for_once_a_second() -> None:
    class Counting(Names):
        asked = 0

        async def srv(self, name: str) -> Answer:
            self.asked += 1
            return await super().srv(name)

    said: dict[str, Answer | Exception] = {SRV: PARLEY, **HOSTS}
    names, clock = Counting(said), Clock()
    router = Router(Store(), names, clock.seconds, clock.seconds)  # type: ignore[arg-type]

    def route() -> Route:
        (answer,) = _answers(router)
        return answer

    def _answers(router: Router) -> list[Route]:
        found: list[Route] = []
        defer.Deferred.fromCoroutine(router.route(THERE)).addCallback(found.append)
        return found

    assert isinstance(route(), Parley) and isinstance(route(), Parley) and names.asked == 1
    clock.advance(KNOWN_FOR)
    assert isinstance(route(), Parley) and names.asked == 2
    clock.advance(KNOWN_FOR)
    said[SRV] = FAILED
    assert route() == DNS_FAILED and route() == DNS_FAILED  # and nothing older hides it
    said[SRV] = PARLEY
    assert isinstance(route(), Parley)
    del said[SRV]
    clock.advance(KNOWN_FOR)
    assert not isinstance(route(), Parley) and not isinstance(route(), Parley)
