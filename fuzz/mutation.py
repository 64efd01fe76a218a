"""How valid things are spoiled: octets, and CBOR items from the inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import cbor2

NUMBERS = [0, 1, 23, 24, 255, 256, 65535, 65536, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, -1, -(2**64)]
TEXTS = [
    "",
    "\0",
    "\r\n",
    "a" * 300,
    "é\u202e\ud7ff",
    "../../etc/passwd",
    "%s%n",
    "INBOX",
    "alice@alpha.test",
    "*",
    "\\Seen",
]
LUMPS = [b"", b"\0", b"\xff" * 33, b"\r\n.\r\n", bytes(32), b"{99999999}\r\n", b"\xa1\x61a\x01", b"\x9f" * 20]


def octets(random: Random, given: bytes, others: Sequence[bytes] = ()) -> bytes:
    """One to four changes; `others` are what pieces are taken from."""
    spoiled = bytearray(given)
    for _ in range(random.randint(1, 4)):
        random.choice(_CHANGES)(random, spoiled, others)
    return bytes(spoiled)


def _flip(random: Random, spoiled: bytearray, others: Sequence[bytes]) -> None:
    if spoiled:
        spoiled[random.randrange(len(spoiled))] ^= 1 << random.randrange(8)


def _put(random: Random, spoiled: bytearray, others: Sequence[bytes]) -> None:
    if spoiled:
        spoiled[random.randrange(len(spoiled))] = random.choice((0, 10, 13, 32, 34, 46, 92, 123, 127, 128, 255))


def _insert(random: Random, spoiled: bytearray, others: Sequence[bytes]) -> None:
    at = random.randint(0, len(spoiled))
    spoiled[at:at] = random.choice((random.choice(LUMPS), random.randbytes(random.randint(1, 20))))


def _cut(random: Random, spoiled: bytearray, others: Sequence[bytes]) -> None:
    begin = random.randint(0, len(spoiled))
    del spoiled[begin : begin + random.choice((1, 4, 30, len(spoiled)))]


def _repeat(random: Random, spoiled: bytearray, others: Sequence[bytes]) -> None:
    begin = random.randint(0, len(spoiled))
    piece = spoiled[begin : begin + random.randint(1, 40)]
    spoiled[begin:begin] = piece * random.choice((1, 2, 50))


def _splice(random: Random, spoiled: bytearray, others: Sequence[bytes]) -> None:
    if others:
        other = random.choice(others)
        begin, at = random.randint(0, len(other)), random.randint(0, len(spoiled))
        spoiled[at : at + random.randint(0, 40)] = other[begin : begin + random.randint(0, 200)]


def _length(random: Random, spoiled: bytearray, others: Sequence[bytes]) -> None:
    """A frame's length, or whatever stands there."""
    if len(spoiled) >= 4:
        size = int.from_bytes(spoiled[:4], "big") + random.choice((-1, 1, 2, 1000, 70_000, 2**31))
        spoiled[:4] = (size % 2**32).to_bytes(4, "big")


_CHANGES: list[Callable[[Random, bytearray, Sequence[bytes]], None]] = [
    _flip, _flip, _put, _insert, _cut, _repeat, _splice, _length,
]  # fmt: skip


def item(random: Random, given: Any) -> Any:
    """The item with one place in it changed; the form of the whole stays."""
    match given:
        case dict() if given and random.random() < 0.8:
            key = random.choice(list(given))
            match random.randrange(8):
                case 0:
                    return {k: v for k, v in given.items() if k != key}
                case 1:
                    return {**given, random.choice([*TEXTS, *NUMBERS]): value(random)}
            return {**given, key: item(random, given[key])}
        case list() | tuple() if given and random.random() < 0.8:
            at = random.randrange(len(given))
            changed = list(given)
            match random.randrange(8):
                case 0:
                    del changed[at]
                case 1:
                    changed[at:at] = [changed[at]] * random.choice((1, 1, 3, 3, 3, 1000))
                case _:
                    changed[at] = item(random, changed[at])
            return changed
        case bytes() if given and random.random() < 0.8:
            return _inside(random, given)
        case str() if given and random.random() < 0.5:
            return octets(random, given.encode()).decode("utf-8", "replace")
    return value(random)


def _inside(random: Random, given: bytes) -> bytes:
    """Octets that are CBOR themselves (a payload, a signed object) are changed as such."""
    try:
        inner = cbor2.loads(given)
    except Exception:
        return octets(random, given)
    if not isinstance(inner, dict | list):
        return octets(random, given)
    return cbor2.dumps(item(random, inner))


def value(random: Random, depth: int = 0) -> Any:
    match random.randrange(8 if depth < 3 else 6):
        case 0:
            return random.choice(NUMBERS)
        case 1:
            return random.choice(TEXTS)
        case 2:
            return random.choice(LUMPS)
        case 3:
            return random.choice((True, False, None))
        case 4:
            return random.choice((1.5, float("nan"), cbor2.CBORTag(24, b"x"), cbor2.undefined))
        case 5:
            return random.randbytes(random.randint(0, 100))
        case 6:
            return [value(random, depth + 1) for _ in range(random.randint(0, 4))]
    return {random.choice(TEXTS): value(random, depth + 1) for _ in range(random.randint(0, 3))}
