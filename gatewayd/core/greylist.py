"""Greylisting (RFC 6647) of mail that nobody vouches for: who tries again after a while is let in, and remembered."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

from gatewayd.address import Address
from gatewayd.core.networks import around
from gatewayd.outcome import Deferred

DELAY = 300.0  # seconds before which it is too early
WINDOW = 2 * 86400.0  # seconds within which the second try has to come
REMEMBERED = 36 * 86400.0  # seconds after its last use that a sender stays known


class Attempts(Protocol):
    async def seen(self, keys: Sequence[bytes], window: float) -> float: ...
    async def passed(self, keys: Sequence[bytes], until: float) -> None: ...


class Greylist:
    def __init__(self, attempts: Attempts, now: Callable[[], float]) -> None:
        self._attempts = attempts
        self._now = now

    async def ask(self, client: str, sender: Address | None, recipients: Sequence[Address]) -> Deferred | None:
        """None: let in. Raises StoreError."""
        keys = [_key(around(client), str(sender or "").lower(), str(to).lower()) for to in recipients]
        first = await self._attempts.seen(keys, WINDOW)
        now = self._now()  # not before: the first time is now, too
        wait = first + DELAY - now if first <= now else 0.0  # the clock was set back: nobody waits for that
        if wait > 0:
            return Deferred("4.7.1", f"Nobody vouches for this mail; try again in {wait:.0f} s", int(wait) + 1)
        await self._attempts.passed(keys, now + REMEMBERED)
        return None


def _key(*words: str) -> bytes:
    return hashlib.sha256("\0".join(words).encode()).digest()
