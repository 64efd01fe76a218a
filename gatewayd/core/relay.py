"""The relay: takes what is due from the queue, finds the way by DNS, hands it to a courier, and records the outcome.

RFC 5321 §4.5.4 (retry), §6.1 (bounce). A message is never dropped: it is delivered, or its sender is told.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace
from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from gatewayd.address import Address, Domain
from gatewayd.core.attempts import Attempt, Outcomes, Patience
from gatewayd.core.delivery import PostOffice, Router
from gatewayd.core.story import Story
from gatewayd.errors import StoreError
from gatewayd.interfaces.queue import IQueue, Leased, MailObject
from gatewayd.interfaces.routes import Bridged, ICourier, Local, Mail, Parley, Route
from gatewayd.message.bridge import fits
from gatewayd.outcome import STORE_FAILED, TOO_BIG_FOR_MAIL, Deferred, Outcome

LEASE = 600.0  # seconds: longer than any attempt, shorter than anyone's patience after a crash
BATCH = 200  # rows leased at once
SHARE = 4  # one domain has at most a quarter of all attempts: one that hangs leaves room for the others
AT_ONCE = 64  # messages that one worker has under way to a Parley domain, on its one kept connection
BREATH = 1.0  # seconds between looks while what is due has to wait for others
STRANGERS = 2  # half of all attempts at most go to domains that were not reached lately
PACE = 0.2  # seconds between such attempts in vain while others get their mail: each costs as much as ten deliveries
GRACE = 10.0  # seconds that attempts may still take when the relay stops
POLL = 60.0  # seconds between looks at the queue when nothing calls

Hook = Callable[[str, Outcome], None]  # by which kind of route, with what result: metrics


class Relay:
    """Runs attempts, at most `concurrency` at a time and one group a domain and message.

    Leased groups stand in a line for each domain, which a few workers go through. While a line is not empty nothing
    more is leased for its domain.
    A domain that was not reached lately is tried for one message; what comes of it goes for all that wait.
    When a row is due the queue knows, by the wall's time (`now`); the relay waits so many seconds, by `clock`.
    """

    log = Logger()

    def __init__(
        self,
        queue: IQueue,
        router: Router,
        couriers: Mapping[type, ICourier],
        post_office: PostOffice,
        clock: IReactorTime,
        now: Callable[[], float],
        *,
        patience: Patience,
        concurrency: int,
        observed: Hook = lambda carrier, outcome: None,
        story: Story | None = None,
        note: Callable[[str], None] | None = None,
    ) -> None:
        self._queue = queue
        self._router = router
        self._couriers = couriers
        self._post_office = post_office
        self._clock = clock
        self._patience = patience
        self._concurrency = defer.DeferredSemaphore(concurrency)
        self._share = max(1, concurrency // SHARE)
        self._free_strangers = max(1, concurrency // STRANGERS)
        self._next_stranger = 0.0  # not before, while others get their mail
        self._living = 0  # groups in a line or tried now for domains that were reached lately
        self._lines: dict[Domain, deque[list[Leased]]] = {}
        self._pipelined: set[Domain] = set()  # were reached by Parley the last time
        self._crowded: set[Domain] = set()  # had a line when something was last leased
        self._workers: Counter[Domain] = Counter()
        self._held: set[int] = set()  # rows in a line or tried now: a lease that runs out is no second attempt
        self._observed = observed
        note = note or (lambda line: self.log.info("{line}", line=line))
        self._outcomes = Outcomes(queue, post_office, now, patience, story or Story(now), note)
        self._call: IDelayedCall | None = None
        self._busy = False
        self._again = False
        self._running: set[defer.Deferred[None]] = set()
        self._stopped = True
        self._over: defer.Deferred[None] | None = None  # stop() waits for it

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
        """Lets running attempts end, if they do so soon; leases of anything else run out by themselves."""
        self._stopped = True
        if self._call is not None and self._call.active():
            self._call.cancel()
        if self._running:
            self._over = defer.Deferred()
            patience = self._clock.callLater(GRACE, self._over.callback, None)
            await self._over
            if patience.active():
                patience.cancel()
        self._lines.clear()
        self._held.clear()
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
        task.addBoth(lambda _: self._ended(task))

    def _ended(self, task: defer.Deferred[None]) -> None:
        self._running.discard(task)
        if self._over is not None and not self._running and not self._over.called:
            self._over.callback(None)

    async def _take(self) -> None:
        due: float | None = None
        try:
            while not self._stopped:
                self._again = False
                self._crowded = {domain for domain, line in self._lines.items() if line}
                leased = await self._queue.lease(BATCH, LEASE, self._crowded, self._strangers())
                if any(row.probe for row in leased):
                    self._next_stranger = self._clock.seconds() + PACE
                await self._line_up([row for row in leased if row.queue_id not in self._held])
                if leased:
                    continue
                due = await self._queue.due_in()
                if not self._again:
                    break
        except StoreError as error:
            self.log.error("the queue cannot be read: {error}", error=error)
        except Exception:
            self.log.failure("the relay failed")
        finally:
            self._busy = False
        if due is not None and due <= 0:
            due = BREATH  # in a domain with a line, or a probe too many; the end of either pokes
        self._look_in(POLL if due is None else min(POLL, due))

    def _strangers(self) -> int:
        """How many may be tried now."""
        if not self._living:
            return self._free_strangers
        return 0 if self._clock.seconds() < self._next_stranger else min(1, self._free_strangers)

    async def _line_up(self, rows: list[Leased]) -> None:
        """Waits while all attempts that are allowed are under way."""
        groups: dict[tuple[int, Domain, tuple[object, ...]], list[Leased]] = defaultdict(list)
        for row in rows:
            self._held.add(row.queue_id)
            groups[row.message_key, row.recipient.domain, row.envelope.terms].append(row)
        for (_, domain, _), group in groups.items():
            self._count(group, 1)
            self._lines.setdefault(domain, deque()).append(group)
        for _, domain, _ in groups:
            if self._workers[domain] < self._share:
                await self._concurrency.acquire()
                self._workers[domain] += 1
                self._spawn(self._work(domain))

    async def _work(self, domain: Domain) -> None:
        """Goes through the domain's line."""
        line = self._lines.setdefault(domain, deque())
        try:
            while line and not self._stopped:
                most = AT_ONCE if domain in self._pipelined else 1
                groups = [line.popleft() for _ in range(min(len(line), most))]
                if not line and domain in self._crowded:
                    self.poke()
                await self._go(domain, groups)
        finally:
            self._workers[domain] -= 1
            if not self._workers[domain]:
                del self._workers[domain]
                self._pipelined.discard(domain)
                if not line:
                    self._lines.pop(domain, None)
            self._concurrency.release()

    async def _go(self, domain: Domain, groups: Sequence[list[Leased]]) -> None:
        try:
            await self._attempt(domain, groups)
        except StoreError as error:
            self.log.error("no attempt could be made; the lease will run out: {error}", error=error)
        finally:
            for group in groups:
                self._held.difference_update(row.queue_id for row in group)
                self._count(group, -1)
            if any(group[0].probe for group in groups):
                self.poke()

    def _count(self, group: Sequence[Leased], change: int) -> None:
        if group[0].probe:
            self._free_strangers -= change
        else:
            self._living += change

    def _look_in(self, seconds: float) -> None:
        """Something is due then; an earlier look that is planned already stays."""
        if self._stopped:
            return
        if self._call is not None and self._call.active():
            if self._call.getTime() <= self._clock.seconds() + seconds:
                return
            self._call.cancel()
        self._call = self._clock.callLater(max(0.05, seconds), self.poke)

    async def _attempt(self, domain: Domain, groups: Sequence[list[Leased]]) -> None:
        """Raises StoreError when nothing was tried."""
        read = await self._read(groups)
        if not read:
            return
        objects = [one for _, one in read]
        route: Route | None = None
        answers: Sequence[Mapping[Address, Outcome]] = [{}] * len(objects)
        missing: Outcome = Deferred("4.4.0", "The courier gave no answer")
        try:
            route = await self._router.route(domain)
            answers = await self._carry(route, objects)
        except StoreError as error:
            self.log.error("mail for {domain}: {error}", domain=str(domain), error=error)
            missing = STORE_FAILED
        except Exception:  # ours to mend, and no reason to forget the message or to try for ever
            self.log.failure("an attempt for {domain} failed", domain=str(domain))
            missing = Deferred("4.3.0", "Internal error; the log of the gateway says more")
        failures = [why for why in map(_unreachable, answers) if why is not None]
        if isinstance(route, Parley) and not failures:
            self._pipelined.add(domain)
        else:
            self._pipelined.discard(domain)
        attempts = [
            Attempt(row, one, route, said.get(row.recipient, missing), _unreachable(said) is not None)
            for (group, one), said in zip(read, answers, strict=True)
            for row in group
        ]
        for attempt in attempts:
            self._observed(type(route).__name__, attempt.outcome)
        await self._record(attempts)
        if failures:
            await self._unreached(domain, failures[0])
        elif any(group[0].probe for group in groups):
            self._next_stranger = 0.0  # not in vain

    async def _read(self, groups: Sequence[list[Leased]]) -> list[tuple[list[Leased], MailObject]]:
        """Raises StoreError."""
        contents = await self._queue.messages({group[0].message_key for group in groups})
        read = []
        for group in groups:
            if group[0].message_key not in contents:
                self.log.error("queue {id}: its message is gone", id=group[0].queue_id)
                continue
            recipients = tuple(row.recipient for row in group)
            asked = {address: told for row in group for address, told in row.envelope.asked.items()}
            envelope = replace(group[0].envelope, recipients=recipients, asked=asked)
            read.append((group, MailObject(*contents[group[0].message_key], envelope)))
        return read

    async def _unreached(self, domain: Domain, why: Outcome) -> None:
        """What stands in line for the domain waits for the next probe; senders of old messages are told."""
        line = self._lines.get(domain, deque())
        for group in line:
            self._count(group, -1)
        waiting = [row.queue_id for group in line for row in group]
        line.clear()
        if waiting:
            await self._queue.give_back(waiting)
            self._held.difference_update(waiting)
        while rows := await self._queue.overdue(domain, self._patience.give_up, LEASE, BATCH):
            await self._record([Attempt(*row, None, why, True) for row in await self._alone(rows)])
        rows = await self._queue.unwarned(domain, self._patience.notice, BATCH)
        await self._outcomes.warn([Attempt(*row, None, why, True) for row in await self._alone(rows)])

    async def _record(self, attempts: Sequence[Attempt]) -> None:
        wait = await self._outcomes.record(attempts)
        if wait is not None:
            self._look_in(wait)

    async def _alone(self, rows: Sequence[Leased]) -> list[tuple[Leased, MailObject]]:
        return [(row, one) for (row,), one in await self._read([[row] for row in rows])]

    async def _carry(self, route: Route, objects: Sequence[MailObject]) -> Sequence[Mapping[Address, Outcome]]:
        match route:
            case Local():  # the domain became ours while it waited
                return [await self._post_office.deliver_local(one.content, one.trace, one.envelope) for one in objects]
            case Parley():
                return await self._couriers[Parley].deliver(route, objects)
            case Mail() | Bridged():
                return [await self._carry_mail(route, one) for one in objects]
            case _:
                return [dict.fromkeys(one.envelope.recipients, route) for one in objects]

    async def _carry_mail(self, route: Mail | Bridged, one: MailObject) -> Mapping[Address, Outcome]:
        if not fits(one.content):
            return dict.fromkeys(one.envelope.recipients, TOO_BIG_FOR_MAIL)
        (answers,) = await self._couriers[type(route)].deliver(route, [one])
        return answers


def _unreachable(answers: Mapping[Address, Outcome]) -> Outcome | None:
    """Why no host of the domain could be talked to (RFC 3463 §3.5: X.4.x is the network's status), if it is so."""
    outcomes = list(answers.values())
    if outcomes and all(isinstance(o, Deferred) and o.code.startswith("4.4.") for o in outcomes):
        return outcomes[0]
    return None
