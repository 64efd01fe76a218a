"""What is brought in chunks: resumed, verified, bounded, and nobody's but its owner's."""

from __future__ import annotations

import errno
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.interfaces.records import OverQuota, WrongOctets
from gatewayd.store import holdings as module
from gatewayd.store.blobs import BlobStore
from gatewayd.store.holdings import Holdings

BODY = b"0123456789" * 10
DIGEST = sha256(BODY).digest()
QUOTA = 1_000_000
OLD, LATER = 1_000_000.0, 2_000_000.0  # seconds since the epoch


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def holdings(tmp_path: Path, blobs: BlobStore) -> Holdings:
    return Holdings(tmp_path / "held", blobs, reserve=0)


def add(holdings: Holdings, offset: int, data: bytes, **how: Any) -> int:
    how = {"owner": "a", "digest": DIGEST, "size": len(BODY), "quota": QUOTA, **how}
    return holdings.add(offset=offset, data=data, **how)


def bring(holdings: Holdings, body: bytes = BODY, owner: str = "a") -> bytes:
    digest = sha256(body).digest()
    assert add(holdings, 0, body, owner=owner, digest=digest, size=len(body)) == len(body)
    return digest


def files(tmp_path: Path) -> list[str]:
    return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())


def test_piece_by_piece_and_on_from_where_it_was_cut_off(holdings: Holdings, blobs: BlobStore, tmp_path: Path) -> None:
    assert add(holdings, 0, b"") == 0
    assert add(holdings, 0, BODY[:30]) == 30
    assert not holdings.claim("a", DIGEST, len(BODY))
    again = Holdings(tmp_path / "held", blobs, reserve=0)
    assert add(again, 0, b"") == 30
    assert add(again, 30, BODY[30:]) == 100
    assert add(again, 0, b"") == 100
    assert again.claim("a", DIGEST, len(BODY))
    assert blobs.get(DIGEST) == BODY


@given(st.lists(st.tuples(st.integers(0, 120), st.integers(0, 120))))
def test_any_offsets_in_any_order(tmp_path_factory: pytest.TempPathFactory, chunks: list[tuple[int, int]]) -> None:
    root = tmp_path_factory.mktemp("holdings")
    blobs = BlobStore(root / "blobs")
    holdings = Holdings(root / "held", blobs, reserve=0)
    there = 0
    for begin, end in chunks:
        data = BODY[begin:end]
        if begin == there:
            there += len(data)
        assert add(holdings, begin, data) == there
    assert add(holdings, there, BODY[there:]) == len(BODY)
    assert holdings.claim("a", DIGEST, len(BODY))
    assert blobs.get(DIGEST) == BODY


def test_more_than_was_announced_is_left_out(holdings: Holdings) -> None:
    assert add(holdings, 0, BODY + b"!") == 0
    assert add(holdings, 0, BODY[:60]) == 60
    assert add(holdings, 60, BODY[60:] + b"!") == 60


def test_wrong_octets_are_gone(holdings: Holdings, tmp_path: Path) -> None:
    assert add(holdings, 0, BODY[:50]) == 50
    with pytest.raises(WrongOctets):
        add(holdings, 50, bytes(50))
    assert files(tmp_path) == []
    assert not holdings.claim("a", DIGEST, len(BODY))
    assert bring(holdings) == DIGEST


def test_a_last_chunk_after_which_the_process_was_killed(holdings: Holdings, tmp_path: Path) -> None:
    """All is there, not yet verified: the next question does that."""
    add(holdings, 0, BODY[:50])
    part = tmp_path / "held/a" / f"{DIGEST.hex()}.100"
    part.write_bytes(BODY)
    assert add(holdings, 0, b"") == 100
    assert holdings.claim("a", DIGEST, 100)


def test_who_knows_a_hash_has_nothing(holdings: Holdings) -> None:
    bring(holdings, owner="a")
    assert holdings.claim("a", DIGEST, len(BODY))
    assert not holdings.claim("b", DIGEST, len(BODY))
    assert add(holdings, 0, b"", owner="b") == 0
    assert not holdings.claim("a", DIGEST, len(BODY) - 1)


