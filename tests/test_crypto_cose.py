"""crypto/cose.py, crypto/domain_keys.py and crypto/domain_auth.py."""

from __future__ import annotations

from pathlib import Path

import cbor2
import pytest

from gatewayd.address import Domain
from gatewayd.crypto import cose, domain_auth
from gatewayd.crypto.cose import SignatureError
from gatewayd.crypto.domain_keys import KeySet, KeySetError, KeyStore

A, B = Domain("a.example"), Domain("b.example")
NOW = 1_700_000_000


class Clock:
    now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(tmp_path: Path, clock: Clock) -> KeyStore:
    return KeyStore(tmp_path / "keys", clock)


def test_keys_are_private_files_and_load_again(keys: KeyStore, tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(KeyError):
        keys.signing_key(A)
    made = keys.create(A)
    (path,) = (tmp_path / "keys" / "a.example").iterdir()
    assert path.name == f"{made.kid.hex()}.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    again = KeyStore(tmp_path / "keys", clock)
    assert again.signing_key(A).kid == made.kid
    assert again.key_set(A) == keys.key_set(A)


def test_rotation_overlaps(keys: KeyStore, clock: Clock) -> None:
    old = keys.create(A)
    new = keys.create(A, not_before=NOW + 7200)
    assert {k.kid for k in keys.key_set(A).keys} == {old.kid, new.kid}
    assert keys.signing_key(A).kid == old.kid
    clock.now += 7200
    assert keys.signing_key(A).kid == new.kid
    assert keys.key_set(A).knows(old.kid)


def test_key_set_round_trip_and_refusals(keys: KeyStore) -> None:
    keys.create(A)
    encoded = keys.key_set(A).encode()
    assert KeySet.decode(encoded, A) == keys.key_set(A)
    for bad in (b"", b"\xff", encoded[:-1], cbor2.dumps({"domain": "a.example"}), cbor2.dumps([1])):
        with pytest.raises(KeySetError):
            KeySet.decode(bad, A)
    with pytest.raises(KeySetError):
        KeySet.decode(encoded, B)


def test_sign_and_verify(keys: KeyStore) -> None:
    keys.create(A)
    keys.create(B)
    protected, signature = cose.sign(b"payload", keys.signing_key(A))
    assert cose.signer(protected) == (A, keys.signing_key(A).kid)
    assert cose.verify(protected, b"payload", signature, keys.key_set(A), NOW) == A
    for arguments in (
        (protected, b"Payload", signature, keys.key_set(A), NOW),
        (protected, b"payload", signature[:-1] + bytes([signature[-1] ^ 1]), keys.key_set(A), NOW),
        (protected, b"payload", b"", keys.key_set(A), NOW),
        (protected, b"payload", signature, keys.key_set(B), NOW),
        (protected, b"payload", signature, keys.key_set(A), NOW - 10),
    ):
        with pytest.raises(SignatureError):
            cose.verify(*arguments)


def test_one_signature_for_a_batch(keys: KeyStore) -> None:
    keys.create(A)
    payloads = [b"payload %d" % n for n in range(5)]
    signed = cose.sign_batch(payloads, keys.signing_key(A))
    assert len({protected for protected, _ in signed}) == len({signature[:64] for _, signature in signed}) == 1
    for payload, (protected, signature) in zip(payloads, signed, strict=True):  # each alone, by whoever has the keys
        cose._check_root.cache_clear()
        assert cose.verify(protected, payload, signature, keys.key_set(A), NOW) == A
    protected, signature = signed[3]
    for at in range(len(signature)):
        for bit in (1, 128):
            tampered = bytearray(signature)
            tampered[at] ^= bit
            with pytest.raises(SignatureError):
                cose.verify(protected, payloads[3], bytes(tampered), keys.key_set(A), NOW)
    for end in range(len(signature)):
        with pytest.raises(SignatureError):
            cose.verify(protected, payloads[3], signature[:end], keys.key_set(A), NOW)
    alone = cose.sign(payloads[3], keys.signing_key(A))
    for header, payload, octets in (
        (protected, payloads[2], signature),
        (protected, payloads[3], signature + bytes(32)),
        (protected, payloads[3], signed[2][1]),
        (protected, payloads[3], alone[1]),  # what is signed says how
        (alone[0], payloads[3], signature),
        (alone[0], payloads[3], signature[:64]),
    ):
        with pytest.raises(SignatureError):
            cose.verify(header, payload, octets, keys.key_set(A), NOW)


def test_a_batch_of_one_is_signed_as_ever(keys: KeyStore) -> None:
    key = keys.create(A)
    assert cose.sign_batch([b"payload"], key) == [cose.sign(b"payload", key)]


@pytest.mark.parametrize(
    "header",
    [
        {1: -7, 4: b"k", "iss": "a.example"},
        {1: -8, 4: b"k"},
        {1: -8, 4: b"k", "iss": "a.example", 2: ["x"]},
        {1: -8, 4: "k", "iss": "a.example"},
        {1: -8, 4: b"k", "iss": "not a domain"},
        [1],
    ],
)
def test_bad_protected_headers(header: object) -> None:
    with pytest.raises(SignatureError):
        cose.signer(cbor2.dumps(header))


def test_domain_proof_holds_for_one_connection_and_direction(keys: KeyStore) -> None:
    key = keys.create(A)
    exporter = bytes(range(32))
    proof = domain_auth.sign(key, B, exporter)
    domain_auth.verify(proof, key.kid, keys.key_set(A), A, B, exporter, NOW)
    for dialling, listening, bound in ((A, B, bytes(32)), (B, A, exporter), (A, A, exporter)):
        with pytest.raises(SignatureError):
            domain_auth.verify(proof, key.kid, keys.key_set(A), dialling, listening, bound, NOW)
    with pytest.raises(SignatureError):
        domain_auth.sign(key, B, b"")
