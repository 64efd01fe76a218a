"""TLSA records against certificates: what matches, what does not, and what each usage asks for besides."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256, sha512

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.crypto.certificates import issue, make_authority
from gatewayd.crypto.dane import TLSA, Usage, matches, usable

AUTHORITY = make_authority("Authority")
OTHER = make_authority("Authority")  # the same name, another key
LONG_AGO = datetime.now(UTC) - timedelta(days=400)


def certificate(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


SERVER = certificate(issue(*AUTHORITY, ["there.test"])[1])
EXPIRED = certificate(issue(*AUTHORITY, ["there.test"], days=30, now=LONG_AGO)[1])
CA = certificate(AUTHORITY[1])
OTHER_CA = certificate(OTHER[1])
CHAIN = [SERVER, CA]


def octets(of: x509.Certificate, selector: int) -> bytes:
    if selector == 0:
        return of.public_bytes(Encoding.DER)
    return of.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def record(usage: int, of: x509.Certificate, selector: int = 1, matching: int = 1) -> TLSA:
    data = octets(of, selector)
    return TLSA(usage, selector, matching, [data, sha256(data).digest(), sha512(data).digest()][matching])


def yes(_: x509.Certificate) -> bool:
    return True


def no(_: x509.Certificate) -> bool:
    return False


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
@pytest.mark.parametrize(
    ("usage", "right", "wrong"),
    [
        (Usage.PKIX_TA, CA, SERVER),
        (Usage.PKIX_EE, SERVER, CA),
        (Usage.DANE_TA, CA, SERVER),
        (Usage.DANE_EE, SERVER, CA),
    ],
)
def test_each_usage_selector_and_matching_type(
    usage: Usage, right: x509.Certificate, wrong: x509.Certificate, selector: int, matching: int
) -> None:
    good = usable([record(usage, right, selector, matching)])
    assert matches(good, CHAIN, named=yes, verified=CHAIN)
    bad = usable([record(usage, wrong, selector, matching), record(usage, OTHER_CA, selector, matching)])
    assert len(bad) == 2
    assert not matches(bad, CHAIN, named=yes, verified=CHAIN)
    assert matches(bad + good, CHAIN, named=yes, verified=CHAIN)  # one of them is enough


def test_pkix_usages_ask_for_pkix_too() -> None:
    for usage, of in ((Usage.PKIX_TA, CA), (Usage.PKIX_EE, SERVER)):
        assert not matches([record(usage, of)], CHAIN, named=yes)
        assert not matches([record(usage, of)], CHAIN, named=no, verified=CHAIN)


def test_dane_ee_looks_at_nothing_else() -> None:
    """RFC 7671 §5.1: neither at names nor at dates."""
    assert matches([record(Usage.DANE_EE, EXPIRED)], [EXPIRED], named=no)


def test_dane_ta_asks_for_a_name_and_for_a_chain_that_is_good_now() -> None:
    anchor = [record(Usage.DANE_TA, CA)]
    assert matches(anchor, CHAIN, named=yes)
    assert not matches(anchor, CHAIN, named=no)
    assert not matches(anchor, [SERVER], named=yes)  # the server has to show it (RFC 7671 §5.2.2)
    assert not matches(anchor, [EXPIRED, CA], named=yes)
    assert not matches(anchor, [certificate(issue(*OTHER, ["there.test"])[1]), CA], named=yes)
    assert not matches(anchor, [CA, SERVER], named=yes)


def test_an_anchor_below_the_root() -> None:
    """RFC 7671 §5.2.3: it need not be self-signed; nothing above it is asked for."""
    built = (
        x509.CertificateBuilder()
        .subject_name(CA.subject)
        .issuer_name(x509.Name([]))
        .public_key(CA.public_key())
        .serial_number(1)
        .not_valid_before(CA.not_valid_before_utc)
        .not_valid_after(CA.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    )
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    between = built.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    assert matches([record(Usage.DANE_TA, between, 0)], [SERVER, between], named=yes)


def test_what_cannot_be_used_is_left_out() -> None:
    good = record(Usage.DANE_EE, SERVER)
    for bad in (
        good._replace(usage=4), good._replace(usage=255), good._replace(selector=2), good._replace(matching=3),
        good._replace(data=b""), good._replace(data=good.data[:-1]), good._replace(matching=0, data=b""),
    ):  # fmt: skip
        assert usable([bad]) == ()
        assert usable([bad, good]) == (good,)
    assert usable([good, record(Usage.PKIX_EE, SERVER)], {Usage.DANE_TA, Usage.DANE_EE}) == (good,)


def test_only_the_strongest_digest_counts() -> None:
    """RFC 7671 §9, for each usage and selector apart; whole values count beside it."""
    strong = record(Usage.DANE_EE, SERVER, matching=2)
    weak = record(Usage.DANE_EE, OTHER_CA, matching=1)
    whole = record(Usage.DANE_EE, SERVER, matching=0)
    apart = record(Usage.DANE_EE, SERVER, selector=0, matching=1)
    assert usable([weak, strong, whole, apart]) == (strong, whole, apart)
    assert not matches(usable([weak, strong]), [OTHER_CA], named=yes)


def test_who_shows_nothing_matches_nothing() -> None:
    assert not matches([record(Usage.DANE_EE, SERVER)], [], named=yes)
    assert not matches([], CHAIN, named=yes, verified=CHAIN)


@given(st.lists(st.builds(TLSA, st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=70))))
def test_rubbish_matches_nothing_and_breaks_nothing(records: list[TLSA]) -> None:
    assert not matches(usable(records), CHAIN, named=yes, verified=CHAIN)
    assert not matches(records, CHAIN, named=yes, verified=CHAIN)
