"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, both sides (RFC 5802, RFC 7677), bound by tls-exporter (RFC 9266).

Our own small code over hashlib and hmac, because the scramp library refuses the binding type tls-exporter. Nonces are
passed in: nothing here is random. `derive` takes milliseconds by design; call it in a thread.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import stringprep
import unicodedata
from base64 import b64decode, b64encode
from typing import NamedTuple

MECHANISM = "SCRAM-SHA-256"
MECHANISM_PLUS = "SCRAM-SHA-256-PLUS"
MIN_ITERATIONS = 4096  # RFC 7677 §4
MAX_ITERATIONS = 1_000_000  # a hostile server must not keep a client computing
_MAX_MESSAGE = 4096
_BINDING = "p=tls-exporter"
_NONCE = re.compile(r"[\x21-\x2b\x2d-\x7e]+\Z")  # printable, no comma: RFC 5802 §7
_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


class ScramError(ValueError):
    """The exchange failed: bad syntax, wrong binding, or wrong proof. The text is one of RFC 5802 §7's."""


class Keys(NamedTuple):
    stored_key: bytes
    server_key: bytes


def saslprep(text: str) -> str:
    """RFC 4013, without the unassigned-code-point check of stored strings. Raises ValueError."""
    if text.isascii() and text.isprintable():
        return text
    mapped = "".join(
        " " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c)
    )  # RFC 4013 §2.1
    prepared = unicodedata.normalize("NFKC", mapped)
    if any(prohibited(c) for c in prepared for prohibited in _PROHIBITED):
        raise ValueError("prohibited character")
    right_to_left = [stringprep.in_table_d1(c) for c in prepared]
    if any(right_to_left) and (  # RFC 3454 §6
        any(stringprep.in_table_d2(c) for c in prepared) or not (right_to_left[0] and right_to_left[-1])
    ):
        raise ValueError("mixed text directions")
    return prepared


