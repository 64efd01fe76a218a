"""Rates and blocklists, with a clock and a DNS of ours."""

from __future__ import annotations

from typing import Any

from gatewayd.address import Domain
from gatewayd.core.admission import Admission, Rates
from gatewayd.interfaces.dns import Answer, ResolutionFailed
from gatewayd.outcome import NO_SUCH_SENDER, NULL_MX_SENDER, Deferred, Refused
from tests.loop import Loop

FROM = Domain.parse("elsewhere.test")


class Door:
    def __init__(self, **options: Any) -> None:
        self.time = 1000.0
        self.zone: dict[str, tuple[object, ...]] = {}
        self.asked: list[str] = []
        self.loop = Loop()
        self.admission = Admission(self, lambda: self.time, **options)  # type: ignore[arg-type]

    async def addresses(self, name: str) -> Answer:
        self.asked.append(name)
        if "dead" in name:
            raise ResolutionFailed("no answer")
        return Answer(self.zone.get(name, ()), exists=name in self.zone)

    async def mx(self, domain: Domain) -> Answer:
        return await self.addresses(f"MX {domain}")

    async def srv(self, name: str) -> Answer:
        return await self.addresses(f"SRV {name}")

    async def txt(self, name: str) -> Answer:
        return Answer(self.zone.get(f"TXT {name}", ()))

    def client(self, address: str, domain: Domain | None = FROM) -> object:
        return self.loop.one(self.admission.client(address, domain))


def test_whom_the_operator_refuses() -> None:
    door = Door(refused=["192.0.2.0/24", "2001:db8::/32", "Spam.test"], trusted=["192.0.2.9/32"])
    no = Refused("5.7.1", "No mail is taken from 192.0.2.1 here")
    assert door.client("192.0.2.1") == no
    assert isinstance(door.client("2001:db8::1", None), Refused)
    assert door.client("192.0.2.9") is None
    assert door.client("192.0.3.1") is None
    for name, refused in (("spam.test", True), ("a.b.spam.test", True), ("notspam.test", False), ("test", False)):
        domain = Domain.parse(name)
        said = Refused("5.7.1", f"No mail is taken from {name} here") if refused else None
        assert door.admission.refuses(domain) == door.client("192.0.3.1", domain) == said


def test_so_many_and_then_as_time_goes() -> None:
    door = Door(rates=Rates(per_address=3))
    assert [door.client("192.0.2.1") for _ in range(3)] == [None] * 3
    assert door.client("192.0.2.1") == Deferred("4.7.1", "Too many messages from 192.0.2.1; try again in 20 s", 21)
    assert door.client("192.0.2.2") is None
    door.time += 20
    assert door.client("192.0.2.1") is None
    assert isinstance(door.client("192.0.2.1"), Deferred)


def test_networks_and_domains_are_counted_too() -> None:
    door = Door(rates=Rates(per_network=1))
    assert door.client("2001:db8::1") is None
    assert "2001:db8::/64" in str(door.client("2001:db8::2"))
    assert door.client("2001:db8:0:1::1") is None
    door = Door(rates=Rates(per_domain=1))
    assert door.client("192.0.2.1") is None
    assert "elsewhere.test" in str(door.client("198.51.100.1"))
    assert door.client("198.51.100.1", None) is None  # a bounce


def test_accounts() -> None:
    door = Door(rates=Rates(per_account=10))
    assert door.admission.account("alice@alpha.test", 10) is None
    assert isinstance(door.admission.account("alice@alpha.test", 1), Deferred)
    assert door.admission.account("bob@alpha.test", 1000) is None  # more than fit at all: once, and then a long pause
    assert isinstance(door.admission.account("bob@alpha.test", 1), Deferred)


def test_blocklists() -> None:
    door = Door(blocklists=["dead.test", "block.test"], trusted=["203.0.113.0/24"])
    assert door.client("192.0.2.7") is None
    door.zone["7.2.0.192.block.test"] = ("127.0.0.2",)
    assert door.client("192.0.2.7") == Refused("5.7.1", "192.0.2.7 is listed by block.test")
    door.zone["TXT 7.2.0.192.block.test"] = (b"see https://block.test/7",)
    assert "https" in str(door.client("192.0.2.7"))
    door.zone["7.2.0.192.block.test"] = ("127.255.255.254",)  # we may not ask
    assert door.client("192.0.2.7") is None
    door.zone["7.2.0.192.block.test"] = ("192.0.2.99",)  # a name server that answers whatever it is asked
    assert door.client("192.0.2.7") is None
    door.zone[f"{'.'.join('7' + '0' * 23 + '8bd01002')}.block.test"] = ("127.0.0.4",)
    assert isinstance(door.client("2001:db8::7"), Refused)
    door.asked.clear()
    assert door.client("203.0.113.5") is None
    assert door.asked == []


def test_senders_that_nobody_could_answer() -> None:
    door = Door(senders_exist=True)
    door.zone |= {
        "MX mx.test": ((10, "mx.test"),), "MX null.test": (), "a.test": ("192.0.2.1",),
        "SRV _parley._tcp.parley.test": (), "MX both.test": ((10, "x.test"),), "both.test": ("192.0.2.1",),
    }  # fmt: skip
    for name, said in (
        ("mx.test", None), ("null.test", NULL_MX_SENDER), ("a.test", None), ("parley.test", None), ("both.test", None),
        ("none.test", NO_SUCH_SENDER), ("dead.test", None),
    ):  # fmt: skip
        assert door.client("192.0.2.1", Domain.parse(name)) == said
    assert door.client("192.0.2.1", None) is None
    assert Door(senders_exist=True, trusted=["192.0.2.1"]).client("192.0.2.1") is None
    assert Door().client("192.0.2.1") is None
