"""Threads for what blocks.

When the service stops, one that is stuck (a filter that says nothing) is left behind: it holds nothing that was
acknowledged.
"""

from __future__ import annotations

import time
from functools import partial
from threading import Thread
from typing import Any

from twisted.internet.threads import deferToThread, deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from gatewayd.core.batch import InThread

PATIENCE = 5.0  # seconds


class _Pool(ThreadPool):
    threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]  # the process ends without them


class Threads:
    """A pool for each kind of work: what is slow keeps nothing else waiting."""

    log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pools: list[ThreadPool] = []

    def pool(self, name: str, most: int) -> InThread:
        self._pools.append(_Pool(0, most, name=name))
        return partial(deferToThreadPool, self._reactor, self._pools[-1])

    def start(self) -> None:
        for pool in self._pools:
            pool.start()

    async def stop(self) -> None:
        """Takes PATIENCE at most, for all of them."""
        for name in await deferToThread(self._stop):
            self.log.warn("not waited for any longer: {name}", name=name)

    def _stop(self) -> list[str]:
        """The names of those in which something is stuck."""
        endings = {pool.name or "": Thread(target=pool.stop, daemon=True) for pool in self._pools}
        for ending in endings.values():
            ending.start()
        until = time.monotonic() + PATIENCE
        for ending in endings.values():
            ending.join(max(0.0, until - time.monotonic()))
        return [name for name, ending in endings.items() if ending.is_alive()]