def _salted(password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", saslprep(password).encode(), salt, iterations)


def derive(password: str, salt: bytes, iterations: int) -> Keys:
    """What a server keeps instead of the password (RFC 5802 §3). Raises ValueError (SASLprep)."""
    salted = _salted(password, salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return Keys(hashlib.sha256(client_key).digest(), hmac.digest(salted, b"Server Key", "sha256"))


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def _text(message: bytes) -> str:
    if len(message) > _MAX_MESSAGE:
        raise ScramError("other-error")
    try:
        return message.decode()
    except UnicodeDecodeError:
        raise ScramError("invalid-encoding") from None


def _values(text: str, names: str) -> list[str]:
    """The values of attributes that must stand in this order; unknown extensions may follow (RFC 5802 §5.1)."""
    fields = text.split(",")
    if len(fields) < len(names) or any(f[:2] != f"{n}=" for f, n in zip(fields, names, strict=False)):
        raise ScramError("other-error")
    return [field[2:] for field in fields[: len(names)]]


def _decode64(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise ScramError("invalid-encoding") from None


def _header(plus: bool) -> str:
    return f"{_BINDING},," if plus else "n,,"


class ScramServer:
    """One exchange on the listening side: first(), challenge(), final(), in this order.

    `exporter` is the connection's tls-exporter value, or b"" where there is none. `plus`: the client chose -PLUS.
    """

    def __init__(self, nonce: str, exporter: bytes, *, plus: bool) -> None:
        self._nonce = nonce
        self._exporter = exporter
        self._plus = plus
        self._gs2 = ""
        self._client_first = ""
        self._server_first = ""
        if plus and not exporter:
            raise ScramError("channel-binding-not-supported")

    def first(self, message: bytes) -> str:
        """Takes client-first-message; returns the user name."""
        text = _text(message)
        flag, comma, rest = text.partition(",")
        authzid, comma2, bare = rest.partition(",")
        if not comma or not comma2:
            raise ScramError("other-error")
        if self._plus:
            if not flag.startswith("p="):
                raise ScramError("server-does-support-channel-binding")
            if flag != _BINDING:
                raise ScramError("unsupported-channel-binding-type")
        elif flag == "y" and self._exporter:  # it thinks that we lack -PLUS: somebody cut the list (RFC 5802 §6)
            raise ScramError("server-does-support-channel-binding")
        elif flag not in {"n", "y"}:
            raise ScramError("other-error")
        if bare.startswith("m="):
            raise ScramError("extensions-not-supported")
        user, client_nonce = _values(bare, "nr")
        if not _NONCE.match(client_nonce):
            raise ScramError("other-error")
        if re.search("=(?!2C|3D)", user):
            raise ScramError("invalid-username-encoding")
        if authzid and authzid != f"a={user}":  # nobody acts as another here
            raise ScramError("other-error")
        self._gs2 = text[: len(text) - len(bare)]
        self._client_first = bare
        self._nonce = client_nonce + self._nonce
        name = user.replace("=2C", ",").replace("=3D", "=")
        try:
            return saslprep(name)
        except ValueError:
            raise ScramError("invalid-username-encoding") from None

    def challenge(self, salt: bytes, iterations: int) -> bytes:
        self._server_first = f"r={self._nonce},s={b64encode(salt).decode()},i={iterations}"
        return self._server_first.encode()

    def final(self, message: bytes, stored_key: bytes, server_key: bytes) -> bytes:
        """Takes client-final-message; returns server-final-message."""
        text = _text(message)
        without_proof, comma, proof64 = text.rpartition(",p=")
        if not comma:
            raise ScramError("other-error")
        binding, nonce = _values(without_proof, "cr")
        if not hmac.compare_digest(_decode64(binding), self._gs2.encode() + (self._exporter if self._plus else b"")):
            raise ScramError("channel-bindings-dont-match")
        proof = _decode64(proof64)
        if not hmac.compare_digest(nonce.encode(), self._nonce.encode()) or len(proof) != 32:
            raise ScramError("other-error")
        authed = f"{self._client_first},{self._server_first},{without_proof}".encode()
        client_key = _xor(proof, hmac.digest(stored_key, authed, "sha256"))
        if not hmac.compare_digest(hashlib.sha256(client_key).digest(), stored_key):
            raise ScramError("invalid-proof")
        return b"v=" + b64encode(hmac.digest(server_key, authed, "sha256"))


class ScramClient:
    """One exchange on the dialling side: first(), final(), check(). With an `exporter` it is -PLUS."""

    def __init__(self, user: str, password: str, nonce: str, exporter: bytes = b"") -> None:
        self._exporter = exporter
        self._password = password
        self._nonce = nonce
        name = saslprep(user).replace("=", "=3D").replace(",", "=2C")
        self._bare = f"n={name},r={nonce}"
        self._expected = b""

    def first(self) -> bytes:
        return (_header(bool(self._exporter)) + self._bare).encode()

    def final(self, challenge: bytes) -> bytes:
        """Slow (PBKDF2)."""
        text = _text(challenge)
        nonce, salt, count = _values(text, "rsi")
        if not nonce.startswith(self._nonce) or nonce == self._nonce:  # RFC 5802 §5.1: the client must check this
            raise ScramError("other-error")
        iterations = int(count) if count.isascii() and count.isdigit() and len(count) < 9 else 0
        if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
            raise ScramError("other-error")
        salted = _salted(self._password, _decode64(salt), iterations)
        binding = b64encode(_header(bool(self._exporter)).encode() + self._exporter).decode()
        without_proof = f"c={binding},r={nonce}"
        authed = f"{self._bare},{text},{without_proof}".encode()
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(client_key).digest(), authed, "sha256")
        self._expected = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), authed, "sha256")
        return f"{without_proof},p={b64encode(_xor(client_key, signature)).decode()}".encode()

    def check(self, server_final: bytes) -> None:
        """The server must know the password too. Raises ScramError."""
        (verifier,) = _values(_text(server_final), "v")
        if not self._expected or not hmac.compare_digest(_decode64(verifier), self._expected):
            raise ScramError("invalid-proof")
