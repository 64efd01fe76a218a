"""COSE_Sign1 by a domain key (RFC 9052 §4.2, §4.4), over the exact payload octets: EdDSA (RFC 9053 §2.2), or one EdDSA
signature for a batch, each of whose objects carries the proof that it was in it (docs/parley.rst §8.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cbor2
from nacl.bindings import crypto_sign_open
from nacl.exceptions import CryptoError

from gatewayd.address import AddressError, Domain
from gatewayd.crypto import merkle
from gatewayd.crypto.domain_keys import KeySet, SigningKey

ALG, KID, ISSUER = 1, 4, "iss"  # header labels; "iss" is our own, a text label (RFC 9052 §1.4)
EDDSA = -8
BATCH = -70001  # for private use (RFC 9053 §11.1 leaves what is below -65536)
BATCH_LABEL = "parley/1 batch"
MAX_BATCH = 256  # that we sign at once: 8 steps, 256 octets of proof
_SIGNATURE = 64  # octets of Ed25519
_KEY = 32
_SIDES = 4  # octets
_MAX_HEADER = 512


class SignatureError(ValueError):
    """The signature does not hold, or names no key that could have made it."""


def sign(payload: bytes, key: SigningKey) -> tuple[bytes, bytes]:
    """(protected header, signature)"""
    protected = _protected(EDDSA, key.kid, key.domain.name)
    return protected, key.private.sign(_structure(protected, payload))


def sign_batch(payloads: Sequence[bytes], key: SigningKey) -> list[tuple[bytes, bytes]]:
    """(protected header, signature) of each; 1 to MAX_BATCH."""
    if len(payloads) == 1:
        return [sign(payloads[0], key)]
    protected = _protected(BATCH, key.kid, key.domain.name)
    root, proofs = merkle.tree([merkle.leaf(_structure(protected, payload)) for payload in payloads])
    signature = key.private.sign(_batch(root))
    return [(protected, signature + sides.to_bytes(_SIDES, "big") + path) for sides, path in proofs]


def signer(protected: bytes) -> tuple[Domain, bytes]:
    """The domain and the kid that the header claims. Raises SignatureError."""
    return _header(protected)[1:]


def to_be_signed(domain: Domain) -> bytes:
    """The header of what that domain has not signed yet."""
    return _protected(EDDSA, b"", domain.name)


def verify(protected: bytes, payload: bytes, signature: bytes, key_set: KeySet, when: float) -> Domain:
    """Who signed. `when`: the time at which the key must be good. Raises SignatureError."""
    algorithm, domain, kid = _header(protected)
    if domain.name != key_set.domain:
        raise SignatureError("signed by another domain")
    key = key_set.find(kid, when)
    if key is None:
        raise SignatureError("the signing domain shows no such key for this time")
    octets = _structure(protected, payload)
    if algorithm == EDDSA:
        check(key.key, signature, octets)
        return domain
    end = _SIGNATURE + _SIDES
    if len(signature) <= end:
        raise SignatureError("no proof of a batch")
    try:
        root = merkle.root(merkle.leaf(octets), int.from_bytes(signature[_SIGNATURE:end], "big"), signature[end:])
    except ValueError as error:
        raise SignatureError(str(error)) from None
    _check_root(key.key, signature[:_SIGNATURE], root)
    return domain


def check(key: bytes, signature: bytes, octets: bytes) -> None:
    """One Ed25519 signature. Raises SignatureError."""
    try:
        if len(signature) != _SIGNATURE or len(key) != _KEY:
            raise SignatureError("a signature has 64 octets, and a key 32")
        crypto_sign_open(signature + octets, key)  # libsodium: twice as fast as OpenSSL here, without Python's lock
    except CryptoError:
        raise SignatureError("the signature does not hold") from None


@lru_cache(1024)
def _check_root(key: bytes, signature: bytes, root: bytes) -> None:
    """Once for a batch: what has held holds. (What does not is not remembered.) Raises SignatureError."""
    check(key, signature, _batch(root))


def _structure(protected: bytes, payload: bytes) -> bytes:
    return cbor2.dumps(["Signature1", protected, b"", payload])  # Sig_structure, RFC 9052 §4.4


def _batch(root: bytes) -> bytes:
    return cbor2.dumps([BATCH_LABEL, root])


@lru_cache(64)
def _protected(algorithm: int, kid: bytes, issuer: str) -> bytes:
    return cbor2.dumps({ALG: algorithm, KID: kid, ISSUER: issuer}, canonical=True)


@lru_cache(1024)
def _header(protected: bytes) -> tuple[int, Domain, bytes]:
    if len(protected) > _MAX_HEADER:
        raise SignatureError("protected header too long")
    try:
        header: Any = cbor2.loads(protected, max_depth=2, allow_indefinite=False, allow_duplicate_keys=False)
    except (cbor2.CBORDecodeError, ValueError) as error:
        raise SignatureError(f"bad protected header: {error}") from None
    match header:
        case {1: -8 | -70001 as algorithm, 4: bytes() as kid, "iss": str() as issuer} if len(header) == 3:
            try:  # no "crit", nothing unknown
                return algorithm, Domain.parse(issuer), kid
            except AddressError as error:
                raise SignatureError(f"bad issuer: {error}") from None
    raise SignatureError("the protected header must be exactly {alg: EdDSA or a batch of it, kid, iss}")
