"""The one message model: an immutable signed object and the bodies that its parts name.

Parley objects: docs/parley.rst §Objects; COSE_Sign1 layout: RFC 9052 §4.2. Mail-born messages have the same shape:
type "mail", whose first part is the original RFC 5322 octets, untouched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import cbor2
import msgspec

from gatewayd.once import once
from gatewayd.strict_cbor import MAX_DEPTH, check

MESSAGE = "message"
EDIT = "edit"
RETRACT = "retract"
REACTION = "reaction"
RECEIPT = "receipt"
MAIL = "mail"
RFC822 = "message/rfc822"
MAX_PARENTS = 20
INLINE = 64 * 1024  # octets: a larger body is a blob
INLINE_TOTAL = 512 * 1024  # octets of all bodies of one object that are none
MAX_PAYLOAD = 256 * 1024  # octets: so that an object without its blobs always fits into a frame
YEAR_10000 = 253_402_300_800_000  # milliseconds


class ObjectError(ValueError):
    """The octets are not a well-formed Parley object."""


class Part(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=False):
    """One body by reference. The octets travel beside the signed object, or are fetched as a blob by `hash`."""

    hash: bytes  # SHA-256 of the body's octets
    type: str  # media type with parameters, as RFC 2045 writes it
    size: int  # octets
    name: str | None = None  # a file name: present means attachment


class Payload(msgspec.Struct, frozen=True, omit_defaults=True, rename={"from_": "from"}):
    """What is signed. Unknown fields are ignored unless `crit` lists them."""

    from_: str  # who says this, an Address in text; for type "mail" the header From
    to: tuple[str, ...]  # as the sender shows it; the envelope may differ (Bcc)
    date: int  # milliseconds since 1970-01-01T00:00Z
    nonce: bytes  # 16 random octets: short content cannot be guessed from the id
    type: str = MESSAGE  # docs/parley.rst §8.1; what each must hold: object_types.py
    subject: str = ""
    parts: tuple[Part, ...] = ()
    parents: tuple[bytes, ...] = ()  # object ids, nearest first
    replaces: bytes | None = None
    ext: Mapping[str, Any] = {}  # extensions by name: docs/parley.rst §8.2
    crit: tuple[str, ...] = ()  # names in `ext` that a reader must understand

    def encode(self) -> bytes:
        """Deterministic CBOR (RFC 8949 §4.2.1): what gets signed and hashed. Done once, by the author."""
        return cbor2.dumps(msgspec.to_builtins(self, builtin_types=(bytes,)), canonical=True)

    @classmethod
    def decode(cls, octets: bytes) -> Payload:
        """Raises ObjectError, naming the field that is wrong."""
        try:
            check(octets)  # else `ext` could hold itself
            raw = cbor2.loads(octets, max_depth=MAX_DEPTH + 1, allow_indefinite=False, allow_duplicate_keys=False)
            payload = msgspec.convert(raw, cls, builtin_types=(bytes,))  # else text would pass as base64
        except (cbor2.CBORDecodeError, msgspec.ValidationError, ValueError) as error:
            raise ObjectError(f"bad payload: {error}") from None
        if not 0 <= payload.date < YEAR_10000:  # no mail could say it
            raise ObjectError("bad payload: the date is not of the years 1970 to 9999")
        if payload.type == MAIL and not payload.parts:
            raise ObjectError("bad payload: a mail without its octets")
        return payload


class Content(msgspec.Struct, frozen=True, dict=True):
    """A signed object with those of its bodies that are at hand: what is accepted, queued, stored and relayed.

    Blobs, its large bodies, need not be at hand: then they stand as files, found by their hash (IBlobs)."""

    protected: bytes  # COSE protected header, encoded
    payload: bytes  # encoded Payload, exactly as signed
    signature: bytes
    bodies: Mapping[bytes, bytes]  # SHA-256 -> octets

    @once
    def id(self) -> bytes:
        """The object id: SHA-256 of the payload."""
        return hashlib.sha256(self.payload).digest()

    @once
    def trace_id(self) -> str:
        """What people find it by: in Received, in the log, on the command line."""
        return self.id.hex()[:16]

    @once
    def fields(self) -> Payload:
        """The payload, decoded. Raises ObjectError."""
        return Payload.decode(self.payload)

    @once
    def blobs(self) -> Mapping[bytes, Part]:
        """The parts, by hash, that travel in chunks and not beside the object: those above INLINE, and those that
        would bring the others, in their order, above INLINE_TOTAL. Follows from the payload alone, so that all agree.
        """
        blobs: dict[bytes, Part] = {}
        if sum(part.size for part in self.fields.parts) <= INLINE:  # most have none
            return blobs
        inline: dict[bytes, int] = {}
        for part in self.fields.parts:
            if part.hash in blobs or part.hash in inline:
                continue
            if part.size > INLINE or part.size + sum(inline.values()) > INLINE_TOTAL:
                blobs[part.hash] = part
            else:
                inline[part.hash] = part.size
        return blobs

    @property
    def inline(self) -> dict[bytes, bytes]:
        """The bodies at hand that are no blobs."""
        blobs = self.blobs
        return {digest: body for digest, body in self.bodies.items() if digest not in blobs}

    @property
    def absent(self) -> list[Part]:
        """The blobs that are not at hand."""
        return [part for digest, part in self.blobs.items() if digest not in self.bodies]

    @once
    def size(self) -> int:
        """Octets that it takes of a quota: a mail's own, without the view beside it; else those of all parts."""
        parts = self.fields.parts
        return parts[0].size if self.fields.type == MAIL else sum(part.size for part in parts)

    @classmethod
    def unsigned(cls, fields: Payload, bodies: Mapping[bytes, bytes]) -> Content:
        """A new object, for `sealed`."""
        made = cls(b"", fields.encode(), b"", bodies)
        made.__dict__["fields"] = fields
        return made

    def sealed(self, protected: bytes, signature: bytes) -> Content:
        """The same object, signed."""
        sealed = Content(protected, self.payload, signature, self.bodies)
        sealed.__dict__.update(
            (name, known) for name, known in self.__dict__.items() if name in {"id", "fields", "blobs"}
        )
        return sealed

    @once
    def signed(self) -> bytes:
        """The COSE_Sign1 array, untagged (RFC 9052 §4.2): what goes on the wire and into Parley-Object."""
        return cbor2.dumps([self.protected, {}, self.payload, self.signature])

    @classmethod
    def from_signed(cls, signed: bytes, bodies: Mapping[bytes, bytes]) -> Content:
        """Take a COSE_Sign1 apart; checks its form, not its signature. Raises ObjectError."""
        try:
            item = cbor2.loads(signed, max_depth=4, allow_indefinite=False, allow_duplicate_keys=False)
        except (cbor2.CBORDecodeError, ValueError) as error:
            raise ObjectError(f"not a COSE_Sign1: {error}") from None
        match item:
            case [bytes() as protected, dict() as unsigned, bytes() as payload, bytes() as signature] if not unsigned:
                return cls(protected, payload, signature, bodies)
        raise ObjectError("not a COSE_Sign1 array of four")

    def check_bodies(self) -> None:
        """Every body at hand is one of a part, with its hash and size, and all but blobs are. Raises ObjectError."""
        sizes: dict[bytes, int] = {}
        for part in self.fields.parts:
            if len(part.hash) != 32 or sizes.setdefault(part.hash, part.size) != part.size:
                raise ObjectError("a part without a SHA-256, or one body of two sizes")
        for digest, body in self.bodies.items():
            if sizes.get(digest) != len(body) or hashlib.sha256(body).digest() != digest:
                raise ObjectError("a body does not match its part")
        if not sizes.keys() - self.blobs.keys() <= self.bodies.keys():
            raise ObjectError("a body is missing")

    def check_sent(self) -> None:
        """As `check_bodies`, and nothing else is at hand: blobs travel in chunks. Raises ObjectError."""
        self.check_bodies()
        if self.blobs.keys() & self.bodies.keys():
            raise ObjectError("a blob came beside the object")
