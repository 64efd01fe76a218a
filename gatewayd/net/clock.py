"""Two kinds of time: the wall's, which somebody may set, and a steady one, by which timers run.

Twisted's reactor has the wall's for both: set back by an hour, it would call nothing that is planned for an hour, not
even what was to be done at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer


def steady(reactor: Any) -> None:
    """From now on its timers heed no change of the wall's time. Before anything is planned."""
    reactor.seconds = time.monotonic


@implementer(IReactorTime)
class WallClock:
    """Tells the wall's time, in seconds since the epoch, and counts seconds by the reactor's. What `getTime` of its
    calls says is the reactor's time."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def seconds(self) -> float:
        return time.time()

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object) -> IDelayedCall:
        made: IDelayedCall = self._reactor.callLater(delay, callable, *args, **kwargs)
        return made

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        found: Sequence[IDelayedCall] = self._reactor.getDelayedCalls()
        return found
