"""Each leaf is proved by its own path, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.crypto import merkle


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=40))
def test_every_leaf_leads_to_the_root(items: list[bytes]) -> None:
    leaves = [merkle.leaf(item) for item in items]
    root, proofs = merkle.tree(leaves)
    assert [merkle.root(leaf, *proof) for leaf, proof in zip(leaves, proofs, strict=True)] == [root] * len(items)
    assert max(len(path) for _, path in proofs) == (len(items) - 1).bit_length() * merkle.HASH
    for leaf in {merkle.leaf(b"another"), *leaves[1:]} - {leaves[0]}:
        assert merkle.root(leaf, *proofs[0]) != root


def test_the_hashes_are_those_of_rfc_9162() -> None:
    """§2.1.1 says what a leaf and a node are; the empty leaf's hash stands in RFC 6962's test data."""
    empty = merkle.leaf(b"")
    assert empty.hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    root, _ = merkle.tree([empty, merkle.leaf(b"\0")])
    assert root.hex() == "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"


def test_a_node_is_no_leaf() -> None:
    leaves = [merkle.leaf(b"%d" % n) for n in range(4)]
    root, proofs = merkle.tree(leaves)
    inner = merkle.tree(leaves[:2])[0]
    assert merkle.root(inner, 0, proofs[0][1][32:]) == root  # known to whoever sees a proof
    assert merkle.leaf(leaves[0] + leaves[1]) != inner  # but no octets hash to it


@pytest.mark.parametrize("sides, path", [(0, b"x" * 31), (2, b"x" * 32), (1, b""), (0, b"x" * 32 * 17)])
def test_what_is_no_proof(sides: int, path: bytes) -> None:
    with pytest.raises(ValueError, match="no proof"):
        merkle.root(merkle.leaf(b""), sides, path)
