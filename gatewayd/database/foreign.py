"""Commits of other processes to the file, as the operator's gatewayctl: looked for from time to time."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet import defer
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from gatewayd.database.sqlite import Database
from gatewayd.errors import StoreError

POLL = 1.0  # seconds


class ForeignCommits:
    """Calls `seen` after any, and once at the start: there may have been one just before."""

    def __init__(self, database: Database, clock: IReactorTime, seen: Callable[[], None]) -> None:
        self._database = database
        self._clock = clock
        self._seen = seen
        self._version: int | None = None
        self._poll = LoopingCall(self._look)

    def start(self) -> None:
        if not self._poll.running:
            self._poll = LoopingCall(self._look)  # a stopped one may still wait for its last look
            self._poll.clock = self._clock
            self._poll.start(POLL)

    def stop(self) -> None:
        if self._poll.running:
            self._poll.stop()

    def _look(self) -> defer.Deferred[None]:
        return defer.Deferred.fromCoroutine(self._compare())

    async def _compare(self) -> None:
        try:
            version = await self._database.data_version()
        except StoreError:  # closed, or for now unreadable: the next look tells
            return
        if version != self._version:
            self._version = version
            self._seen()
