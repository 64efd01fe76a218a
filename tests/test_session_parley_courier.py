"""Parley from gateway to gateway over real sockets: what goes, what waits, and that nothing goes as mail instead."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import defer
from zope.interface.verify import verifyObject

from gatewayd.address import Address, Domain
from gatewayd.crypto.certificates import issue, make_authority
from gatewayd.crypto.domain_keys import SigningKey
from gatewayd.interfaces.dns import Endpoint
from gatewayd.interfaces.queue import Envelope, MailObject
from gatewayd.interfaces.routes import ICourier, Parley, Route
from gatewayd.message.model import Content
from gatewayd.net.limits import Limits
from gatewayd.net.listen import listen
from gatewayd.net.tls import server_context
from gatewayd.outcome import Deferred, Delivered, Outcome, Refused
from gatewayd.session import parley_client, parley_courier
from gatewayd.wire.parley.connection import Event, ParleyConnection, Push, Request, Response
from gatewayd.wire.parley.schema import Hello, KeysReply
from tests.house import ALICE, ALPHA, BETA, BOB, CAROL, Authority, House, message, signed, wait_until

DAVE = Address.parse("dave@beta.test")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return make_authority("Test authority")


@pytest.fixture
def routes() -> dict[Domain, Route]:
    return {}


@pytest.fixture
def alpha(reactor: Any, tmp_path: Path, routes: dict[Domain, Route], authority: Authority) -> Iterator[House]:
    made = House(reactor, tmp_path / "alpha", ALPHA, (ALICE, BOB), routes, authority)
    yield made
    made.stop()


@pytest.fixture
def beta(reactor: Any, tmp_path: Path, routes: dict[Domain, Route], authority: Authority) -> Iterator[House]:
    made = House(reactor, tmp_path / "beta", BETA, (CAROL, DAVE), routes, authority)
    made.grant(CAROL, ALICE)
    made.grant(DAVE, ALICE)
    yield made
    made.stop()


def letter(house: House, **fields: Any) -> Content:
    return signed(message(str(ALICE), **fields), house.key)


def deliver(house: House, content: Content, *to: Address, route: Parley | None = None) -> dict[Address, Outcome]:
    """From alice."""
    way = route or house.routes[BETA]
    assert isinstance(way, Parley)
    (answers,) = house.wait(house.courier.deliver(way, [MailObject(content, b"", Envelope(ALICE, to or (CAROL,)))]))
    return answers


def one(house: House, content: Content, **how: Any) -> Outcome:
    (outcome,) = deliver(house, content, **how).values()
    return outcome


def test_it_is_a_courier(alpha: House) -> None:
    assert verifyObject(ICourier, alpha.courier)


def test_an_object_arrives_as_it_was_signed(alpha: House, beta: House) -> None:
    content = letter(alpha, subject="Hello")
    nobody = Address.parse("nobody@beta.test")
    answers = deliver(alpha, content, CAROL, nobody, DAVE)
    assert {a: o.code for a, o in answers.items()} == {CAROL: "2.0.0", nobody: "5.1.1", DAVE: "2.0.0"}
    assert isinstance(answers[CAROL], Delivered)
    assert isinstance(answers[nobody], Refused)
    for address in (CAROL, DAVE):
        (got,) = beta.inbox(address)
        assert (got.signed, got.bodies) == (content.signed, content.bodies)


def test_one_connection_serves_many_messages(alpha: House, beta: House) -> None:
    contents = [letter(alpha) for _ in range(20)]

    async def all_at_once() -> list[dict[Address, Outcome]]:
        way = alpha.routes[BETA]
        assert isinstance(way, Parley)
        objects = [MailObject(content, b"", Envelope(ALICE, (CAROL,))) for content in contents]
        work = [alpha.courier.deliver(way, objects[:1]), alpha.courier.deliver(way, objects[1:])]
        answers = await defer.gatherResults([defer.Deferred.fromCoroutine(one) for one in work])
        return [answer for some in answers for answer in some]

    assert all(answers[CAROL].ok for answers in alpha.wait(all_at_once()))
    assert one(alpha, letter(alpha)).ok
    assert len(beta.inbox(CAROL)) == 21
    assert len(beta.sessions) == 1
    assert len(alpha.sessions) == 1  # beta asked for alpha's keys, once
    wait_until(alpha, lambda: alpha.sessions[0]._link._gone)  # type: ignore[attr-defined]
    ((_, session),) = alpha.courier._open.items()
    assert session._link._timeout is None  # type: ignore[attr-defined]


def test_an_idle_connection_is_ended(alpha: House, beta: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parley_courier, "IDLE", 0.05)
    assert one(alpha, letter(alpha)).ok
    wait_until(alpha, lambda: not alpha.courier._open)
    assert one(alpha, letter(alpha)).ok
    assert len(beta.sessions) == 2


def test_a_connection_that_broke_is_made_anew(alpha: House, beta: House) -> None:
    assert one(alpha, letter(alpha)).ok
    beta.hush()
    failed = one(alpha, letter(alpha))
    assert (type(failed), failed.code) == (Deferred, "4.4.1")
    beta.listen()
    assert one(alpha, letter(alpha)).ok
    assert len(beta.inbox(CAROL)) == 2


def test_a_peer_that_begins_anew_costs_no_message_its_minute(
    alpha: House, beta: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies in the middle of a kept connection and is back: what it had not answered is sent again at once."""
    assert one(alpha, letter(alpha)).ok
    accept, dying = beta.office._accepting.accept, [True]

    async def accept_or_die(*arguments: Any) -> Any:
        if dying:
            dying.clear()
            beta.sessions[-1]._link.abort()
        return await accept(*arguments)

    monkeypatch.setattr(beta.office._accepting, "accept", accept_or_die)
    assert one(alpha, letter(alpha)).ok
    assert len(beta.inbox(CAROL)) == 2
    assert len(beta.sessions) == 2


