"""Large bodies as content-addressed files: written and synced before the row that names them, swept later."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection
from pathlib import Path


class BlobStore:
    """Files named by the SHA-256 of their octets. Every method blocks; call it from a thread."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self.directory / name[:2] / name[2:]

    def put(self, digest: bytes, octets: bytes) -> None:
        """Durable when it returns. Raises OSError."""
        try:
            self.touch(digest)
        except FileNotFoundError:
            self._write(self.path(digest), octets)
        self._sync(digest)

    def touch(self, digest: bytes) -> None:
        """A sweep that runs now must not take it. Raises FileNotFoundError."""
        os.utime(self.path(digest))

    def adopt(self, digest: bytes, whole: Path) -> None:
        """Put a file that is whole and synced, on the same disk, and make the two one. Raises OSError."""
        path = self.path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.utime(whole)
        try:
            os.link(whole, path)
        except FileExistsError:
            self.touch(digest)
            if not path.samefile(whole):
                whole.unlink()
                os.link(path, whole)
        self._sync(digest)

    def _sync(self, digest: bytes) -> None:
        path = self.path(digest)
        for directory in (path.parent, path.parent.parent):
            handle = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def _write(self, path: Path, octets: bytes) -> None:
        """Whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            with temporary.open("wb") as file:
                file.write(octets)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)

    def get(self, digest: bytes) -> bytes:
        """Raises OSError."""
        return self.path(digest).read_bytes()

    def read(self, digest: bytes, offset: int, length: int) -> tuple[bytes, int]:
        """(the octets from there on, the size of all). Raises OSError."""
        handle = os.open(self.path(digest), os.O_RDONLY)
        try:
            return os.pread(handle, length, offset), os.fstat(handle).st_size
        finally:
            os.close(handle)

    def sweep(self, wanted: Collection[bytes], older_than: float) -> int:
        """Remove files that no row names and that were last touched before that time; returns how many."""
        names = {digest.hex() for digest in wanted}
        swept = 0
        for path in self.directory.glob("??/*"):
            if path.parent.name + path.name in names:
                continue
            try:
                if path.stat().st_mtime < older_than:
                    swept += _remove(path, older_than)
            except FileNotFoundError:  # somebody's temporary file
                continue
        return swept


def _remove(path: Path, older_than: float) -> bool:
    """Put aside first: somebody, maybe another process, may have touched it just now because it is wanted again."""
    aside = path.with_name(f"{path.name}.swept")
    path.rename(aside)
    if aside.stat().st_mtime >= older_than:
        aside.rename(path)
        return False
    aside.unlink()
    return True
