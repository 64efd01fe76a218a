"""The listening side of Parley over real sockets: sign-in, who may say what, the log and its tail, bad company."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import cbor2
import pytest
from twisted.internet import defer

from gatewayd.address import Address, Domain
from gatewayd.crypto import domain_auth
from gatewayd.crypto.certificates import issue, make_authority
from gatewayd.crypto.domain_keys import SigningKey
from gatewayd.errors import StoreError
from gatewayd.interfaces.dns import Endpoint
from gatewayd.interfaces.routes import Parley, Route
from gatewayd.message.model import Content, Part, Payload
from gatewayd.net.limits import Limits
from gatewayd.net.listen import listen
from gatewayd.net.tls import server_context
from gatewayd.session import parley_client, parley_server, parley_sync
from gatewayd.session.parley_client import ConnectionGone, ParleyClientSession, RequestFailed
from gatewayd.wire.parley.schema import (
    Auth,
    Body,
    Changes,
    Fetch,
    FetchReply,
    Mark,
    Send,
    SendReply,
    Sync,
    read,
)
from tests.house import (
    ALICE,
    ALPHA,
    BETA,
    BOB,
    BRIDGED,
    CAROL,
    PASSWORD,
    SCRAM,
    TIMEOUT,
    Authority,
    House,
    T,
    codes,
    message,
    of_domain,
    of_user,
    signed,
    wait_until,
)


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
    yield made
    made.stop()


# -- users sign in --------------------------------------------------------------------------------------------------


def test_a_user_signs_in_and_both_sides_are_proved(alpha: House) -> None:
    session = alpha.user(ALICE)
    assert read(Changes, alpha.ask(session, "sync", Sync(0))).changes == ()
    with pytest.raises(RequestFailed, match="bad-request: signed in already"):
        alpha.ask(session, "auth", Auth(SCRAM, b""))


@pytest.mark.parametrize("user", [str(ALICE), "nobody@alpha.test", "alice@elsewhere.test", "not an address"])
def test_a_wrong_password_and_a_wrong_user_look_the_same(alpha: House, user: str) -> None:
    said: list[Any] = []
    for _ in range(2):
        session = alpha.dial()
        request = session.request

        async def heard(method: str, body: Body, request: Any = request) -> Any:
            reply = await request(method, body)
            challenge = reply["data"].decode().split(",")
            said.append((set(reply), challenge[1], challenge[2], len(challenge[0])))
            return reply

        session.request = heard  # type: ignore[method-assign]
        with pytest.raises(RequestFailed) as failed:
            alpha.wait(session.sign_in_user(user, "wrong", "nonce"))
        assert (failed.value.error, failed.value.text) == ("auth-failed", "invalid-proof")
    first, second = said
    assert first == second  # the salt too is the same every time
    fields, salt, count, length = first
    assert (fields, len(salt), count, length) == ({"data", "done"}, len("s=") + 24, "i=4096", len("r=nonce") + 64)


def test_guesses_are_counted(alpha: House) -> None:
    session = alpha.dial()
    for _ in range(parley_server.MAX_AUTH_FAILURES):
        with pytest.raises(RequestFailed, match="auth-failed"):
            alpha.ask(session, "auth", Auth(SCRAM, b"nonsense"))
    with pytest.raises(ConnectionGone, match="too many failed attempts"):
        alpha.ask(session, "auth", Auth(SCRAM, b"nonsense"))


def test_a_proof_for_another_connection_is_worth_nothing(alpha: House) -> None:
    """SCRAM without the binding, and bound to something else."""
    session = alpha.dial()
    with pytest.raises(RequestFailed, match="auth-failed: server-does-support-channel-binding"):
        alpha.ask(session, "auth", Auth(SCRAM, b"n,,n=alice@alpha.test,r=abc"))
    session._link.tls = type(session._link.tls)("TLSv1.3", "", "parley/1", bytes(32), None)  # type: ignore[misc]
    with pytest.raises(RequestFailed, match="auth-failed: channel-bindings-dont-match"):
        alpha.wait(session.sign_in_user(str(ALICE), PASSWORD, "nonce"))


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "EXTERNAL", ""])
def test_no_other_mechanism(alpha: House, mechanism: str) -> None:
    with pytest.raises(RequestFailed, match="mechanism"):
        alpha.ask(alpha.dial(), "auth", Auth(mechanism, b"\0alice\0secret"))


@pytest.mark.parametrize("method", ["send", "sync", "mark", "consent"])
def test_nothing_without_signing_in(alpha: House, method: str) -> None:
    session = alpha.dial()
    with pytest.raises(RequestFailed, match="auth-required"):
        alpha.ask(session, method, Sync(0))
    assert alpha.ask(session, "keys", {"domain": "alpha.test"})["keys"]  # but this is for everybody
    with pytest.raises(RequestFailed, match="not-found"):
        alpha.ask(session, "keys", {"domain": "beta.test"})


def test_what_is_sent_behind_the_last_step_of_signing_in_waits_for_it(alpha: House) -> None:
    """Requests pipelined behind auth are answered as the one who signed in."""
    session = alpha.dial()

    async def run() -> list[Any]:
        signing = defer.Deferred.fromCoroutine(session.sign_in_user(str(ALICE), PASSWORD, "nonce"))
        request = session.request
        done: list[Any] = []

        async def pipelined(method: str, body: Body) -> Any:
            reply = defer.Deferred.fromCoroutine(request(method, body))
            if not done:  # behind the second auth: the first was on its way already
                done.append(defer.Deferred.fromCoroutine(request("sync", Sync(0))))
            return await reply

        session.request = pipelined  # type: ignore[method-assign]
        await signing
        return [await done[0]]

    (reply,) = alpha.wait(run())
    assert reply["changes"] == []


# -- transport ------------------------------------------------------------------------------------------------------


def shifted(authority: Authority, days: int) -> Authority:
    return issue(*authority, ["alpha.test"], days=1, now=datetime.now(UTC) + timedelta(days=days))


def issued(authority: Authority, *names: str, service: str = "") -> Authority:
    return issue(*authority, names, [service] if service else [])


@pytest.mark.parametrize(
    ("certified", "why"),
    [
        (lambda a: issued(a, "beta.test"), "does not name alpha.test"),
        (lambda a: issued(a, "*.test", "mx.alpha.test"), "does not name alpha.test"),
        (lambda a: issued(a, "alpha.test", service="beta.test"), "does not name alpha.test"),
        (lambda a: issued(make_authority("Another"), "alpha.test"), "certificate verify failed"),
        (lambda a: shifted(a, -30), "certificate verify failed"),
        (lambda a: shifted(a, 30), "certificate verify failed"),
    ],
    ids=["other name", "wildcard", "other SRV-ID", "other authority", "expired", "not yet"],
)
def test_a_listener_that_does_not_prove_the_domain_is_told_nothing(
    reactor: Any, tmp_path: Path, authority: Authority, certified: Any, why: str
) -> None:
    house = House(reactor, tmp_path / "alpha", ALPHA, (), {}, authority, certified=certified(authority))
    try:
        with pytest.raises(ConnectionError, match=why):
            house.dial()
        house.settle()
        assert not house.engines or house.engines[0]._theirs.name == "HELLO"
    finally:
        house.stop()


def test_an_srv_id_is_enough(reactor: Any, tmp_path: Path, authority: Authority) -> None:
    certified = issue(*authority, ["mx.alpha.test"], ["alpha.test"])
    house = House(reactor, tmp_path / "alpha", ALPHA, (), {}, authority, certified=certified)
    house.dial()
    house.stop()


class Raw:
    """A TLS socket that says what it is told."""

    def __init__(self, house: House, *, alpn: bool = True, version: Any = None, receive_buffer: int = 0) -> None:
        context = ssl.create_default_context(cafile=str(house.authorities))
        if alpn:
            context.set_alpn_protocols(["parley/1"])
        if version is not None:
            context.minimum_version = context.maximum_version = version
        plain = socket.socket()
        if receive_buffer:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plain.settimeout(TIMEOUT)
        plain.connect(("127.0.0.1", house.port))
        self.socket = context.wrap_socket(plain, server_hostname=house.domain.name)
        self._buffer = b""

    def say(self, *items: Any) -> None:
        octets = [item if isinstance(item, bytes) else cbor2.dumps(item) for item in items]
        self.socket.sendall(b"".join(len(o).to_bytes(4, "big") + o for o in octets))

    def hear(self) -> Any:
        """One frame, or None at the end."""
        while len(self._buffer) < 4 or len(self._buffer) < 4 + int.from_bytes(self._buffer[:4], "big"):
            try:
                chunk = self.socket.recv(65536)
            except ConnectionResetError:
                return None
            if not chunk:
                return None
            self._buffer += chunk
        end = 4 + int.from_bytes(self._buffer[:4], "big")
        item, self._buffer = self._buffer[4:end], self._buffer[end:]
        return cbor2.loads(item)

    def rest(self) -> list[Any]:
        heard = []
        while (item := self.hear()) is not None:
            heard.append(item)
        return heard


HELLO = [0, 0, "", {"version": 1, "name": "test", "frame": 1 << 20}]
KEYS = [1, 1, "keys", {"domain": "alpha.test"}]


def test_without_alpn_nothing_is_served(alpha: House) -> None:
    raw = Raw(alpha, alpn=False)
    raw.say(HELLO, KEYS)
    assert [(item[0], item[3]["code"]) for item in raw.rest()] == [(4, "transport")]


def test_tls_1_2_is_refused(alpha: House) -> None:
    with pytest.raises(ssl.SSLError):
        Raw(alpha, version=ssl.TLSVersion.TLSv1_2)


def test_a_listener_without_alpn_is_no_parley_server(alpha: House) -> None:
    context = server_context(alpha.root / "certificate.pem", alpha.root / "key.pem", parley=False)

    def start() -> Any:
        return listen(alpha.reactor, "127.0.0.1", 0, alpha._make, Limits(9, 9), tls=context)

    listening = alpha.call(start)
    alpha.port, port = listening.getHost().port, alpha.port
    with pytest.raises(ConnectionError, match="does not speak parley/1"):
        alpha.dial()
    alpha.port = port
    alpha.call(listening.stopListening)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ([b"\xff"], "bad-frame"),
        ([KEYS], "bad-frame"),
        ([HELLO, HELLO], "bad-frame"),
        ([HELLO, [2, 1, "keys", {}]], "bad-frame"),
        ([[0, 0, "", {"version": 2, "name": "x", "frame": 65536}]], "version"),
        ([HELLO, bytes(70_000)], "too-big"),
    ],
)
def test_a_broken_frame_ends_the_connection_with_a_word(alpha: House, said: list[Any], code: str) -> None:
    other = alpha.user(ALICE)
    raw = Raw(alpha)
    raw.say(*said)
    heard = raw.rest()
    assert [(item[0], item[3].get("code")) for item in heard] == [(0, None), (4, code)]
    assert alpha.ask(other, "sync", Sync(0))["changes"] == []


def test_answers_that_come_after_the_last_word_are_not_said(alpha: House, caplog: pytest.LogCaptureFixture) -> None:
    """The keys are still being read when the broken frame is met."""
    raw = Raw(alpha)
    raw.say(HELLO, KEYS, b"\xff")
    heard = raw.rest()
    assert [item[0] for item in heard] in ([0, 4], [0, 2, 4])
    assert heard[-1][3]["code"] == "bad-frame"


def test_a_reply_larger_than_the_peer_takes_ends_with_a_word(alpha: House) -> None:
    alpha.fill(ALICE, 1, 5000)
    session = alpha.user(ALICE)
    alpha.call(lambda: setattr(alpha.engines[-1], "_peer_frame", 1024))
    with pytest.raises(ConnectionGone, match="too-big"):
        alpha.ask(session, "sync", Sync(0))


def test_requests_are_answered_whatever_their_order(alpha: House) -> None:
    raw = Raw(alpha)
    raw.say(HELLO, *([1, n, "keys", {"domain": "alpha.test"}] for n in range(1, 101)))
    assert raw.hear()[0] == 0
    assert sorted(raw.hear()[1] for _ in range(100)) == list(range(1, 101))


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("sync", {"since": "0"}),
        ("sync", {"since": -1}),
        ("sync", {"since": 0, "limit": 0}),
        ("sync", {"since": 2**63}),
        ("mark", {"mailbox": "INBOX", "uids": [2**40]}),
        ("mark", {"mailbox": "INBOX", "uids": [1], "add": ["\\Seen)\r\n* BYE"]}),
        ("send", {"to": [], "payload": b""}),
        ("send", {"to": [str(BOB)] * 1001, "payload": b""}),
        ("keys", {"domain": "not a domain"}),
        ("auth", {}),
    ],
)
def test_bad_bodies_are_named_and_the_connection_goes_on(alpha: House, method: str, body: Any) -> None:
    session = alpha.user(ALICE)
    with pytest.raises(RequestFailed, match="bad-request"):
        alpha.ask(session, method, body)
    assert alpha.ask(session, "sync", Sync(0))["changes"] == []


# -- domains sign in ------------------------------------------------------------------------------------------------


def test_a_domain_signs_in(alpha: House, beta: House) -> None:
    session = alpha.peer(beta.key)
    for method in ("sync", "mark"):
        with pytest.raises(RequestFailed, match="unknown-method"):
            alpha.ask(session, method, Sync(0))


def test_a_domain_that_does_not_prove_itself(alpha: House, beta: House) -> None:
    for why, key, listening in (
        ("a key of its own making", SigningKey(BETA, beta.key.kid, SigningKey.generate(BETA).private), ALPHA),
        ("for another listener", beta.key, BETA),
        ("for nobody's domain", beta.key, Domain.parse("gamma.test")),
        ("as the listener itself", alpha.key, ALPHA),
    ):
        with pytest.raises(RequestFailed, match="auth-failed"):
            alpha.peer(key, listening)
            pytest.fail(why)
    assert alpha.peer(beta.key)


def test_roles_are_not_to_be_swapped(alpha: House, beta: House) -> None:
    """What alpha signed when it dialled beta is no proof of beta towards alpha, though the names fit."""
    session = alpha.dial()
    assert session._link.tls is not None
    exporter = session._link.tls.exporter
    by_listener = beta.key.private.sign(
        cbor2.dumps([domain_auth.LABEL, "listener", "beta.test", "alpha.test", exporter])
    )
    swapped = domain_auth.sign(SigningKey(ALPHA, beta.key.kid, beta.key.private), BETA, exporter)
    for proof in (by_listener, swapped):
        with pytest.raises(RequestFailed, match="auth-failed: the signature does not hold"):
            alpha.ask(session, "auth", Auth("DOMAIN", proof, "beta.test", "alpha.test", beta.key.kid))


def test_a_proof_is_good_for_its_connection_only(alpha: House, beta: House) -> None:
    first, second = alpha.dial(), alpha.dial()
    assert first._link.tls is not None
    proof = Auth(
        "DOMAIN", domain_auth.sign(beta.key, ALPHA, first._link.tls.exporter), "beta.test", "alpha.test", beta.key.kid
    )
    with pytest.raises(RequestFailed, match="auth-failed: the signature does not hold"):
        alpha.ask(second, "auth", proof)
    assert alpha.ask(first, "auth", proof) == {"done": True}


def test_nothing_overtakes_signing_in(alpha: House, beta: House) -> None:
    """What is sent behind the proof waits until the keys are fetched, and is then from who signed in."""
    session = alpha.dial()
    content = signed(message(str(CAROL)), beta.key)

    async def run() -> dict[str, Any]:
        signing = defer.Deferred.fromCoroutine(session.sign_in_domain(beta.key, ALPHA))
        sending = defer.Deferred.fromCoroutine(session.request("send", of_domain(content)))
        await signing
        return await sending

    assert codes(alpha.wait(run())) == ["2.0.0"]


def test_no_keys_to_be_had_is_temporary(alpha: House, beta: House) -> None:
    beta.hush()
    with pytest.raises(RequestFailed, match="keys-unavailable"):
        alpha.peer(beta.key)
    del alpha.routes[BETA]
    with pytest.raises(RequestFailed, match="keys-unavailable"):
        alpha.peer(beta.key)
    beta.listen()
    assert alpha.peer(beta.key)


def test_keys_are_those_of_who_proves_the_domain(
    reactor: Any, tmp_path: Path, alpha: House, authority: Authority
) -> None:
    """The DNS sends us to a host whose certificate names another domain: its keys are not asked for."""
    certified = issue(*authority, ["evil.test"])
    evil = House(reactor, tmp_path / "evil", BETA, (), alpha.routes, authority, certified=certified)
    try:
        with pytest.raises(RequestFailed, match=r"keys-unavailable: .*does not name beta\.test"):
            alpha.peer(evil.key)
    finally:
        evil.stop()


def test_who_leaves_while_keys_are_fetched_stops_nobody(alpha: House, beta: House) -> None:
    """The fetch hangs, and the one who asked for it is cut off: who waits for the same still gets its answer."""
    there = alpha.routes[BETA]
    errors: list[str] = []

    async def ask(session: ParleyClientSession) -> None:
        try:
            await session.sign_in_domain(beta.key, ALPHA)
        except (RequestFailed, ConnectionGone) as failed:
            errors.append(getattr(failed, "error", "gone"))

    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.settimeout(TIMEOUT)
        alpha.routes[BETA] = Parley(BETA, (Endpoint("127.0.0.1", mute.getsockname()[1]),))
        first, second = alpha.dial(), alpha.dial()
        alpha.call(lambda: alpha.spawn(ask(first)))
        held, _ = mute.accept()  # the fetch has begun
        alpha.call(lambda: alpha.spawn(ask(second)))
        wait_until(alpha, lambda: [len(waiters) for waiters in alpha.directory._fetching.values()] == [2])
        alpha.routes[BETA] = there
        alpha.call(alpha.sessions[0]._link.abort)
        wait_until(alpha, lambda: errors == ["gone"])
        held.close()
        wait_until(alpha, lambda: errors == ["gone", "keys-unavailable"])
        assert alpha.peer(beta.key)


# -- send -----------------------------------------------------------------------------------------------------------


def test_a_users_message_is_signed_filed_and_delivered_once(alpha: House) -> None:
    session = alpha.user(ALICE)
    content = message(str(ALICE))
    for _ in range(3):
        assert codes(alpha.ask(session, "send", of_user(content))) == ["2.0.0"]
    (got,), (kept,) = alpha.inbox(BOB), alpha.inbox(ALICE, "\\Sent")
    assert got.payload == kept.payload == content.payload
    assert got.bodies == content.bodies
    assert alpha.wait(alpha.signer.verify(got)) == ALPHA


def test_each_recipient_has_a_result(alpha: House) -> None:
    session = alpha.user(ALICE)
    to = ("nobody@alpha.test", str(BOB), "no address", "dave@beta.test", str(BOB))
    reply = read(SendReply, alpha.ask(session, "send", of_user(message(str(ALICE)), *to)))
    assert [result.to for result in reply.results] == list(to)
    assert [result.code for result in reply.results] == ["5.1.1", "2.0.0", "5.1.3", "2.0.0", "2.0.0"]
    assert [row.recipient for row in alpha.wait(alpha.queue.listing())] == ["dave@beta.test"]
    assert len(alpha.inbox(BOB)) == 1


def test_a_user_speaks_as_itself_only(alpha: House) -> None:
    session = alpha.user(ALICE)
    for author in (str(BOB), "alice@beta.test", "root"):
        assert codes(alpha.ask(session, "send", of_user(message(author)))) in (["5.7.1"], ["5.6.0"])
    assert codes(alpha.ask(session, "send", of_user(message(str(ALICE), type="mail")))) == ["5.7.1"]
    wrong = message(str(ALICE))
    for bodies in ((), (b"other",), (b"Hello", b"more")):
        assert codes(alpha.ask(session, "send", Send((str(BOB),), bodies, payload=wrong.payload))) == ["5.6.0"]
    assert codes(alpha.ask(session, "send", Send((str(BOB),), payload=b"\xff"))) == ["5.6.0"]
    assert alpha.inbox(BOB) == []


def test_a_peers_message_arrives_once_however_often_it_is_sent(alpha: House, beta: House) -> None:
    content = signed(message(str(CAROL)), beta.key)
    for address in (ALICE, BOB):
        alpha.grant(address, CAROL)
    for _ in range(2):
        session = alpha.peer(beta.key)
        assert codes(alpha.ask(session, "send", of_domain(content))) == ["2.0.0"]
        assert codes(alpha.ask(session, "send", of_domain(content, to=(str(BOB), str(ALICE))))) == ["2.0.0"] * 2
    (got,) = alpha.inbox(BOB)
    assert (got.signed, got.bodies) == (content.signed, content.bodies)
    assert len(alpha.inbox(ALICE)) == 1


def test_a_peer_speaks_for_its_own_domain_only(alpha: House, beta: House) -> None:
    session = alpha.peer(beta.key)
    forged = SigningKey.generate(BETA)

    def sent(content: Content, **how: Any) -> list[str]:
        return codes(alpha.ask(session, "send", of_domain(content, **how)))

    assert sent(signed(message(str(CAROL)), beta.key), reverse_path=str(ALICE)) == ["5.7.1"]
    assert sent(signed(message(str(ALICE)), beta.key)) == ["5.7.1"]
    assert sent(signed(message(str(CAROL)), alpha.key)) == ["5.7.7"]  # a good signature, of another domain
    assert sent(signed(message(str(CAROL)), forged)) == ["4.7.5"]  # its keys were fetched just now: perhaps it is new
    assert sent(signed(message(str(CAROL)), SigningKey(BETA, beta.key.kid, forged.private))) == ["5.7.7"]
    assert sent(signed(message(str(CAROL)), beta.key), to=("dave@gamma.test",)) == ["5.7.1"]  # no relay for peers
    assert sent(signed(message(str(CAROL)), beta.key), reverse_path="not an address") == ["5.6.0"]
    assert alpha.inbox(BOB) == []
    assert alpha.wait(alpha.queue.listing()) == []


def test_what_was_changed_after_it_was_signed(alpha: House, beta: House) -> None:
    session = alpha.peer(beta.key)
    good = signed(message(str(CAROL)), beta.key)
    flipped = good.signature[:-1] + bytes([good.signature[-1] ^ 1])
    other = message(str(CAROL))
    for content, code in (
        (Content(good.protected, good.payload, flipped, good.bodies), "5.7.7"),
        (Content(good.protected, good.payload, b"", good.bodies), "5.7.7"),
        (Content(good.protected, other.payload, good.signature, other.bodies), "5.7.7"),
        (Content(b"", good.payload, good.signature, good.bodies), "5.7.7"),
        (Content(good.protected, good.payload, good.signature, {b"": b"Hullo"}), "5.6.0"),
        (Content(good.protected, good.payload, good.signature, {}), "5.6.0"),
    ):
        assert codes(alpha.ask(session, "send", of_domain(content))) == [code]
    for octets in (b"", b"\xff", cbor2.dumps([1, 2, 3, 4])):
        assert codes(alpha.ask(session, "send", Send((str(BOB),), signed=octets))) == ["5.6.0"]
    assert alpha.inbox(BOB) == []


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"date": 2**62}, "5.6.0"),
        ({"date": -1}, "5.6.0"),
        ({"date": 253402300800000}, "5.6.0"),
        ({"date": 253402300799999}, "2.0.0"),
        ({"type": "mail", "parts": ()}, "5.6.0"),
        ({"type": "mail", "from_": "dave@beta.test", "ext": BRIDGED}, "5.6.0"),  # the mail says something else
        ({"type": "mail", "ext": {"bridged": {"by": "beta.test", "message_id": [1], "auth": 3}}}, "2.0.0"),
        ({"subject": "a\r\nX-Evil: b", "to": ("x\r\nX-Evil: y",)}, "2.0.0"),
        ({"parts": (Part(sha256(b"x").digest(), "text/plain\r\nX-Evil: y", 1, "n\r\nX-Evil: y"),)}, "2.0.0"),
        ({"parts": (Part(sha256(b"x").digest(), "multipart/mixed; boundary=a", 1),)}, "2.0.0"),
        ({"parts": (Part(sha256(b"x").digest(), "message/rfc822", 1),)}, "2.0.0"),
        ({"type": "mail", "ext": {"bridged": {"by": [1], "auth": 3}}}, "5.7.1"),
        ({"type": "poll", "parents": (bytes(32),), "replaces": bytes(32), "to": (), "subject": "é" * 5000}, "2.0.0"),
        ({"parents": (b"short",)}, "5.6.0"),
    ],
)
def test_what_a_peer_says_never_spoils_a_mailbox(alpha: House, beta: House, fields: dict[str, Any], code: str) -> None:
    """Whatever is taken in can be shown to a mail program, beside what was there before."""
    alpha.fill(BOB, 1)
    alpha.grant(BOB, CAROL)
    given = {
        "from_": str(CAROL), "to": (str(BOB),), "date": 1735689600000, "nonce": bytes(16),
        "parts": (Part(sha256(b"x").digest(), "text/plain", 1),), **fields,
    }  # fmt: skip
    payload = Payload(**given)
    bodies = {sha256(b"x").digest(): b"x"} if payload.parts else {}
    content = signed(Content(b"", payload.encode(), b"", bodies), beta.key)
    assert codes(alpha.ask(alpha.peer(beta.key), "send", of_domain(content))) == [code]

    async def look() -> tuple[list[bytes], int]:
        account = await alpha.store.account(BOB)
        assert account is not None
        box = await alpha.store.mailbox(account.account_id, "INBOX")
        ids = [entry.message_id for entry in await alpha.store.entries(account.account_id, box.mailbox_id)]
        mails = await alpha.store.mails(account.account_id, ids)
        return list(mails.values()), len(await alpha.store.summaries(account.account_id, ids))

    mails, summaries = alpha.wait(look())
    assert len(mails) == summaries == (2 if code == "2.0.0" else 1)
    assert not any(line.startswith(b"X-Evil") for mail in mails for line in mail.splitlines())


def test_mail_of_anybody_is_taken_from_who_signed_it_as_bridged(alpha: House, beta: House) -> None:
    mail = b"From: Someone <someone@elsewhere.test>\r\n\r\nHello\r\n"
    session = alpha.peer(beta.key)
    for author, ext, code in (
        ("someone@elsewhere.test", BRIDGED, "2.0.0"),
        ("carol@beta.test", BRIDGED, "5.6.0"),
        ("someone@elsewhere.test", {"bridged": {"by": "gamma.test"}}, "5.7.1"),  # another took it in, it says
        ("someone@elsewhere.test", {}, "5.7.1"),
    ):
        content = signed(message(author, mail, type="mail", ext=ext), beta.key)
        assert codes(alpha.ask(session, "send", of_domain(content, reverse_path=""))) == [code]
    assert len(alpha.inbox(BOB)) == 1


def test_nobody_is_asked_for_keys_that_do_not_matter(alpha: House, beta: House) -> None:
    """Else a peer would have the server look for any domain that an object names."""
    session = alpha.peer(beta.key)
    foreign = SigningKey.generate(Domain.parse("gamma.test"))
    assert codes(alpha.ask(session, "send", of_domain(signed(message(str(CAROL)), foreign)))) == ["5.7.7"]


def test_a_store_that_cannot_is_temporary(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    session = alpha.user(ALICE)

    async def broken(*_: Any) -> Any:
        raise StoreError("the disk")

    monkeypatch.setattr(alpha.store, "changes", broken)
    with pytest.raises(RequestFailed, match="unavailable: the disk"):
        alpha.ask(session, "sync", Sync(0))
    monkeypatch.setattr(alpha.store, "deliver", broken)
    assert codes(alpha.ask(session, "send", of_user(message(str(ALICE)))))[0][0] == "4"


# -- sync and mark --------------------------------------------------------------------------------------------------


def pages(house: House, session: ParleyClientSession, since: int, limit: int) -> list[Changes]:
    found = [read(Changes, house.ask(session, "sync", Sync(since, limit)))]
    while found[-1].more:
        found.append(read(Changes, house.ask(session, "sync", Sync(found[-1].modseq, limit))))
    return found


def test_the_log_comes_in_pages(alpha: House) -> None:
    made = alpha.fill(ALICE, 10)
    session = alpha.user(ALICE)
    found = pages(alpha, session, 0, 3)
    assert [len(page.changes) for page in found] == [3, 3, 3, 1]
    assert [page.more for page in found] == [True, True, True, False]
    changes = [change for page in found for change in page.changes]
    assert {change.signed for change in changes} == {content.signed for content in made}
    assert [change.modseq for change in changes] == sorted({change.modseq for change in changes})
    assert all(sha256(change.bodies[0]).digest() in made[0].bodies or len(change.bodies) == 1 for change in changes)
    assert alpha.ask(session, "sync", Sync(found[-1].modseq))["changes"] == []


def test_pages_end_where_bodies_grow_large(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parley_sync, "PAGE", 10_000)
    made = alpha.fill(ALICE, 10, 4000)
    session = alpha.user(ALICE)
    found = pages(alpha, session, 0, 500)
    assert 3 <= len(found) <= 6
    assert {change.id for page in found for change in page.changes} == {content.id for content in made}
    assert all(change.bodies for page in found for change in page.changes)
    alpha.ask(session, "mark", Mark("INBOX", (10,), delete=True))
    found = pages(alpha, session, 0, 500)
    assert [change.uid for change in found[-1].changes if change.gone] == [10]
    for page in found:  # what is gone comes in its turn
        assert all(change.modseq <= page.modseq for change in page.changes)


def test_a_group_that_is_too_large_comes_by_ids(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """One STORE on many messages is one number of the log: it is not cut, but its bodies are left out."""
    monkeypatch.setattr(parley_sync, "PAGE", 10_000)
    made = alpha.fill(ALICE, 10, 4000)
    session = alpha.user(ALICE)
    since = pages(alpha, session, 0, 500)[-1].modseq
    alpha.ask(session, "mark", Mark("INBOX", tuple(range(1, 11)), add=("\\Seen",)))
    page, *rest = pages(alpha, session, since, 2)
    assert not any(later.changes for later in rest)
    assert {change.id for change in page.changes} == {content.id for content in made}
    assert {change.flags for change in page.changes} == {("\\Seen",)}
    assert 0 < sum(bool(change.signed) for change in page.changes) < 10


@pytest.mark.parametrize("extent", ["signed", "ids"])
def test_messages_without_their_bodies(alpha: House, extent: Any) -> None:
    """In pages and in what is pushed; `fetch` has the rest."""
    made = alpha.fill(ALICE, 3, 4000)
    session = alpha.user(ALICE)
    pushed: defer.DeferredQueue[Changes] = defer.DeferredQueue()
    session.on_changes = pushed.put
    page = read(Changes, alpha.ask(session, "sync", Sync(0, live=True, content=extent)))
    made += alpha.fill(ALICE, 1, 4000)
    changes = page.changes + alpha.wait(_taken(pushed)).changes
    assert [change.id for change in changes] == [content.id for content in made]
    assert [change.signed for change in changes] == [c.signed if extent == "signed" else b"" for c in made]
    assert not any(change.bodies for change in changes)
    fetched = read(FetchReply, alpha.ask(session, "fetch", Fetch(tuple(change.id for change in changes))))
    assert [one.bodies for one in fetched.objects] == [tuple(content.bodies.values()) for content in made]
    alpha.ask(session, "sync", Sync(0, live=True))  # the tail stays as it was asked for first
    alpha.fill(ALICE, 1)
    assert not alpha.wait(_taken(pushed)).changes[0].bodies


async def _taken(queue: defer.DeferredQueue[T]) -> T:
    return await queue.get()


def test_many_more_headers_than_messages_fit_a_page(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parley_sync, "PAGE", 10_000)
    alpha.fill(ALICE, 10, 4000)
    session = alpha.user(ALICE)
    assert len(read(Changes, alpha.ask(session, "sync", Sync(0, 500))).changes) < 3
    assert len(read(Changes, alpha.ask(session, "sync", Sync(0, 500, content="signed"))).changes) == 10


def test_what_is_gone_and_contacts_fit_into_a_small_frame(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that takes no larger ones could never read on."""
    monkeypatch.setattr(parley_client, "MAX_REPLY", 16_384)
    alpha.fill(ALICE, 150)
    session = alpha.user(ALICE)
    for uid in range(1, 151):
        alpha.ask(session, "mark", Mark("INBOX", (uid,), delete=True))
    alpha.grant(ALICE, *(Address.parse(f"{number}.{'x' * 50}@beta.test") for number in range(150)))
    found = pages(alpha, session, 0, 500)
    assert len(found) > 2
    assert {change.uid for page in found for change in page.changes if change.gone} == {*range(1, 151)}
    assert len({contact.address for page in found for contact in page.contacts}) == 150


