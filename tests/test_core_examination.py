"""SPF, DKIM and DMARC over made-up zones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gatewayd.address import Address, Domain
from gatewayd.core.examination import Examined, examine, organisational
from gatewayd.crypto.dkim import DKIMSigner
from gatewayd.interfaces import Origin, ResolutionFailed
from gatewayd.message.bridge import without_results_of

HERE = Domain.parse("mx.alpha.test")
CAROL = Address.parse("carol@good-shop.co.uk")
MAIL = b"From: Carol <carol@good-shop.co.uk>\r\nSubject: Hello\r\n\r\nBody\r\n"
ORIGIN = Origin("192.0.2.7", "mail.good-shop.co.uk")

SIGNER = DKIMSigner(
    Domain.parse("good-shop.co.uk"),
    "sel",
    Ed25519PrivateKey.from_private_bytes(b"\1" * 32).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ),
)


def zone(**texts: str) -> Callable[[str, str], list[Any]]:
    """TXT records by a short name: spf, dmarc, key (of good-shop.co.uk); A for mail.good-shop.co.uk."""
    names = {"spf": "good-shop.co.uk", "dmarc": "_dmarc.good-shop.co.uk", "key": SIGNER.name}
    records: dict[tuple[str, str], list[Any]] = {
        (names.get(key, key), "TXT"): [(text.encode(),)] for key, text in texts.items()
    }
    records["mail.good-shop.co.uk", "A"] = ["192.0.2.7"]

    def lookup(name: str, kind: str) -> list[Any]:
        if name.startswith("broken."):
            raise ResolutionFailed("SERVFAIL")
        return records.get((name.rstrip(".").lower(), kind), [])

    return lookup


def examined(mail: bytes = MAIL, sender: Address | None = CAROL, origin: Origin = ORIGIN, **texts: str) -> Examined:
    return examine(mail, origin, sender, zone(**texts))


@pytest.mark.parametrize(
    ("record", "result"),
    [
        ("v=spf1 ip4:192.0.2.0/24 -all", "pass"),
        ("v=spf1 a:mail.good-shop.co.uk -all", "pass"),
        ("v=spf1 ip4:198.51.100.1 -all", "fail"),
        ("v=spf1 ~all", "softfail"),
        ("v=spf1 ?all", "neutral"),
        ("v=spf1 include:good-shop.co.uk -all", "permerror"),  # endless
        ("v=spf1 include:broken.test -all", "temperror"),
        ("v=spf1 a:n1.test a:n2.test a:n3.test a:n4.test -all", "permerror"),  # void look-ups
        ("v=spf1 nonsense -all", "permerror"),
        ("another text", "none"),
    ],
)
def test_spf(record: str, result: str) -> None:
    found = examined(spf=record)
    assert (found.spf, found.spf_domain, found.spf_identity) == (result, "good-shop.co.uk", "mailfrom")


def test_spf_of_a_bounce_is_that_of_helo() -> None:
    found = examined(sender=None, **{"mail.good-shop.co.uk": "v=spf1 ip4:192.0.2.7 -all"})
    assert (found.spf, found.spf_domain, found.spf_identity) == ("pass", "mail.good-shop.co.uk", "helo")


def test_dkim() -> None:
    signed = SIGNER.sign(MAIL) + MAIL
    assert [s.result for s in examined(signed, key=SIGNER.record).signatures] == ["pass"]
    assert [s.result for s in examined(signed).signatures] == ["fail"]  # no key
    assert [s.result for s in examined(signed.replace(b"Body", b"Boddy"), key=SIGNER.record).signatures] == ["fail"]
    assert examined(MAIL).signatures == ()
    damaged = b"DKIM-Signature: v=1; a=\xff; nonsense\r\n" * 9 + signed
    assert len(examined(damaged, key=SIGNER.record).signatures) == 5


def test_partial_signature_is_not_trusted() -> None:
    import base64

    import dkim

    secret = base64.b64encode(b"\1" * 32)
    field = dkim.sign(MAIL, b"sel", b"good-shop.co.uk", secret, signature_algorithm=b"ed25519-sha256", length=True)
    found = examined(field + MAIL + b"added by somebody\r\n", key=SIGNER.record, dmarc="v=DMARC1; p=reject")
    assert [s.result for s in found.signatures] == ["policy"]
    assert found.dmarc == "fail"


GOOD_SPF = "v=spf1 ip4:192.0.2.7 -all"


def test_dmarc_by_spf_or_by_dkim() -> None:
    assert examined(spf=GOOD_SPF, dmarc="v=DMARC1; p=reject").dmarc == "pass"
    assert examined(SIGNER.sign(MAIL) + MAIL, key=SIGNER.record, dmarc="v=DMARC1; p=reject").dmarc == "pass"
    failed = examined(dmarc="v=DMARC1; p=reject")
    assert (failed.dmarc, failed.policy, failed.author) == ("fail", "reject", "good-shop.co.uk")
    assert examined(spf=GOOD_SPF).dmarc == "none"
    assert examined(dmarc="v=DMARC1; p=reject; pct=0").policy == "none"
    assert examined(dmarc="v=DMARC1; q=reject").dmarc == "none"


def test_dmarc_wants_the_authors_own_domain() -> None:
    """SPF of another domain proves nothing about From."""
    other = examined(sender=Address.parse("x@evil.test"), **{"evil.test": GOOD_SPF}, dmarc="v=DMARC1; p=quarantine")
    assert (other.spf, other.dmarc, other.policy) == ("pass", "fail", "quarantine")


def test_dmarc_of_subdomains() -> None:
    mail = MAIL.replace(b"carol@", b"carol@news.")
    relaxed = examined(mail, spf=GOOD_SPF, dmarc="v=DMARC1; p=none; sp=reject")
    assert (relaxed.dmarc, relaxed.policy, relaxed.author) == ("pass", "reject", "news.good-shop.co.uk")
    assert examined(mail, spf=GOOD_SPF, dmarc="v=DMARC1; p=reject; aspf=s").dmarc == "fail"
    assert organisational("a.b.good-shop.co.uk") == "good-shop.co.uk"


def test_of_several_authors_the_strictest_counts() -> None:
    mail = MAIL.replace(b"From: ", b"From: x@free.test, ")
    found = examined(mail, dmarc="v=DMARC1; p=reject")
    assert (found.dmarc, found.policy, found.author) == ("fail", "reject", "good-shop.co.uk")


def test_dead_dns_is_temporary_and_refuses_nothing() -> None:
    def dead(name: str, kind: str) -> list[Any]:
        raise ResolutionFailed("no server")

    found = examine(SIGNER.sign(MAIL) + MAIL, ORIGIN, CAROL, dead)
    assert (found.spf, found.signatures[0].result, found.dmarc, found.policy) == (
        "temperror", "temperror", "temperror", "none",
    )  # fmt: skip


@pytest.mark.parametrize("mail", [b"", b"\r\n", b"From: \xff\xfe\r\n\r\n", b"no header at all", b":\r\n\r\n"])
def test_damage_is_examined_too(mail: bytes) -> None:
    assert examined(mail).dmarc == "none"


def test_the_field() -> None:
    found = examined(
        SIGNER.sign(MAIL) + MAIL, origin=Origin("192.0.2.7", "evil;\r\nX: y"), key=SIGNER.record, spf=GOOD_SPF,
        dmarc="v=DMARC1; p=reject",
    )  # fmt: skip
    assert found.field(HERE) == (
        b"Authentication-Results: mx.alpha.test;\r\n\tspf=pass smtp.mailfrom=good-shop.co.uk;\r\n"
        b"\tdkim=pass header.d=good-shop.co.uk header.s=sel;\r\n\tdmarc=pass (p=reject) header.from=good-shop.co.uk\r\n"
    )
    evil = examined(sender=None, origin=Origin("192.0.2.7", "evil;\r\nX: y"))
    assert b"\r\nX" not in evil.field(HERE)
    assert found.summary == {"spf": "pass", "dkim": "pass good-shop.co.uk", "dmarc": "pass"}


def test_results_that_claim_to_be_ours_are_removed() -> None:
    forged = b"Authentication-Results: (x) mx.Alpha.test; dmarc=pass\r\n\theader.from=bank.test\r\n"
    others = b"Authentication-Results: mx.elsewhere.test; dmarc=pass\r\n"
    assert without_results_of(forged + others + MAIL, HERE) == others + MAIL
    assert without_results_of(others + MAIL, HERE) == others + MAIL
    assert without_results_of(others + forged + b"\r\nAuthentication-Results: mx.alpha.test; x\r\n", HERE) == (
        others + b"\r\nAuthentication-Results: mx.alpha.test; x\r\n"
    )
