"""Authentication that holds, over real sockets: each way to pass for somebody else, and what becomes of it.

The other side's certificate, transport and DNS (a dialler's view), a dialler's proof (a listener's view), and the keys
behind it: rotated, revoked, stolen, out of reach.
"""

from __future__ import annotations

import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.threads import blockingCallFromThread

from gatewayd.address import Domain
from gatewayd.core import keys as core_keys
from gatewayd.core.attempts import Patience
from gatewayd.core.relay import Relay
from gatewayd.crypto import domain_auth
from gatewayd.crypto.certificates import issue, make_authority
from gatewayd.crypto.domain_keys import OVERLAP, SKEW, SigningKey
from gatewayd.crypto.scram import ScramClient
from gatewayd.interfaces.dns import Endpoint
from gatewayd.interfaces.queue import Envelope, MailObject
from gatewayd.interfaces.routes import Parley, Route
from gatewayd.message.model import Content
from gatewayd.net.tls import server_context
from gatewayd.outcome import Deferred, Outcome
from gatewayd.session.parley_client import RequestFailed
from gatewayd.wire.parley.schema import Auth, AuthReply, read
from tests.house import (
    ALICE,
    ALPHA,
    BETA,
    BOB,
    CAROL,
    PASSWORD,
    SCRAM,
    Authority,
    House,
    codes,
    message,
    of_domain,
    signed,
)
from tests.patience import eventually

MALLORY = Domain.parse("mallory.test")
SHOWN_FOR = 3600  # seconds that a key set of ours is believed


class LaterReactor:
    """The reactor, with the clock put on."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.later = 0.0

    def seconds(self) -> float:
        return float(self._reactor.seconds()) + self.later

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


@pytest.fixture
def clock(reactor: Any) -> LaterReactor:
    return LaterReactor(reactor)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return make_authority("Test authority")


@pytest.fixture
def house(clock: LaterReactor, tmp_path: Path, authority: Authority) -> Iterator[Callable[..., House]]:
    """Makes houses that find each other and trust one authority."""
    routes: dict[Domain, Route] = {}
    made: list[House] = []

    def make(domain: Domain, *accounts: Any, **how: Any) -> House:
        made.append(House(clock, tmp_path / domain.name, domain, accounts, routes, authority, **how))
        for account in accounts:
            made[-1].grant(account, ALICE)  # or she would be a stranger
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def alpha(house: Callable[..., House]) -> House:
    return house(ALPHA, ALICE, BOB)


@pytest.fixture
def beta(house: Callable[..., House]) -> House:
    return house(BETA, CAROL)


def letter(of: House, author: Any = ALICE) -> Content:
    """Signed by the key that signs now."""
    return signed(message(str(author)), of.keys.signing_key(of.domain))


def deliver(of: House, content: Content, to: Any = CAROL) -> Outcome:
    route = of.routes[to.domain]
    assert isinstance(route, Parley)
    (answers,) = of.wait(of.courier.deliver(route, [MailObject(content, b"", Envelope(ALICE, (to,)))]))
    outcome: Outcome = answers[to]
    return outcome


def waits(outcome: Outcome, code: str, why: str = "") -> None:
    assert isinstance(outcome, Deferred), outcome
    assert outcome.code == code and why in outcome.text, outcome


# -- the listener, as the dialler sees it ---------------------------------------------------------------------------


class Impostor:
    """A TLS listener that takes one connection, and remembers what it was told."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._context = context
        self.endpoint = Endpoint("127.0.0.1", self._socket.getsockname()[1])
        self.heard = b""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        connection.settimeout(20)
        try:
            with self._context.wrap_socket(connection, server_side=True) as tls:
                while chunk := tls.recv(65536):
                    self.heard += chunk
        except OSError:
            pass
        finally:
            connection.close()

    def end(self) -> bytes:
        self._thread.join(20)
        self._socket.close()
        return self.heard


