"""Certificates of the self-made authority: their chain and identities."""

from __future__ import annotations

import pytest
from cryptography import x509

from gatewayd.address import Domain
from gatewayd.crypto.certificates import issue, make_authority
from gatewayd.net.tls import names_domain


@pytest.mark.parametrize("domain", ["alpha.test", ".".join(["a" * 60] * 3)])
def test_identities_and_chain(domain: str) -> None:
    key, authority = make_authority("Test CA")
    _, pem = issue(key, authority, [domain, "mx.alpha.test", "localhost", "127.0.0.1"], [domain])
    certificate = x509.load_pem_x509_certificate(pem)
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
    assert names_domain(certificate, Domain(domain))
    assert not names_domain(certificate, Domain("mx.alpha.test"))  # named, but not for Parley


def test_dns_identity_alone() -> None:
    key, authority = make_authority("Test CA")
    certificate = x509.load_pem_x509_certificate(issue(key, authority, ["alpha.test"])[1])
    assert names_domain(certificate, Domain("alpha.test"))
    assert not names_domain(certificate, Domain("beta.test"))
