"""Presence and typing between two domains, over real sockets: who learns of it, and what is dropped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import defer

from gatewayd.address import Address
from gatewayd.client import ParleyClient, RequestFailed
from gatewayd.core import presence
from gatewayd.core.presence import Presence, Signal
from gatewayd.core.rate import Buckets
from gatewayd.crypto.certificates import make_authority
from gatewayd.wire.parley.schema import Signal as Asked
from gatewayd.wire.parley.schema import Signalled
from tests.house import ALICE, ALPHA, BETA, BOB, CAROL, House
from tests.patience import eventually
from tests.test_client import sign_in

ONLINE = ("presence", "online")


@pytest.fixture
def houses(reactor: Any, tmp_path: Path) -> Iterator[tuple[House, House]]:
    routes: dict[Any, Any] = {}
    authority = make_authority("Test authority")
    alpha = House(reactor, tmp_path / "alpha", ALPHA, (ALICE, BOB), routes, authority)
    beta = House(reactor, tmp_path / "beta", BETA, (CAROL,), routes, authority)
    yield alpha, beta
    alpha.stop()
    beta.stop()


def grant(house: House, owner: Any, other: Any, state: Any = "granted") -> None:
    async def run() -> None:
        account = await house.store.account(owner)
        assert account is not None
        await house.store.set_contact(account.account_id, other, state)

    house.wait(run())


class Listener:
    """A client with a live loop, and what it is told."""

    def __init__(self, house: House, user: Any) -> None:
        self.house = house
        self.client: ParleyClient = sign_in(house, user)
        self.heard: list[Signalled] = []
        self.client.on_signal = self.heard.append
        self._live = self.client.changes(live=True)
        house.wait(self._begin())

    async def _begin(self) -> None:
        await self._live.__anext__()

    def say(self, to: Any, kind: str, state: str, lease: int = 5, **more: Any) -> tuple[str, ...]:
        return self.house.wait(self.client.signal([str(to)], kind, state, lease=lease, **more))

    @property
    def states(self) -> list[tuple[str, str]]:
        return [(signal.from_, signal.state) for signal in self.heard]


def test_friends_of_one_domain_and_of_two(houses: tuple[House, House]) -> None:
    alpha, beta = houses
    alice, bob, carol = Listener(alpha, ALICE), Listener(alpha, BOB), Listener(beta, CAROL)
    grant(alpha, ALICE, CAROL)
    grant(beta, CAROL, ALICE)
    assert alice.say(BOB, *ONLINE, 120) == ()
    assert alice.say(CAROL, "typing", "composing", 10, about=b"\7" * 32) == ()
    assert carol.say(ALICE, "presence", "away") == ()
    eventually(lambda: bool(alice.heard and carol.heard))
    assert bob.heard == [Signalled(str(ALICE), "presence", "online", 120)]
    assert carol.heard == [Signalled(str(ALICE), "typing", "composing", 10, b"\7" * 32)]
    assert alice.states == [(str(CAROL), "away")]


@pytest.mark.parametrize("state", [None, "requested", "revoked"])
def test_both_have_to_have_granted(houses: tuple[House, House], state: Any) -> None:
    """Whoever is not granted is named to the one who signals; who did not grant the sender learns nothing, silently."""
    alpha, beta = houses
    alice, carol = Listener(alpha, ALICE), Listener(beta, CAROL)
    grant(beta, CAROL, ALICE)
    if state:
        grant(alpha, ALICE, CAROL, state)
    assert alice.say(CAROL, *ONLINE) == (str(CAROL),)
    grant(alpha, ALICE, CAROL)
    if state:
        grant(beta, CAROL, ALICE, state)
        assert alice.say(CAROL, *ONLINE) == ()
        eventually(lambda: not alpha.presence._under_way)
        grant(beta, CAROL, ALICE)
    assert alice.say(CAROL, "presence", "away") == ()
    eventually(lambda: bool(carol.heard))
    assert carol.states == [(str(ALICE), "away")]


def test_on_one_gateway_only_who_was_revoked_learns_nothing(houses: tuple[House, House]) -> None:
    alpha, _ = houses
    alice, bob = Listener(alpha, ALICE), Listener(alpha, BOB)
    grant(alpha, BOB, ALICE, "revoked")
    assert alice.say(BOB, *ONLINE) == ()
    assert bob.say(ALICE, *ONLINE) == (str(ALICE),)
    grant(alpha, BOB, ALICE)
    assert alice.say(BOB, "presence", "away") == ()
    eventually(lambda: bob.states == [(str(ALICE), "away")])
    assert alice.heard == []


def test_nothing_is_kept_for_who_is_not_there(houses: tuple[House, House]) -> None:
    alpha, beta = houses
    alice = Listener(alpha, ALICE)
    grant(alpha, ALICE, CAROL)
    grant(beta, CAROL, ALICE)
    for to in (BOB, CAROL):
        assert alice.say(to, *ONLINE) == ()
    bob = Listener(alpha, BOB)
    assert alice.say(BOB, "presence", "away") == ()
    eventually(lambda: bob.states == [(str(ALICE), "away")])
    assert alpha.inbox(BOB) == []
    assert alpha.wait(alpha.queue.listing()) == []
    alpha.call(bob.client.close)
    eventually(lambda: len(alpha.presence._connected) == 1)


def test_a_domain_that_is_down_is_left_in_peace(houses: tuple[House, House], monkeypatch: pytest.MonkeyPatch) -> None:
    alpha, beta = houses
    alice = Listener(alpha, ALICE)
    grant(alpha, ALICE, CAROL)
    beta.hush()
    dialled: list[Any] = []
    carry = alpha.courier.signal

    async def counting(*what: Any) -> None:
        dialled.append(what)
        await carry(*what)

    monkeypatch.setattr(alpha.presence, "_carrier", type("Carrier", (), {"signal": staticmethod(counting)}))
    assert alice.say(CAROL, *ONLINE) == ()
    eventually(lambda: not alpha.presence._under_way)
    assert alice.say(CAROL, *ONLINE) == ()
    alpha.settle()
    assert len(dialled) == 1
    assert alpha.wait(alpha.queue.listing()) == []
    beta.listen()


def test_a_peer_speaks_for_its_own_users_only(houses: tuple[House, House]) -> None:
    alpha, beta = houses
    bob = Listener(alpha, BOB)
    grant(alpha, BOB, CAROL)
    peer = alpha.peer(beta.key)
    for sender in (str(ALICE), "", "carol"):
        with pytest.raises(RequestFailed, match="bad-request"):
            alpha.ask(peer, "signal", Asked((str(BOB),), *ONLINE, 5, from_=sender))
    to = (str(BOB), "nobody@alpha.test", str(CAROL))
    assert alpha.ask(peer, "signal", Asked(to, *ONLINE, 5, from_=str(CAROL))) == {}  # it does not learn who listens
    eventually(lambda: bool(bob.heard))
    assert bob.states == [(str(CAROL), "online")]


@pytest.mark.parametrize(
    "asked",
    [
        Asked((), *ONLINE, 5), Asked(("bob",), *ONLINE, 5), Asked((str(BOB),) * 21, *ONLINE, 5),
        Asked((str(BOB),), "presence", "composing", 5), Asked((str(BOB),), "weather", "rain", 5),
        Asked((str(BOB),), *ONLINE, 121), Asked((str(BOB),), "typing", "composing", 11),
        Asked((str(BOB),), *ONLINE, 5, about=b"short"),
    ],
)  # fmt: skip
def test_what_is_no_signal(houses: tuple[House, House], asked: Asked) -> None:
    alpha, _ = houses
    with pytest.raises(RequestFailed, match="bad-request"):
        alpha.ask(alpha.user(ALICE), "signal", asked)


def test_too_many(houses: tuple[House, House], monkeypatch: pytest.MonkeyPatch) -> None:
    """The sender is told, and nothing is passed on until the bucket has filled again."""
    alpha, _ = houses
    alice, bob = Listener(alpha, ALICE), Listener(alpha, BOB)
    monkeypatch.setattr(alpha.presence, "_users", Buckets(1e-6, alpha.reactor.seconds, presence.USER_BURST))
    for _ in range(presence.USER_BURST):
        alice.say(BOB, *ONLINE)
    with pytest.raises(RequestFailed, match="too-often"):
        alice.say(BOB, *ONLINE)
    eventually(lambda: len(bob.heard) == presence.USER_BURST)
    monkeypatch.setattr(alpha.presence, "_users", Buckets(1e6, alpha.reactor.seconds))
    alice.say(BOB, "presence", "away")
    eventually(lambda: bob.states[-1] == (str(ALICE), "away"))


def test_who_does_not_read_is_told_no_more(houses: tuple[House, House]) -> None:
    alpha, _ = houses
    listener = Listener(alpha, BOB)
    (signals,) = [s._signals for s in alpha.sessions if s._signals._end is not None]
    link: Any = type("Link", (), {"full": True})
    said: list[Any] = []
    signals._link, signals._push_signal = link, said.append
    alpha.call(lambda: signals._push(Signal(ALICE, *ONLINE, 5)))
    assert said == []
    link.full = False
    alpha.call(lambda: signals._push(Signal(ALICE, *ONLINE, 5)))
    assert len(said) == 1
    alpha.call(listener.client.close)


def test_a_signal_to_mail_goes_nowhere(reactor: Any) -> None:
    """Only Parley carries signals; nothing is dialled for the others."""
    carried: list[Any] = []

    class Store:
        async def domains(self) -> frozenset[Any]:
            return frozenset()

        async def contact(self, account_id: int, address: Address) -> Any:
            return type("Contact", (), {"state": "granted"})

    class Carrier:
        async def signal(self, *what: Any) -> None:
            carried.append(what)

    async def route(domain: Any) -> Any:
        return None

    made = Presence(Store(), route, Carrier(), lambda: 0.0)  # type: ignore[arg-type]
    done = defer.Deferred.fromCoroutine(made.from_user(1, Signal(ALICE, *ONLINE, 5), [CAROL]))
    assert done.result == []
    assert (carried, made._under_way) == ([], {})
