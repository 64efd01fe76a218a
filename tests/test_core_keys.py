"""Other domains' keys: one fetch at a time, rotation, and nothing that goes wrong is more than temporary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cbor2
import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from gatewayd.address import Domain
from gatewayd.core.keys import MAX_KEPT, REFETCH, KeyDirectory, KeysUnavailable
from gatewayd.core.signing import DomainSigner
from gatewayd.crypto import cose
from gatewayd.crypto.domain_keys import KeySet, KeyStore, PublicKey, SigningKey
from gatewayd.errors import StoreError
from gatewayd.interfaces.dns import Answer, ResolutionFailed
from gatewayd.interfaces.records import Peer
from gatewayd.message.model import Content
from tests.test_store_sqlite import Stores

BETA, GAMMA = Domain.parse("beta.test"), Domain.parse("gamma.test")
SHOWN_FOR = 3600


class Turn(Clock):
    """A turn of the reactor ends as soon as something waits for its end."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def seconds(self) -> float:
        return self._clock.seconds()

    def callLater(self, when: float, what: Any, *args: Any, **kw: Any) -> Any:
        assert when == 0
        what(*args, **kw)


async def at_once(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


class Keys(Stores):
    """A directory, and the domains that it asks: `shown` is what each says, `asked` who was asked."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.shown: dict[Domain, Any] = {}
        self.asked: list[Domain] = []
        self.directory = KeyDirectory(self.store, self.fetch, self.clock.seconds, self.clock.seconds)

    async def fetch(self, domain: Domain) -> bytes:
        self.asked.append(domain)
        said = self.shown[domain]
        if isinstance(said, Deferred):
            said = await said
        if isinstance(said, Exception):
            raise said
        octets: bytes = said
        return octets

    def show(self, domain: Domain, *keys: SigningKey, expires: int | None = None) -> bytes:
        now = int(self.clock.seconds())
        public = tuple(PublicKey(key.kid, key.public, now - 10, now + 10**6) for key in keys)
        self.shown[domain] = KeySet(domain.name, now + SHOWN_FOR if expires is None else expires, public).encode()
        return self.shown[domain]

    def ask(self, domain: Domain, kid: bytes) -> KeySet:
        key_set: KeySet = self.loop.one(self.directory.key_set(domain, kid))
        return key_set

    def begin(self, *questions: tuple[Domain, bytes]) -> list[Deferred[KeySet]]:
        """One after the other, each as far as it comes before the answer is there."""
        begun = []
        for question in questions:
            waiting = self.waiting()
            begun.append(Deferred.fromCoroutine(self.directory.key_set(*question)))
            while not begun[-1].called and self.waiting() == waiting:
                self.loop.one(self.store.peer(GAMMA))
        return begun

    def waiting(self) -> int:
        return sum(map(len, self.directory._fetching.values()))


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    made = Keys(tmp_path)
    yield made
    made.close()


class Zones:
    """A resolver, as far as key records go."""

    def __init__(self) -> None:
        self.said: Answer | Exception = Answer()

    async def txt(self, name: str) -> Answer:
        assert name == "_keys._parley.beta.test"
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


def records(keys: Keys, *named: SigningKey) -> tuple[bytes, ...]:
    now = int(keys.clock.seconds())
    return tuple(PublicKey(key.kid, key.public, now - 10, now + 10**6).record.encode() for key in named)


def test_a_secure_zone_says_the_keys_and_nobody_else_does(keys: Keys) -> None:
    zones, said, shown = Zones(), SigningKey.generate(BETA), SigningKey.generate(BETA)
    keys.show(BETA, shown)
    keys.directory = KeyDirectory(keys.store, keys.fetch, keys.clock.seconds, keys.clock.seconds, zones)  # type: ignore[arg-type]
    zones.said = Answer((b"v=spf1 -all", *records(keys, said)), secure=True, exists=True, ttl=300)
    assert [key.kid for key in keys.ask(BETA, said.kid).keys] == [said.kid]
    assert keys.asked == []
    with pytest.raises(KeysUnavailable):
        keys.ask(BETA, shown.kid)  # a minute later, at the earliest
    keys.clock.advance(REFETCH)
    with pytest.raises(KeysUnavailable, match="does not show this key"):
        keys.ask(BETA, shown.kid)
    zones.said = Answer(secure=True)
    keys.clock.advance(299)
    assert keys.ask(BETA, said.kid).knows(said.kid)  # as long as the TTL says
    keys.clock.advance(1)
    assert keys.ask(BETA, shown.kid).knows(shown.kid)  # all records are gone: an end was made to it
    assert keys.asked == [BETA]


@pytest.mark.parametrize("secure", [True, False])
def test_a_zone_that_says_nothing_leaves_it_to_the_domain(keys: Keys, secure: bool) -> None:
    zones, shown, forged = Zones(), SigningKey.generate(BETA), SigningKey.generate(BETA)
    keys.show(BETA, shown)
    keys.directory = KeyDirectory(keys.store, keys.fetch, keys.clock.seconds, keys.clock.seconds, zones)  # type: ignore[arg-type]
    texts = (b"v=parley9; k=x",) if secure else records(keys, forged)
    zones.said = Answer(texts, secure=secure, exists=True, ttl=300)
    assert [key.kid for key in keys.ask(BETA, shown.kid).keys] == [shown.kid]


def test_a_zone_that_does_not_answer_is_temporary(keys: Keys) -> None:
    zones, shown = Zones(), SigningKey.generate(BETA)
    keys.show(BETA, shown)
    keys.directory = KeyDirectory(keys.store, keys.fetch, keys.clock.seconds, keys.clock.seconds, zones)  # type: ignore[arg-type]
    many = tuple(record for _ in range(17) for record in records(keys, SigningKey.generate(BETA)))
    for said in (ResolutionFailed("SERVFAIL"), Answer(many, secure=True, exists=True, ttl=300)):
        zones.said = said
        with pytest.raises(KeysUnavailable):
            keys.ask(BETA, shown.kid)
    assert keys.asked == []


def test_keys_are_fetched_once_and_kept_until_they_expire(keys: Keys) -> None:
    key = SigningKey.generate(BETA)
    octets = keys.show(BETA, key)
    for _ in range(3):
        assert keys.ask(BETA, key.kid).encode() == octets
    assert keys.asked == [BETA]
    keys.directory = KeyDirectory(keys.again(), keys.fetch, keys.clock.seconds, keys.clock.seconds)  # another process
    keys.clock.advance(SHOWN_FOR - 1)
    assert keys.ask(BETA, key.kid).encode() == octets
    assert keys.asked == [BETA]
    keys.clock.advance(1)
    keys.ask(BETA, key.kid)
    assert keys.asked == [BETA, BETA]


def test_a_new_key_has_the_set_fetched_anew_but_not_all_the_time(keys: Keys) -> None:
    old, new = SigningKey.generate(BETA), SigningKey.generate(BETA)
    keys.show(BETA, old)
    keys.ask(BETA, old.kid)
    keys.show(BETA, old, new)
    with pytest.raises(KeysUnavailable, match="fetched just now"):  # perhaps it is new: not refused for good
        keys.ask(BETA, new.kid)
    keys.clock.advance(REFETCH)
    assert keys.ask(BETA, new.kid).knows(new.kid)
    assert keys.ask(BETA, old.kid).knows(new.kid)
    for _ in range(3):
        with pytest.raises(KeysUnavailable):
            keys.ask(BETA, b"never seen")
    assert keys.asked == [BETA, BETA]
    keys.clock.advance(REFETCH)
    with pytest.raises(KeysUnavailable, match="does not show this key"):
        keys.ask(BETA, b"never seen")
    assert keys.asked == [BETA, BETA, BETA]


def test_a_first_set_without_the_key_is_as_none(keys: Keys) -> None:
    """The domain's zone, or another of its servers, may be behind: what the key signed is not refused for that."""
    old, new = SigningKey.generate(BETA), SigningKey.generate(BETA)
    keys.show(BETA, old)
    with pytest.raises(KeysUnavailable, match="does not show this key"):
        keys.ask(BETA, new.kid)
    assert keys.ask(BETA, old.kid).knows(old.kid)  # it was kept
    assert keys.asked == [BETA]


def test_one_fetch_a_domain_at_a_time(keys: Keys) -> None:
    key, others = SigningKey.generate(BETA), SigningKey.generate(GAMMA)
    octets = keys.show(BETA, key)
    keys.shown[BETA] = arrives = Deferred()
    keys.show(GAMMA, others)
    begun = keys.begin(*[(BETA, key.kid)] * 5, (GAMMA, others.kid))
    assert sorted(keys.asked, key=str) == [BETA, GAMMA]
    assert [answer.domain for answer in keys.loop.wait(begun[5:])] == ["gamma.test"]  # it did not wait for beta
    arrives.callback(octets)
    assert [answer.domain for answer in keys.loop.wait(begun[:5])] == ["beta.test"] * 5
    assert len(keys.asked) == 2


@pytest.mark.parametrize(
    "said",
    [
        ConnectionError("refused"),
        TimeoutError("too slow"),
        StoreError("the disk"),
        b"no key set",
        KeySet("gamma.test", 2_000_000, ()).encode(),
        KeySet("beta.test", 2_000_000, (PublicKey(b"kid", b"short", 0, 2_000_000),)).encode(),
    ],
)
def test_every_failure_is_temporary_and_for_all_who_wait(keys: Keys, said: Any) -> None:
    keys.shown[BETA] = arrives = Deferred()
    begun = keys.begin(*[(BETA, b"kid")] * 3)
    (arrives.errback if isinstance(said, Exception) else arrives.callback)(said)
    assert [type(answer) for answer in keys.loop.wait(begun)] == [KeysUnavailable] * 3
    assert keys.asked == [BETA]
    key = SigningKey.generate(BETA)
    keys.show(BETA, key)
    assert keys.ask(BETA, key.kid).knows(key.kid)


@pytest.mark.parametrize("error", [RuntimeError("a fault of ours"), CancelledError()])
def test_nobody_is_left_waiting(keys: Keys, error: Exception) -> None:
    keys.shown[BETA] = arrives = Deferred()
    begun = keys.begin(*[(BETA, b"kid")] * 3)
    arrives.errback(Failure(error))
    answers = keys.loop.wait(begun)
    assert [type(answer) for answer in answers] == [KeysUnavailable] * 3
    key = SigningKey.generate(BETA)
    keys.show(BETA, key)
    assert keys.ask(BETA, key.kid).domain == "beta.test"


def test_one_who_goes_away_does_not_stop_the_others(keys: Keys) -> None:
    key = SigningKey.generate(BETA)
    octets = keys.show(BETA, key)
    keys.shown[BETA] = arrives = Deferred()
    begun = keys.begin(*[(BETA, key.kid)] * 3)
    begun[0].cancel()  # who asked first
    arrives.callback(octets)
    gone, second, last = keys.loop.wait(begun)
    assert isinstance(gone, CancelledError)
    assert second == last == KeySet.decode(octets, BETA)


def test_a_failing_fetch_leaves_what_is_known(keys: Keys) -> None:
    key = SigningKey.generate(BETA)
    keys.show(BETA, key)
    keys.ask(BETA, key.kid)
    keys.shown[BETA] = ConnectionError("refused")
    keys.clock.advance(REFETCH)
    with pytest.raises(KeysUnavailable):
        keys.ask(BETA, b"another")
    assert keys.ask(BETA, key.kid).knows(key.kid)


@pytest.mark.parametrize("expires", [10**400, 2**62])
def test_no_set_is_good_for_ever(keys: Keys, expires: int) -> None:
    key = SigningKey.generate(BETA)
    keys.shown[BETA] = cbor2.dumps({
        "domain": "beta.test", "expires": expires,
        "keys": [{"kid": key.kid, "key": key.public, "not_before": 0, "not_after": 2**40}],
    })  # fmt: skip
    for _ in range(2):
        assert keys.ask(BETA, key.kid).knows(key.kid)
    assert keys.asked == [BETA]
    keys.clock.advance(MAX_KEPT)
    keys.ask(BETA, key.kid)
    assert keys.asked == [BETA, BETA]


def test_what_was_remembered_of_the_peer_stays(keys: Keys) -> None:
    keys.loop.one(keys.store.remember_peer(Peer(BETA, 5e9, b"not a key set any more", 5e9)))
    key = SigningKey.generate(BETA)
    octets = keys.show(BETA, key)
    assert keys.ask(BETA, key.kid).encode() == octets
    peer = keys.loop.one(keys.store.peer(BETA))
    assert (peer.parley_until, peer.keys) == (5e9, octets)


def test_who_signed(keys: Keys, tmp_path: Path) -> None:
    """Ours by the key files, others by the directory; without keys nothing is known."""
    ours, theirs = KeyStore(tmp_path / "keys", keys.clock.seconds), SigningKey.generate(BETA)
    alpha = Domain.parse("alpha.test")
    signer = DomainSigner(ours, keys.directory, keys.store, Turn(keys.clock), keys.clock.seconds, at_once)
    with pytest.raises(KeyError):
        keys.loop.one(signer.sign(alpha, b"payload"))
    ours.create(alpha)

    def verified(domain: Domain, payload: bytes = b"payload") -> Any:
        signed = keys.loop.one(signer.sign(domain, b"payload")) if domain == alpha else cose.sign(b"payload", theirs)
        (answer,) = keys.loop.all(signer.verify(Content(signed[0], payload, signed[1], {})))
        return answer

    assert verified(alpha) == alpha
    assert keys.asked == []
    keys.shown[BETA] = ConnectionError("refused")
    assert isinstance(verified(BETA), LookupError)
    keys.show(BETA, theirs)
    assert verified(BETA) == BETA
    assert isinstance(verified(BETA, b"another payload"), cose.SignatureError)
    keys.clock.advance(10**6 + 1)
    keys.show(BETA)
    assert isinstance(verified(BETA), LookupError)  # it cannot be told
