"""Sightings are counted until their report is sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gatewayd.database.sqlite import Database
from gatewayd.store.dmarc import SQLiteSightings
from tests.loop import Loop


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def sightings(tmp_path: Path, loop: Loop) -> Iterator[SQLiteSightings]:
    database = Database(tmp_path / "test.sqlite", loop.post)
    yield SQLiteSightings(database)
    database.close()


def test_counts_add_up_and_end_with_the_report(loop: Loop, sightings: SQLiteSightings) -> None:
    loop.one(sightings.add({(1, "b.test", "p", "x"): 2, (1, "a.test", "p", "x"): 1}))
    loop.one(sightings.add({(1, "b.test", "p", "x"): 3, (2, "b.test", "p", "y"): 1}))
    assert loop.one(sightings.finished(1)) == []
    assert loop.one(sightings.finished(2)) == [(1, "a.test"), (1, "b.test")]
    assert loop.one(sightings.of(1, "b.test")) == [("p", "x", 5)]
    loop.one(sightings.forget(1, "b.test"))
    assert loop.one(sightings.finished(3)) == [(1, "a.test"), (2, "b.test")]