def test_a_peer_that_dies_in_the_middle(alpha: House, beta: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the message and dies before it says so: sent again, it arrives once."""
    accept = beta.office._accepting.accept

    async def accept_and_die(*arguments: Any) -> Any:
        answers = await accept(*arguments)
        beta.sessions[-1]._link.abort()
        return answers

    monkeypatch.setattr(beta.office._accepting, "accept", accept_and_die)
    content = letter(alpha)
    failed = one(alpha, content)
    assert (type(failed), failed.code) == (Deferred, "4.4.1")
    monkeypatch.undo()
    assert one(alpha, content).ok
    assert len(beta.inbox(CAROL)) == 1


def test_the_next_endpoint_is_tried(alpha: House, beta: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    way = Parley(BETA, (Endpoint("127.0.0.1", port), Endpoint("127.0.0.1", beta.port)))
    assert one(alpha, letter(alpha), route=way).ok
    failed = one(alpha, letter(alpha), route=Parley(Domain.parse("gamma.test"), way.endpoints))
    assert isinstance(failed, Deferred)
    assert "does not name gamma.test" in failed.text


def test_no_endpoint_at_all(alpha: House, beta: House) -> None:
    failed = one(alpha, letter(alpha), route=Parley(BETA, ()))
    assert (type(failed), failed.code) == (Deferred, "4.4.1")


@pytest.mark.parametrize("foreign", [False, True], ids=["another name", "another authority"])
def test_a_host_that_does_not_prove_the_domain(
    reactor: Any, tmp_path: Path, alpha: House, authority: Authority, foreign: bool
) -> None:
    by = make_authority("Another") if foreign else authority
    certified = issue(*by, ["beta.test" if foreign else "evil.test"])
    evil = House(reactor, tmp_path / "evil", BETA, (CAROL,), alpha.routes, authority, certified=certified)
    try:
        failed = one(alpha, letter(alpha))
        assert (type(failed), failed.code) == (Deferred, "4.4.1")
        assert ("certificate verify failed" if foreign else "does not name beta.test") in failed.text
        evil.settle()
        assert evil.inbox(CAROL) == []
        with pytest.raises(ConnectionError):
            alpha.wait(alpha.courier.fetch_keys(BETA))
    finally:
        evil.stop()


def test_a_peer_that_does_not_believe_us(alpha: House, beta: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer is temporary for us, whatever it is, and the connection is not kept."""
    forged = SigningKey(ALPHA, alpha.key.kid, SigningKey.generate(ALPHA).private)
    monkeypatch.setattr(alpha.keys, "signing_key", lambda domain: forged)
    content = letter(alpha)
    failed = one(alpha, content)
    assert (type(failed), failed.code) == (Deferred, "4.7.0")
    assert alpha.courier._open == {}
    monkeypatch.undo()
    assert one(alpha, content).ok


def test_a_domain_without_a_key_waits(alpha: House, beta: House) -> None:
    content = letter(alpha)
    for path in (alpha.root / "keys/alpha.test").iterdir():
        path.unlink()
    alpha.keys._loaded.clear()
    failed = one(alpha, content)
    assert (type(failed), failed.code) == (Deferred, "4.7.0")


def test_the_memory_of_parley_is_written(alpha: House, beta: House) -> None:
    assert alpha.wait(alpha.store.peer(BETA)) is None
    assert one(alpha, letter(alpha)).ok
    peer = alpha.wait(alpha.store.peer(BETA))
    assert peer is not None
    assert peer.parley_until > alpha.reactor.seconds() + 29 * 86400


def test_a_bounce_goes_as_the_domain_that_signed_it(alpha: House, beta: House) -> None:
    author = "MAILER-DAEMON@mx.alpha.test"
    mail = f"From: <{author}>\r\n\r\nIt did not arrive.\r\n".encode()
    content = signed(message(author, mail, type="mail", ext={"bridged": {"by": "alpha.test"}}), alpha.key)
    way = alpha.routes[BETA]
    assert isinstance(way, Parley)
    (answers,) = alpha.wait(alpha.courier.deliver(way, [MailObject(content, b"", Envelope(None, (CAROL,)))]))
    assert answers[CAROL].ok
    assert len(beta.inbox(CAROL)) == 1


# -- peers that do as they are told ---------------------------------------------------------------------------------


class Puppet:
    """A listener with beta's certificate that answers what it is told: a body, a push, or nothing (None)."""

    def __init__(
        self, house: House, answer: Callable[[Request], Any], *, hello: bool = True, recipients: int = 1000
    ) -> None:
        context = server_context(house.root / "certificate.pem", house.root / "key.pem", parley=True)
        self.links: list[Any] = []
        puppet = self

        class Session:
            def opened(self, link: Any) -> None:
                self.link = link
                puppet.links.append(link)
                if hello:
                    link.send(Hello(1, "puppet", 1 << 20, recipients))

            async def handle(self, event: Event) -> None:
                if isinstance(event, Request):
                    said = answer(event)
                    if isinstance(said, Push):
                        self.link.send(said)
                    elif said is not None:
                        self.link.send(Response(event.stream, event.method, said))

            def tls_started(self) -> None: ...
            def protocol_error(self, error: Exception) -> None: ...
            def failed(self, why: str = "") -> None: ...
            def timed_out(self) -> None: ...
            def closed(self, reason: Exception | None) -> None: ...

        def make() -> Any:
            return ParleyConnection(), Session()

        self._house = house
        self._listening = house.call(lambda: listen(house.reactor, "127.0.0.1", 0, make, Limits(99, 99), tls=context))
        host: Any = self._listening.getHost()
        self.route = Parley(BETA, (Endpoint(host.host, host.port),))

    def stop(self) -> None:
        self._house.call(self._listening.stopListening)
        for link in self.links:
            self._house.call(link.abort)


class Puppets:
    def __init__(self, house: House) -> None:
        self._house = house
        self._made: list[Puppet] = []

    def __call__(self, answer: Callable[[Request], Any], **how: Any) -> Parley:
        """A new one; the way to it."""
        self._made.append(Puppet(self._house, answer, **how))
        return self._made[-1].route

    @property
    def links(self) -> list[Any]:
        return [link for made in self._made for link in made.links]

    def stop(self) -> None:
        for made in self._made:
            made.stop()


@pytest.fixture
def puppet(beta: House) -> Iterator[Puppets]:
    made = Puppets(beta)
    yield made
    made.stop()


def to_send(said: Any) -> Callable[[Request], Any]:
    return lambda request: {"done": True} if request.method == "auth" else said


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"results": []}, "4.5.0"),
        ({"results": [{"to": str(DAVE), "code": "2.0.0", "text": "for another"}]}, "4.5.0"),
        ({"results": [{"to": str(CAROL), "code": "250", "text": "no such code"}]}, "4.5.0"),
        ({"results": [{"to": str(CAROL), "code": "2.0.0\r\nX: y", "text": ""}]}, "4.5.0"),
        ({"results": [{"to": str(CAROL), "code": "3.0.0", "text": ""}]}, "4.5.0"),
        ({"results": [{"to": str(CAROL)}]}, "4.5.0"),
        ({"results": 1}, "4.5.0"),
        ({}, "4.5.0"),
        ({"error": "unavailable", "text": "the disk"}, "4.7.0"),
        ({"error": "auth-required", "text": ""}, "4.7.0"),
        ({"error": 1}, "4.7.0"),
    ],
    ids=repr,
)
def test_replies_that_say_nothing_of_the_recipient_are_temporary(
    alpha: House, puppet: Puppets, said: Any, code: str
) -> None:
    failed = one(alpha, letter(alpha), route=puppet(to_send(said)))
    assert (type(failed), failed.code) == (Deferred, code)


