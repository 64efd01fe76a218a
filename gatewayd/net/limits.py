"""Which connections a service lets in: so many in all, of an address, of a network; none of who guesses passwords."""

from __future__ import annotations

import ipaddress
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection

from gatewayd.core.admission import NETWORK
from gatewayd.net.proxy_protocol import Network

FORGIVEN = 30.0  # seconds until one failed sign-in is forgotten
MAX_GUESSERS = 100_000  # that are remembered; the one who was seen longest ago is forgotten
OF_NETWORK = 4  # a network may do so many times what an address may


class Guesses:
    """Failed sign-ins of each address and network: a bucket that leaks. `now` gives seconds."""

    def __init__(self, allowed: int, now: Callable[[], float], trusted: Collection[Network] = ()) -> None:
        self._allowed = allowed  # 0: any number
        self._now = now
        self._trusted = trusted
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key -> (how many, when)

    def note(self, address: str) -> None:
        for key in (address, network_of(address)):
            self._levels[key] = (self._level(key) + 1, self._now())
            self._levels.move_to_end(key)
            if len(self._levels) > MAX_GUESSERS:
                self._levels.popitem(last=False)

    def too_many(self, address: str) -> bool:
        if not self._allowed or self._is_trusted(address):
            return False
        of_network = self._level(network_of(address))  # one more would be too many
        return self._level(address) > self._allowed - 1 or of_network > OF_NETWORK * self._allowed - 1

    def _level(self, key: str) -> float:
        count, when = self._levels.get(key, (0.0, 0.0))
        return max(0.0, count - (self._now() - when) / FORGIVEN)

    def _is_trusted(self, address: str) -> bool:
        try:
            client = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        return any(client in network for network in self._trusted)


class Limits:
    """Connections now open, over all listeners of a service."""

    def __init__(
        self, connections: int, per_address: int, per_network: int | None = None, guesses: Guesses | None = None
    ) -> None:
        self._connections = connections
        self._per_address = per_address
        self._per_network = OF_NETWORK * per_address if per_network is None else per_network
        self._guesses = guesses or Guesses(0, time.monotonic)
        self.open: Counter[str] = Counter()  # by address, and by network
        self.total = 0

    def admit(self, address: str) -> str:
        """ "": it is counted, until `release`; else why not."""
        network = network_of(address)
        if self._guesses.too_many(address):
            return "too many failed attempts to sign in"
        if self.total >= self._connections or self.open[address] >= self._per_address:
            return "too many connections"
        if self.open[network] >= self._per_network:
            return f"too many connections from {network}"
        self.total += 1
        self.open.update((address, network))
        return ""

    def guessed(self, address: str) -> None:
        """It failed to sign in."""
        self._guesses.note(address)

    def release(self, address: str) -> None:
        self.total -= 1
        for key in (address, network_of(address)):
            self.open[key] -= 1
            if not self.open[key]:
                del self.open[key]


def network_of(address: str) -> str:
    """The /24 or the IPv6 /64 that is taken for one client; what is no IP address is a network of its own."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return f"{address}/"
    return str(ipaddress.ip_network((found, NETWORK[found.version]), strict=False))
