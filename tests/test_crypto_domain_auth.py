"""A dialling domain's proof: what it covers, octet for octet, and everything that it is not good for."""

from __future__ import annotations

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.address import Domain
from gatewayd.crypto import domain_auth
from gatewayd.crypto.cose import SignatureError
from gatewayd.crypto.domain_keys import KeySet, PublicKey, SigningKey

ALPHA, BETA = Domain.parse("alpha.test"), Domain.parse("beta.test")
PRIVATE = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
KEY = SigningKey.of(ALPHA, PRIVATE)
SHOWN = PublicKey(KEY.kid, KEY.public, 1000, 2000)
KEYS = KeySet("alpha.test", 3000, (SHOWN,))
EXPORTER = bytes(range(32))
PROOF = domain_auth.sign(KEY, BETA, EXPORTER)


def verify(
    proof: bytes = PROOF, kid: bytes = KEY.kid, keys: KeySet = KEYS, dialling: Domain = ALPHA,
    listening: Domain = BETA, exporter: bytes = EXPORTER, when: float = 1500,
) -> None:  # fmt: skip
    domain_auth.verify(proof, kid, keys, dialling, listening, exporter, when)


def test_what_is_signed() -> None:
    """As docs/parley.rst says it, in deterministic CBOR."""
    octets = cbor2.dumps(["parley/1 domain auth", "dialler", "alpha.test", "beta.test", EXPORTER], canonical=True)
    PRIVATE.public_key().verify(PROOF, octets)
    assert octets[0] == 0x85
    verify()


def test_what_it_is_not_good_for() -> None:
    other = SigningKey.generate(ALPHA)
    shown = KeySet("alpha.test", 3000, (SHOWN, PublicKey(other.kid, other.public, 1000, 2000)))
    verify(keys=shown)
    for refused in (
        {"exporter": bytes(32)},
        {"listening": Domain.parse("gamma.test")},
        {"listening": ALPHA},
        {"dialling": BETA, "listening": ALPHA},
        {"dialling": BETA, "keys": KeySet("beta.test", 3000, (SHOWN,))},
        {"keys": KeySet("beta.test", 3000, (SHOWN,))},
        {"keys": KeySet("alpha.test", 3000, ())},
        {"kid": b""},
        {"kid": other.kid, "keys": shown},
        {"when": 999.9},
        {"when": 2000.1},
        {"proof": b""},
        {"proof": PROOF + b"\0"},
        {"proof": domain_auth.sign(other, BETA, EXPORTER)},
        {"keys": KeySet("alpha.test", 3000, (PublicKey(KEY.kid, bytes(32), 1000, 2000),))},
        {"keys": KeySet("alpha.test", 3000, (PublicKey(KEY.kid, b"short", 1000, 2000),))},
    ):
        with pytest.raises(SignatureError):
            verify(**refused)
            pytest.fail(repr(refused))


@pytest.mark.parametrize("exporter", [b"", bytes(31), bytes(33)])
def test_no_proof_without_a_binding(exporter: bytes) -> None:
    """Below TLS 1.3 there is no exporter: nothing is signed, and nothing believed."""
    with pytest.raises(SignatureError, match="exporter"):
        domain_auth.sign(KEY, BETA, exporter)
    with pytest.raises(SignatureError, match="exporter"):
        verify(exporter=exporter)


@given(st.integers(0, 511))
def test_any_flipped_bit_ends_it(bit: int) -> None:
    flipped = bytearray(PROOF)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SignatureError):
        verify(proof=bytes(flipped))


@given(st.binary(max_size=100), st.binary(max_size=40), st.binary(max_size=40))
def test_rubbish_is_refused_and_nothing_else(proof: bytes, kid: bytes, exporter: bytes) -> None:
    for how in ({"proof": proof}, {"kid": kid}, {"exporter": exporter}):
        with pytest.raises(SignatureError):
            verify(**how)  # type: ignore[arg-type]
