"""The methods `consent` and `lookup`, introductions and their acceptance, between two domains over real sockets."""

from __future__ import annotations

import contextlib
import imaplib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatewayd.address import Address
from gatewayd.client import ConnectionGone, Contact, ParleyClient, RequestFailed
from gatewayd.core.rate import Buckets
from gatewayd.crypto.certificates import make_authority
from gatewayd.interfaces.queue import MailObject, Settlement
from gatewayd.interfaces.routes import Mail, Parley
from gatewayd.net.limits import Limits
from gatewayd.net.listen import listen
from gatewayd.net.tls import server_context
from gatewayd.outcome import Deferred, Refused
from gatewayd.session.imap import IMAPSession
from gatewayd.session.parley_client import ParleyClientSession
from gatewayd.wire.imap.connection import IMAPConnection
from gatewayd.wire.parley.schema import Consent, Lookup, LookupReply
from tests.house import ALICE, ALPHA, BETA, BOB, CAROL, PASSWORD, House, codes, message, of_domain, signed, wait_until
from tests.test_client import sign_in

NOBODY = "nobody@alpha.test"
DAVE = Address.parse("dave@beta.test")


@pytest.fixture
def houses(reactor: Any, tmp_path: Path) -> Iterator[tuple[House, House]]:
    routes: dict[Any, Any] = {}
    authority = make_authority("Test authority")
    alpha = House(reactor, tmp_path / "alpha", ALPHA, (ALICE, BOB), routes, authority)
    beta = House(reactor, tmp_path / "beta", BETA, (CAROL, DAVE), routes, authority)
    yield alpha, beta
    alpha.stop()
    beta.stop()


def known(house: House, client: ParleyClient) -> dict[str, str]:
    return {contact.address: contact.state for contact in house.wait(client.contacts())}


def consent(house: House, client: ParleyClient, action: Any, address: Any) -> Contact:
    return house.wait(client.consent(action, str(address)))


def lookup(house: House, client: ParleyClient, address: Any) -> LookupReply:
    return house.wait(client.lookup(str(address)))


def send(house: House, key: House, author: Address = CAROL, **how: Any) -> list[str]:
    """An introduction from the other house's domain."""
    content = signed(message(str(author), **how), key.key)
    return codes(house.ask(house.peer(key.key), "send", of_domain(content, str(author))))


# -- a user and its own server --------------------------------------------------------------------------------------


def test_a_user_decides(houses: tuple[House, House]) -> None:
    alpha, beta = houses
    bob = sign_in(alpha, BOB)
    assert known(alpha, bob) == {}
    assert [send(alpha, beta, who) for who in (CAROL, DAVE, CAROL)] == [["2.0.0"]] * 3
    assert known(alpha, bob) == {"carol@beta.test": "requested", "dave@beta.test": "requested"}
    granted = consent(alpha, bob, "grant", "Carol@beta.test")
    assert (granted.state, granted.address) == ("granted", "Carol@beta.test")
    assert consent(alpha, bob, "revoke", DAVE).state == "revoked"
    assert [len(alpha.inbox(BOB, box)) for box in ("INBOX", "Introductions", "Junk")] == [2, 0, 1]
    assert consent(alpha, bob, "cancel", CAROL) == Contact("carol@beta.test", "none", 0, 0)
    assert known(alpha, bob) == {"dave@beta.test": "revoked"}
    for bad in ("", "carol", "@"):
        with pytest.raises(RequestFailed, match="bad-request"):
            consent(alpha, bob, "grant", bad)


async def contacts_in_the_log(client: ParleyClient) -> list[tuple[str, str]]:
    return [(contact.address, contact.state) async for page in client.changes() for contact in page.contacts]