def test_who_tries_domains_whose_keys_cannot_be_had_is_not_heard_for_ever(alpha: House) -> None:
    """Each try has us look for a domain that a stranger names."""
    session = alpha.dial()
    for number in range(3):
        auth = Auth("DOMAIN", bytes(64), f"d{number}.test", "alpha.test", b"k")
        with pytest.raises(RequestFailed, match="keys-unavailable"):
            alpha.ask(session, "auth", auth)
    with pytest.raises(ConnectionGone):
        alpha.ask(session, "auth", Auth("DOMAIN", bytes(64), "d4.test", "alpha.test", b"k"))


def test_a_place_that_is_not_in_the_log(alpha: House) -> None:
    alpha.fill(ALICE, 2)
    session = alpha.user(ALICE)
    page = read(Changes, alpha.ask(session, "sync", Sync(0)))
    for sync in (Sync(page.modseq + 1), Sync(page.modseq, epoch=b"another"), Sync(page.modseq + 1, epoch=page.epoch)):
        with pytest.raises(RequestFailed, match="resync"):
            alpha.ask(session, "sync", sync)
    assert alpha.ask(session, "sync", Sync(page.modseq, epoch=page.epoch))["changes"] == []


def test_mark_and_what_the_log_says_of_it(alpha: House) -> None:
    made = alpha.fill(ALICE, 3)
    session = alpha.user(ALICE)
    modseq = pages(alpha, session, 0, 100)[-1].modseq

    def marked(mark: Mark) -> list[tuple[Any, ...]]:
        nonlocal modseq
        alpha.ask(session, "mark", mark)
        page = read(Changes, alpha.ask(session, "sync", Sync(modseq)))
        modseq = page.modseq
        return sorted((c.mailbox, c.uid, c.gone, c.flags) for c in page.changes)

    assert marked(Mark("INBOX", (1, 2), add=("\\Seen", "later"))) == [
        ("INBOX", 1, False, ("\\Seen", "later")),
        ("INBOX", 2, False, ("\\Seen", "later")),
    ]
    assert marked(Mark("INBOX", (1,), add=("x",), remove=("later",))) == [("INBOX", 1, False, ("\\Seen", "x"))]
    assert marked(Mark("INBOX", (1, 99), move="Archive")) == [
        ("Archive", 1, False, ("\\Seen", "x")),
        ("INBOX", 1, True, ()),
    ]
    assert marked(Mark("INBOX", (2,), delete=True)) == [("INBOX", 2, True, ())]
    assert [content.id for content in alpha.inbox(ALICE)] == [made[2].id]
    for mark in (Mark("Nowhere", (1,), add=("x",)), Mark("INBOX", (3,), move="Nowhere")):
        with pytest.raises(RequestFailed, match="not-found: no mailbox Nowhere"):
            alpha.ask(session, "mark", mark)
    assert alpha.ask(alpha.user(BOB), "sync", Sync(0))["changes"] == []


