"""Large bodies from domain to domain over real sockets: pulled over the connection that offers them, in bounded memory,
cut off in the middle, and only what is on its way."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import defer

from gatewayd.address import Domain
from gatewayd.crypto.certificates import make_authority
from gatewayd.errors import StoreFull
from gatewayd.interfaces.queue import Envelope, MailObject
from gatewayd.interfaces.routes import Parley, Route
from gatewayd.message.model import MAIL, RFC822, Content, Part, Payload
from gatewayd.outcome import Deferred, Outcome, Refused
from gatewayd.session import parley_blobs
from gatewayd.session.parley_client import RequestFailed
from gatewayd.session.parley_transfer import WINDOW
from gatewayd.wire.parley.connection import Request
from gatewayd.wire.parley.schema import CHUNK, Get, GetReply, Send, read
from tests.house import ALICE, ALPHA, BETA, BOB, CAROL, Authority, House, message, signed

SIZE = 8 * 1024 * 1024 + 12345


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
    made = House(reactor, tmp_path / "beta", BETA, (CAROL,), routes, authority)
    made.grant(CAROL, ALICE)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def body() -> bytes:
    return os.urandom(SIZE)


def naming(house: House, *bodies: bytes, **fields: Any) -> Content:
    """Signed; the bodies are at hand."""
    parts = tuple(Part(sha256(body).digest(), "video/mp4", len(body), "holiday.mp4") for body in bodies)
    payload = Payload(str(ALICE), (str(CAROL),), 1735689600000, os.urandom(16), parts=parts, **fields)
    content = Content(b"", payload.encode(), b"", {sha256(body).digest(): body for body in bodies})
    return signed(content, house.key)


def kept(house: House, *bodies: bytes, **fields: Any) -> Content:
    """As it stands in the queue: its blobs are files."""
    return house.wait(house.store.blobs.keep(naming(house, *bodies, **fields)))


async def courier(house: House, content: Content, *to: Any) -> dict[Any, Outcome]:
    way = house.routes[BETA]
    assert isinstance(way, Parley)
    (answers,) = await house.courier.deliver(way, [MailObject(content, b"", Envelope(ALICE, to or (CAROL,)))])
    return answers


def deliver(house: House, content: Content) -> Outcome:
    return house.wait(courier(house, content))[CAROL]


def octets(house: House, content: Content) -> list[bytes]:
    return [house.store.blobs._files.get(digest) for digest in content.blobs]


class Gets:
    """Every `get` that a house's courier answers; `before` may do something first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.offsets: list[int] = []
        answer = parley_blobs.OfferedBlobs.answer

        async def watched(offered: parley_blobs.OfferedBlobs, request: Request) -> GetReply:
            self.offsets.append(request.body["offset"])
            self.before(len(self.offsets))
            return self.changed(await answer(offered, request))

        monkeypatch.setattr(parley_blobs.OfferedBlobs, "answer", watched)

    def before(self, count: int) -> None:
        pass

    def changed(self, reply: GetReply) -> GetReply:
        return reply


@pytest.fixture
def gets(monkeypatch: pytest.MonkeyPatch) -> Gets:
    return Gets(monkeypatch)


def test_a_large_body_arrives(alpha: House, beta: House, body: bytes, gets: Gets) -> None:
    content = kept(alpha, body)
    assert content.bodies == {}
    assert deliver(alpha, content).ok
    (got,) = beta.inbox(CAROL)
    assert (got.signed, got.bodies) == (content.signed, {})
    assert octets(beta, got) == [body]
    assert gets.offsets == list(range(0, SIZE, CHUNK))
    assert deliver(alpha, content).ok  # the answer was lost: nothing is fetched again
    assert len(gets.offsets) == len(range(0, SIZE, CHUNK))
    assert len(beta.inbox(CAROL)) == 1


def test_in_bounded_memory(alpha: House, beta: House) -> None:
    """Both gateways live in this process; neither ever holds more than what is in flight."""
    size = 32 * 1024 * 1024
    digest = sha256(bytes(size)).digest()
    part = Part(digest, "video/mp4", size)
    path = alpha.store.blobs._files.path(digest)
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.truncate(size)
    payload = Payload(str(ALICE), (str(CAROL),), 1735689600000, os.urandom(16), parts=(part,))
    content = signed(Content(b"", payload.encode(), b"", {}), alpha.key)
    tracemalloc.start()
    try:
        assert deliver(alpha, content).ok
        assert tracemalloc.get_traced_memory()[1] < 12 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert beta.wait(beta.store.blobs.read(digest, size - 5, CHUNK)) == (bytes(5), size)


