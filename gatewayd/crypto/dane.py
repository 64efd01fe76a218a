"""Whether a TLS server is the one that its TLSA records speak of (RFC 6698, RFC 7671): a pure function.

The caller has seen to it that the records, and the SRV or MX record that led to them, are DNSSEC-secure. Where the
records can be used they decide alone: a server that they do not match is not the right one, whatever PKIX says of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from enum import IntEnum
from hashlib import sha256, sha512
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import crypto


class Usage(IntEnum):
    """RFC 6698 §2.1.1, with the names of RFC 7218."""

    PKIX_TA = 0
    PKIX_EE = 1
    DANE_TA = 2
    DANE_EE = 3


class TLSA(NamedTuple):
    """RFC 6698 §2.1: selector 0 the certificate, 1 its public key; matching 0 all of it, 1 SHA-256, 2 SHA-512."""

    usage: int
    selector: int
    matching: int
    data: bytes

    @classmethod
    def of(cls, certificate: x509.Certificate, usage: Usage) -> TLSA:
        """By the SHA-256 of its public key, as RFC 7671 §5.1 recommends: it outlives the certificate's renewal."""
        return cls(usage, 1, 1, sha256(_octets(certificate, 1)).digest())

    def __str__(self) -> str:
        """RFC 6698 §2.2."""
        return f"{self.usage:d} {self.selector} {self.matching} {self.data.hex()}"


_DIGESTS = {1: sha256, 2: sha512}


def usable(records: Sequence[TLSA], usages: Collection[int] = frozenset(Usage)) -> tuple[TLSA, ...]:
    """Those that can be used; the others count as not being there (RFC 6698 §4.1). SMTP takes only the DANE usages
    (RFC 7672 §3.1.3)."""
    good = [r for r in records if r.usage in usages and r.selector in {0, 1} and _is_data(r)]
    strongest = {r[:2]: max(other.matching for other in good if other[:2] == r[:2]) for r in good}
    return tuple(r for r in good if r.matching in {0, strongest[r[:2]]})  # the best digest alone (RFC 7671 §9)


def _is_data(record: TLSA) -> bool:
    if record.matching == 0:
        return bool(record.data)
    digest = _DIGESTS.get(record.matching)
    return digest is not None and len(record.data) == digest().digest_size


def matches(
    records: Sequence[TLSA],
    shown: Sequence[x509.Certificate],
    *,
    named: Callable[[x509.Certificate], bool],
    verified: Sequence[x509.Certificate] = (),
) -> bool:
    """Whether one of the usable `records` holds of the certificates that the server has `shown`, its own first.

    `named` tells whether a certificate has a name that the server must have. `verified` is the chain that PKIX found
    good, empty if it found none.
    """
    return bool(shown) and any(_holds(record, shown, named, verified) for record in records)


def _holds(
    record: TLSA,
    shown: Sequence[x509.Certificate],
    named: Callable[[x509.Certificate], bool],
    verified: Sequence[x509.Certificate],
) -> bool:
    server = shown[0]
    match record.usage:
        case Usage.DANE_EE:  # neither names nor dates count: the record binds them (RFC 7671 §5.1)
            return _is(record, server)
        case Usage.DANE_TA:  # RFC 7671 §5.2
            anchors = [certificate for certificate in shown[1:] if _is(record, certificate)]
            return named(server) and any(_issued(anchor, shown) for anchor in anchors)
        case Usage.PKIX_EE:
            return bool(verified) and named(server) and _is(record, server)
        case Usage.PKIX_TA:
            return named(server) and any(_is(record, certificate) for certificate in verified[1:])
    return False


def _is(record: TLSA, certificate: x509.Certificate) -> bool:
    octets = _octets(certificate, record.selector)
    digest = _DIGESTS.get(record.matching)
    return record.data == (octets if digest is None else digest(octets).digest())


def _octets(certificate: x509.Certificate, selector: int) -> bytes:
    if selector == 0:
        return certificate.public_bytes(Encoding.DER)
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _issued(anchor: x509.Certificate, shown: Sequence[x509.Certificate]) -> bool:
    """A chain leads from the server's certificate to `anchor`, and every one in it is good now (RFC 5280 §6)."""
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(anchor))
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)  # the anchor need not be self-signed
    server, *others = [crypto.X509.from_cryptography(certificate) for certificate in shown]
    try:
        crypto.X509StoreContext(store, server, others).verify_certificate()
    except crypto.X509StoreContextError:
        return False
    return True
