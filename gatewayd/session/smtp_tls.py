"""What a mail host has proved by its TLS, and whether that is enough (RFC 7672, RFC 8461 §4, RFC 7435)."""

from __future__ import annotations

from typing import NamedTuple

from gatewayd.core.tls_policy import Demand, Level
from gatewayd.crypto.certificates import names_host
from gatewayd.crypto.dane import Usage, matches, usable
from gatewayd.interfaces.dns import Endpoint
from gatewayd.session.link import TLSInfo

DANE = (Usage.DANE_TA, Usage.DANE_EE)  # RFC 7672 §3.1.3: the PKIX usages mean nothing between mail servers
EXPIRED = 10  # OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED


class Proof(NamedTuple):
    level: Level
    failure: str = ""  # why it is not VERIFIED, as RFC 8460 §4.3 names it
    dane: bool = False  # the TLSA records decided


def needed(endpoint: Endpoint, demand: Demand) -> Level:
    """Usable TLSA records demand a match, unusable ones TLS all the same (RFC 7672 §2.2)."""
    if demand.waived:
        return Level.PLAIN
    if usable(endpoint.tlsa, DANE):
        return Level.VERIFIED
    return max(demand.level, Level.ENCRYPTED if endpoint.tlsa else Level.PLAIN)


def prove(tls: TLSInfo | None, endpoint: Endpoint) -> Proof:
    """Where TLSA records can be used they decide alone; else a known authority and the host's name."""
    if tls is None:
        return Proof(Level.PLAIN, "starttls-not-supported")
    host = endpoint.name or endpoint.host
    records = usable(endpoint.tlsa, DANE)
    if records:
        if matches(records, tls.shown, named=lambda certificate: names_host(certificate, host)):
            return Proof(Level.VERIFIED, dane=True)
        return Proof(Level.ENCRYPTED, "validation-failure", dane=True)
    if not tls.shown:
        return Proof(Level.ENCRYPTED, "certificate-not-trusted")
    if tls.faults:
        return Proof(Level.ENCRYPTED, "certificate-expired" if EXPIRED in tls.faults else "certificate-not-trusted")
    if not names_host(tls.shown[0], host):
        return Proof(Level.ENCRYPTED, "certificate-host-mismatch")
    return Proof(Level.VERIFIED)


WORDS = {
    "starttls-not-supported": "it offers no TLS",
    "certificate-expired": "its certificate has expired",
    "certificate-not-trusted": "no known authority vouches for its certificate",
    "certificate-host-mismatch": "its certificate does not name it",
    "validation-failure": "its certificate is not the one in its TLSA records",
}


def lacking(host: str, need: Level, proof: Proof, demand: Demand, reason: str = "") -> str:
    """Why it gets no mail, for the one who asks."""
    if reason:
        why = f"us, for we {reason}"
    elif proof.dane:
        why = "DANE"
    elif demand.enforced:
        why = "MTA-STS policy"
    else:
        why = "what its domain had before (gatewayctl tls forget lowers that)"
    what = "a verified host" if need is Level.VERIFIED else "TLS"
    return f"{host} is not spoken to: {WORDS.get(proof.failure, proof.failure)}, and {what} is demanded by {why}"
