"""Where a message goes, where one came from, and ICourier, which carries it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from zope.interface import Interface

from gatewayd.address import Address, Domain
from gatewayd.interfaces.dns import Endpoint
from gatewayd.interfaces.queue import MailObject
from gatewayd.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Local:
    pass


@dataclass(frozen=True, slots=True)
class Parley:
    domain: Domain
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Mail:
    domain: Domain
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Bridged:
    """The domain is ours, its mailboxes are on another server."""

    endpoint: Endpoint
    lmtp: bool = False  # RFC 2033, else SMTP


Route = Local | Parley | Mail | Bridged | Outcome  # an Outcome: no route, and why


class Origin(msgspec.Struct, frozen=True):
    """Where mail came from: the client's IP address, what it called itself, and how it spoke."""

    address: str
    helo: str
    protocol: str = "SMTP"  # as in the Received field: "ESMTPSA"
    trusted: bool = False  # a server of ours in front of this one (LMTP), which has judged the mail already
    tls: str = ""  # the version; "": none
    cipher: str = ""
    mechanism: str = ""  # by which it signed in

    def __str__(self) -> str:
        return f"{self.helo} [{self.address}]"


class ICourier(Interface):
    """Carries messages over one route, each to all its recipients there."""

    async def deliver(route: Parley | Mail | Bridged, objects: Sequence[MailObject]) -> list[dict[Address, Outcome]]:
        """Of each, an outcome for each recipient; never raises for what the peer or the network did."""

    async def close() -> None:
        """Ends idle connections."""