def test_another_client_learns_it_live(houses: tuple[House, House]) -> None:
    alpha, beta = houses
    bob, watching = sign_in(alpha, BOB), sign_in(alpha, BOB)
    heard: list[tuple[str, str]] = []

    async def listen_live() -> None:
        with contextlib.suppress(ConnectionGone):
            async for page in watching.changes(live=True):
                heard.extend((contact.address, contact.state) for contact in page.contacts)

    alpha.call(lambda: alpha.spawn(listen_live()))
    wait_until(alpha, lambda: watching._live_on is not None)
    send(alpha, beta)
    wait_until(alpha, lambda: heard[-1:] == [("carol@beta.test", "requested")])
    for action, state in (("grant", "granted"), ("revoke", "revoked"), ("cancel", "none")):
        consent(alpha, bob, action, CAROL)
        wait_until(alpha, lambda state=state: heard[-1:] == [("carol@beta.test", state)])  # type: ignore[misc]
    assert alpha.wait(contacts_in_the_log(bob)) == [("carol@beta.test", "none")]
    alpha.call(watching.close)


# -- from domain to domain ------------------------------------------------------------------------------------------


def test_a_request_without_a_message(houses: tuple[House, House]) -> None:
    alpha, beta = houses
    bob, carol = sign_in(alpha, BOB), sign_in(beta, CAROL)
    for _ in range(2):
        assert consent(beta, carol, "request", BOB).state == "granted"  # the answer is let in
    assert known(alpha, bob) == {"carol@beta.test": "requested"}
    assert lookup(beta, carol, BOB) == LookupReply(False, 2000, "parley", "granted")
    consent(alpha, bob, "grant", CAROL)
    assert lookup(beta, carol, BOB) == LookupReply(True, 2000, "parley", "granted")
    consent(beta, carol, "cancel", BOB)
    assert known(beta, carol) == {}
    assert known(alpha, bob) == {"carol@beta.test": "granted"}  # what was said is not taken back by another
    consent(alpha, bob, "cancel", CAROL)
    consent(beta, carol, "request", BOB)
    consent(beta, carol, "cancel", BOB)
    assert known(alpha, bob) == {}


def test_what_a_domain_may_ask(houses: tuple[House, House]) -> None:
    """Nothing is told of who is here, or of what anybody thinks."""
    alpha, beta = houses
    bob, peer = sign_in(alpha, BOB), alpha.peer(beta.key)
    consent(alpha, bob, "revoke", DAVE)

    def ask(method: str, body: Any) -> dict[str, Any]:
        return alpha.ask(peer, method, body)

    stranger = ask("lookup", Lookup(str(BOB), str(CAROL)))
    assert stranger == {"introduction": 2000}
    assert ask("lookup", Lookup(str(BOB), str(DAVE))) == stranger
    assert ask("lookup", Lookup(NOBODY, str(CAROL))) == stranger
    assert ask("lookup", Lookup("carol@elsewhere.test", str(CAROL))) == stranger
    for action in ("request", "cancel"):
        for address in (str(BOB), NOBODY):
            for author in (CAROL, DAVE):
                assert ask("consent", Consent(action, address, str(author))) == {}  # type: ignore[arg-type]
    assert known(alpha, bob) == {"dave@beta.test": "revoked"}
    for body in (Lookup(str(BOB), "eve@gamma.test"), Lookup(str(BOB)), Lookup("bob", str(CAROL))):
        with pytest.raises(RequestFailed, match="bad-request"):
            ask("lookup", body)
    for action in ("list", "grant", "revoke"):
        with pytest.raises(RequestFailed, match="bad-request"):
            ask("consent", Consent(action, str(BOB), str(CAROL)))  # type: ignore[arg-type]
    with pytest.raises(RequestFailed, match="bad-request"):
        ask("consent", Consent("request", str(BOB), str(ALICE)))


def test_requests_have_the_quota_of_introductions(houses: tuple[House, House]) -> None:
    alpha, beta = houses
    peer = alpha.peer(beta.key)
    answers: list[str] = []
    for number in range(15):
        try:
            alpha.ask(peer, "consent", Consent("request", str(BOB), f"s{number}@beta.test"))
            answers.append("received")
        except RequestFailed as failed:
            answers.append(failed.error)
    assert answers == ["received"] * 10 + ["too-often"] * 5
    assert len(known(alpha, sign_in(alpha, BOB))) == 10
    assert send(alpha, beta) == ["4.7.28"]