def listener(root: Path, certificate: Authority, *, alpn: bool = True, tls_1_2: bool = False) -> ssl.SSLContext:
    (root / "key").write_bytes(certificate[0])
    (root / "certificate").write_bytes(certificate[1])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(root / "certificate", root / "key")
    if alpn:
        context.set_alpn_protocols(["parley/1"])
    if tls_1_2:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@pytest.mark.parametrize(
    ("names", "how", "why"),
    [
        (["mallory.test"], {}, "does not name beta.test"),
        (["mx.beta.test"], {}, "does not name beta.test"),
        (["*.test", "*.beta.test"], {}, "does not name beta.test"),
        (["beta.test.mallory.test"], {}, "does not name beta.test"),
        (["beta.test"], {"alpn": False}, "does not speak parley/1"),
        (["beta.test"], {"tls_1_2": True}, "TLS handshake failed"),
    ],
    ids=["valid for another name", "the SRV target's name", "wildcard", "longer name", "no ALPN", "TLS 1.2"],
)  # fmt: skip
def test_a_man_in_the_middle_with_a_valid_certificate_is_told_nothing(
    alpha: House, tmp_path: Path, authority: Authority, names: list[str], how: dict[str, bool], why: str
) -> None:
    """The DNS was made to point to him. He learns nothing, and the mail waits."""
    impostor = Impostor(listener(tmp_path, issue(*authority, names), **how))
    alpha.routes[BETA] = Parley(BETA, (impostor.endpoint,))
    waits(deliver(alpha, letter(alpha)), "4.4.1", why)
    assert impostor.end() == b""


def test_a_self_signed_certificate_is_told_nothing(alpha: House, tmp_path: Path) -> None:
    impostor = Impostor(listener(tmp_path, make_authority("beta.test")))
    alpha.routes[BETA] = Parley(BETA, (impostor.endpoint,))
    waits(deliver(alpha, letter(alpha)), "4.4.1", "certificate verify failed")
    assert impostor.end() == b""


def test_an_expired_certificate_holds_the_mail_until_it_is_renewed(
    alpha: House, house: Callable[..., House], authority: Authority
) -> None:
    from datetime import UTC, datetime, timedelta

    expired = issue(*authority, ["beta.test"], days=1, now=datetime.now(UTC) - timedelta(days=2))
    beta = house(BETA, CAROL, certified=expired)
    content = letter(alpha)
    waits(deliver(alpha, content), "4.4.1", "certificate verify failed")
    beta.hush()
    key, certificate = issue(*authority, ["beta.test"])
    (beta.root / "key.pem").write_bytes(key)
    (beta.root / "certificate.pem").write_bytes(certificate)
    beta._context = server_context(beta.root / "certificate.pem", beta.root / "key.pem", parley=True)
    beta.listen()
    assert deliver(alpha, content).ok


# -- a dialling domain's proof --------------------------------------------------------------------------------------


def proof(session: Any, key: SigningKey, listening: Domain, **changes: Any) -> Auth:
    signature = domain_auth.sign(key, listening, session._link.tls.exporter)
    fields = {"data": signature, "domain": key.domain.name, "to": listening.name, "kid": key.kid, **changes}
    return Auth("DOMAIN", **fields)


def refused(at: House, session: Any, auth: Auth) -> None:
    with pytest.raises(RequestFailed, match="auth-failed"):
        at.ask(session, "auth", auth)


def test_a_proof_is_not_replayed_on_another_connection(alpha: House, beta: House) -> None:
    first, second = alpha.dial(), alpha.dial()
    seen = proof(first, beta.key, ALPHA)
    refused(alpha, second, seen)
    assert alpha.ask(first, "auth", seen) == {"done": True}
    refused(alpha, alpha.dial(), seen)  # nor after it was good


