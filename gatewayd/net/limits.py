"""Which connections a service lets in, and which go when it becomes too much.

So many in all, of an address, of a network; none of who guesses passwords. Where all places are taken, the TLS
handshake that has waited the longest makes room. What is still coming in (a message, a frame) is bounded over all
connections: where it grows too much, the connection that holds most of it is ended.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection

from gatewayd.core.networks import Network, around, within
from gatewayd.core.rate import Buckets

FORGIVEN = 30.0  # seconds until one failed sign-in is forgotten
UNFINISHED = 256 * 1024 * 1024  # octets; several times the largest message
OF_NETWORK = 4  # a network may do so many times what an address may


class Guesses:
    """Failed sign-ins of each address and network, none of which counts for ever. `allowed` 0: any number."""

    def __init__(self, allowed: int, steady: Callable[[], float], trusted: Collection[Network] = ()) -> None:
        forgiven = 60 / FORGIVEN if allowed else 0  # in a minute
        self._addresses = Buckets(forgiven, steady, allowed)
        self._networks = Buckets(forgiven, steady, OF_NETWORK * allowed)
        self._trusted = trusted

    def note(self, address: str) -> None:
        self._addresses.spend(address)
        self._networks.spend(around(address))

    def too_many(self, address: str) -> bool:
        """One more would be."""
        many = self._addresses.wait(address) or self._networks.wait(around(address))
        return bool(many) and not within(address, self._trusted)


class Place:
    """One connection's place among all. `end` is set by who takes it, and ends the connection with a word why."""

    end: Callable[[str], None]

    __slots__ = ("_address", "_limits", "end", "unfinished")

    def __init__(self, limits: Limits, address: str) -> None:
        self._limits = limits
        self._address = address
        self.unfinished = 0  # octets

    def opened(self) -> None:
        """Its session has begun."""
        self._limits.handshaking.pop(self, None)

    def holds(self, octets: int) -> None:
        """So much of its input has not come to its end now."""
        if octets != self.unfinished:
            self._limits.grow(self, octets)

    def guessed(self) -> None:
        """It failed to sign in."""
        self._limits.guessed(self._address)

    def leave(self) -> None:
        self.opened()
        self.holds(0)
        self._limits.release(self._address)


class Limits:
    """Connections now open, over all listeners of a service."""

    def __init__(
        self, connections: int, per_address: int, per_network: int | None = None, guesses: Guesses | None = None,
        unfinished: int = UNFINISHED,
    ) -> None:  # fmt: skip
        self._connections = connections
        self._per_address = per_address
        self._per_network = OF_NETWORK * per_address if per_network is None else per_network
        self._guesses = guesses or Guesses(0, time.monotonic)
        self._most_unfinished = unfinished
        self._unfinished = 0  # octets
        self._holding: dict[Place, None] = {}  # those with unfinished input
        self.handshaking: dict[Place, None] = {}  # the oldest first
        self.open: Counter[str] = Counter()  # by address, and by network
        self.total = 0

    def admit(self, address: str) -> str:
        """ "": it is counted, until `release`; else why not."""
        network = around(address)
        if self._guesses.too_many(address):
            return "too many failed attempts to sign in"
        if self.open[address] >= self._per_address:
            return "too many connections"
        if self.open[network] >= self._per_network:
            return f"too many connections from {network}"
        if self.total >= self._connections and not self._make_room():
            return "too many connections"
        self.total += 1
        self.open.update((address, network))
        return ""

    def place(self, address: str) -> Place:
        """For one that was admitted, until it leaves."""
        place = Place(self, address)
        self.handshaking[place] = None
        return place

    def _make_room(self) -> bool:
        oldest = next(iter(self.handshaking), None)
        if oldest is None:
            return False
        del self.handshaking[oldest]
        oldest.end("too many connections")
        return True

    def grow(self, place: Place, octets: int) -> None:
        """To so much unfinished input, or from more."""
        self._set(place, octets)
        while self._unfinished > self._most_unfinished:
            largest = max(self._holding, key=lambda one: one.unfinished)
            self._set(largest, 0)
            largest.end("too much is being received now; try again later")

    def _set(self, place: Place, octets: int) -> None:
        self._unfinished += octets - place.unfinished
        place.unfinished = octets
        if octets:
            self._holding[place] = None
        else:
            self._holding.pop(place, None)

    def guessed(self, address: str) -> None:
        """It failed to sign in."""
        self._guesses.note(address)

    def release(self, address: str) -> None:
        self.total -= 1
        for key in (address, around(address)):
            self.open[key] -= 1
            if not self.open[key]:
                del self.open[key]
