"""What a mail host of another domain has to prove before it gets mail: the strictest of what is known of the domain.

DANE (RFC 7672) comes with the endpoint; MTA-STS (RFC 8461) and what the domain's hosts have shown before, from here.
A level that a domain once had is never silently lowered: mail waits, its sender is told, the operator may forget it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from gatewayd.address import Domain
from gatewayd.core.mta_sts import Memory as Policies
from gatewayd.core.mta_sts import Policy, PolicyDirectory
from gatewayd.errors import StoreError

KNOWN_FOR = 2.0  # seconds
MAX_KNOWN = 10_000


class Level(IntEnum):
    PLAIN = 0
    ENCRYPTED = 1  # with whom is not known (RFC 7435)
    VERIFIED = 2  # a certificate of a known authority names the host, or DANE proves it


@dataclass(frozen=True, slots=True)
class Demand:
    """Of one domain's hosts."""

    level: Level = Level.PLAIN
    sts: Policy | None = None
    trouble: str = ""  # with the policy (RFC 8460 §4.3)
    waived: bool = False  # by the sender of this message: it had rather arrive (RFC 8689 §5)

    @property
    def enforced(self) -> Policy | None:
        return self.sts if self.sts is not None and self.sts.mode == "enforce" and not self.waived else None


class Memory(Policies, Protocol):
    async def level(self, domain: Domain) -> int: ...
    async def raise_level(self, domain: Domain, level: int, now: float) -> None: ...


class TLSPolicies:
    """What is known is good for KNOWN_FOR seconds: many messages go the same way."""

    def __init__(
        self, memory: Memory, directory: PolicyDirectory, steady: Callable[[], float], now: Callable[[], float]
    ) -> None:
        self._memory = memory
        self._directory = directory
        self._steady = steady
        self._now = now
        self._known: dict[Domain, tuple[Demand, float]] = {}

    async def demand(self, domain: Domain) -> Demand:
        """Raises StoreError."""
        demand, until = self._known.get(domain, (None, 0.0))
        if demand is None or until <= self._steady():
            demand = await self._demand(domain)
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[domain] = demand, self._steady() + KNOWN_FOR
        return demand

    async def _demand(self, domain: Domain) -> Demand:
        policy, trouble = await self._directory.policy(domain)
        level = Level(await self._memory.level(domain))
        demand = Demand(level, policy, trouble)
        return Demand(Level.VERIFIED, policy, trouble) if demand.enforced else demand

    async def learn(self, domain: Domain, before: Level, level: Level) -> None:
        """A host of the domain has shown this. What cannot be written is learned another time."""
        if level > before:
            with contextlib.suppress(StoreError):
                await self._memory.raise_level(domain, level, self._now())
            self._known.pop(domain, None)
