"""Trying again until it is done, each time a little later: all of a server's clients come back at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import SystemRandom
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from gatewayd.session.parley_client import RequestFailed

R = TypeVar("R")

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds until a lost connection is dialled again; doubled each time
_random = SystemRandom()


class Patience:
    """Of one client. `over`: nothing is tried again."""

    def __init__(self, reactor: Any) -> None:
        self.over = False
        self._reactor = reactor
        self._pauses: set[Deferred[None]] = set()

    @property
    def waits(self) -> bool:
        return bool(self._pauses)

    async def persist(self, work: Callable[[], Awaitable[R]]) -> R:
        """Until it is done, or `end`, or the server says that it will never be."""
        wait = FIRST_WAIT
        while True:
            try:
                return await work()
            except OSError:
                if self.over:
                    raise
            except RequestFailed as failed:
                if failed.error != "unavailable" or self.over:
                    raise
            await self._pause(_random.uniform(0, wait))
            wait = min(2 * wait, LONGEST_WAIT)

    def try_now(self) -> None:
        """Waits no longer until the next attempt."""
        for over in list(self._pauses):
            self._pauses.discard(over)
            over.callback(None)

    def end(self) -> None:
        self.over = True
        self.try_now()

    async def _pause(self, seconds: float) -> None:
        over: Deferred[None] = Deferred()
        self._pauses.add(over)
        call = self._reactor.callLater(seconds, over.callback, None)
        try:
            await over
        finally:
            self._pauses.discard(over)
            if call.active():
                call.cancel()
