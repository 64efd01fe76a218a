"""Envelopes (RFC 5321 §2.3.1) and IQueue, the outbound spool. Times are seconds since the epoch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace
from zope.interface import Interface

from gatewayd.address import Address, Domain
from gatewayd.message.model import Content
from gatewayd.outcome import Outcome

NEVER = frozenset({"NEVER"})
TLS_OPTIONAL = "TLSOPTIONAL"  # an option of ours: the sender had rather that it arrives (RFC 8689 §5)


class Asked(msgspec.Struct, frozen=True):
    """What the sender asked to be told of one recipient (RFC 3461 §4.1, §4.2)."""

    notify: frozenset[str] = frozenset()  # NEVER; or some of SUCCESS, FAILURE, DELAY; empty: left to the servers
    orcpt: str = ""  # "rfc822;bob@example.org", decoded; "": not said

    def wants(self, event: str) -> bool:
        """Of SUCCESS, FAILURE, DELAY. What is left to us: failures and long delays."""
        return event in self.notify if self.notify else event != "SUCCESS"


class Envelope(msgspec.Struct, frozen=True):
    """RFC 5321 §2.3.1, with what the sender asked of the way."""

    reverse_path: Address | None  # None is <>, RFC 5321 §4.5.5
    recipients: tuple[Address, ...]
    options: frozenset[str] = frozenset()  # "SMTPUTF8", "REQUIRETLS": what every hop has to keep to; TLS_OPTIONAL
    ret: str = ""  # FULL or HDRS: how much of the message a report brings back (RFC 3461 §4.3)
    envid: str = ""  # the sender's own name for this envelope, decoded (RFC 3461 §4.4)
    asked: Mapping[Address, Asked] = {}
    not_before: float = 0.0  # seconds since the epoch: held until then (RFC 4865)
    found: str = ""  # what was found out on its way in, for copies that stay here (core/verdict.py)

    @property
    def terms(self) -> tuple[object, ...]:
        """What recipients of one message must have in common to share a transaction."""
        return self.reverse_path, self.options, self.ret, self.envid, self.found

    def asked_of(self, recipient: Address) -> Asked:
        return self.asked.get(recipient) or Asked()

    def without_success(self) -> Envelope:
        """For a reverse-path that nobody vouches for: who forges it must not have us write to it."""
        asked = {
            to: replace(one, notify=(one.notify - {"SUCCESS"}) or NEVER) for to, one in self.asked.items() if one.notify
        }
        return replace(self, asked={**self.asked, **asked})


class MailObject(msgspec.Struct, frozen=True):
    """RFC 5321 §2.3.1: a message and who gets it; `trace` goes before it where it is mail (RFC 5321 §4.4)."""

    content: Content
    trace: bytes
    envelope: Envelope


class Settlement(msgspec.Struct, frozen=True):
    """What came of an attempt. Delivered and Refused end the row; Deferred needs `next_attempt`. `failures` None: the
    domain was reached. Else it was not, for that many times in a row, and all its rows wait until `next_attempt`."""

    queue_id: int
    outcome: Outcome
    next_attempt: float | None = None
    failures: int | None = None


@dataclass(frozen=True, slots=True)
class Leased:
    """One recipient of a queued message, ours to try until the lease ends."""

    queue_id: int
    recipient: Address
    envelope: Envelope  # with this recipient alone
    message_key: int  # the same for all recipients of one queued message: read it once
    attempts: int  # that have failed so far
    accepted: float
    warned: bool = False  # the sender was told of the delay
    probe: bool = False  # the domain was not reached lately: nothing else goes there until this has an answer
    failures: int = 0  # times in a row that it could not be reached


@dataclass(frozen=True, slots=True)
class Queued:
    """A row of the queue as the operator sees it."""

    queue_id: int
    recipient: str
    reverse_path: str
    state: str
    attempts: int
    next_attempt: float
    last_status: str
    accepted: float
    message_key: int
    envelope: Envelope  # with this recipient alone


@dataclass(frozen=True, slots=True)
class Picked:
    """Which rows of the queue the operator means: all that fit everything that is said here."""

    queue_ids: tuple[int, ...] = ()
    address: str = ""  # recipient or sender
    domain: str = ""  # the recipient's
    message: bytes = b""  # the first octets of the object's id


EVERYTHING = Picked()


class IQueue(Interface):
    """The outbound spool. Legal states: gatewayd/queue/states.py. A return means committed; raises StoreError."""

    async def enqueue(objects: Sequence[MailObject]) -> list[dict[Address, Outcome]]:
        """All or none; each has a recipient. Idempotent by (object id, recipient): a repeat is answered with what is
        known of the first: queued or delivered as Delivered, refused as Refused."""

    async def lease(
        limit: int, seconds: float, exclude: Collection[Domain] = (), strangers: int | None = None
    ) -> list[Leased]:
        """Takes due rows, domains in turns; a lease that runs out (a killed process) makes its row due again. Of a
        domain that was not reached lately comes one message, a probe: of at most `strangers` such (None: no bound)."""

    async def messages(message_keys: Collection[int]) -> dict[int, tuple[Content, bytes]]:
        """The content and the trace of each that is there."""

    async def settle(settlements: Sequence[Settlement]) -> None:
        """All or none; a row that is no longer leased stays as it is."""

    async def give_back(queue_ids: Sequence[int]) -> None:
        """Leased, and not tried."""

    async def overdue(domain: Domain, age: float, seconds: float, limit: int) -> list[Leased]:
        """Leases waiting rows that were accepted more than `age` seconds ago, due or not."""

    async def unwarned(domain: Domain, age: float, limit: int) -> list[Leased]:
        """Rows of that age whose senders know of no delay. They are not leased."""

    async def warned(queue_ids: Sequence[int]) -> None:
        """Their sender knows."""

    async def wake(domain: Domain) -> bool:
        """Makes the domain's waiting rows due now, very many in pieces. Whether there were any, or any that waited
        for the domain to be reached."""

    async def blobs() -> set[bytes]:
        """The hashes of those that messages have which still wait."""

    async def recover() -> int:
        """At the start of the one process that owns the queue: leases of a killed one end now. Returns how many."""

    async def due_in() -> float | None:
        """Seconds until something is due, not above 0 if it is already. None: nothing waits."""

    async def listing(limit: int = 1000, picked: Picked = ...) -> list[Queued]:
        """What is in the queue, soonest first."""

    async def hold(picked: Picked) -> int:
        """Stops waiting rows; one that is tried just now is not touched. Returns how many, as the next three do."""

    async def release(picked: Picked) -> int:
        """Lets held rows go on, now."""

    async def retry(picked: Picked) -> int:
        """Waiting rows are due now, and their domains are taken for reachable."""

    async def drop(picked: Picked) -> int:
        """Takes waiting and held rows out. Nobody is told."""

    def watch(callback: Callable[[], None]) -> None:
        """Call back on the reactor's thread when rows became due: by enqueue, wake, release or retry here, and after
        commits of other processes."""
