"""Strict CBOR (RFC 8949), in frames and in what is signed: definite lengths, no tags, no floats, no simple values but
false, true and null, depth; checked before anything is built (docs/parley.rst §6).
"""

from __future__ import annotations

MAX_DEPTH = 16
_SIZES = {24: 1, 25: 2, 26: 4, 27: 8}
_SIMPLE = {20, 21, 22}  # false, true, null


class NotStrict(ValueError):
    """The octets are no such item."""


def check(octets: bytes) -> None:
    """One walk over the heads: all of it, and nothing after the item. Raises NotStrict."""
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
            raise NotStrict("the CBOR item is cut off")
        head = octets[at]
        at += 1
        step = _STEPS[head]
        if step >= 0:
            at += step
            continue
        major, info = head >> 5, head & 31
        if major == 7:
            raise NotStrict("floats and other simple values are not used")
        if major == 6:
            raise NotStrict("tags are not used")
        value = info
        if info >= 24:
            size = _SIZES.get(info)
            if size is None:
                raise NotStrict("lengths must be definite")
            value = int.from_bytes(octets[at : at + size], "big")
            at += size
        if major in (2, 3):
            at += value
            continue
        count = value * (2 if major == 5 else 1)
        if count > end - at:
            raise NotStrict("more items announced than there are octets")
        if count:
            if len(around) >= MAX_DEPTH:
                raise NotStrict(f"nested deeper than {MAX_DEPTH}")
            around.append(left)
            left = count
    if at > end:
        raise NotStrict("the CBOR item is cut off")
    if at != end:
        raise NotStrict("octets after the CBOR item")


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
