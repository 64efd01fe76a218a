"""Large bodies as content-addressed files: written and synced before the row that names them, swept later."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection
from pathlib import Path


class BlobStore:
    """Files named by the SHA-256 of their octets. Every method blocks; call it from a thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self._directory / name[:2] / name[2:]

    def put(self, digest: bytes, octets: bytes) -> None:
        """Durable when it returns. Raises OSError."""
        path = self.path(digest)
        try:
            os.utime(path)  # a sweep that runs now must not take it
        except FileNotFoundError:
            self._write(path, octets)
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

    def sweep(self, wanted: Collection[bytes], older_than: float) -> int:
        """Remove files that no row names and that were last touched before that time; returns how many."""
        names = {digest.hex() for digest in wanted}
        swept = 0
        for path in self._directory.glob("??/*"):
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
