"""Who wants to hear of an account's changes: at once of ours, and within FOREIGN_POLL of another process's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from twisted.internet import defer
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from gatewayd.database.sqlite import Database
from gatewayd.errors import StoreError
from gatewayd.interfaces.records import Arrival, Watcher

FOREIGN_POLL = 1.0  # seconds between looks for other processes' commits, while somebody watches


class Watching:
    log = Logger()

    def __init__(self, database: Database, clock: IReactorTime) -> None:
        self._database = database
        self._clock = clock
        self._watchers: dict[int, list[Watcher]] = defaultdict(list)
        self._foreign: int | None = None
        self._poll = LoopingCall(self._look_for_foreign_commits)

    def __contains__(self, account_id: int) -> bool:
        return account_id in self._watchers

    def watch(self, account_id: int, callback: Watcher) -> Callable[[], None]:
        """Returns what ends it."""
        self._watchers[account_id].append(callback)
        if not self._poll.running:
            self._poll = LoopingCall(self._look_for_foreign_commits)  # a stopped one may still wait for its last look
            self._poll.clock = self._clock
            self._poll.start(FOREIGN_POLL, now=True)
        return partial(self._stop, account_id, callback)

    def _stop(self, account_id: int, callback: Watcher) -> None:
        with suppress(ValueError):  # it was stopped
            self._watchers[account_id].remove(callback)
        if not self._watchers[account_id]:
            del self._watchers[account_id]
        if not self._watchers and self._poll.running:
            self._poll.stop()

    def notify(self, account_id: int, arrivals: Sequence[Arrival] = ()) -> None:
        """Of what was committed; `arrivals`, if it is all that there is."""
        for callback in list(self._watchers.get(account_id, ())):
            try:
                callback(arrivals)
            except Exception:  # the commit stands, and others watch too
                self.log.failure("a watcher failed")

    def _look_for_foreign_commits(self) -> defer.Deferred[None]:
        async def look() -> None:
            try:
                version = await self._database.data_version()
            except StoreError:  # closed, or for now unreadable: the next look tells
                return
            if version != self._foreign:  # at the first look too: there may have been one since `watch`
                for account_id in list(self._watchers):
                    self.notify(account_id)
            self._foreign = version

        return defer.Deferred.fromCoroutine(look())
