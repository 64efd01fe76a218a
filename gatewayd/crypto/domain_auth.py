"""How a dialling domain proves itself: its domain key signs both names and the TLS exporter (docs/parley.rst).

The exporter (RFC 9266) ties the proof to this one connection; the label and the role keep it from meaning anything
else.
"""

from __future__ import annotations

import cbor2

from gatewayd.address import Domain
from gatewayd.crypto.cose import SignatureError, check
from gatewayd.crypto.domain_keys import KeySet, SigningKey

LABEL = "parley/1 domain auth"
ROLE = "dialler"


def _octets(dialling: Domain, listening: Domain, exporter: bytes) -> bytes:
    if len(exporter) != 32:
        raise SignatureError("no TLS exporter to bind to")
    return cbor2.dumps([LABEL, ROLE, dialling.name, listening.name, exporter])


def sign(key: SigningKey, listening: Domain, exporter: bytes) -> bytes:
    return key.private.sign(_octets(key.domain, listening, exporter))


def verify(
    signature: bytes, kid: bytes, key_set: KeySet, dialling: Domain, listening: Domain, exporter: bytes, when: float
) -> None:
    """Raises SignatureError."""
    if key_set.domain != dialling.name:
        raise SignatureError("keys of another domain")
    key = key_set.find(kid, when)
    if key is None:
        raise SignatureError("the domain shows no such key for this time")
    check(key.key, signature, _octets(dialling, listening, exporter))
