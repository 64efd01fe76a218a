"""SPF, DKIM and DMARC over made-up zones."""

from __future__ import annotations

import base64
import sys
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dkim
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gatewayd.address import Address, Domain
from gatewayd.core.dmarc import organisational
from gatewayd.core.examination import _SPF, Examined, examine
from gatewayd.crypto.dkim import DKIMSigner
from gatewayd.interfaces.dns import ResolutionFailed
from gatewayd.interfaces.routes import Origin
from gatewayd.message.bridge import without_results_of
from gatewayd.message.mime import Mail

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


PEM = rsa.generate_private_key(65537, 1024).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
)
RSA = DKIMSigner(Domain.parse("list.test"), "arc", PEM)


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
        b"\tdkim=pass header.d=good-shop.co.uk header.s=sel;\r\n"
        b"\tdmarc=pass (p=reject) header.from=good-shop.co.uk;\r\n"
        b"\tarc=none;\r\n\tiprev=permerror policy.iprev=192.0.2.7\r\n"
    )
    evil = examined(sender=None, origin=Origin("192.0.2.7", "evil;\r\nX: y"))
    assert b"\r\nX" not in evil.field(HERE)
    assert found.summary == {"spf": "pass", "dkim": "pass good-shop.co.uk", "dmarc": "pass", "why": found.vouched}


def test_results_that_claim_to_be_ours_are_removed() -> None:
    forged = b"Authentication-Results: (x) mx.Alpha.test; dmarc=pass\r\n\theader.from=bank.test\r\n"
    others = b"Authentication-Results: mx.elsewhere.test; dmarc=pass\r\n"
    assert without_results_of(Mail(forged + others + MAIL), HERE).octets == others + MAIL
    assert without_results_of(Mail(others + MAIL), HERE).octets == others + MAIL
    body = b"\r\nAuthentication-Results: mx.alpha.test; x\r\n"
    assert without_results_of(Mail(others + forged + body), HERE).octets == others + body


# -- those who handed it on -----------------------------------------------------------------------------------------


def forwarded(mail: bytes, dmarc: str = "pass", cv: bytes = b"") -> bytes:
    """As a mailing list sends it: its footer, and its seal upon what it saw."""
    mail = (
        b"Authentication-Results: mx.list.test; dmarc=%s header.from=x%s\r\n" % (dmarc.encode(), cv)
        + mail
        + b"Footer\r\n"
    )
    seal = dkim.arc_sign(mail, b"arc", b"list.test", PEM, b"mx.list.test", linesep=b"\r\n")
    return b"".join(seal) + mail


def test_a_trusted_list_is_believed() -> None:
    zones = {"dmarc": "v=DMARC1; p=reject", RSA.name: RSA.record}
    mail = forwarded(SIGNER.sign(MAIL) + MAIL)

    def judged(mail: bytes, *trusted: str) -> tuple[str, str, str, str]:
        found = examine(mail, ORIGIN, None, zone(**zones), trusted)
        return found.arc.result, found.arc.sealer, found.dmarc, found.policy

    assert judged(mail, "list.test") == ("pass", "list.test", "fail", "none")
    assert judged(mail, "other.test") == ("pass", "list.test", "fail", "reject")
    assert judged(forwarded(MAIL, "fail"), "list.test") == ("pass", "list.test", "fail", "reject")
    assert judged(mail.replace(b"Footer", b"Fodder"), "list.test") == ("fail", "", "fail", "reject")
    assert judged(mail.replace(b"i=1", b"i=51"), "list.test") == ("fail", "", "fail", "reject")
    assert judged(MAIL, "list.test") == ("none", "", "fail", "reject")
    assert judged(forwarded(mail, cv=b"; arc=pass"), "list.test")[:2] == ("pass", "list.test")
    field = examine(mail, ORIGIN, None, zone(**zones)).field(HERE)
    assert b";\r\n\tarc=pass header.d=list.test;" in field


