"""COSE_Sign1 by a domain key (RFC 9052 §4.2, §4.4; EdDSA: RFC 9053 §2.2), over the exact payload octets."""

from __future__ import annotations

from typing import Any

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gatewayd.address import AddressError, Domain
from gatewayd.crypto.domain_keys import KeySet, SigningKey

ALG, KID, ISSUER = 1, 4, "iss"  # header labels; "iss" is our own, a text label (RFC 9052 §1.4)
EDDSA = -8
_MAX_HEADER = 512


class SignatureError(ValueError):
    """The signature does not hold, or names no key that could have made it."""


def _structure(protected: bytes, payload: bytes) -> bytes:
    return cbor2.dumps(["Signature1", protected, b"", payload])  # Sig_structure, RFC 9052 §4.4


def sign(payload: bytes, key: SigningKey) -> tuple[bytes, bytes]:
    """(protected header, signature)"""
    protected = cbor2.dumps({ALG: EDDSA, KID: key.kid, ISSUER: key.domain.name}, canonical=True)
    return protected, key.private.sign(_structure(protected, payload))


def signer(protected: bytes) -> tuple[Domain, bytes]:
    """The domain and the kid that the header claims. Raises SignatureError."""
    if len(protected) > _MAX_HEADER:
        raise SignatureError("protected header too long")
    try:
        header: Any = cbor2.loads(protected, max_depth=2, allow_indefinite=False, allow_duplicate_keys=False)
    except (cbor2.CBORDecodeError, ValueError) as error:
        raise SignatureError(f"bad protected header: {error}") from None
    match header:
        case {1: -8, 4: bytes() as kid, "iss": str() as issuer} if len(header) == 3:  # no "crit", nothing unknown
            try:
                return Domain.parse(issuer), kid
            except AddressError as error:
                raise SignatureError(f"bad issuer: {error}") from None
    raise SignatureError("the protected header must be exactly {alg: EdDSA, kid, iss}")


def verify(protected: bytes, payload: bytes, signature: bytes, key_set: KeySet, when: float) -> Domain:
    """Who signed. `when`: the time at which the key must be good. Raises SignatureError."""
    domain, kid = signer(protected)
    if domain.name != key_set.domain:
        raise SignatureError("signed by another domain")
    key = key_set.find(kid, when)
    if key is None:
        raise SignatureError("the signing domain shows no such key for this time")
    check(key.key, signature, _structure(protected, payload))
    return domain


def check(key: bytes, signature: bytes, octets: bytes) -> None:
    """One Ed25519 signature. Raises SignatureError."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, octets)
    except (InvalidSignature, ValueError):
        raise SignatureError("the signature does not hold") from None