@pytest.mark.parametrize(
    "mark",
    [
        Mark("INBOX", (1,), move="Archive", delete=True),
        Mark("INBOX", (1,), add=("x", "y"), remove=("y",)),
        Mark("INBOX", (1,), remove=("\\Seen",), displayed=True),
        Mark("INBOX", (1,), add=("x",), move="Nowhere"),
    ],
)
def test_a_mark_that_cannot_be_done_whole_does_nothing(alpha: House, mark: Mark) -> None:
    alpha.fill(ALICE, 1)
    session = alpha.user(ALICE)
    before = alpha.ask(session, "sync", Sync(0))
    with pytest.raises(RequestFailed, match=r"bad-request|not-found"):
        alpha.ask(session, "mark", mark)
    assert alpha.ask(session, "sync", Sync(0)) == before


def test_a_mark_of_nothing(alpha: House) -> None:
    """Uids that are not there, none at all, nothing to do, and a move to where it stands."""
    alpha.fill(ALICE, 1)
    session = alpha.user(ALICE)
    before = alpha.ask(session, "sync", Sync(0))
    for mark in (
        Mark("INBOX", (7, 8), add=("x",), move="Junk"),
        Mark("INBOX", (), delete=True),
        Mark("INBOX", (1,)),
        Mark("INBOX", (1,), move="inbox"),
    ):
        assert alpha.ask(session, "mark", mark)["modseq"] == before["modseq"]
    assert alpha.ask(session, "sync", Sync(0)) == before
    alpha.ask(session, "mark", Mark("INBOX", (1,) * 1200, move="Junk"))
    assert [change["uid"] for change in alpha.ask(session, "sync", Sync(before["modseq"]))["changes"]] == [1, 1]


