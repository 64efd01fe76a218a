"""So many of a thing in a window of time, for each key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable

MAX_KEYS = 100_000  # in one window


class Rate:
    """Windows begin at whole multiples of `seconds`; `now` gives seconds since the epoch. Kept in memory: a restart
    begins anew."""

    def __init__(self, now: Callable[[], float], seconds: float) -> None:
        self._now = now
        self._seconds = seconds
        self._window = 0
        self._taken: Counter[Hashable] = Counter()

    def take(self, key: Hashable, most: int) -> bool:
        """False: that would be more than `most`."""
        window = int(self._now() // self._seconds)
        if window != self._window or len(self._taken) >= MAX_KEYS:
            self._window = window
            self._taken.clear()
        if self._taken[key] >= most:
            return False
        self._taken[key] += 1
        return True

    def give_back(self, key: Hashable) -> None:
        """It was not used after all."""
        if self._taken[key] > 0:
            self._taken[key] -= 1

    @property
    def left(self) -> float:
        """Seconds until the window ends."""
        return self._seconds - self._now() % self._seconds