def test_what_we_hand_on_is_sealed() -> None:
    zones = {"spf": GOOD_SPF, "dmarc": "v=DMARC1; p=reject", SIGNER.name: SIGNER.record, RSA.name: RSA.record}
    mail = SIGNER.sign(MAIL) + MAIL
    here = Domain.parse("mx.list.test")
    for hop in (1, 2):  # the second time the chain goes on
        mail = without_results_of(Mail(mail), here).octets
        mail = examine(mail, ORIGIN, CAROL, zone(**zones)).field(here) + mail
        mail = RSA.seal(mail, here) + mail
        found = examine(mail, Origin("198.51.100.1", "x"), None, zone(**zones), ["list.test"])
        assert (found.arc.result, found.arc.sealer, found.arc.dmarc) == ("pass", "list.test", True), hop
    assert RSA.seal(MAIL, here) == b""  # nothing was seen of it
    assert RSA.seal(b"\xff\r\nno header", here) == b""
    assert SIGNER.seal(mail, here) == b""  # Ed25519


def test_a_damaged_chain_is_none() -> None:
    for damage in (
        b"ARC-Seal: i=1\r\n",
        b"ARC-Seal: i=1; a=\xff\r\nARC-Message-Signature: i=1\r\n",
        b"ARC-Seal: i=99999999999\r\n",
    ):
        assert examined(damage + MAIL).arc.result == "fail"


def test_the_address_has_a_name_that_has_the_address() -> None:
    def named(address: str, *names: str, back: str = "192.0.2.7") -> str:
        def lookup(name: str, kind: str) -> list[Any]:
            if kind == "PTR":
                return list(names)
            if name.startswith("broken."):
                raise ResolutionFailed("SERVFAIL")
            return [back] if kind in {"A", "AAAA"} else []

        return examine(MAIL, Origin(address, "x.test"), None, lookup).iprev

    assert named("192.0.2.7", "x.test") == "pass"
    assert named("2001:db8::7", "x.test", back="2001:db8::7") == "pass"
    assert named("192.0.2.8", "x.test", "y.test") == "fail"
    assert named("192.0.2.7") == "permerror"
    assert named("192.0.2.7", "broken.test") == "temperror"
    assert b'policy.iprev="2001:db8::7"' in examine(MAIL, Origin("2001:db8::7", "x"), None, zone()).field(HERE)


# -- published suites -----------------------------------------------------------------------------------------------

DINNER = (
    b"From: Joe SixPack <joe@football.example.com>\r\nTo: Suzie Q <suzie@shopping.example.net>\r\n"
    b"Subject: Is dinner ready?\r\nDate: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n"
    b"Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n\r\n"
    b"Hi.\r\n\r\nWe lost the game. Are you hungry yet?\r\n\r\nJoe.\r\n"
)


def test_the_example_of_rfc_6376() -> None:
    """Appendix A.2, with the key of appendix C; white space as it was before it was set for print."""
    signed = (
        b"DKIM-Signature: v=1; a=rsa-sha256; s=brisbane; d=example.com;\r\n"
        b"      c=simple/simple; q=dns/txt; i=joe@football.example.com;\r\n"
        b"      h=Received : From : To : Subject : Date : Message-ID;\r\n"
        b"      bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n"
        b"      b=AuUoFEfDxTDkHlLXSZEpZj79LICEps6eda7W3deTVFOk4yAUoqOB\r\n"
        b"      4nujc7YopdG5dWLSdNg6xNAZpOPr+kHxt1IrE+NahM6L/LbvaHut\r\n"
        b"      KVdkLLkpVaVVQPzeRDI009SO2Il5Lu7rDNH6mZckBdrIx0orEtZV\r\n"
        b"      4bmp/YzhwvcubU4=;\r\n"
        b"Received: from client1.football.example.com  [192.0.2.1]\r\n"
        b"      by submitserver.example.com with SUBMISSION;\r\n"
        b"      Fri, 11 Jul 2003 21:01:54 -0700 (PDT)\r\n"
    ) + DINNER
    key = (
        "v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYtIxN2SnFCjxOC"
        "KG9v3b4jYfcTNh5ijSsq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0fzfVjH4OuKhitdY9tf6mcwGj"
        "aNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB"
    )
    found = examined(signed, **{"brisbane._domainkey.example.com": key}).signatures
    assert [(s.result, s.domain, s.selector) for s in found] == [("pass", "example.com", "brisbane")]


