"""Our keys on disk: how they rotate, end, and are revoked, and that a running gateway sees what gatewayctl did. Keys in
zones."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from gatewayd.address import Domain
from gatewayd.crypto.domain_keys import DAY, MAX_KEYS, OVERLAP, SKEW, KeySet, KeySetError, KeyStore, PublicKey

ALPHA = Domain.parse("alpha.test")
SHOWN_FOR = 3600


@pytest.fixture
def clock() -> Clock:
    made = Clock()
    made.advance(1_000_000)
    return made


@pytest.fixture
def keys(tmp_path: Path, clock: Clock) -> KeyStore:
    return KeyStore(tmp_path, clock.seconds, shown_for=SHOWN_FOR)


def test_a_new_key_signs_when_every_set_without_it_is_over(keys: KeyStore, clock: Clock) -> None:
    old = keys.create(ALPHA)
    last_without = keys.key_set(ALPHA)
    new = keys.rotate(ALPHA)
    assert keys.key_set(ALPHA).knows(new.kid)  # shown at once
    while keys.signing_key(ALPHA).kid == old.kid:
        clock.advance(60)
    assert clock.seconds() > last_without.expires
    set_ = keys.key_set(ALPHA)
    assert set_.find(new.kid, clock.seconds() - SKEW + 60) is None and set_.find(new.kid, clock.seconds())
    assert set_.find(old.kid, clock.seconds())  # what it signed is on its way


def test_an_old_key_ends_when_what_it_signed_has_been_delivered(keys: KeyStore, clock: Clock) -> None:
    old = keys.create(ALPHA)
    assert keys.key_set(ALPHA).keys[0].not_after == clock.seconds() + 366 * DAY
    new = keys.rotate(ALPHA)
    clock.advance(SHOWN_FOR + SKEW + OVERLAP)
    assert keys.key_set(ALPHA).knows(old.kid)
    clock.advance(1)
    assert [key.kid for key in keys.key_set(ALPHA).keys] == [new.kid]


def test_one_rotation_at_a_time(keys: KeyStore, clock: Clock) -> None:
    keys.create(ALPHA)
    keys.rotate(ALPHA)
    with pytest.raises(ValueError, match="about to take over"):
        keys.rotate(ALPHA)
    for _ in range(2 * MAX_KEYS):
        clock.advance(SHOWN_FOR + SKEW)
        keys.rotate(ALPHA)
        set_ = keys.key_set(ALPHA)
        assert len(set_.keys) <= MAX_KEYS and set_.find(keys.signing_key(ALPHA).kid, clock.seconds())


def test_renewal_comes_before_the_end(keys: KeyStore, clock: Clock) -> None:
    assert keys.renew(ALPHA) is None  # no domain of ours, or one whose operator is about to make a key
    keys.create(ALPHA)
    assert keys.renew(ALPHA) is None
    clock.advance(337 * DAY)
    new = keys.renew(ALPHA)
    assert new is not None and keys.renew(ALPHA) is None
    old = keys.signing_key(ALPHA)
    assert old.kid != new.kid
    for day in range(1, 90):  # in time for the operator to publish it, and for what the old one signed to arrive
        clock.advance(DAY)
        assert keys.signing_key(ALPHA).kid == (old.kid if day < 15 else new.kid)
        assert keys.key_set(ALPHA).knows(old.kid) is (day <= 29)


def test_records_say_the_keys(keys: KeyStore) -> None:
    keys.create(ALPHA)
    keys.rotate(ALPHA)
    shown = keys.key_set(ALPHA)
    texts = [key.record.encode() for key in shown.keys]
    assert KeySet.of_records(ALPHA, texts, shown.expires) == shown
    assert KeySet.of_records(ALPHA, [b"v=spf1 -all", texts[1]], 5) == KeySet("alpha.test", 5, shown.keys[1:])
    with pytest.raises(KeySetError):
        KeySet.of_records(ALPHA, texts * 9, 5)


KEY = b"k=" + b"AQEB" * 10 + b"AQE="


@pytest.mark.parametrize(
    "text", [b"v=parley1; " + KEY + b"; from=1; until=2", b"t=?;until = 2;from=1 ; v=parley1;" + KEY]
)
def test_a_record_that_can_be_used(text: bytes) -> None:
    assert PublicKey.of_record(text) == PublicKey(sha256(b"\1" * 32).digest()[:8], b"\1" * 32, 1, 2)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"v=parley2; " + KEY + b"; from=1; until=2",
        KEY + b"; from=1; until=2",
        b"v=parley1; from=1; until=2",
        b"v=parley1; k=AQEB; from=1; until=2",
        b"v=parley1; " + KEY + b"!; from=1; until=2",
        b"v=parley1; " + KEY + b"; until=2",
        b"v=parley1; " + KEY + b"; from=2; until=1",
        b"v=parley1; " + KEY + b"; from=-1; until=1",
        b"v=parley1; " + KEY + b"; from=1; until=1e9",
        b"v=parley1; " + KEY + b"; from=1; until=2; until=3",
    ],
)
def test_records_that_say_no_key(text: bytes) -> None:
    assert PublicKey.of_record(text) is None
    assert KeySet.of_records(ALPHA, [text], 5) is None


@given(st.binary())
def test_whatever_a_record_says(text: bytes) -> None:
    assert PublicKey.of_record(b"v=parley1; " + text) is None or b"k=" in text


def test_a_revoked_key_is_shown_no_longer_and_another_signs(keys: KeyStore, tmp_path: Path) -> None:
    stolen = keys.create(ALPHA)
    signs = keys.revoke(ALPHA, stolen.kid)
    assert signs.kid != stolen.kid and keys.signing_key(ALPHA).kid == signs.kid
    assert [key.kid for key in keys.key_set(ALPHA).keys] == [signs.kid]
    assert (tmp_path / "alpha.test" / f"{stolen.kid.hex()}.revoked").stat().st_mode & 0o777 == 0o600
    with pytest.raises(KeyError):
        keys.revoke(ALPHA, stolen.kid)
    with pytest.raises(KeyError):
        keys.revoke(ALPHA, b"unknown!")


def test_revoking_makes_no_key_where_another_one_can_sign(keys: KeyStore, clock: Clock) -> None:
    old = keys.create(ALPHA)
    new = keys.rotate(ALPHA)
    assert keys.revoke(ALPHA, new.kid).kid == old.kid
    assert len(keys.key_set(ALPHA).keys) == 1
    waiting = keys.rotate(ALPHA)
    now = keys.revoke(ALPHA, old.kid)  # the waiting one is not good yet: another begins at once
    assert {key.kid for key in keys.key_set(ALPHA).keys} == {waiting.kid, now.kid}
    clock.advance(SHOWN_FOR + SKEW)
    assert keys.signing_key(ALPHA).kid == waiting.kid


def test_what_another_process_does_is_seen_at_once(keys: KeyStore, tmp_path: Path, clock: Clock) -> None:
    running = KeyStore(tmp_path, clock.seconds)
    with pytest.raises(KeyError):
        running.signing_key(ALPHA)
    first = keys.create(ALPHA)
    assert running.signing_key(ALPHA).kid == first.kid
    second = keys.rotate(ALPHA)
    assert running.key_set(ALPHA).knows(second.kid)
    third = keys.revoke(ALPHA, first.kid)
    assert not running.key_set(ALPHA).knows(first.kid)
    assert running.signing_key(ALPHA).kid == third.kid