def test_what_a_peer_says_is_what_becomes_of_it(alpha: House, puppet: Puppets) -> None:
    results = [
        {"to": str(CAROL), "code": "4.2.2", "text": "full", "retry": 1000},
        {"to": str(DAVE), "code": "5.7.1", "text": "no"},
    ]
    answers = deliver(alpha, letter(alpha), CAROL, DAVE, route=puppet(to_send({"results": results})))
    assert answers == {CAROL: Deferred("4.2.2", "full", 1000), DAVE: Refused("5.7.1", "no")}


@pytest.mark.parametrize(("most", "sends"), [(0, 5), (1, 5), (2, 3), (5, 1), (1000, 1)])
def test_no_more_recipients_than_the_peer_takes(alpha: House, puppet: Puppets, most: int, sends: int) -> None:
    asked: list[list[str]] = []

    def answer(request: Request) -> Any:
        if request.method == "auth":
            return {"done": True}
        asked.append(request.body["to"])
        return {"results": [{"to": to, "code": "2.0.0", "text": ""} for to in asked[-1]]}

    to = [Address.parse(f"u{n}@beta.test") for n in range(5)]
    answers = deliver(alpha, letter(alpha), *to, route=puppet(answer, recipients=most))
    assert all(answers[address].ok for address in to)
    assert len(asked) == sends
    assert [one for some in asked for one in some] == [str(address) for address in to]


