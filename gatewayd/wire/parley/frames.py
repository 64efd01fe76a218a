"""Frames: a 4-octet big-endian length, then one CBOR item (RFC 8949), strict, and checked before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cbor2

from gatewayd.strict_cbor import MAX_DEPTH, check
from gatewayd.wire.parley import LocalProtocolError, RemoteProtocolError

HEADER = 4


class FrameReader:
    """Octets to decoded items; the announced length is judged before its octets are awaited."""

    __slots__ = ("_buffer", "limit")

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
    try:
        check(octets)
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
