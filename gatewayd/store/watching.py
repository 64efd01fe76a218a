"""Who wants to hear of an account's changes: at once of ours, and within a second or so of another process's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from gatewayd.database.foreign import ForeignCommits
from gatewayd.database.sqlite import Database
from gatewayd.interfaces.records import Arrival, Watcher


class Watching:
    log = Logger()

    def __init__(self, database: Database, clock: IReactorTime) -> None:
        self._watchers: dict[int, list[Watcher]] = defaultdict(list)
        self._foreign = ForeignCommits(database, clock, self._notify_all)

    def __contains__(self, account_id: int) -> bool:
        return account_id in self._watchers

    def watch(self, account_id: int, callback: Watcher) -> Callable[[], None]:
        """Returns what ends it."""
        self._watchers[account_id].append(callback)
        self._foreign.start()
        return partial(self._stop, account_id, callback)

    def _stop(self, account_id: int, callback: Watcher) -> None:
        with suppress(ValueError):  # it was stopped
            self._watchers[account_id].remove(callback)
        if not self._watchers[account_id]:
            del self._watchers[account_id]
        if not self._watchers:
            self._foreign.stop()

    def notify(self, account_id: int, arrivals: Sequence[Arrival] = ()) -> None:
        """Of what was committed; `arrivals`, if it is all that there is."""
        for callback in list(self._watchers.get(account_id, ())):
            try:
                callback(arrivals)
            except Exception:  # the commit stands, and others watch too
                self.log.failure("a watcher failed")

    def _notify_all(self) -> None:
        for account_id in list(self._watchers):
            self.notify(account_id)
