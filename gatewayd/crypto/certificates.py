"""A self-made authority and server certificates, for loopback, demo and tests; the world's use a public authority.

RFC 5280 (profile), RFC 4985 (SRVName), RFC 9525 (which identities a client looks for). P-256, for clients of any age.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from service_identity import VerificationError
from service_identity.cryptography import extract_patterns
from service_identity.exceptions import CertificateError
from service_identity.hazmat import DNS_ID, verify_service_identity

SRV_NAME = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7")  # id-on-dnsSRV, RFC 4985 §2
AUTHORITY_DAYS = 3650
_IA5_STRING = 0x16
_SKEW = timedelta(hours=1)  # clocks differ


def names_host(certificate: x509.Certificate, host: str) -> bool:
    """Whether a DNS-ID is the host's name; "*" stands for a whole first label (RFC 9525 §6.3, RFC 8461 §4.1)."""
    try:
        verify_service_identity(extract_patterns(certificate), obligatory_ids=[DNS_ID(host)], optional_ids=[])
    except (VerificationError, CertificateError, ValueError):
        return False
    return True


def make_authority(name: str, now: datetime | None = None) -> tuple[bytes, bytes]:
    """(key, certificate) as PEM. It may sign servers, and no further authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(subject, subject, key.public_key(), AUTHORITY_DAYS, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return _pem(key), certificate.public_bytes(serialization.Encoding.PEM)


def issue(
    ca_key: bytes,
    ca_cert: bytes,
    names: Sequence[str],
    srv_domains: Sequence[str] = (),
    days: int = 365,
    now: datetime | None = None,
) -> tuple[bytes, bytes]:
    """(key, certificate) as PEM for DNS names and IP addresses, and `_parley.<domain>` for each of `srv_domains`."""
    authority = x509.load_pem_x509_certificate(ca_cert)
    signer = serialization.load_pem_private_key(ca_key, None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise ValueError("the authority's key is not an elliptic curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])  # ub-common-name, RFC 5280 A.1
    identities = [_identity(name) for name in names]
    identities += [x509.OtherName(SRV_NAME, _ia5(f"_parley.{domain}")) for domain in srv_domains]
    certificate = (
        _builder(subject, authority.subject, key.public_key(), days, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(identities), critical=False)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
            critical=False,
        )
        .sign(signer, hashes.SHA256())
    )
    return _pem(key), certificate.public_bytes(serialization.Encoding.PEM)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int, now: datetime | None
) -> x509.CertificateBuilder:
    start = (now or datetime.now(UTC)) - _SKEW
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _identity(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _ia5(text: str) -> bytes:
    """DER of an IA5String (X.690 §8.23); a name has at most 255 octets (RFC 1035 §2.3.4)."""
    octets = text.encode("ascii")
    length = len(octets)
    return bytes([_IA5_STRING, length] if length < 0x80 else [_IA5_STRING, 0x81, length]) + octets


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
