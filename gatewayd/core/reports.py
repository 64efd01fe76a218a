"""Whether a sender is told what became of a message, and the report (RFC 3461 §4.1, RFC 3834 §2, RFC 5321 §6.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from gatewayd.address import Address, Domain
from gatewayd.interfaces.queue import Asked, Envelope
from gatewayd.message import bridge, dsn
from gatewayd.message.model import Content
from gatewayd.outcome import Outcome

_EVENTS: dict[dsn.Action, str] = {"failed": "FAILURE", "delayed": "DELAY", "relayed": "SUCCESS", "delivered": "SUCCESS"}


class Fate(msgspec.Struct, frozen=True):
    """What became of some recipients' copies of one message."""

    action: dsn.Action
    content: Content
    trace: bytes
    envelope: Envelope
    results: Mapping[Address, Outcome]
    accepted: float
    until: float | None = None  # delayed: when it is given up


class Reporter:
    """`now` gives seconds since the epoch, `random` n unguessable octets."""

    def __init__(self, hostname: Domain, now: Callable[[], float], random: Callable[[int], bytes]) -> None:
        self._hostname = hostname
        self._now = now
        self._random = random

    def report(self, fate: Fate) -> bytes | None:
        """The mail to the reverse path; None: nobody is to be told. A report is never reported on."""
        envelope = fate.envelope
        told = {to: result for to, result in fate.results.items() if _wanted(fate, envelope.asked_of(to))}
        if envelope.reverse_path is None or not told:
            return None
        return dsn.report(
            fate.action,
            reporting=self._hostname,
            reverse_path=envelope.reverse_path,
            results=told,
            mail=bridge.as_mail(fate.content, fate.trace),
            arrival=fate.accepted,
            now=self._now(),
            unique=self._random(12).hex(),
            until=fate.until,
            orcpt={address: asked.orcpt for address, asked in envelope.asked.items()},
            envid=envelope.envid,
            whole=envelope.ret == "FULL" and fate.action == "failed",
        )


def _wanted(fate: Fate, asked: Asked) -> bool:
    """Of a delay, people are told unasked; lists and programs are not (RFC 3834 §2)."""
    if fate.action == "delayed" and not asked.notify and dsn.is_automatic(bridge.as_mail(fate.content, b"")):
        return False
    return asked.wants(_EVENTS[fate.action])