@pytest.mark.parametrize("side", ["alpha", "beta"])
def test_cut_off_in_the_middle(alpha: House, beta: House, body: bytes, gets: Gets, side: str) -> None:
    content = kept(alpha, body)

    def cut(count: int) -> None:
        if count == 60:
            ((_, session),) = alpha.courier._open.items()
            (session if side == "alpha" else beta.sessions[-1])._link.abort()

    gets.before = cut  # type: ignore[method-assign]
    failed = deliver(alpha, content)
    assert (type(failed), failed.code) == (Deferred, "4.4.1")
    assert beta.inbox(CAROL) == []
    gets.before = lambda count: None  # type: ignore[method-assign]
    asked = len(gets.offsets)
    beta.settle()
    assert deliver(alpha, content).ok
    assert gets.offsets[asked] > 20 * CHUNK
    assert gets.offsets[asked:] == list(range(gets.offsets[asked], SIZE, CHUNK))
    (got,) = beta.inbox(CAROL)
    assert octets(beta, got) == [body]


def test_a_receiver_that_is_started_again(alpha: House, beta: House, body: bytes, gets: Gets) -> None:
    content = kept(alpha, body)

    def cut(count: int) -> None:
        if count == 60:
            beta.reactor.callLater(0, beta.sessions[-1]._link.abort)

    gets.before = cut  # type: ignore[method-assign]
    assert isinstance(deliver(alpha, content), Deferred)
    gets.before = lambda count: None  # type: ignore[method-assign]
    beta.hush()
    beta.database.close()
    beta.call(beta._build)
    beta.listen()
    asked = len(gets.offsets)
    assert deliver(alpha, content).ok
    assert gets.offsets[asked] > 20 * CHUNK
    assert octets(beta, *beta.inbox(CAROL)) == [body]


def test_small_messages_overtake_large_ones(alpha: House, beta: House, body: bytes) -> None:
    """More large ones than a connection works on at once: those beyond the share are told to wait."""
    large = [kept(alpha, body[number:]) for number in range(20)]
    small = [signed(message(str(ALICE)), alpha.key) for _ in range(20)]

    async def all_at_once() -> list[Outcome]:
        work = [defer.Deferred.fromCoroutine(courier(alpha, content)) for content in large + small]
        return [outcome for answers in await defer.gatherResults(work) for outcome in answers.values()]

    answers = alpha.wait(all_at_once())
    assert all(answer.ok for answer in answers[20:])
    assert sum(answer.ok for answer in answers[:20]) >= 4
    waiting = [answer for answer in answers[:20] if not answer.ok]
    assert all(isinstance(answer, Deferred) and answer.code == "4.3.2" for answer in waiting)
    for content in large:
        assert deliver(alpha, content).ok


def test_no_more_in_flight_than_the_window(alpha: House, beta: House, body: bytes, monkeypatch: Any) -> None:
    open_requests: list[int] = []
    ask = parley_blobs.Requests.ask

    async def watched(requests: Any, link: Any, method: str, body: Any) -> Any:
        if method == "get":
            open_requests.append(len(requests._waiting))
        return await ask(requests, link, method, body)

    monkeypatch.setattr(parley_blobs.Requests, "ask", watched)
    assert deliver(alpha, kept(alpha, body)).ok
    assert max(open_requests) == WINDOW - 1


def test_mail_of_any_size_that_mail_may_have(alpha: House, beta: House) -> None:
    mail = b"Subject: large\r\n\r\n" + b"x" * 3_000_000
    parts = (Part(sha256(mail).digest(), RFC822, len(mail)),)
    bridged = {"bridged": {"by": "alpha.test"}}
    payload = Payload(str(ALICE), (str(CAROL),), 1735689600000, os.urandom(16), MAIL, parts=parts, ext=bridged)
    content = signed(Content(b"", payload.encode(), b"", {parts[0].hash: mail}), alpha.key)
    assert deliver(alpha, content).ok
    account = beta.wait(beta.store.account(CAROL))
    assert account is not None
    ids = beta.wait(beta.store._messages.find(account.account_id, [content.id]))
    (form,) = beta.wait(beta.store.mails(account.account_id, ids)).values()
    assert form.endswith(mail)
    beta.office._accepting._largest_mail = len(mail) - 1
    failed = deliver(alpha, content)
    assert (type(failed), failed.code) == (Refused, "5.3.4")


def test_nothing_is_fetched_for_nobody(alpha: House, beta: House, body: bytes, gets: Gets) -> None:
    nobody, elsewhere = (CAROL.parse(text) for text in ("nobody@beta.test", "carol@gamma.test"))
    answers = alpha.wait(courier(alpha, kept(alpha, body), nobody, elsewhere))
    assert [answer.code for answer in answers.values()] == ["5.1.1", "5.7.1"]
    assert gets.offsets == []
    answers = alpha.wait(courier(alpha, kept(alpha, body), nobody, CAROL))
    assert [answer.code for answer in answers.values()] == ["5.1.1", "2.0.0"]