def test_a_peer_cannot_put_us_off_for_ever(alpha: House, puppet: Puppets) -> None:
    results = [{"to": str(CAROL), "code": "4.0.0", "text": "", "retry": 2**40}]
    failed = one(alpha, letter(alpha), route=puppet(to_send({"results": results})))
    assert isinstance(failed, Deferred)
    assert failed.retry_after == parley_courier.MAX_RETRY


def test_a_peer_that_refuses_our_proof(alpha: House, puppet: Puppets) -> None:
    way = puppet(lambda request: {"error": "auth-failed", "text": "no"})
    failed = one(alpha, letter(alpha), route=way)
    assert (type(failed), failed.code) == (Deferred, "4.7.0")
    assert alpha.courier._open == {}
    wait_until(alpha, lambda: all(link._gone for link in puppet.links))


@pytest.mark.parametrize("hello", [False, True])
def test_a_peer_that_says_nothing(alpha: House, puppet: Puppets, monkeypatch: pytest.MonkeyPatch, hello: bool) -> None:
    monkeypatch.setattr(parley_client, "TIMEOUT", 0.1)
    failed = one(alpha, letter(alpha), route=puppet(lambda request: None, hello=hello))
    assert (type(failed), failed.code) == (Deferred, "4.4.1")
    assert "no answer in time" in failed.text


def test_a_message_that_is_too_big_is_refused_and_harms_no_other(
    alpha: House, puppet: Puppets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The puppet takes frames of a megabyte."""
    way = puppet(to_send({"results": [{"to": str(CAROL), "code": "2.0.0", "text": ""}]}))
    big = signed(message(str(ALICE), subject="x" * (1 << 20)), alpha.key)
    refused = one(alpha, big, route=way)
    assert (type(refused), refused.code) == (Refused, "5.3.4")
    assert one(alpha, letter(alpha), route=way).ok
    ((_, session),) = alpha.courier._open.items()
    assert session.idle


def test_a_peer_that_pushes_nonsense(alpha: House, puppet: Puppets) -> None:
    """Said while we wait for the reply to the proof."""
    failed = one(alpha, letter(alpha), route=puppet(lambda request: Push("changes", {"changes": 1})))
    assert (type(failed), failed.code) == (Deferred, "4.4.1")
    assert "bad-request" in failed.text


@pytest.mark.parametrize("keys", [b"", b"\xff", b"\xa0"])
def test_a_key_set_that_is_none(alpha: House, puppet: Puppets, keys: bytes) -> None:
    alpha.routes[BETA] = puppet(lambda request: KeysReply(keys))
    with pytest.raises(LookupError, match=r"the keys of beta\.test cannot be had"):
        alpha.wait(alpha.directory.key_set(BETA, b"kid"))


@pytest.mark.parametrize("said", [{"error": "not-found", "text": ""}, {}, {"keys": 1}])
def test_keys_that_are_not_given(alpha: House, puppet: Puppets, said: Any) -> None:
    alpha.routes[BETA] = puppet(lambda request: said)
    with pytest.raises(ConnectionError):
        alpha.wait(alpha.courier.fetch_keys(BETA))


def test_close_ends_what_is_open(alpha: House, beta: House) -> None:
    assert one(alpha, letter(alpha)).ok
    alpha.wait(alpha.courier.close())
    assert alpha.courier._open == {}
    assert alpha.courier._timers == {}
    wait_until(alpha, lambda: beta.sessions[0]._link._gone)  # type: ignore[attr-defined]
    assert one(alpha, letter(alpha)).ok
