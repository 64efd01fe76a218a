"""Servers behind us: who is there is asked once, and remembered while they are down."""

from __future__ import annotations

import ipaddress
from typing import Any

from gatewayd.address import Address, Domain
from gatewayd.core.bridges import KNOWN_FOR, REMEMBERED_FOR, UNKNOWN_FOR, Behind, Bridges, authors_domain
from gatewayd.interfaces.dns import Endpoint
from gatewayd.interfaces.routes import Bridged
from gatewayd.outcome import Deferred, Delivered, Outcome, Refused
from tests.loop import Loop

OLD, OTHER = Domain.parse("old.test"), Domain.parse("other.test")
CAROL, NOBODY = Address.parse("carol@old.test"), Address.parse("nobody@old.test")
ROUTE = Bridged(Endpoint("192.0.2.1", 25), lmtp=True)
GONE = Refused("5.1.1", "no such user")


class World:
    def __init__(self) -> None:
        self.now = 1000.0
        self.asked: list[Address] = []
        self.answers: dict[Address, Outcome] = {CAROL: Delivered("2.1.5", "yes"), NOBODY: GONE}
        networks = (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/32"))
        servers = {OLD: Behind(ROUTE, networks), OTHER: Behind(ROUTE)}
        self.bridges = Bridges(servers, self.probe, lambda: self.now)

    async def probe(self, route: Bridged, address: Address) -> Outcome:
        assert route == ROUTE
        self.asked.append(address)
        return self.answers[address]

    def verify(self, address: Address) -> Any:
        return Loop().one(self.bridges.verify(address))


def test_each_address_is_asked_for_once_in_a_while() -> None:
    world = World()
    for _ in range(3):
        assert world.verify(CAROL) == Delivered("2.1.5", "Recipient ok")
        assert world.verify(NOBODY) == GONE
    assert world.asked == [CAROL, NOBODY]
    world.now += UNKNOWN_FOR
    world.verify(CAROL), world.verify(NOBODY)
    assert world.asked == [CAROL, NOBODY, NOBODY]
    world.now += KNOWN_FOR
    world.verify(CAROL)
    assert world.asked[-1] == CAROL


def test_who_was_there_is_taken_while_the_server_is_down() -> None:
    world = World()
    world.verify(CAROL), world.verify(NOBODY)
    world.answers = dict.fromkeys(world.answers, Deferred("4.4.1", "refused"))
    world.now += KNOWN_FOR
    assert world.verify(CAROL).ok
    assert isinstance(world.verify(NOBODY), Deferred)
    world.now += REMEMBERED_FOR
    assert isinstance(world.verify(CAROL), Deferred)
    world.answers[CAROL] = GONE
    assert world.verify(CAROL) == GONE


def test_who_sends_for_a_domain() -> None:
    bridges = World().bridges
    assert bridges.sent_by("192.0.2.7") == bridges.sent_by("2001:db8::1") == {OLD}
    assert (
        not bridges.sent_by("198.51.100.1") and not bridges.sent_by("") and not Bridges({}, None, None).sent_by("::1")
    )  # type: ignore[arg-type]
    assert OLD in bridges and Domain.parse("alpha.test") not in bridges
    elsewhere = Address.parse("eve@elsewhere.test")
    assert authors_domain([None, elsewhere, CAROL], frozenset({OLD})) == OLD
    assert authors_domain([elsewhere], frozenset({OLD})) is None