@pytest.mark.parametrize("again", [False, True])
def test_requests_do_not_tell_who_is_here(houses: tuple[House, House], again: bool) -> None:
    """Neither by how many are taken, nor by the words: of one user again and again, or of many."""
    alpha, beta = houses
    peer = alpha.peer(beta.key)
    answers: dict[str, list[str]] = {}
    for address in (str(BOB), NOBODY, str(ALICE), "nor.me@alpha.test"):
        for number in range(15):
            author = "eve@beta.test" if again else f"s{number}@beta.test"
            try:
                answer = str(alpha.ask(peer, "consent", Consent("request", address, author)))
            except RequestFailed as failed:
                answer = str(failed)
            answers.setdefault(address, []).append(answer)
    first, *others = answers.values()
    assert len(set(first)) == 2
    assert others == [first] * 3


def test_names_are_not_tried_out(houses: tuple[House, House]) -> None:
    """Each name that is not here counts as an introduction does."""
    alpha, beta = houses
    peer = alpha.peer(beta.key)
    names = tuple(f"n{number}@alpha.test" for number in range(150))
    content = signed(message(str(CAROL)), beta.key)
    told = codes(alpha.ask(peer, "send", of_domain(content, to=names)))
    assert (told.count("5.1.1"), told.count("4.7.28")) == (100, 50)


def test_too_many_questions(houses: tuple[House, House], monkeypatch: pytest.MonkeyPatch) -> None:
    alpha, beta = houses
    monkeypatch.setattr(alpha.contacts, "_asked", Buckets(3, alpha.reactor.seconds))
    monkeypatch.setattr(alpha.contacts, "_answered", Buckets(3, alpha.reactor.seconds))
    peer, alice, bob = alpha.peer(beta.key), sign_in(alpha, ALICE), sign_in(alpha, BOB)

    def asked(ask: Any) -> int:
        for number in range(10):
            try:
                ask()
            except RequestFailed as failed:
                assert failed.error == "too-often"
                return number
        return 10

    assert asked(lambda: alpha.ask(peer, "lookup", Lookup(str(BOB), str(CAROL)))) == 3
    assert asked(lambda: lookup(alpha, alice, BOB)) == 3
    assert lookup(alpha, bob, ALICE).way == "local"  # others are answered


# -- how somebody is reached ----------------------------------------------------------------------------------------


def test_how_somebody_is_reached(houses: tuple[House, House]) -> None:
    alpha, _ = houses
    bob = sign_in(alpha, BOB)
    alpha.routes[Address.parse("x@mail.test").domain] = Mail(Address.parse("x@mail.test").domain, ())
    alpha.routes[Address.parse("x@none.test").domain] = Refused("5.1.2", "no such domain")
    alpha.routes[Address.parse("x@down.test").domain] = Deferred("4.4.3", "no answer")
    consent(alpha, bob, "revoke", "eve@mail.test")
    assert lookup(alpha, bob, ALICE) == LookupReply(True, 0, "local")
    assert lookup(alpha, bob, NOBODY) == LookupReply(way="none")
    assert lookup(alpha, bob, "eve@mail.test") == LookupReply(way="mail", state="revoked")
    assert lookup(alpha, bob, "x@none.test") == LookupReply(way="none")
    with pytest.raises(RequestFailed, match="unavailable: no answer"):
        lookup(alpha, bob, "x@down.test")
    with pytest.raises(RequestFailed, match=r"not-found: mail\.test speaks only mail"):
        consent(alpha, bob, "request", "eve@mail.test")
    assert consent(alpha, bob, "request", ALICE).state == "none"  # no stranger


def test_a_domain_that_cannot_be_asked_now(houses: tuple[House, House]) -> None:
    alpha, beta = houses
    bob = sign_in(alpha, BOB)
    beta.hush()
    with pytest.raises(RequestFailed, match="unavailable"):
        consent(alpha, bob, "request", CAROL)
    assert known(alpha, bob) == {"carol@beta.test": "granted"}  # who asks lets the answer in, whenever it comes
    assert consent(alpha, bob, "cancel", CAROL).state == "none"  # here it is done
    with pytest.raises(RequestFailed, match="unavailable"):
        lookup(alpha, bob, CAROL)
    beta.listen()
    assert lookup(alpha, bob, CAROL).way == "parley"


