"""A Merkle tree over a batch, so that one signature of its root covers them all and each is proved alone.

Hashes as in RFC 9162 §2.1.1: a leaf and a node can never be taken for each other. A node without a sibling moves up.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

HASH = 32  # octets
MAX_STEPS = 16  # of a proof: 65,536 leaves


def leaf(octets: bytes) -> bytes:
    return sha256(b"\0" + octets).digest()


def tree(leaves: Sequence[bytes]) -> tuple[bytes, list[tuple[int, bytes]]]:
    """The root, and for each leaf (sides, path): the siblings from the leaf up, joined; bit i of `sides` is set where
    sibling i is on the left. At least one leaf."""
    sides, paths = [0] * len(leaves), [b""] * len(leaves)
    level = [(node, range(at, at + 1)) for at, node in enumerate(leaves)]  # each with the leaves below it
    while len(level) > 1:
        above = []
        for (left, under_left), (right, under_right) in zip(level[::2], level[1::2], strict=False):
            for at in under_left:
                paths[at] += right
            for at in under_right:
                sides[at] |= 1 << (len(paths[at]) // HASH)
                paths[at] += left
            above.append((_node(left, right), range(under_left.start, under_right.stop)))
        level = above + (level[-1:] if len(level) % 2 else [])
    return level[0][0], list(zip(sides, paths, strict=True))


def root(node: bytes, sides: int, path: bytes) -> bytes:
    """What the tree's root must be if that leaf is in it. Raises ValueError for what is no proof."""
    steps, rest = divmod(len(path), HASH)
    if rest or steps > MAX_STEPS or sides >> steps:
        raise ValueError("no proof")
    for step in range(steps):
        sibling = path[step * HASH : (step + 1) * HASH]
        node = _node(sibling, node) if sides >> step & 1 else _node(node, sibling)
    return node


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()
