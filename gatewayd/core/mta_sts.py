"""MTA-STS (RFC 8461): a domain says by HTTPS that its mail hosts have certificates, and what they are called.

A policy that was fetched holds for as long as it said, whatever DNS or HTTPS say meanwhile: that is its point.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from twisted.internet import defer
from twisted.logger import Logger

from gatewayd.address import AddressError, Domain
from gatewayd.interfaces.dns import IResolver, ResolutionFailed

MAX_AGE = 31_557_600  # seconds, §3.2
AGAIN = 300.0  # seconds after a fetch that failed (§3.3)
REFRESH = 86_400.0  # seconds: a policy is looked at daily, long before it ends (§10.2)
_RECORD = re.compile(rb"v=STSv1\s*;(?:.*;)?\s*id=([A-Za-z0-9]{1,32})\s*(?:;|$)", re.DOTALL)


class BadPolicy(ValueError):
    """What the host sent is no policy."""


class FetchFailed(Exception):
    """The host cannot be reached by HTTPS, has no good certificate, or does not answer as it should."""


@dataclass(frozen=True, slots=True)
class Policy:
    mode: str  # enforce, testing, none
    mx: tuple[str, ...]
    max_age: int  # seconds

    def allows(self, host: str) -> bool:
        """§4.1: "*." stands for exactly one label."""
        host = host.lower().removesuffix(".")
        parent = host.partition(".")[2]
        return any(host == name or (name.startswith("*.") and parent == name[2:]) for name in self.mx)


def parse(octets: bytes) -> Policy:
    """§3.2. Raises BadPolicy."""
    try:
        lines = octets.decode("utf-8").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError:
        raise BadPolicy("not UTF-8") from None
    pairs = [(key.strip(), value.strip()) for key, colon, value in (line.partition(":") for line in lines) if colon]
    first = dict(reversed(pairs))  # of a key that comes twice the first counts, except for mx
    if not pairs or pairs[0] != ("version", "STSv1"):
        raise BadPolicy("it does not begin with version: STSv1")
    if first.get("mode") not in {"enforce", "testing", "none"}:
        raise BadPolicy("its mode is none of enforce, testing, none")
    age = first.get("max_age", "")
    if not re.fullmatch(r"[0-9]{1,10}", age):
        raise BadPolicy("max_age is not a number of seconds")
    mx = tuple(_pattern(value) for key, value in pairs if key == "mx")
    if not mx and first["mode"] != "none":
        raise BadPolicy("it names no mx")
    return Policy(first["mode"], mx, min(int(age), MAX_AGE))


def _pattern(text: str) -> str:
    star = "*." if text.startswith("*.") else ""
    try:
        return star + Domain.parse(text.removeprefix("*.")).name
    except AddressError as error:
        raise BadPolicy(f"bad mx: {error}") from None


class Memory(Protocol):
    async def policy(self, domain: Domain) -> tuple[str, bytes, float] | None:
        """(the id in the DNS, the policy as it came, when)."""

    async def keep_policy(self, domain: Domain, policy_id: str, text: bytes, fetched: float) -> None: ...


class PolicyDirectory:
    """`fetch` gets the policy file of a domain; raises FetchFailed."""

    log = Logger()

    def __init__(
        self, memory: Memory, resolver: IResolver, fetch: Callable[[Domain], Awaitable[bytes]],
        steady: Callable[[], float], now: Callable[[], float],
    ) -> None:  # fmt: skip
        self._memory = memory
        self._resolver = resolver
        self._fetch = fetch
        self._steady = steady
        self._now = now
        self._locks: dict[Domain, defer.DeferredLock] = {}
        self._failed: dict[Domain, tuple[float, str]] = {}  # when, by `steady`

    async def policy(self, domain: Domain) -> tuple[Policy | None, str]:
        """The policy that holds now, and what went wrong with it in the words of RFC 8460 §4.3 ("": nothing). One
        fetch a domain at a time. Raises StoreError."""
        lock = self._locks.setdefault(domain, defer.DeferredLock())
        await lock.acquire()
        try:
            return await self._policy(domain)
        finally:
            lock.release()
            if not lock.locked and not lock.waiting:
                self._locks.pop(domain, None)

    async def _policy(self, domain: Domain) -> tuple[Policy | None, str]:
        kept_id, policy, fetched = await self._kept(domain)
        policy_id = await self._published(domain)
        trouble = ""
        old = not 0 <= self._now() - fetched <= REFRESH  # or the clock was set back
        if policy_id is not None and (policy is None or policy_id != kept_id or old):
            failed_at, trouble = self._failed.get(domain, (0.0, ""))
            if not trouble or self._steady() >= failed_at + AGAIN:
                trouble = await self._renew(domain, policy_id)
                _, policy, _ = await self._kept(domain)
        return policy if policy is not None and policy.mode != "none" else None, trouble

    async def _kept(self, domain: Domain) -> tuple[str, Policy | None, float]:
        """What holds still."""
        kept = await self._memory.policy(domain)
        if kept is None:
            return "", None, 0.0
        policy_id, text, fetched = kept
        policy = parse(text)
        return policy_id, policy if self._now() < fetched + policy.max_age else None, fetched

    async def _published(self, domain: Domain) -> str | None:
        """§3.1: exactly one record that begins so."""
        try:
            found = await self._resolver.txt(f"_mta-sts.{domain}")
        except ResolutionFailed:
            return None
        records = [text for text in found.records if isinstance(text, bytes) and text.startswith(b"v=STSv1")]
        match = _RECORD.match(records[0]) if len(records) == 1 else None
        return match[1].decode() if match else None

    async def _renew(self, domain: Domain, policy_id: str) -> str:
        """What went wrong."""
        trouble = ""
        try:
            text = await self._fetch(domain)
            parse(text)
            await self._memory.keep_policy(domain, policy_id, text, self._now())
        except FetchFailed as error:
            trouble, why = "sts-policy-fetch-error", str(error)
        except BadPolicy as error:
            trouble, why = "sts-policy-invalid", str(error)
        self._failed.pop(domain, None)
        if trouble:
            self._failed[domain] = self._steady(), trouble
            self.log.info("the MTA-STS policy of {domain} cannot be had: {why}", domain=domain, why=why)
        return trouble