def test_a_proof_is_not_reflected(alpha: House, beta: House) -> None:
    """What alpha signs towards beta is worth nothing towards alpha, however it is labelled."""
    towards_beta = alpha.dial()  # the very same connection: the exporter fits
    signature = domain_auth.sign(alpha.key, BETA, towards_beta._link.tls.exporter)  # type: ignore[union-attr]
    auth = Auth("DOMAIN", signature, "alpha.test", "beta.test", alpha.key.kid)
    refused(alpha, towards_beta, auth)  # as it is: alpha does not listen for beta
    again = alpha.dial()
    refused(alpha, again, proof(again, alpha.key, BETA, domain="beta.test", to="alpha.test", kid=beta.key.kid))
    refused(alpha, again, proof(again, alpha.key, ALPHA))  # nobody signs in as the listener's own domain
    assert alpha.wait(alpha.store.domains()) == {ALPHA}


def test_a_proof_is_not_passed_on(alpha: House, beta: House, house: Callable[..., House]) -> None:
    """Alpha dials mallory.test, who is an honest domain by all appearances, and who carries the proof to beta."""
    mallory = house(MALLORY)
    to_mallory, to_beta = mallory.dial(), beta.dial()
    seen = proof(to_mallory, alpha.key, MALLORY)
    refused(beta, to_beta, seen)
    refused(beta, to_beta, Auth("DOMAIN", seen.data, "alpha.test", "beta.test", seen.kid))
    assert mallory.ask(to_mallory, "auth", seen) == {"done": True}


def test_a_users_proof_is_not_passed_on(alpha: House) -> None:
    """SCRAM's messages, octet for octet, by one who sits between two TLS connections."""
    inner, outer = alpha.dial(), alpha.dial()
    scram = ScramClient(str(ALICE), PASSWORD, secrets.token_hex(8), inner._link.tls.exporter)  # type: ignore[union-attr]
    challenge = alpha.ask(outer, "auth", Auth(SCRAM, scram.first()))
    with pytest.raises(RequestFailed, match="auth-failed: channel-bindings-dont-match"):
        alpha.ask(outer, "auth", Auth(SCRAM, scram.final(read(AuthReply, challenge).data)))


def test_without_alpn_or_with_tls_1_2_nobody_is_served(alpha: House) -> None:
    def connect(*, alpn: bool, version: ssl.TLSVersion) -> bytes:
        context = ssl.create_default_context(cafile=str(alpha.authorities))
        context.minimum_version = context.maximum_version = version
        if alpn:
            context.set_alpn_protocols(["parley/1"])
        with (
            socket.create_connection(("127.0.0.1", alpha.port), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="alpha.test") as tls,
        ):
            return tls.recv(65536)

    assert b"ALPN parley/1 is needed" in connect(alpn=False, version=ssl.TLSVersion.TLSv1_3)
    with pytest.raises(ssl.SSLError):
        connect(alpn=True, version=ssl.TLSVersion.TLSv1_2)
    assert b"mx.alpha.test" in connect(alpn=True, version=ssl.TLSVersion.TLSv1_3)


# -- keys that change -----------------------------------------------------------------------------------------------


def test_a_key_rotates_in_the_middle_of_traffic_without_a_gap(alpha: House, beta: House, clock: LaterReactor) -> None:
    """Five hours, a message and a new connection every ten minutes; others wait in the queue all the while."""
    old = alpha.keys.signing_key(ALPHA)
    queued, queued_longer = letter(alpha), letter(alpha)
    kids = []
    for step in range(30):
        if step == 3:
            new = alpha.keys.rotate(ALPHA)
        assert deliver(alpha, letter(alpha)).ok, step
        kids.append(alpha.keys.signing_key(ALPHA).kid)
        alpha.call(lambda: [session.close() for session in alpha.courier._open.values()])
        clock.later += 600
    assert sorted(set(kids), key=kids.index) == [old.kid, new.kid]
    assert deliver(alpha, queued).ok
    clock.later += OVERLAP - 5 * 3600  # nothing waits so long
    assert deliver(alpha, queued_longer).ok
    assert len(beta.inbox(CAROL)) == 32


