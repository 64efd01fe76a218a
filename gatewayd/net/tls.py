"""TLS contexts, and the check of a listener's certificate (RFC 8446, RFC 7301, RFC 9525, RFC 7671).

Parley: TLS 1.3 only, ALPN parley/1, and the certificate names the domain that is dialled. Classic mail: TLS 1.2 up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from sys import intern
from typing import cast

from cryptography import x509
from OpenSSL import SSL
from service_identity import VerificationError
from service_identity.cryptography import extract_patterns
from service_identity.exceptions import CertificateError
from service_identity.hazmat import DNS_ID, SRV_ID, DNSPattern, SRVPattern, verify_service_identity
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from gatewayd.address import Domain
from gatewayd.crypto import dane
from gatewayd.session.link import TLSInfo

PARLEY_ALPN = b"parley/1"
EXPORTER_LABEL = b"EXPORTER-Channel-Binding"  # RFC 9266 §4.2
EXPORTER_LENGTH = 32


class CertificateRejected(ConnectionError):
    """The listener's certificate does not prove that it speaks for the domain."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose certificates are believed: the system's authorities, or one PEM file of them."""

    authorities: Path | None = None


def server_context(certificate: Path, key: Path, *, parley: bool) -> SSL.Context:
    """Raises SSL.Error when the files do not hold a matching certificate chain and key."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate_chain_file(str(certificate))
    context.use_privatekey_file(str(key))
    context.check_privatekey()
    context.set_min_proto_version(SSL.TLS1_3_VERSION if parley else SSL.TLS1_2_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # 32 KiB less for a connection that is idle
    context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION | SSL.OP_NO_TICKET)
    if parley:
        context.set_alpn_select_callback(
            lambda _, offered: PARLEY_ALPN if PARLEY_ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS
        )
    return context


@implementer(IOpenSSLServerConnectionCreator)
class ServerConnections:
    """Makes a listener's, all of one context."""

    def __init__(self, context: SSL.Context) -> None:
        self._context = context

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(self._context, None)


class JudgedConnection(SSL.Connection):
    """Of a `judged` context."""

    faults: list[int]  # OpenSSL's numbers for what is wrong with the chain; whoever makes the connection sets it


@lru_cache(maxsize=8)  # to read all authorities of the world takes longer than a handshake
def _client_context(trust: Trust, changed: float, parley: bool, judged: bool) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION if parley else SSL.TLS1_2_VERSION)
    if trust.authorities is not None:
        context.load_verify_locations(str(trust.authorities))
    else:
        context.set_default_verify_paths()
    if judged:

        def found(connection: SSL.Connection, certificate: object, error: int, depth: int, good: int) -> bool:
            if not good:
                cast(JudgedConnection, connection).faults.append(error)
            return True

        context.set_verify(SSL.VERIFY_PEER, found)
    else:
        context.set_verify(SSL.VERIFY_PEER)
    if parley:
        context.set_alpn_protos([PARLEY_ALPN])
    return context


def client_context(trust: Trust, *, parley: bool, judged: bool = False) -> SSL.Context:
    """One for many connections. `judged`: the handshake goes on whatever is wrong with the chain, and the
    JudgedConnection keeps what that is. Raises OSError."""
    changed = trust.authorities.stat().st_mtime if trust.authorities is not None else 0.0
    return _client_context(trust, changed, parley, judged)


def tls_info(connection: SSL.Connection, faults: Sequence[int] | None = None) -> TLSInfo:
    """What the handshake settled. With `faults`, what the other side has shown too."""
    version = connection.get_protocol_version_name()
    exporter = b""
    if version == "TLSv1.3":  # below it the exporter needs the extended master secret: not offered (RFC 9266 §3)
        exporter = connection.export_keying_material(EXPORTER_LABEL, EXPORTER_LENGTH, b"")
    return TLSInfo(  # the same few words for all connections
        version=intern(version),
        cipher=intern(connection.get_cipher_name() or ""),
        alpn=intern(connection.get_alpn_proto_negotiated().decode("ascii", "replace")),
        exporter=exporter,
        shown=tuple(connection.get_peer_cert_chain(as_cryptography=True) or ()) if faults is not None else (),
        faults=tuple(faults or ()),
    )


def names_domain(certificate: x509.Certificate, domain: Domain) -> bool:
    """SRV-ID `_parley.<domain>`, else DNS-ID `<domain>`; no wildcards (RFC 9525 §6.3; docs/parley.rst)."""
    try:
        patterns = [
            pattern
            for pattern in extract_patterns(certificate)
            if not (isinstance(pattern, DNSPattern) and b"*" in pattern.pattern)
        ]
    except (CertificateError, ValueError):
        return False
    has_srv = any(isinstance(pattern, SRVPattern) and pattern.name_pattern == b"parley" for pattern in patterns)
    wanted = SRV_ID(f"_parley.{domain.name}") if has_srv else DNS_ID(domain.name)
    try:
        verify_service_identity(patterns, obligatory_ids=[wanted], optional_ids=[])
    except (VerificationError, CertificateError):
        return False
    return True


def check_listener(
    connection: SSL.Connection, domain: Domain, tlsa: Sequence[dane.TLSA] = (), faults: Sequence[int] = ()
) -> None:
    """After the handshake: the protocol, and the certificate; by the usable records of `tlsa` if there are any, else
    by its name alone, for the handshake has checked the chain. Raises CertificateRejected."""
    if connection.get_alpn_proto_negotiated() != PARLEY_ALPN:  # OpenSSL does not abort when none was offered
        raise CertificateRejected("the listener does not speak parley/1 (ALPN)")
    if tlsa:
        shown = connection.get_peer_cert_chain(as_cryptography=True) or []
        verified = [] if faults else connection.get_verified_chain(as_cryptography=True) or []
        if not dane.matches(tlsa, shown, named=lambda shown: names_domain(shown, domain), verified=verified):
            raise CertificateRejected(f"the listener's certificate is not the one in the TLSA records of {domain}")
        return
    certificate = connection.get_peer_certificate()
    if certificate is None or not names_domain(certificate.to_cryptography(), domain):
        raise CertificateRejected(f"the listener's certificate does not name {domain}")