def test_a_strangers_files_are_not_even_fetched(alpha: House, beta: House, body: bytes, gets: Gets) -> None:
    account = beta.wait(beta.store.account(CAROL))
    assert account is not None
    for state in ("requested", "revoked"):
        beta.wait(beta.store.set_contact(account.account_id, ALICE, state))
        failed = deliver(alpha, kept(alpha, body))
        assert (type(failed), failed.code) == (Refused, "5.7.1")
    assert gets.offsets == []
    beta.grant(CAROL, ALICE)
    assert deliver(alpha, kept(alpha, body)).ok


def test_more_than_is_taken(alpha: House, beta: House, body: bytes, gets: Gets) -> None:
    beta.office._accepting._largest = SIZE - 1
    failed = deliver(alpha, kept(alpha, body))
    assert (type(failed), failed.code) == (Refused, "5.3.4")
    assert gets.offsets == []


def test_a_sender_that_serves_other_octets(alpha: House, beta: House, body: bytes, gets: Gets) -> None:
    gets.changed = lambda reply: GetReply(bytes(len(reply.data)), reply.size)  # type: ignore[method-assign]
    failed = deliver(alpha, kept(alpha, body))
    assert (type(failed), failed.code) == (Refused, "5.6.0")
    gets.changed = lambda reply: GetReply(reply.data, 2**62)  # type: ignore[method-assign]
    failed = deliver(alpha, kept(alpha, body))
    assert (type(failed), failed.code) == (Deferred, "4.5.0")
    gets.changed = lambda reply: GetReply(b"", reply.size)  # type: ignore[method-assign]
    failed = deliver(alpha, kept(alpha, body))
    assert (type(failed), failed.code) == (Deferred, "4.5.0")
    assert beta.inbox(CAROL) == []
    assert [path for path in (beta.root / "blobs").rglob("*") if path.is_file() and path.stat().st_size] == []


def test_a_sender_that_has_lost_it(alpha: House, beta: House, body: bytes) -> None:
    content = kept(alpha, body)
    for digest in content.blobs:
        alpha.store.blobs._files.path(digest).unlink()
    failed = deliver(alpha, content)
    assert (type(failed), failed.code) == (Deferred, "4.5.0")
    assert "a body is missing" in failed.text


def test_a_receiver_without_room(alpha: House, beta: House, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    content = kept(alpha, body)
    with monkeypatch.context() as patch:
        patch.setattr(beta.store.blobs._holdings, "_reserve", 2**60)
        failed = deliver(alpha, content)
        assert (type(failed), failed.code) == (Deferred, "4.3.1")
    assert deliver(alpha, content).ok
    with pytest.raises(StoreFull):
        beta.store.blobs._holdings._reserve = 2**60
        beta.wait(beta.store.blobs.add("peer-alpha.test", Part(bytes(32), "", 10), 0, b"", 100))


def test_a_listener_gets_only_what_is_on_its_way_to_it(alpha: House, beta: House, body: bytes) -> None:
    """Its peer's other blobs are none of its business, nor those that have arrived."""
    content, other = kept(alpha, body), kept(alpha, body[1:])
    assert deliver(alpha, content).ok
    session = beta.sessions[-1]
    for digest in (*content.blobs, *other.blobs, bytes(32)):
        with pytest.raises(RequestFailed, match="not-found: no object on its way to you has this blob"):
            beta.wait(session._requests.ask(session._link, "get", Get(digest, 0)))
    with pytest.raises(RequestFailed, match="unknown-method"):
        beta.wait(session._requests.ask(session._link, "sync", Get(bytes(32), 0)))
    with pytest.raises(RequestFailed, match="bad-request"):
        beta.wait(session._requests.ask(session._link, "get", Get(b"short", 0)))


def test_a_peer_that_knows_a_hash(alpha: House, beta: House, body: bytes) -> None:
    """It names what carol was sent by others, and has none of it: its friend carol does not get a copy."""
    assert deliver(alpha, kept(alpha, body)).ok
    content = naming(alpha, body)
    peer = beta.peer(alpha.key)
    send = Send((str(CAROL),), (), signed=content.signed, from_=str(ALICE))
    alpha_has_it = beta.wait(beta.store.blobs.claim("peer-alpha.test", next(iter(content.blobs.values()))))
    assert alpha_has_it
    for path in (beta.root / "blobs/held/peer-alpha.test").iterdir():
        path.unlink()
    (result,) = read_results(beta.ask(peer, "send", send))
    assert result.startswith("4.5.0")
    assert len(beta.inbox(CAROL)) == 1


def read_results(reply: dict[str, Any]) -> list[str]:
    return [f"{result['code']} {result['text']}" for result in reply["results"]]


def test_a_client_without_blobs_answers_no_get(alpha: House) -> None:
    user = alpha.user(BOB)
    session = alpha.sessions[-1]
    with pytest.raises(RequestFailed, match="unknown-method"):
        alpha.wait(session._requests.ask(session._link, "get", Get(bytes(32), 0)))
    assert read(GetReply, {"data": b"", "size": 0}) == GetReply(b"", 0)
    assert user.usable
