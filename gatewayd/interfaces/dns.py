"""IResolver: what the core asks of the DNS."""

from __future__ import annotations

from dataclasses import dataclass

from zope.interface import Interface

from gatewayd.address import Domain
from gatewayd.crypto.dane import TLSA


class ResolutionFailed(Exception):
    """SERVFAIL, time-out, no server: nothing is known, try later. Absence is an empty answer, not this."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place to try, already ordered by preference and weight; `host` is a name or an IP literal."""

    host: str
    port: int
    name: str = ""  # where `host` is a literal: the name that the DNS gave it for
    tlsa: tuple[TLSA, ...] = ()  # of `_port._tcp.name`, where all that led there is DNSSEC-secure


@dataclass(frozen=True, slots=True)
class Answer:
    """`secure`: the resolver is trusted and set AD (RFC 4035 §3.2.3)."""

    records: tuple[object, ...] = ()
    secure: bool = False
    exists: bool = False  # the name has records of this type
    ttl: float = 0.0  # seconds that the records may be kept for


class IResolver(Interface):
    """Each raises ResolutionFailed; an absent name or type is an answer with exists=False."""

    async def srv(name: str) -> Answer:
        """records: Endpoint, ordered as RFC 2782 says; a single "." target gives exists=True and none."""

    async def mx(domain: Domain) -> Answer:
        """records: tuple[int, str] (preference, host), ordered; null MX (RFC 7505) gives exists=True and none."""

    async def addresses(host: str) -> Answer:
        """records: str, IPv6 and IPv4 literals in turns; a literal is its own answer."""

    async def txt(name: str) -> Answer:
        """records: bytes, each the joined strings of one record."""

    async def tlsa(name: str) -> Answer:
        """records: TLSA."""
