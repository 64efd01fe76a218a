"""Valid Parley frames: of every body in the schema, by its types; a new method is fuzzed as soon as it is there."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from random import Random
from typing import Any

import cbor2
import msgspec
from msgspec import inspect

from gatewayd.crypto import cose
from gatewayd.crypto.domain_keys import SigningKey
from gatewayd.message.model import Part, Payload
from gatewayd.wire.parley import schema

HELLO, REQ, RES, PUSH, BYE = range(5)
GREETING = [HELLO, 0, "", {"version": 1, "name": "fuzz", "frame": 1 << 20}]
BODIES: dict[str, type[schema.Body]] = {
    name.lower(): kind
    for name, kind in vars(schema).items()
    if isinstance(kind, type) and issubclass(kind, schema.Body) and kind is not schema.Body
}

_type_info = cache(inspect.type_info)


def frame(item: Any) -> bytes:
    octets = cbor2.dumps(item)
    return len(octets).to_bytes(4, "big") + octets


class Speaker:
    """One who says valid things to the gateway: a user of it, or a peer domain."""

    def __init__(self, random: Random, author: str, to: list[str], key: SigningKey | None = None) -> None:
        self._random = random
        self._author = author
        self._to = to
        self._key = key
        self._stream = 0

    def request(self) -> list[Any]:
        self._stream += 1
        methods = [name for name in BODIES if name not in {"hello", "error", "auth"}]
        method = self._random.choice(["send", "send", "sync", "mark", *methods])
        return [REQ, self._stream, method, self.body(method)]

    def body(self, method: str) -> dict[str, Any]:
        body = self._struct(BODIES[method])
        if method == "send":
            payload, bodies = self._payload()
            body = {"to": self._some(self._to), "bodies": bodies}
            if self._key is None:
                return {**body, "payload": payload}
            protected, signature = cose.sign(payload, self._key)
            signed = cbor2.dumps([protected, {}, payload, signature])
            return {**body, "signed": signed, "from": self._random.choice((self._author, ""))}
        return body

    def _some(self, of: list[str]) -> list[str]:
        return self._random.sample(of, self._random.randint(1, len(of)))

    def _payload(self) -> tuple[bytes, list[bytes]]:
        random = self._random
        bodies = [random.randbytes(random.choice((0, 5, 3000))) for _ in range(random.randint(0, 3))]
        parts = tuple(Part(sha256(b).digest(), random.choice(("text/plain", "image/png")), len(b)) for b in bodies)
        payload = Payload(
            self._author, tuple(self._some(self._to)), 1_735_689_600_000, random.randbytes(16), parts=parts,
            type=random.choice(("message", "message", "edit", "retract", "reaction", "receipt", "mail", "other")),
            parents=tuple(random.randbytes(32) for _ in range(random.randint(0, 2))),
            replaces=random.choice((None, random.randbytes(32))),
        )  # fmt: skip
        return payload.encode(), list(dict.fromkeys(bodies))

    def _struct(self, kind: type[msgspec.Struct]) -> dict[str, Any]:
        about = _type_info(kind)
        assert isinstance(about, inspect.StructType)
        return {
            field.encode_name: self._value(field.encode_name, field.type)
            for field in about.fields
            if field.required or self._random.random() < 0.6
        }

    def _value(self, name: str, kind: inspect.Type) -> Any:
        random = self._random
        match kind:
            case inspect.UnionType(types=kinds):
                return self._value(name, random.choice(kinds))
            case inspect.StructType(cls=cls):
                return self._struct(cls)
            case inspect.VarTupleType(item_type=each) | inspect.ListType(item_type=each):
                return [self._value(name, each) for _ in range(random.randint(0, 3))]
            case inspect.DictType():
                return {}
            case inspect.IntType():
                return random.choice((0, 1, 2, 3, 50))
            case inspect.StrType():
                return random.choice(_WORDS.get(name, ["INBOX", *self._to]))
            case inspect.BytesType():
                return random.choice((b"", random.randbytes(32), self._payload()[0]))
            case inspect.BoolType():
                return random.random() < 0.5
        return None


_WORDS = {
    "domain": ["alpha.test", "beta.test", "nowhere.test"],
    "mailbox": ["INBOX", "Sent", "Junk", "Work"],
    "action": ["list", "create", "rename", "delete", "subscribe", "grant"],
    "to": ["Work", "Work/Deep", "INBOX", "\\\\x"],
    "move": ["INBOX", "Junk", "Nowhere"],
    "add": ["\\Seen", "\\Deleted", "later"],
    "remove": ["\\Seen", "\\Deleted", "later"],
    "code": ["2.0.0", "4.7.0", "5.1.1"],
}
