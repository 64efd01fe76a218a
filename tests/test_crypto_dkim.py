"""Signatures that dkimpy and dkimverify's rules accept, with both kinds of key."""

from __future__ import annotations

from pathlib import Path

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gatewayd.address import Domain
from gatewayd.crypto.dkim import DKIMSigner, DKIMSigners

ALPHA = Domain.parse("alpha.test")
MAIL = b"From: alice@alpha.test\r\nSubject: \xc3\xa4 hello\r\nDate: Tue, 24 Nov 2026 10:00:00 +0000\r\n\r\nBody.\r\n"


def pem(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.mark.parametrize("make", [ed25519.Ed25519PrivateKey.generate, lambda: rsa.generate_private_key(65537, 2048)])
def test_signs_so_that_others_verify(make: object) -> None:
    signer = DKIMSigner(ALPHA, "mail", pem(make()))  # type: ignore[operator]
    signed = signer.sign(MAIL) + MAIL

    def txt(name: bytes, timeout: int = 5) -> bytes:
        assert name == b"mail._domainkey.alpha.test."
        return signer.record.encode()

    assert signer.name == "mail._domainkey.alpha.test"
    assert dkim.verify(signed, dnsfunc=txt)
    assert not dkim.verify(signed.replace(b"Body", b"Bodies"), dnsfunc=txt)
    assert not dkim.verify(signed.replace(b"hello", b"goodbye"), dnsfunc=txt)
    assert not dkim.verify(b"Reply-To: evil@elsewhere.test\r\n" + signed, dnsfunc=txt)
    assert b" l=" not in signer.sign(MAIL)


def test_what_cannot_sign() -> None:
    with pytest.raises(ValueError, match="is needed"):
        DKIMSigner(ALPHA, "mail", pem(ec.generate_private_key(ec.SECP256R1())))
    signer = DKIMSigner(ALPHA, "mail", pem(ed25519.Ed25519PrivateKey.generate()))
    with pytest.raises(ValueError, match="cannot be signed"):
        signer.sign(b"Subject: nobody wrote this\r\n\r\nBody\r\n")


def test_nothing_is_sealed_with_a_key_that_verifiers_of_arc_do_not_know(tmp_path: Path) -> None:
    """dkimpy judges such a seal a broken chain; the day it does not, we may seal."""
    (tmp_path / "ed").write_bytes(pem(ed25519.Ed25519PrivateKey.generate()))
    signers = DKIMSigners.load(ALPHA, [("ed", tmp_path / "ed")])
    results = b"Authentication-Results: alpha.test; spf=pass smtp.mailfrom=alpha.test\r\n"
    assert signers.seal(results + MAIL, ALPHA) == b""
    fields = b"i=1; a=ed25519-sha256; d=alpha.test; s=ed; b=AA=="
    chain = b"ARC-Seal: %s; cv=none\r\nARC-Message-Signature: %s; h=from; bh=AA==\r\n" % (fields, fields)
    chain += b"ARC-Authentication-Results: i=1; alpha.test; spf=pass\r\n"
    said = dkim.arc_verify(chain + MAIL, dnsfunc=lambda name, timeout=5: signers.records[0][1].encode())
    assert said[0] == b"fail" and "unknown signature algorithm" in said[2]


def test_two_keys_sign_and_the_one_that_others_know_seals(tmp_path: Path) -> None:
    keys = {"ed": ed25519.Ed25519PrivateKey.generate(), "rsa": rsa.generate_private_key(65537, 2048)}
    for name, key in keys.items():
        (tmp_path / name).write_bytes(pem(key))
    signers = DKIMSigners.load(ALPHA, [(name, tmp_path / name) for name in keys])
    records = {f"{name}.".encode(): record.encode() for name, record in signers.records}
    assert list(records) == [b"ed._domainkey.alpha.test.", b"rsa._domainkey.alpha.test."]
    signed = signers.sign(MAIL) + MAIL
    for number in range(2):
        assert dkim.DKIM(signed).verify(number, dnsfunc=lambda name, timeout=5: records[name])
    results = b"Authentication-Results: alpha.test; spf=pass smtp.mailfrom=alpha.test\r\n"
    seal = signers.seal(results + MAIL, ALPHA)
    assert b"s=rsa" in seal
    assert dkim.arc_verify(seal + results + MAIL, dnsfunc=lambda name, timeout=5: records[name])[0] == b"pass"
