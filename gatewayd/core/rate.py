"""So many of a thing in some time, for each key: token buckets (the idea of RFC 2697)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

MAX_KEYS = 100_000


class Buckets:
    """Each gets `rate` tokens a minute and holds `burst` (None: those of a minute). Rate 0: any number.

    Kept in memory: a restart begins anew, and so does the key that spent longest ago, when there are too many.
    """

    def __init__(self, rate: float, steady: Callable[[], float], burst: float | None = None) -> None:
        self._rate = rate
        self._steady = steady
        self._burst = float(rate if burst is None else burst)
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # key -> (tokens, when)

    @property
    def limited(self) -> bool:
        return self._rate > 0

    def take(self, key: Hashable, count: int = 1) -> float:
        """Seconds to wait until it may be asked again; 0.0: taken. More than a bucket holds are taken from a full one,
        which is in debt then."""
        wait = self.wait(key, count)
        if not wait:
            self.spend(key, count)
        return wait

    def wait(self, key: Hashable, count: int = 1) -> float:
        """Seconds until they could be taken."""
        if not self._rate:
            return 0.0
        return max(0.0, (min(count, self._burst) - self._level(key)) * 60 / self._rate)

    def spend(self, key: Hashable, count: int = 1) -> None:
        """Whether they are there or not; fewer than 0 are given back."""
        if not self._rate:
            return
        self._levels[key] = self._level(key) - count, self._steady()
        self._levels.move_to_end(key)
        if len(self._levels) > MAX_KEYS:
            self._levels.popitem(last=False)

    def _level(self, key: Hashable) -> float:
        now = self._steady()
        tokens, when = self._levels.get(key, (self._burst, now))
        return min(self._burst, tokens + (now - when) * self._rate / 60)
