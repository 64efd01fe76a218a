"""Blobs that somebody brings in chunks, until a message names them: an upload of a user, what is fetched from a peer.

Each owner has a directory of their own: that a blob lies here for somebody else helps nobody who knows its hash only.
`HASH.SIZE` is a part of one and grows at its end, so its size says where to go on; `HASH` is whole and verified.
"""

from __future__ import annotations

import contextlib
import errno
import os
from hashlib import file_digest
from pathlib import Path

from gatewayd.interfaces.records import OverQuota, WrongOctets
from gatewayd.store.blobs import BlobStore

MAX_FILES = 1000  # of one owner
SYNC = 16 * 1024 * 1024  # octets written between two fdatasync: the last one waits for no more than that
RESERVE = 64 * 1024 * 1024  # octets of the disk that are left to the mail


class Holdings:
    """Every method blocks and may raise OSError; call it from a thread, one at a time for each owner and hash."""

    def __init__(self, directory: Path, blobs: BlobStore, reserve: int = RESERVE) -> None:
        self._directory = directory
        self._blobs = blobs
        self._reserve = reserve

    def add(self, owner: str, digest: bytes, size: int, offset: int, data: bytes, quota: int) -> int:
        """How many octets are there now. Data that does not begin where the part ends is left out: the answer says
        where to go on. Raises WrongOctets, OverQuota."""
        whole = self._whole(owner, digest)
        if _size(whole) == size:
            return size
        part = whole.with_name(f"{whole.name}.{size}")
        there = _size(part)
        if there is None:
            self._make_room(whole.parent, size, quota)
            part.touch()
            there = 0
        if offset == there and 0 < len(data) <= size - there:
            self._append(part, there, size, data)
            there += len(data)
        if there == size:
            self._finish(part, whole, digest)
        return there

    def claim(self, owner: str, digest: bytes, size: int) -> bool:
        """Whether the owner has brought it whole; then it stands among the blobs, and a sweep that runs now leaves it
        for a message to name."""
        whole = self._whole(owner, digest)
        if _size(whole) != size:
            return False
        self._blobs.adopt(digest, whole)
        return True

    def sweep(self, older_than: float) -> int:
        """Remove what was last touched before that time; returns how many."""
        swept = 0
        for path in self._directory.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):  # it may have become whole just now
                if path.stat().st_mtime < older_than:
                    path.unlink()
                    swept += 1
        return swept

    def _whole(self, owner: str, digest: bytes) -> Path:
        return self._directory / owner / digest.hex()

    def _make_room(self, directory: Path, size: int, quota: int) -> None:
        """A part counts with the size that it will have, a whole one until a message has named it."""
        directory.mkdir(parents=True, exist_ok=True)
        sizes = []
        for path in directory.iterdir():
            status = path.stat()
            if status.st_nlink == 1:  # else it stands among the blobs too
                sizes.append(int(path.suffix[1:] or status.st_size))
        if len(sizes) >= MAX_FILES or sum(sizes) + size > quota:
            raise OverQuota
        self._check_disk(directory, size)

    def _check_disk(self, directory: Path, size: int) -> None:
        disk = os.statvfs(directory)
        if disk.f_bavail * disk.f_frsize < size + self._reserve:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _append(self, part: Path, there: int, size: int, data: bytes) -> None:
        """Whole or not at all."""
        with part.open("r+b", buffering=0) as file:
            try:
                file.seek(there)
                left = memoryview(data)
                while left:
                    left = left[file.write(left) :]
                if there // SYNC != (there + len(data)) // SYNC:
                    self._check_disk(part.parent, size - there)  # others write too
                    os.fdatasync(file.fileno())
            except OSError:
                file.truncate(there)
                raise

    def _finish(self, part: Path, whole: Path, digest: bytes) -> None:
        with part.open("r+b") as file:
            if file_digest(file, "sha256").digest() != digest:
                part.unlink()
                raise WrongOctets
            os.fsync(file.fileno())
        part.rename(whole)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
