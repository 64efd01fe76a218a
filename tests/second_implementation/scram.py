"""Section 4.2: the client's half of SCRAM-SHA-256-PLUS with tls-exporter (RFC 5802, 7677, 9266)."""

import base64
import hashlib
import hmac
import secrets
import stringprep
import unicodedata


def saslprep(text: str) -> str:
    """RFC 4013, without its checks of what a server has to refuse."""
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c))
    return unicodedata.normalize("NFKC", mapped)


def _mac(key: bytes, octets: bytes) -> bytes:
    return hmac.new(key, octets, hashlib.sha256).digest()


class Scram:
    def __init__(self, address: str, password: str, exporter: bytes) -> None:
        name = saslprep(address).replace("=", "=3D").replace(",", "=2C")
        self._password = saslprep(password).encode()
        self._header = b"p=tls-exporter,,"
        self._nonce = secrets.token_hex(16)
        self._bare = f"n={name},r={self._nonce}"
        self._exporter = exporter

    def first(self) -> bytes:
        return self._header + self._bare.encode()

    def final(self, challenge: bytes) -> bytes:
        fields = dict(part.split("=", 1) for part in challenge.decode().split(","))
        assert fields["r"].startswith(self._nonce) and fields["r"] != self._nonce
        assert 4096 <= int(fields["i"]) <= 1_000_000
        salted = hashlib.pbkdf2_hmac("sha256", self._password, base64.b64decode(fields["s"]), int(fields["i"]))
        binding = base64.b64encode(self._header + self._exporter).decode()
        bare = f"c={binding},r={fields['r']}"
        signed = ",".join((self._bare, challenge.decode(), bare)).encode()
        key = _mac(salted, b"Client Key")
        signature = _mac(hashlib.sha256(key).digest(), signed)
        self._expected = _mac(_mac(salted, b"Server Key"), signed)
        proof = bytes(one ^ other for one, other in zip(key, signature, strict=True))
        return f"{bare},p={base64.b64encode(proof).decode()}".encode()

    def proves(self, verifier: bytes) -> bool:
        """Whether the listener knows the user's verifier."""
        return hmac.compare_digest(verifier, b"v=" + base64.b64encode(self._expected))
