"""Domain keys: Ed25519 (RFC 8032) key pairs on disk, and the key set that a domain shows to others.

A key lies in <directory>/<domain>/<kid>.pem, mode 0600; a revoked one is kept as <kid>.revoked. Keys overlap in time,
so that they rotate without a gap: a new key is shown at once and signs from its not_before on, and the one before it
is shown until what it signed has been delivered.

A domain with a DNSSEC-signed zone may say its keys there too, one TXT record a key (docs/parley.rst §5).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import cbor2
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gatewayd.address import Domain

VERSION = "parley1"  # of the TXT record
MAX_KEYS = 16  # in one set: a verifier keeps and searches it
DAY = 86400
LIFETIME = 366 * DAY
OVERLAP = 14 * DAY  # seconds that a key is good after its successor signs: longer than anything waits in a queue
SKEW = 300  # seconds that others' clocks may be behind
SETTLED = 10**9  # nanoseconds after which a directory that changes again surely has another time
_RAW = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def record_name(domain: Domain) -> str:
    """Where the keys stand in the DNS."""
    return f"_keys._parley.{domain}"


def kid(key: bytes) -> bytes:
    """A key is named by its own hash, so no two are confused."""
    return hashlib.sha256(key).digest()[:8]


class KeySetError(ValueError):
    """The octets are not a key set of that domain."""


Time = Annotated[int, msgspec.Meta(ge=0)]  # seconds since the epoch


class PublicKey(msgspec.Struct, frozen=True):
    kid: bytes
    key: bytes  # 32 octets
    not_before: Time
    not_after: Time

    @property
    def record(self) -> str:
        """The text of its TXT record."""
        return f"v={VERSION}; k={base64.b64encode(self.key).decode()}; from={self.not_before}; until={self.not_after}"

    @classmethod
    def of_record(cls, text: bytes) -> PublicKey | None:
        """None: it says no key that can be used here."""
        tags = dict[str, str]()
        for tag in text.decode("ascii", "replace").split(";"):
            name, _, value = tag.partition("=")
            if tags.setdefault(name.strip(), value.strip()) != value.strip():
                return None
        try:
            key = base64.b64decode(tags["k"], validate=True)
            begin, end = int(tags["from"]), int(tags["until"])
        except (KeyError, ValueError, binascii.Error):
            return None
        if tags.get("v") != VERSION or len(key) != 32 or not 0 <= begin <= end < 2**63:
            return None
        return cls(kid(key), key, begin, end)


class KeySet(msgspec.Struct, frozen=True):
    """What the operation `keys` answers (docs/parley.rst §Keys)."""

    domain: str
    expires: Time  # ask again after it
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

    @classmethod
    def of_records(cls, domain: Domain, texts: Iterable[bytes], expires: int) -> KeySet | None:
        """None: none of them can be used. Raises KeySetError: there are too many."""
        keys = tuple(key for text in texts if (key := PublicKey.of_record(text)) is not None)
        if len(keys) > MAX_KEYS:
            raise KeySetError(f"more than {MAX_KEYS} keys")
        return cls(domain.name, expires, keys) if keys else None

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
        return cls(domain, kid(private.public_key().public_bytes(*_RAW)), private)

    @property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes(*_RAW)


class _Lasting(NamedTuple):
    """A key of ours and when it is good, in seconds since the epoch."""

    key: SigningKey
    not_before: int
    not_after: int


class KeyStore:
    """Our own domains' keys. `now` gives seconds since the epoch; a file's time is the key's not_before. What another
    process changes in the directory is seen at once."""

    def __init__(self, directory: Path, now: Callable[[], float], *, shown_for: int = 3600) -> None:
        self._directory = directory
        self._now = now
        self._shown_for = shown_for
        self._loaded: dict[Domain, tuple[int, list[_Lasting]]] = {}  # with when the directory changed last

    def create(self, domain: Domain, *, not_before: int | None = None) -> SigningKey:
        """A new key beside those that are there."""
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
        return key

    def rotate(self, domain: Domain, not_before: int = 0) -> SigningKey:
        """A new key that signs once no set is believed any more that was shown without it (docs/parley.rst §5), and not
        before that time. Raises ValueError while another one waits for its turn."""
        for key, begin, _ in self._keys(domain):
            if begin > self._now():
                raise ValueError(f"{domain} has a new key already, {key.kid.hex()}, which is about to take over")
        return self.create(domain, not_before=max(not_before, int(self._now()) + self._shown_for + SKEW))

    def renew(self, domain: Domain, left: int = 30 * DAY) -> SigningKey | None:
        """Rotates when the last key is good for less than `left` seconds more. The new one signs as late as it can, so
        that there is time to publish it. Nothing for a domain without keys."""
        end = max((lasting.not_after for lasting in self._keys(domain)), default=None)
        return self.rotate(domain, end - OVERLAP) if end is not None and end < self._now() + left else None

    def revoke(self, domain: Domain, kid: bytes) -> SigningKey:
        """The key is shown no longer. Returns the one that signs from now on, made if there is no other. Raises
        KeyError: no such key."""
        path = self._directory / domain.name / f"{kid.hex()}.pem"
        if not path.exists():
            raise KeyError(kid.hex())
        now = self._now()
        others = [lasting for lasting in self._keys(domain) if lasting.key.kid != kid]
        if not any(other.not_before <= now <= other.not_after for other in others):
            self.create(domain)  # first: a domain without a key cannot speak
        path.rename(path.with_suffix(".revoked"))
        return self.signing_key(domain)

    def signing_key(self, domain: Domain) -> SigningKey:
        """The newest key that is good now. Of none that is the clock may have been set back, which is no reason to take
        no mail: then the first that will be. Raises KeyError: none."""
        now = self._now()
        lasting = [each for each in self._keys(domain) if now <= each.not_after]
        good = [each for each in lasting if each.not_before <= now]
        if not lasting:
            raise KeyError(domain.name)
        return good[-1].key if good else lasting[0].key

    def key_set(self, domain: Domain) -> KeySet:
        """All keys that are not over, future ones too, the newest first. Raises KeyError: none."""
        now = self._now()
        shown = [PublicKey(key.kid, key.public, begin, end) for key, begin, end in self._keys(domain) if now <= end]
        if not shown:
            raise KeyError(domain.name)
        return KeySet(domain.name, int(now) + self._shown_for, tuple(shown[: -MAX_KEYS - 1 : -1]))

    def _keys(self, domain: Domain) -> list[_Lasting]:
        """The oldest first."""
        try:
            changed = os.stat(f"{self._directory}/{domain.name}").st_mtime_ns  # noqa: PTH116, for each signature
        except FileNotFoundError:
            return []
        if domain not in self._loaded or self._loaded[domain][0] != changed:
            now, keys = time.time_ns(), self._load(domain)
            if now - changed < SETTLED:  # another change may bear the same time
                return keys
            self._loaded[domain] = changed, keys
        return self._loaded[domain][1]

    def _load(self, domain: Domain) -> list[_Lasting]:
        found = []
        for path in sorted((self._directory / domain.name).glob("*.pem")):
            private = serialization.load_pem_private_key(path.read_bytes(), None)
            if not isinstance(private, Ed25519PrivateKey):
                raise ValueError(f"{path} is not an Ed25519 key")
            found.append((int(path.stat().st_mtime), SigningKey.of(domain, private)))
        found.sort(key=lambda pair: (pair[0], pair[1].kid))
        lasting = []
        for number, (begin, key) in enumerate(found):
            end = begin + LIFETIME
            if number + 1 < len(found):
                end = min(end, found[number + 1][0] + OVERLAP)
            lasting.append(_Lasting(key, begin, end))
        return lasting
