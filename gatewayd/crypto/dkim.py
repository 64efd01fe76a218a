"""DKIM signatures on mail that leaves (RFC 6376; Ed25519: RFC 8463), ARC seals on mail that is handed on (RFC 8617)."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path

import dkim
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from gatewayd.address import Domain

MIN_RSA = 1024  # bits, RFC 8301 §3.2: verifiers refuse less
_PRIVATE = (serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
# RFC 6376 §5.4.1; those that are absent are signed too, so that nobody adds them
SIGNED = (b"from", b"to", b"cc", b"subject", b"date", b"message-id", b"reply-to", b"in-reply-to", b"references")


class DKIMSigner:
    """One domain's selector and key."""

    def __init__(self, domain: Domain, selector: str, pem: bytes) -> None:
        """Raises ValueError for what is no RSA or Ed25519 key."""
        private = serialization.load_pem_private_key(pem, None)
        raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
        match private:
            case Ed25519PrivateKey():
                self._algorithm = b"ed25519-sha256"
                self._key = base64.b64encode(private.private_bytes_raw())
                public = private.public_key().public_bytes(*raw)
            case RSAPrivateKey() if private.key_size >= MIN_RSA:
                self._algorithm = b"rsa-sha256"
                self._key = private.private_bytes(*_PRIVATE)
                public = private.public_key().public_bytes(
                    serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
                )
            case _:
                raise ValueError(f"an RSA key of {MIN_RSA} bits or more, or an Ed25519 key, is needed")
        self._domain = domain
        self._selector = selector
        kind = self._algorithm.partition(b"-")[0].decode()
        self.record = f"v=DKIM1; k={kind}; p={base64.b64encode(public).decode()}"  # the TXT record's value

    @property
    def name(self) -> str:
        """Where the record stands."""
        return f"{self._selector}._domainkey.{self._domain}"

    def sign(self, mail: bytes) -> bytes:
        """The DKIM-Signature field with its CRLF, to stand above the mail. Takes a while: call it in a thread.
        Raises ValueError for a mail that cannot be signed (no From, damaged header)."""
        try:
            headers, _ = dkim.rfc822_parse(mail)
            if not any(name.lower() == b"from" for name, _ in headers):
                raise ValueError("there is no From")  # RFC 6376 §5.4: it must be signed
            field: bytes = dkim.sign(
                mail, self._selector.encode("ascii"), self._domain.name.encode("ascii"), self._key,
                canonicalize=(b"relaxed", b"relaxed"), signature_algorithm=self._algorithm,
                include_headers=list(SIGNED), linesep=b"\r\n",
            )  # fmt: skip
        except (dkim.DKIMException, ValueError, IndexError) as error:
            raise ValueError(f"cannot be signed: {error}") from None
        return field

    def seal(self, mail: bytes, hostname: Domain) -> bytes:
        """The ARC set with CRLF, to stand above a mail that holds our Authentication-Results: what we saw of a mail
        that we hand on. b"" where there is nothing to seal, or the key is none that others know in a seal (only RSA).
        Takes a while: call it in a thread."""
        if self._algorithm != b"rsa-sha256":
            return b""
        try:
            fields: list[bytes] = dkim.arc_sign(
                mail, self._selector.encode("ascii"), self._domain.name.encode("ascii"), self._key,
                hostname.name.encode("ascii"), linesep=b"\r\n",
            )  # fmt: skip
        except (dkim.DKIMException, ValueError, IndexError):  # a damaged header, or a chain that cannot go on
            return b""
        return b"".join(fields)


class DKIMSigners:
    """All keys of one domain: each signs, for there are verifiers that know one kind only (RFC 8463 §3)."""

    def __init__(self, signers: Sequence[DKIMSigner]) -> None:
        self._signers = signers

    @classmethod
    def load(cls, domain: Domain, keys: Iterable[tuple[str, Path]]) -> DKIMSigners:
        """By selector. Raises OSError, ValueError."""
        return cls([DKIMSigner(domain, selector, path.read_bytes()) for selector, path in keys])

    @property
    def records(self) -> list[tuple[str, str]]:
        """Where each TXT record stands, and its value."""
        return [(signer.name, signer.record) for signer in self._signers]

    def sign(self, mail: bytes) -> bytes:
        """A field of each. Raises ValueError."""
        return b"".join(signer.sign(mail) for signer in self._signers)

    def seal(self, mail: bytes, hostname: Domain) -> bytes:
        """By the first that can."""
        return next(filter(None, (signer.seal(mail, hostname) for signer in self._signers)), b"")
