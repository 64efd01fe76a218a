"""Threads for what blocks. When the service stops, one that is stuck (a filter that says nothing, a name server) is
left behind: it holds nothing that was acknowledged.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from threading import Thread

from twisted.python.threadpool import ThreadPool

PATIENCE = 5.0  # seconds


class Threads(ThreadPool):
    threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]  # the process ends without them


def stop(pools: Sequence[Threads]) -> list[str]:
    """Takes PATIENCE at most, for all of them. The names of those in which something is stuck."""
    endings = {pool.name or "": Thread(target=pool.stop, daemon=True) for pool in pools}
    for ending in endings.values():
        ending.start()
    until = time.monotonic() + PATIENCE
    for ending in endings.values():
        ending.join(max(0.0, until - time.monotonic()))
    return [name for name, ending in endings.items() if ending.is_alive()]
