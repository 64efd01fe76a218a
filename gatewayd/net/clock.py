"""Two kinds of time, never compared with each other.

`now` is the wall's time, in seconds since the epoch, which somebody may set: for moments that outlive the process (a
row of the queue, a policy that was kept) or that others are told. What paces work within the process counts by a steady
clock, which starts anywhere and which nobody sets: `clock`, the reactor, where something also waits, else `steady`, its
seconds.

Twisted's reactor has the wall's time for both: set back by an hour, it would call nothing that is planned for an hour,
not even what was to be done at once.
"""

from __future__ import annotations

import time
from typing import Any


def make_steady(reactor: Any) -> None:
    """From now on its timers heed no change of the wall's time. Before anything is planned."""
    reactor.seconds = time.monotonic