def test_a_stolen_key_is_worth_nothing_once_the_set_without_it_is_known(
    alpha: House, beta: House, clock: LaterReactor
) -> None:
    """What bounds the time is the set's `expires`, an hour; less if alpha itself makes contact with its new key."""
    stolen = alpha.keys.signing_key(ALPHA)
    forged = [signed(message(str(ALICE)), stolen) for _ in range(3)]
    thief = beta.peer(stolen)
    assert codes(beta.ask(thief, "send", of_domain(forged[0], str(ALICE), (str(CAROL),)))) == ["2.0.0"]
    alpha.keys.revoke(ALPHA, stolen.kid)
    assert codes(beta.ask(thief, "send", of_domain(forged[1], str(ALICE), (str(CAROL),)))) == ["2.0.0"]  # not known yet
    clock.later += SHOWN_FOR
    with pytest.raises(RequestFailed, match="keys-unavailable"):
        beta.peer(stolen)
    # who had signed in before stays connected, and can say nothing in alpha's name any more
    assert codes(beta.ask(thief, "send", of_domain(forged[2], str(ALICE), (str(CAROL),)))) == ["4.7.5"]
    clock.later += core_keys.REFETCH
    assert codes(beta.ask(thief, "send", of_domain(forged[2], str(ALICE), (str(CAROL),)))) == ["4.7.5"]
    assert deliver(alpha, letter(alpha)).ok
    assert len(beta.inbox(CAROL)) == 3


def test_the_new_key_itself_brings_word_of_the_revocation(alpha: House, beta: House, clock: LaterReactor) -> None:
    stolen = alpha.keys.signing_key(ALPHA)
    assert deliver(alpha, letter(alpha)).ok
    alpha.keys.revoke(ALPHA, stolen.kid)
    alpha.call(lambda: [session.close() for session in alpha.courier._open.values()])
    content = letter(alpha)
    waits(deliver(alpha, content), "4.7.0", "keys-unavailable")  # fetched just now, not again for a minute: no refusal
    clock.later += core_keys.REFETCH
    assert deliver(alpha, content).ok
    clock.later += core_keys.REFETCH
    with pytest.raises(RequestFailed, match="keys-unavailable"):
        beta.peer(stolen)


def test_a_rotated_key_is_not_good_before_its_time(alpha: House, beta: House) -> None:
    early = alpha.keys.rotate(ALPHA)
    with pytest.raises(RequestFailed, match="auth-failed: the domain shows no such key for this time"):
        beta.peer(early)
    assert SKEW > 0


# -- keys out of reach ----------------------------------------------------------------------------------------------


def test_a_key_server_that_is_briefly_down_delays_the_mail_and_no_more(alpha: House, beta: House) -> None:
    """Alpha can dial, but nobody can dial alpha, as while its listener restarts: beta cannot learn its keys."""

    class Ways:
        async def route(self, domain: Domain) -> Route:
            return alpha.routes[domain]

    def start() -> Relay:
        relay = Relay(
            alpha.queue, Ways(), {Parley: alpha.courier}, alpha.office, alpha.reactor, time.time,
            patience=Patience((0.1,), 60.0), concurrency=4,
        )  # fmt: skip
        relay.start()
        return relay

    alpha.hush()
    alpha.wait(alpha.queue.enqueue([MailObject(letter(alpha), b"", Envelope(ALICE, (CAROL,)))]))
    relay = blockingCallFromThread(alpha.reactor, start)
    try:
        eventually(lambda: [row.attempts for row in alpha.wait(alpha.queue.listing())] > [1])
        (row,) = alpha.wait(alpha.queue.listing())
        assert "4.7.0 beta.test answered keys-unavailable" in row.last_status
        assert beta.inbox(CAROL) == []
        alpha.listen()
        eventually(lambda: len(beta.inbox(CAROL)) == 1)
        eventually(lambda: alpha.wait(alpha.queue.listing()) == [])
    finally:
        alpha.wait(relay.stop())
