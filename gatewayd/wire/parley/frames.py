"""Frames: a 4-octet big-endian length, then one CBOR item (RFC 8949), strict, and checked before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cbor2

from gatewayd.wire.parley import LocalProtocolError, RemoteProtocolError

MAX_DEPTH = 16
HEADER = 4
_SIZES = {24: 1, 25: 2, 26: 4, 27: 8}
_SIMPLE = {20, 21, 22}  # false, true, null


class FrameReader:
    """Octets to decoded items; the announced length is judged before its octets are awaited."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The items that are complete now, one by one. Raises RemoteProtocolError."""
        self._buffer += data
        at = 0
        try:
            while len(self._buffer) - at >= HEADER:
                size = int.from_bytes(self._buffer[at : at + HEADER], "big")
                if size > self.limit:
                    raise RemoteProtocolError("too-big", f"a frame of {size} octets; the limit is {self.limit}")
                end = at + HEADER + size
                if len(self._buffer) < end:
                    break
                begin, at = at + HEADER, end
                yield decode(bytes(self._buffer[begin:end]))
        finally:
            del self._buffer[:at]


def decode(octets: bytes) -> Any:
    check(octets)
    try:
        return cbor2.loads(
            octets, max_depth=MAX_DEPTH + 1, allow_indefinite=False, allow_duplicate_keys=False,
            strict_hashable_types=True,
        )  # fmt: skip
    except (cbor2.CBORDecodeError, ValueError, TypeError) as error:
        raise RemoteProtocolError("bad-frame", f"bad CBOR: {error}") from None


def encode(item: Any, limit: int) -> bytes:
    octets = cbor2.dumps(item)
    if len(octets) > limit:
        raise LocalProtocolError(f"a frame of {len(octets)} octets; the peer takes {limit}")
    return len(octets).to_bytes(HEADER, "big") + octets


def check(octets: bytes) -> None:
    """One walk over the heads: definite lengths, no tags, no floats, depth, nothing after the item."""
    around: list[int] = []  # how many items each open array or map still needs, but for the innermost
    left, at, end = 1, 0, len(octets)
    while True:
        if not left:
            if not around:
                break
            left = around.pop()
            continue
        left -= 1
        if at >= end:
            raise RemoteProtocolError("bad-frame", "the CBOR item is cut off")
        head = octets[at]
        at += 1
        step = _STEPS[head]
        if step >= 0:
            at += step
            continue
        major, info = head >> 5, head & 31
        if major == 7:
            raise RemoteProtocolError("bad-frame", "floats and other simple values are not used")
        if major == 6:
            raise RemoteProtocolError("bad-frame", "tags are not used")
        value = info
        if info >= 24:
            size = _SIZES.get(info)
            if size is None:
                raise RemoteProtocolError("bad-frame", "lengths must be definite")
            value = int.from_bytes(octets[at : at + size], "big")
            at += size
        if major in (2, 3):
            at += value
            continue
        count = value * (2 if major == 5 else 1)
        if count > end - at:
            raise RemoteProtocolError("bad-frame", "more items announced than the frame can hold")
        if count:
            if len(around) >= MAX_DEPTH:
                raise RemoteProtocolError("bad-frame", f"nested deeper than {MAX_DEPTH}")
            around.append(left)
            left = count
    if at > end:
        raise RemoteProtocolError("bad-frame", "the CBOR item is cut off")
    if at != end:
        raise RemoteProtocolError("bad-frame", "octets after the CBOR item")


def _step(head: int) -> int:
    """How many octets follow the first one of an item that ends with them: an integer, a short string, false, true,
    null. -1: there is more to it."""
    major, info = head >> 5, head & 31
    if major in (0, 1) and info < 28:
        return _SIZES.get(info, 0)
    if major in (2, 3) and info < 24:
        return info
    return 0 if major == 7 and info in _SIMPLE else -1


_STEPS = [_step(head) for head in range(256)]
