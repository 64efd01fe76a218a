"""A backup of a house's store, and what an operator does with it who has lost the disk."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from gatewayd.store import epochs
from tests.house import House


class Backup:
    """Made now."""

    def __init__(self, house: House, directory: Path) -> None:
        self._house = house
        self._kept, self._witness = directory / "backup.sqlite", directory / "epoch"
        _copy(house.database.path, self._kept)

    def restore(self) -> None:
        """The house does not listen any more, and must again."""
        self._house.hush()
        _copy(self._kept, self._house.database.path)
        epochs.begin(self._house.database.path, self._witness, self._house.reactor.seconds())


def _copy(source: Path, to: Path) -> None:
    with contextlib.closing(sqlite3.connect(source)) as one, contextlib.closing(sqlite3.connect(to)) as other:
        one.backup(other)