class Tail:
    """A client on the live tail."""

    def __init__(self, house: House, address: Address) -> None:
        self.session = house.user(address)
        self._house = house
        self._heard: defer.DeferredQueue[Changes] = defer.DeferredQueue()
        self.session.on_changes = self._heard.put
        self.modseq = read(Changes, house.ask(self.session, "sync", Sync(0, live=True))).modseq

    def hear(self, count: int = 1) -> list[tuple[Any, ...]]:
        """What is pushed, until so many changes have come."""

        async def run() -> list[tuple[Any, ...]]:
            got: list[tuple[Any, ...]] = []
            while len(got) < count:
                page = await self._heard.get()
                assert page.modseq > self.modseq
                self.modseq = page.modseq
                got += [(c.mailbox, c.uid, c.gone, c.flags) for c in page.changes]
            return got

        return self._house.wait(run())


def test_the_live_tail(alpha: House) -> None:
    alpha.fill(BOB, 1)
    tail, sender = Tail(alpha, BOB), alpha.user(ALICE)
    alpha.ask(sender, "send", of_user(message(str(ALICE))))
    assert tail.hear() == [("INBOX", 2, False, ())]
    other = alpha.user(BOB)
    alpha.ask(other, "mark", Mark("INBOX", (2,), add=("\\Flagged",)))
    assert tail.hear() == [("INBOX", 2, False, ("\\Flagged",))]
    alpha.ask(other, "mark", Mark("INBOX", (1,), delete=True))
    assert tail.hear() == [("INBOX", 1, True, ())]
    alpha.ask(other, "mark", Mark("INBOX", (2,), move="Trash"))
    assert sorted(tail.hear(2)) == [("INBOX", 2, True, ()), ("Trash", 1, False, ("\\Flagged",))]
    alpha.fill(BOB, 200)
    assert [uid for _, uid, _, _ in tail.hear(200)] == list(range(3, 203))


