"""So many of a thing in some time, for each key: in the windows of a quota, or steadily, by token buckets."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable

MAX_KEYS = 100_000  # in one window, or of one kind of buckets


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


class Buckets:
    """Token buckets (RFC 2697's idea): `rate` tokens a minute, at most `burst` kept (None: those of a minute). Rate 0:
    any number. The key that was asked for longest ago is forgotten when there are too many."""

    def __init__(self, rate: float, steady: Callable[[], float], burst: float | None = None) -> None:
        self._rate = rate
        self._steady = steady
        self._burst = float(rate if burst is None else burst)
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # key -> (tokens, when)

    @property
    def limited(self) -> bool:
        return self._rate > 0

    def take(self, key: Hashable, count: int = 1) -> float:
        """Seconds to wait until it may be asked again; 0.0: taken."""
        if not self._rate:
            return 0.0
        now = self._steady()
        tokens, when = self._levels.pop(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - when) * self._rate / 60)
        wait = max(0.0, (min(count, self._burst) - tokens) * 60 / self._rate)
        self._levels[key] = (tokens if wait else tokens - count, now)  # more than fit at all: a debt
        if len(self._levels) > MAX_KEYS:
            self._levels.popitem(last=False)
        return wait
