"""Sections 5 and 8: key sets, payloads, the signed form, batches, receipts; what is well formed."""

import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from . import strict_cbor

EDDSA, BATCH = -8, -70001
INLINE, ALL_INLINE, CHUNK = 65_536, 524_288, 65_536


def sha256(octets: bytes) -> bytes:
    return hashlib.sha256(octets).digest()


class Refused(Exception):
    """An object is not taken; with the code of section 10.2."""

    def __init__(self, code: str, text: str = "") -> None:
        super().__init__(code, text)
        self.code, self.text = code, text


class DomainKey:
    """A private key of a domain, and the key set that shows it."""

    def __init__(self, domain: str) -> None:
        self.domain = domain
        self.private = Ed25519PrivateKey.generate()
        self.public = self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.kid = sha256(self.public)[:8]

    def key_set(self, now: int) -> bytes:
        key = {"kid": self.kid, "key": self.public, "not_before": now - 600, "not_after": now + 86_400 * 30}
        return strict_cbor.encode({"domain": self.domain, "expires": now + 3600, "keys": [key]})

    def proof(self, dialled: str, exporter: bytes, label: str = "parley/1 domain auth", role: str = "dialler") -> bytes:
        return self.private.sign(strict_cbor.encode([label, role, self.domain, dialled, exporter]))

    def protected(self, algorithm: int = EDDSA) -> bytes:
        return strict_cbor.encode({1: algorithm, 4: self.kid, "iss": self.domain})

    def sign(self, payload: bytes) -> bytes:
        header = self.protected()
        return strict_cbor.encode([header, {}, payload, self.private.sign(_structure(header, payload))])

    def sign_batch(self, payloads: list[bytes]) -> list[bytes]:
        """Section 8.5: one signature for at least two payloads."""
        header = self.protected(BATCH)
        level = [sha256(b"\0" + _structure(header, payload)) for payload in payloads]
        places, paths = list(range(len(level))), [[] for _ in level]  # type: ignore[var-annotated]
        while len(level) > 1:
            for number, place in enumerate(places):
                if place ^ 1 < len(level):
                    paths[number].append((level[place ^ 1], place & 1))
                places[number] = place >> 1
            pairs = [level[at : at + 2] for at in range(0, len(level), 2)]
            level = [sha256(b"\1" + pair[0] + pair[1]) if len(pair) == 2 else pair[0] for pair in pairs]
        signature = self.private.sign(strict_cbor.encode(["parley/1 batch", level[0]]))
        signed = []
        for payload, path in zip(payloads, paths, strict=True):
            sides = sum(left << bit for bit, (_, left) in enumerate(path)).to_bytes(4, "big")
            whole = signature + sides + b"".join(other for other, _ in path)
            signed.append(strict_cbor.encode([header, {}, payload, whole]))
        return signed


def _structure(protected: bytes, payload: bytes) -> bytes:
    return strict_cbor.encode(["Signature1", protected, b"", payload])