@pytest.mark.parametrize("error", ["unknown-method", "internal", "too-often"])
def test_a_domain_that_answers_with_an_error(
    houses: tuple[House, House], monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    alpha, _ = houses

    async def request(self: Any, method: str, body: Any) -> Any:
        if method == "lookup":
            raise RequestFailed(error, "because")
        return await asked(self, method, body)

    bob = sign_in(alpha, BOB)
    asked = ParleyClientSession.request
    route = alpha.routes[BETA]
    assert isinstance(route, Parley)
    monkeypatch.setattr(alpha.courier, "ask", lambda *what: request(None, what[2], what[3]))
    with pytest.raises(RequestFailed) as failed:
        lookup(alpha, bob, CAROL)
    assert failed.value.error == {"unknown-method": "not-found", "too-often": "too-often"}.get(error, "unavailable")


# -- introductions --------------------------------------------------------------------------------------------------


def imap(house: House) -> Any:
    """A listener for mail programs at the same store."""
    context = server_context(house.root / "certificate.pem", house.root / "key.pem", parley=False)

    def make() -> Any:
        session = IMAPSession(house.store, house.authenticator, house.office.append, starttls=False)
        return IMAPConnection(500_000), session

    return house.call(lambda: listen(house.reactor, "127.0.0.1", 0, make, Limits(10, 10), tls=context))


@pytest.mark.parametrize("by_copy", [False, True])
def test_a_mail_program_lets_a_stranger_in(houses: tuple[House, House], by_copy: bool) -> None:
    """As it is dragged from folder to folder: by MOVE, or by COPY, STORE and EXPUNGE."""
    alpha, beta = houses
    carol = sign_in(beta, CAROL)
    for text in ("Hello", "Anybody there?"):
        (result,) = beta.wait(carol.send([str(BOB)], text))
        assert (result.code, result.text) == ("2.0.0", "Queued")
    while queued := beta.wait(beta.queue.lease(10, 60)):
        for row in queued:  # what the relay does
            content, trace = beta.wait(beta.queue.messages([row.message_key]))[row.message_key]
            way = beta.routes[ALPHA]
            assert isinstance(way, Parley)
            (answers,) = beta.wait(beta.courier.deliver(way, [MailObject(content, trace, row.envelope)]))
            (outcome,) = answers.values()
            assert (outcome.code, outcome.text) == ("2.0.0", "Received")
            beta.wait(beta.queue.settle([Settlement(row.queue_id, outcome)]))
    port = imap(alpha)
    try:
        context = ssl.create_default_context(cafile=str(alpha.authorities))
        context.check_hostname = False
        with imaplib.IMAP4_SSL("127.0.0.1", port.getHost().port, ssl_context=context, timeout=20) as program:
            program.login(str(BOB), PASSWORD)
            assert program.select("INBOX")[1] == [b"0"]
            assert program.select("Introductions")[1] == [b"2"]
            if by_copy:
                program.uid("COPY", "1", "INBOX")
                program.uid("STORE", "1", "+FLAGS", "\\Deleted")
                program.expunge()
            else:
                program.uid("MOVE", "1", "INBOX")
            assert program.select("Introductions")[1] == [b"0"]
            assert program.select("INBOX")[1] == [b"2"]
            program.logout()
    finally:
        alpha.wait(_stopped(port))
    bob = sign_in(alpha, BOB)
    assert known(alpha, bob) == {"carol@beta.test": "granted"}
    assert lookup(beta, carol, BOB).granted
    assert send(alpha, beta) == ["2.0.0"]
    assert len(alpha.inbox(BOB)) == 3


async def _stopped(port: Any) -> None:
    await port.stopListening()


def test_an_answer_lets_the_stranger_in(houses: tuple[House, House]) -> None:
    alpha, beta = houses
    bob = sign_in(alpha, BOB)
    assert send(alpha, beta) == ["2.0.0"]
    assert send(alpha, beta, text=b"x" * 3000) == ["5.7.1"]
    alpha.wait(bob.send([str(CAROL)], "Hello Carol"))
    assert known(alpha, bob) == {"carol@beta.test": "granted"}
    assert len(alpha.inbox(BOB)) == 1
    assert send(alpha, beta, text=b"x" * 3000) == ["2.0.0"]
