"""The trace: written a few times a second, found by id and by address, forgotten in time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from gatewayd.database.sqlite import Database
from gatewayd.interfaces.story import Event
from gatewayd.store import trace
from gatewayd.store.trace import TraceLog
from tests.loop import Loop


class Log:
    def __init__(self, path: Path) -> None:
        self.loop, self.clock = Loop(), Clock()
        self.clock.advance(1_000_000)
        self.database = Database(path, self.loop.post)
        self.trace = TraceLog(self.database, self.clock)
        self.one = self.loop.one

    def say(self, name: str, address: str, text: str) -> Event:
        event = Event(name, self.clock.seconds(), address, text)
        self.trace.record(event)
        return event

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.loop.all(self.database.write(lambda db: None))  # type: ignore[arg-type]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    made = Log(tmp_path / "test.sqlite")
    yield made
    made.database.close()


def test_a_story_is_told_in_order(log: Log) -> None:
    events = [log.say("a", "alice@alpha.test", "received"), log.say("a", "Bob@beta.test", "queued")]
    other = log.say("b", "bob@beta.test", "queued")
    assert log.one(log.trace.story("a")) == []
    log.pass_time(trace.FLUSH)
    assert log.one(log.trace.story("a")) == events
    later = log.say("a", "Bob@beta.test", "delivered")
    log.pass_time(trace.FLUSH)
    assert log.one(log.trace.story("a")) == [*events, later]
    assert log.one(log.trace.about("BOB@beta.test", 10))[0] == later
    assert other in log.one(log.trace.about("bob@beta.test", 10))
    assert log.one(log.trace.about("bob@beta.test", 1)) == [later]
    assert log.one(log.trace.about("", 10)) == []


def test_all_that_waits_is_one_write(log: Log) -> None:
    before = log.database.commits
    for number in range(500):
        log.say(str(number), "", "x" * 5000)
    log.pass_time(trace.FLUSH)
    assert log.database.commits - before <= 2  # the test's own is the other
    (event,) = log.one(log.trace.story("499"))
    assert len(event.text) == trace.MAX_TEXT


def test_what_cannot_be_written_waits(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "MAX_WAITING", 2)
    log.one(log.database.write(lambda db: db.execute("ALTER TABLE trace RENAME TO gone")))  # type: ignore[arg-type]
    for _ in range(3):
        log.say("a", "", "lost in time")
    log.pass_time(trace.FLUSH)
    log.one(log.database.write(lambda db: db.execute("ALTER TABLE gone RENAME TO trace")))  # type: ignore[arg-type]
    log.one(log.trace.flush())
    assert len(log.one(log.trace.story("a"))) == 2


def test_sweep_forgets_the_old(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "SWEPT", 3)
    for number in range(10):
        log.say(str(number), "", "old")
    log.pass_time(100)
    log.say("new", "", "new")
    log.pass_time(1)
    log.one(log.trace.sweep(log.clock.seconds() - 50))
    left = log.one(log.database.read(lambda db: db.execute("SELECT trace_id FROM trace").fetchall()))  # type: ignore[arg-type]
    assert left == [("new",)]


def test_both_ways_of_asking_use_an_index(log: Log) -> None:
    said: list[str] = []

    def explain(db: object) -> list[str]:
        return [row[3] for q in said for row in db.execute("EXPLAIN QUERY PLAN " + q).fetchall()]  # type: ignore[attr-defined]

    log.one(log.database.write(lambda db: db.set_trace_callback(None)))  # type: ignore[arg-type]
    said.append("SELECT * FROM trace WHERE trace_id='a' ORDER BY at, event_id")
    said.append("SELECT * FROM trace WHERE address='a' COLLATE NOCASE AND address<>'' ORDER BY at DESC LIMIT 3")
    plans = log.one(log.database.read(explain))  # type: ignore[arg-type]
    assert any("trace_story" in plan for plan in plans) and any("trace_address" in plan for plan in plans)