def _root(leaf: bytes, signature: bytes) -> bytes:
    sides, path = int.from_bytes(signature[64:68], "big"), signature[68:]
    if len(path) % 32 or not 1 <= len(path) // 32 <= 16 or sides >> len(path) // 32:
        raise Refused("5.7.7", "no proof of a batch")
    node = leaf
    for bit in range(len(path) // 32):
        other = path[32 * bit : 32 * bit + 32]
        node = sha256(b"\1" + (other + node if sides >> bit & 1 else node + other))
    return node


@dataclass(frozen=True)
class KeySet:
    domain: str
    expires: int
    keys: dict[bytes, dict[str, Any]]

    @classmethod
    def read(cls, octets: bytes, domain: str) -> "KeySet":
        fields = strict_cbor.decode(octets)
        if fields["domain"] != domain or len(fields["keys"]) > 16:
            raise ValueError(f"no key set of {domain}")
        keys = {key["kid"]: key for key in fields["keys"] if sha256(key["key"])[:8] == key["kid"]}
        return cls(domain, fields["expires"], keys)

    def check(self, kid: bytes, signature: bytes, octets: bytes, now: float) -> bool:
        key = self.keys.get(kid)
        if key is None or not key["not_before"] <= now <= key["not_after"]:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(key["key"]).verify(signature, octets)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class Signed:
    """A signed object, taken apart but not verified."""

    octets: bytes
    protected: bytes
    algorithm: int
    kid: bytes
    domain: str
    payload: bytes
    signature: bytes

    @classmethod
    def read(cls, octets: bytes) -> "Signed":
        try:
            protected, unprotected, payload, signature = strict_cbor.decode(octets)
            header = strict_cbor.decode(protected, text_keys=False)
        except (ValueError, TypeError) as error:
            raise Refused("5.6.0", "no COSE_Sign1") from error
        if set(header) != {1, 4, "iss"} or header[1] not in (EDDSA, BATCH) or unprotected != {}:
            raise Refused("5.7.7", "another header")
        return cls(octets, protected, header[1], header[4], header["iss"], payload, signature)

    @property
    def id(self) -> bytes:
        return sha256(self.payload)

    @property
    def fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = strict_cbor.decode(self.payload)
        return fields

    def verify(self, keys: KeySet, now: float | None = None) -> None:
        """Raises Refused unless the domain has signed it."""
        octets, signature = _structure(self.protected, self.payload), self.signature
        if self.algorithm == BATCH:
            root = _root(sha256(b"\0" + octets), self.signature)
            octets, signature = strict_cbor.encode(["parley/1 batch", root]), self.signature[:64]
        elif len(signature) != 64:
            raise Refused("5.7.7", "a signature of another length")
        if keys.domain != self.domain or not keys.check(
            self.kid, signature, octets, time.time() if now is None else now
        ):
            raise Refused("5.7.7", "the signature does not hold")


def domain_of(address: str) -> str:
    return address.rpartition("@")[2].lower()


def compose(author: str, to: list[str], *bodies: bytes | tuple[bytes, str, str], **fields: Any) -> bytes:
    """A payload. A body is octets of text, or octets, media type and name."""
    parts = []
    for body in bodies:
        octets, media_type, name = body if isinstance(body, tuple) else (body, "text/plain; charset=utf-8", "")
        part: dict[str, Any] = {"hash": sha256(octets), "type": media_type, "size": len(octets)}
        parts.append(part | {"name": name} if name else part)
    payload = {"from": author, "to": to, "date": int(time.time() * 1000), "nonce": secrets.token_bytes(16)}
    return strict_cbor.encode(payload | ({"parts": parts} if parts else {}) | fields)


def blobs_of(payload: bytes) -> set[bytes]:
    """Section 8.6: the hashes of those parts that travel in chunks."""
    blobs, inline = set(), 0
    parts: dict[bytes, dict[str, Any]] = {}
    for part in strict_cbor.decode(payload).get("parts", []):
        parts.setdefault(part["hash"], part)
    for part in parts.values():
        if part["size"] > INLINE or inline + part["size"] > ALL_INLINE:
            blobs.add(part["hash"])
        else:
            inline += part["size"]
    return blobs


def well_formed(payload: bytes) -> dict[str, Any]:
    """The fields of a payload. Raises Refused with 5.6.0 (sections 8 and 8.1)."""
    if len(payload) > 262_144:
        raise Refused("5.3.4")
    try:
        fields: dict[str, Any] = strict_cbor.decode(payload)
        kind, parts, parents = fields.get("type", "message"), fields.get("parts", []), fields.get("parents", [])
        good = (
            all(isinstance(fields[name], type_) for name, type_ in (("from", str), ("to", list), ("nonce", bytes)))
            and len(fields["nonce"]) == 16
            and 0 <= fields["date"] < 253_402_300_800_000
            and len(parents) <= 20
            and all(len(hash_) == 32 for hash_ in parents + [part["hash"] for part in parts])
            and ("replaces" in fields) == (kind in ("edit", "retract"))
        )
        if kind == "edit":
            good = good and bool(parts)
        elif kind == "retract":
            good = good and not parts and "subject" not in fields
        elif kind == "reaction":
            good = good and len(parents) == 1 and len(parts) == 1 and "name" not in parts[0] and parts[0]["size"] <= 64
        elif kind == "receipt":
            status = fields["ext"]["receipt"]["status"]
            good = good and status in ("stored", "delivered", "displayed") and len(parents) == 1 == len(fields["to"])
            good = good and not parts and "subject" not in fields
    except (ValueError, KeyError, TypeError) as error:
        raise Refused("5.6.0", str(error)) from error
    if not good:
        raise Refused("5.6.0", "not well formed")
    return fields


def matched(payload: bytes, bodies: list[bytes]) -> dict[bytes, bytes]:
    """The inline bodies by their hash. Raises Refused where one is missing or another."""
    found = {sha256(body): body for body in bodies}
    blobs = blobs_of(payload)
    for part in strict_cbor.decode(payload).get("parts", []):
        if part["hash"] not in blobs and len(found.get(part["hash"], b"")) != part["size"]:
            raise Refused("5.6.0", "a body is missing, or another")
    return found
