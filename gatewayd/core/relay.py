"""The relay: takes what is due from the queue, finds the way by DNS, hands it to a courier, and records the outcome.

RFC 5321 §4.5.4 (retry), §6.1 (bounce). A message is never dropped: it is delivered, or its sender is told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from gatewayd.address import Address, Domain
from gatewayd.core.delivery import PostOffice, Router
from gatewayd.errors import StoreError
from gatewayd.interfaces import Bridged, Envelope, ICourier, IQueue, Leased, Local, Mail, Parley
from gatewayd.outcome import Deferred, Delivered, Outcome, Refused

LEASE = 600.0  # seconds: longer than any attempt, shorter than anyone's patience after a crash
BATCH = 200  # rows leased at once
POLL = 60.0  # seconds between looks at the queue when nothing calls

Hook = Callable[[Domain, str, Outcome], None]  # who was reached, by what, with what result: metrics


class Relay:
    """Runs attempts, at most `concurrency` at a time and one group a domain and message."""

    log = Logger()

    def __init__(
        self,
        queue: IQueue,
        router: Router,
        couriers: Mapping[type, ICourier],
        post_office: PostOffice,
        clock: IReactorTime,
        *,
        retry: Sequence[float],
        give_up: float,
        concurrency: int,
        observed: Hook = lambda domain, carrier, outcome: None,
    ) -> None:
        self._queue = queue
        self._router = router
        self._couriers = couriers
        self._post_office = post_office
        self._clock = clock
        self._retry = tuple(retry)
        self._give_up = give_up
        self._concurrency = defer.DeferredSemaphore(concurrency)
        self._observed = observed
        self._call: IDelayedCall | None = None
        self._busy = False
        self._again = False
        self._running: set[defer.Deferred[None]] = set()
        self._stopped = True

    def start(self) -> None:
        self._stopped = False
        self._queue.watch(self.poke)
        self._busy = True
        self._spawn(self._begin())

    async def _begin(self) -> None:
        try:
            recovered = await self._queue.recover()
            if recovered:
                self.log.info("{count} interrupted attempts are made again", count=recovered)
        except StoreError as error:
            self.log.error("the queue cannot be read: {error}", error=error)
        await self._take()

    async def stop(self) -> None:
        """Lets running attempts end; leases of anything else run out by themselves."""
        self._stopped = True
        if self._call is not None and self._call.active():
            self._call.cancel()
        if self._running:
            await defer.DeferredList(list(self._running), consumeErrors=True)
        for courier in set(self._couriers.values()):
            await courier.close()

    def poke(self) -> None:
        """Something may be due."""
        if self._stopped:
            return
        if self._busy:
            self._again = True
            return
        self._busy = True
        self._spawn(self._take())

    def _spawn(self, work: Any) -> None:
        task: defer.Deferred[None] = defer.Deferred.fromCoroutine(work)
        self._running.add(task)
        task.addErrback(lambda failure: self.log.failure("the relay failed", failure=failure))
        task.addBoth(lambda _: self._running.discard(task))

    async def _take(self) -> None:
        try:
            while not self._stopped:
                self._again = False
                leased = await self._queue.lease(BATCH, LEASE)
                groups: dict[tuple[int, Domain], list[Leased]] = defaultdict(list)
                for row in leased:
                    groups[row.message_key, row.recipient.domain].append(row)
                for group in groups.values():
                    await self._concurrency.acquire()
                    self._spawn(self._attempt_and_release(group))
                if not leased and not self._again:
                    break
            due = await self._queue.next_due()
        except StoreError as error:
            self.log.error("the queue cannot be read: {error}", error=error)
            due = None
        finally:
            self._busy = False
        now = self._clock.seconds()
        self._look_at(now + POLL if due is None else min(now + POLL, due))

    def _look_at(self, when: float) -> None:
        """Something is due then; an earlier look that is planned already stays."""
        if self._stopped:
            return
        if self._call is not None and self._call.active():
            if self._call.getTime() <= when:
                return
            self._call.cancel()
        self._call = self._clock.callLater(max(0.05, when - self._clock.seconds()), self.poke)

    async def _attempt_and_release(self, group: list[Leased]) -> None:
        try:
            await self._attempt(group)
        except StoreError as error:
            self.log.error("an attempt could not be recorded; its lease will run out: {error}", error=error)
        finally:
            self._concurrency.release()

    async def _attempt(self, group: list[Leased]) -> None:
        content, trace = await self._queue.message(group[0].message_key)
        domain = group[0].recipient.domain
        recipients = tuple(row.recipient for row in group)
        route = await self._router.route(domain)
        carrier = type(route).__name__
        answers: Mapping[Address, Outcome]
        match route:
            case Local():  # the domain became ours while it waited
                answers = await self._post_office.deliver_local(content, trace, group[0].reverse_path, recipients)
            case Parley() | Mail() | Bridged():
                envelope = Envelope(group[0].reverse_path, recipients)
                courier = self._couriers[type(route)]
                answers = await courier.deliver(route, envelope, content, trace)
            case _:
                answers = dict.fromkeys(recipients, route)
        for row in group:
            outcome = answers.get(row.recipient, Deferred("4.4.0", "The courier gave no answer"))
            self._observed(domain, carrier, outcome)
            await self._record(row, outcome, carrier, content, trace)

    async def _record(self, row: Leased, outcome: Outcome, carrier: str, content: Any, trace: bytes) -> None:
        now = self._clock.seconds()
        if isinstance(outcome, Deferred):
            wait = self._retry[min(row.attempts, len(self._retry) - 1)]
            if outcome.retry_after is not None:
                wait = max(wait, outcome.retry_after)
            if now + wait < row.accepted + self._give_up:
                self.log.info(
                    "queue {id}: {to} deferred by {carrier}: {code} {text}; again in {wait:.0f} s",
                    id=row.queue_id, to=str(row.recipient), carrier=carrier,
                    code=outcome.code, text=outcome.text, wait=wait,
                )  # fmt: skip
                await self._queue.settle(row.queue_id, outcome, now + wait)
                self._look_at(now + wait)
                return
            outcome = Refused("5.4.7", f"Given up after {self._give_up / 86400:.1f} days; last: {outcome.text}")
        self.log.info(
            "queue {id}: {to} {fate} by {carrier}: {code} {text}",
            id=row.queue_id, to=str(row.recipient), carrier=carrier, code=outcome.code, text=outcome.text,
            fate="delivered" if isinstance(outcome, Delivered) else "refused",
        )  # fmt: skip
        if isinstance(outcome, Refused):  # the bounce is durable first: a crash between the two may tell it twice
            await self._post_office.bounce(content, trace, row.reverse_path, row.recipient, outcome, row.accepted)
        await self._queue.settle(row.queue_id, outcome)
