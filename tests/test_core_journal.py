"""No line is lost, and many make one entry."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher

from gatewayd.core.journal import WAIT, Journal


def test_lines_that_come_together_are_one_entry() -> None:
    clock = Clock()
    journal = Journal(clock)
    entries: list[str] = []

    def observe(event: LogEvent) -> None:
        if "lines" in event:
            entries.append(event["lines"])

    globalLogPublisher.addObserver(observe)
    try:
        journal.note("one {with braces}")
        journal.note("two")
        assert entries == []
        clock.advance(WAIT)
        journal.note("three")
        journal.flush()  # the end
        clock.advance(WAIT)
    finally:
        globalLogPublisher.removeObserver(observe)
    assert entries == ["one {with braces}\ntwo", "three"]
