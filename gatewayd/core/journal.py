"""The log's lines about messages, some at a time: an entry of the log costs more than the delivery of a message."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

WAIT = 0.1  # seconds that a line may be late


class Journal:
    """`note` one line; what comes shortly after it stands in the same entry, a line each."""

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._lines: list[str] = []

    def note(self, line: str) -> None:
        if not self._lines:
            self._clock.callLater(WAIT, self.flush)
        self._lines.append(line)

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            self.log.info("{lines}", lines="\n".join(lines))
