"""Domain keys: Ed25519 (RFC 8032) key pairs on disk, and the key set that a domain shows to others.

A key lies in <directory>/<domain>/<kid>.pem, mode 0600. Keys overlap in time, so that they rotate without a gap: a new
key is shown at once, and signs from its not_before on.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cbor2
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gatewayd.address import Domain

MAX_KEYS = 16  # in one set: a verifier keeps and searches it
_RAW = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)


class KeySetError(ValueError):
    """The octets are not a key set of that domain."""


class PublicKey(msgspec.Struct, frozen=True):
    kid: bytes
    key: bytes  # 32 octets
    not_before: int  # seconds since the epoch
    not_after: int


class KeySet(msgspec.Struct, frozen=True):
    """What the operation `keys` answers (docs/parley.rst §Keys)."""

    domain: str
    expires: int  # ask again after this time
    keys: tuple[PublicKey, ...]

    def encode(self) -> bytes:
        return cbor2.dumps(msgspec.to_builtins(self, builtin_types=(bytes,)), canonical=True)

    @classmethod
    def decode(cls, octets: bytes, domain: Domain) -> KeySet:
        """Raises KeySetError."""
        try:
            raw = cbor2.loads(octets, max_depth=4, allow_indefinite=False, allow_duplicate_keys=False)
            found = msgspec.convert(raw, cls, builtin_types=(bytes,))
        except (cbor2.CBORDecodeError, msgspec.ValidationError, ValueError) as error:
            raise KeySetError(f"bad key set: {error}") from None
        if found.domain != domain.name or len(found.keys) > MAX_KEYS or any(len(k.key) != 32 for k in found.keys):
            raise KeySetError("bad key set")
        return found

    def find(self, kid: bytes, when: float) -> PublicKey | None:
        """The key of that name, if it is good at that time."""
        for key in self.keys:
            if key.kid == kid and key.not_before <= when <= key.not_after:
                return key
        return None

    def knows(self, kid: bytes) -> bool:
        return any(key.kid == kid for key in self.keys)


@dataclass(frozen=True)
class SigningKey:
    domain: Domain
    kid: bytes
    private: Ed25519PrivateKey

    @classmethod
    def generate(cls, domain: Domain) -> SigningKey:
        return cls.of(domain, Ed25519PrivateKey.generate())

    @classmethod
    def of(cls, domain: Domain, private: Ed25519PrivateKey) -> SigningKey:
        """A key is named by its own hash, so no two are confused."""
        return cls(domain, hashlib.sha256(private.public_key().public_bytes(*_RAW)).digest()[:8], private)

    @property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes(*_RAW)


class KeyStore:
    """Our own domains' keys. `now` gives seconds since the epoch; a file's time is the key's not_before."""

    def __init__(
        self,
        directory: Path,
        now: Callable[[], float],
        *,
        lifetime: int = 366 * 86400,
        shown_for: int = 3600,
    ) -> None:
        self._directory = directory
        self._now = now
        self._lifetime = lifetime
        self._shown_for = shown_for
        self._loaded: dict[Domain, list[tuple[SigningKey, int]]] = {}

    def create(self, domain: Domain, *, not_before: int | None = None) -> SigningKey:
        """A new key beside those that are there. To rotate, give a `not_before` after the shown set's expiry."""
        key = SigningKey.generate(domain)
        directory = self._directory / domain.name
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / f"{key.kid.hex()}.pem"
        pem = key.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        begin = int(self._now()) if not_before is None else not_before
        partial = path.with_suffix(".new")
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        os.utime(partial, (begin, begin))
        partial.rename(path)
        self._loaded.pop(domain, None)
        return key

    def signing_key(self, domain: Domain) -> SigningKey:
        """The newest key that is good now. Raises KeyError: none."""
        now = self._now()
        good = [(begin, key) for key, begin in self._keys(domain) if begin <= now <= begin + self._lifetime]
        if not good:
            raise KeyError(domain.name)
        return max(good, key=lambda pair: (pair[0], pair[1].kid))[1]

    def key_set(self, domain: Domain) -> KeySet:
        """All keys that are not over, future ones too. Raises KeyError: none."""
        now = self._now()
        shown = [
            PublicKey(key.kid, key.public, begin, begin + self._lifetime)
            for key, begin in self._keys(domain)
            if now <= begin + self._lifetime
        ]
        if not shown:
            raise KeyError(domain.name)
        shown.sort(key=lambda key: key.not_before, reverse=True)
        return KeySet(domain.name, int(now) + self._shown_for, tuple(shown[:MAX_KEYS]))

    def _keys(self, domain: Domain) -> list[tuple[SigningKey, int]]:
        if domain not in self._loaded:
            found = []
            for path in sorted((self._directory / domain.name).glob("*.pem")):
                private = serialization.load_pem_private_key(path.read_bytes(), None)
                if not isinstance(private, Ed25519PrivateKey):
                    raise ValueError(f"{path} is not an Ed25519 key")
                found.append((SigningKey.of(domain, private), int(path.stat().st_mtime)))
            if not found:
                return []  # not remembered: the operator may be about to make one
            self._loaded[domain] = found
        return self._loaded[domain]