def test_the_tail_ends_with_the_connection(alpha: House) -> None:
    tail = Tail(alpha, BOB)
    assert len(alpha.store._watching._watchers) == 1
    alpha.call(tail.session.close)
    wait_until(alpha, lambda: not alpha.store._watching._watchers)


# -- bad company ----------------------------------------------------------------------------------------------------


def signed_in(house: House, address: Address) -> Raw:
    """A raw socket that takes little at a time."""
    raw = Raw(house, receive_buffer=4096)
    raw.say(HELLO)
    assert raw.hear()[0] == 0
    session = house.sessions[-1]

    async def sign_in() -> None:
        session._dialler.account = await house.store.account(address)
        session._signed_in()

    house.wait(sign_in())
    return raw


def test_a_reader_that_never_reads_is_not_written_to_for_ever(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """30 MB arrive for a client on the live tail that takes nothing; then it reads, and misses nothing."""
    monkeypatch.setattr(parley_sync, "PAGE", 256 * 1024)
    raw = signed_in(alpha, BOB)
    engine = alpha.engines[-1]
    raw.say([1, 1, "sync", {"since": 0, "live": True}])
    assert raw.hear()[:3] == [2, 1, "sync"]
    made = [content for _ in range(10) for content in alpha.fill(BOB, 50, 60_000)]
    alpha.settle()
    assert engine.said < 12 << 20, "more than the kernel's buffers and a page"
    heard: list[bytes] = []
    while len(heard) < len(made):
        heard += [change["id"] for change in raw.hear()[3]["changes"]]
    assert len(heard) == len(set(heard))
    assert set(heard) == {content.id for content in made}


def test_who_asks_for_more_and_more_and_reads_nothing(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parley_sync, "PAGE", 256 * 1024)
    alpha.fill(BOB, 10, 60_000)
    raw = signed_in(alpha, BOB)
    engine = alpha.engines[-1]
    raw.say(*([1, n, "sync", {"since": 0}] for n in range(1, 201)))
    alpha.settle()
    assert engine.said < 12 << 20
    assert {raw.hear()[1] for _ in range(200)} == set(range(1, 201))


def test_half_open_connections_stop_nobody(alpha: House) -> None:
    waiting = [socket.create_connection(("127.0.0.1", alpha.port)) for _ in range(50)]
    silent = [Raw(alpha) for _ in range(10)]
    assert alpha.user(ALICE)
    for each in waiting:
        each.close()
    for raw in silent:
        raw.socket.close()


def test_a_fault_of_ours_ends_that_connection_only(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    session, other = alpha.user(ALICE), alpha.user(BOB)

    async def broken(*_: Any) -> Any:
        raise RuntimeError("a fault")

    monkeypatch.setattr(alpha.office._submitting, "submit", broken)
    with pytest.raises(ConnectionGone, match="internal error"):
        alpha.ask(session, "send", of_user(message(str(ALICE))))
    assert alpha.ask(other, "sync", Sync(0))["changes"] == []
    assert alpha.user(ALICE)


def test_who_does_not_sign_in_is_sent_away(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parley_server, "BEFORE_SIGN_IN", 0.05)
    raw = Raw(alpha)
    assert [(item[0], item[3].get("code")) for item in raw.rest()] == [(0, None), (4, "timeout")]


def test_who_says_a_word_now_and_then_but_does_not_sign_in(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parley_server, "SIGN_IN", 1.0)
    raw, signed_in = Raw(alpha), alpha.user(ALICE)
    raw.say(HELLO)
    heard = [raw.hear()]
    for stream in count(1):
        try:
            raw.say([1, stream, *KEYS[2:]])
        except OSError:
            break
        heard.append(raw.hear())
        if heard[-1] is None or heard[-1][0] == 4:
            break
        time.sleep(0.01)
    assert (heard[0][0], heard[1][0], heard[-1][3]["code"]) == (0, 2, "timeout")
    assert "sign" in heard[-1][3]["text"]
    assert alpha.ask(signed_in, "sync", Sync(0))["changes"] == []  # who did is not sent away


def test_goodbye(alpha: House) -> None:
    raw = Raw(alpha)
    raw.say(HELLO, [4, 0, "", {"code": "", "text": ""}], KEYS)
    assert [item[0] for item in raw.rest()] == [0]