def test_two_owners_of_the_same_share_one_file(holdings: Holdings, blobs: BlobStore, tmp_path: Path) -> None:
    for owner in ("a", "b"):
        bring(holdings, owner=owner)
    for owner in ("a", "b", "b"):
        assert holdings.claim(owner, DIGEST, len(BODY))
    assert len({(tmp_path / name).stat().st_ino for name in files(tmp_path)}) == 1
    assert blobs.path(DIGEST).stat().st_nlink == 3


def test_a_quota_for_what_no_message_names(holdings: Holdings) -> None:
    digest = bring(holdings)
    with pytest.raises(OverQuota):
        add(holdings, 0, b"", digest=bytes(32), size=50, quota=149)
    assert add(holdings, 0, b"", digest=bytes(32), size=50, quota=150) == 0
    with pytest.raises(OverQuota):  # a part counts with its announced size
        add(holdings, 0, b"", digest=bytes(31) + b"2", size=1, quota=150)
    assert add(holdings, 0, b"", owner="b", digest=bytes(32), size=150, quota=150) == 0
    assert holdings.claim("a", digest, 100)
    assert add(holdings, 0, b"", digest=bytes(31) + b"2", size=100, quota=150) == 0


def test_no_more_files_than_that(holdings: Holdings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 3)
    for number in range(3):
        assert add(holdings, 0, b"", digest=bytes([number]) * 32, size=1) == 0
    with pytest.raises(OverQuota):
        add(holdings, 0, b"", digest=bytes([9]) * 32, size=1)


def test_a_size_that_the_disk_does_not_have(holdings: Holdings, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        add(holdings, 0, b"x", size=2**60, quota=2**62)
    assert files(tmp_path) == []


def test_a_disk_that_fills_up(holdings: Holdings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunk is refused whole; what was there is there, and goes on when there is room again."""
    add(holdings, 0, BODY[:50])

    def failing(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(module, "SYNC", 10)
        patch.setattr(os, "fdatasync", failing)
        with pytest.raises(OSError, match="No space left"):
            add(holdings, 50, BODY[50:])
    assert (tmp_path / files(tmp_path)[0]).read_bytes() == BODY[:50]
    assert add(holdings, 50, BODY[50:]) == 100


def test_synced_before_it_has_its_name(holdings: Holdings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[list[str]] = []
    fsync = os.fsync

    def watched(handle: int) -> None:
        fsync(handle)
        synced.append(files(tmp_path))

    monkeypatch.setattr(os, "fsync", watched)
    bring(holdings)
    assert synced == [[f"held/a/{DIGEST.hex()}.100"]]
    assert files(tmp_path) == [f"held/a/{DIGEST.hex()}"]


def test_swept_is_what_is_old(holdings: Holdings, blobs: BlobStore, tmp_path: Path) -> None:
    assert holdings.sweep(LATER) == 0
    for owner in ("a", "b"):
        bring(holdings, owner=owner)
        add(holdings, 0, b"1", owner=owner, digest=bytes(32), size=10)
    for path in (tmp_path / "held/a").iterdir():
        os.utime(path, (OLD, OLD))
    assert holdings.claim("a", DIGEST, len(BODY))  # young again
    assert holdings.sweep(LATER) == 1
    assert add(holdings, 0, b"", digest=bytes(32), size=10) == 0
    assert add(holdings, 0, b"", owner="b", digest=bytes(32), size=10) == 1
    assert blobs.sweep(set(), LATER) == 0  # a claim is a day's time for a message to name it
    os.utime(blobs.path(DIGEST), (OLD, OLD))
    assert blobs.sweep({DIGEST}, LATER) == 0
    assert blobs.sweep(set(), LATER) == 1
    assert holdings.sweep(LATER) == 1  # the same file
    assert holdings.claim("b", DIGEST, len(BODY))
    assert blobs.get(DIGEST) == BODY