def test_the_example_of_rfc_8463() -> None:
    """Appendix A: an Ed25519 and an RSA signature on one message."""
    signed = (
        b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n"
        b" d=football.example.com; i=@football.example.com;\r\n"
        b" q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n"
        b" subject : date : message-id : from : subject : date;\r\n"
        b" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n"
        b" b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus\r\n"
        b" Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==\r\n"
        b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;\r\n"
        b" d=football.example.com; i=@football.example.com;\r\n"
        b" q=dns/txt; s=test; t=1528637909; h=from : to : subject :\r\n"
        b" date : message-id : from : subject : date;\r\n"
        b" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n"
        b" b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3\r\n"
        b" DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz\r\n"
        b" dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=\r\n"
    ) + DINNER
    rsa_key = (
        "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bd"
        "OKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3"
        "Ip3G+2kryOTIKT+l/K4w3QIDAQAB"
    )
    ed25519_key = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    keys = {
        "brisbane._domainkey.football.example.com": ed25519_key,
        "test._domainkey.football.example.com": rsa_key,
    }
    assert [(s.result, s.selector) for s in examined(signed, **keys).signatures] == [
        ("pass", "brisbane"),
        ("pass", "test"),
    ]
    other = signed.replace(b"hungry", b"thirsty")
    assert [s.result for s in examined(other, **keys).signatures] == ["fail", "fail"]


SUITE = next((Path(sys.prefix) / "sources").glob("pyspf-*.tar.gz"), None)


def suite() -> Iterator[Any]:
    """The cases of rfc7208-tests.yml, which lies in the sources of pyspf (the Makefile fetches them)."""
    if SUITE is None:
        return
    with tarfile.open(SUITE) as archive:
        name = next(name for name in archive.getnames() if name.endswith("/rfc7208-tests.yml"))
        text = archive.extractfile(name)
        assert text is not None
        for scenario in yaml.load_all(text, yaml.CSafeLoader):
            lookup = zone_of(scenario["zonedata"])
            for title, case in scenario["tests"].items():
                yield pytest.param(lookup, case, id=title)


def zone_of(data: dict[str, list[Any]]) -> Callable[[str, str], list[Any]]:
    """As the suite says: a record SPF stands for TXT where there is none."""
    records: dict[tuple[str, str], list[Any]] = defaultdict(list)
    silent: set[tuple[str, str | None]] = set()
    for name, entries in data.items():
        owner = str(name).lower().rstrip(".")
        has_txt = any(isinstance(entry, dict) and "TXT" in entry for entry in entries)
        for entry in entries:
            if entry == "TIMEOUT":
                silent.add((owner, None))
                continue
            ((kind, value),) = entry.items()
            if value == "TIMEOUT":
                silent.add((owner, kind))
            elif kind == "TXT" or (kind == "SPF" and not has_txt):
                strings = [value] if isinstance(value, str) else value
                if value != "NONE":
                    records[owner, "TXT"].append(tuple(text.encode("utf-8", "surrogateescape") for text in strings))
            elif kind == "MX":
                records[owner, kind].append(tuple(value))
            else:
                records[owner, kind].append(value)

    def lookup(name: str, kind: str, aliases: int = 10) -> list[Any]:
        owner = name.lower().rstrip(".")
        if found := records.get((owner, kind)):
            return found
        if (owner, kind) in silent or (owner, None) in silent:
            raise ResolutionFailed("no answer")
        alias = records.get((owner, "CNAME"))
        return lookup(alias[0], kind, aliases - 1) if alias and aliases else []

    return lookup


@pytest.mark.skipif(SUITE is None, reason="the sources of pyspf, with rfc7208-tests.yml, could not be fetched")
@pytest.mark.parametrize(("lookup", "case"), list(suite()))
def test_the_spf_suite(lookup: Callable[[str, str], list[Any]], case: dict[str, Any]) -> None:
    result = _SPF(lookup, case["host"], case["mailfrom"], case["helo"]).check()[0]
    assert result in ([case["result"]] if isinstance(case["result"], str) else case["result"])
