"""What comes of attempts to hand mail on: when the next one is, delay notices, the end and who is told of it.

RFC 5321 §4.5.4.1 (how often, and how long), §6.1 (bounce); RFC 3461 §6 (reports).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from twisted.internet import defer
from twisted.logger import Logger

from gatewayd.core.delivery import PostOffice
from gatewayd.core.reports import Fate
from gatewayd.core.story import Story, duration
from gatewayd.errors import StoreError
from gatewayd.interfaces.queue import IQueue, Leased, MailObject, Settlement
from gatewayd.interfaces.routes import Local, Route
from gatewayd.message.dsn import Action
from gatewayd.outcome import Deferred, Delivered, Outcome, Refused

PROBE = 1800.0  # seconds: a domain that cannot be reached is tried at least so often, for whatever waits for it


class Patience(NamedTuple):
    """Seconds."""

    retry: Sequence[float]  # after the first attempt in vain, the second, and so on; the last one for all that follow
    give_up: float
    notice: float = float("inf")  # then the sender is told that it takes longer


class Attempt(NamedTuple):
    """One recipient's."""

    row: Leased
    one: MailObject
    route: Route | None
    outcome: Outcome
    unreached: bool  # no host of the domain could be talked to


class Outcomes:
    log = Logger()

    def __init__(
        self, queue: IQueue, post_office: PostOffice, now: Callable[[], float], patience: Patience, story: Story,
        note: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._queue = queue
        self._post_office = post_office
        self._now = now
        self._patience = patience
        self._story = story
        self._note = note

    async def record(self, attempts: Sequence[Attempt]) -> float | None:
        """When the first of them is due again. Reports are durable before the end is: a crash between the two may tell
        them twice."""
        settlements = [self._settlement(attempt) for attempt in attempts]
        telling = [
            defer.Deferred.fromCoroutine(self._report(attempt, settlement.outcome, action))
            for attempt, settlement in zip(attempts, settlements, strict=True)
            if (action := self._action(attempt, settlement.outcome)) is not None
        ]
        untold = {queue_id for queue_id in await defer.gatherResults(telling) if queue_id is not None}
        settled = [one for one in settlements if one.queue_id not in untold]
        try:
            if settled:
                await self._queue.settle(settled)
        except StoreError as error:  # tried again then: twice is better than never
            self.log.error("{count} attempts not recorded; leases will run out: {e}", count=len(settled), e=error)
        return min((one.next_attempt for one in settled if one.next_attempt is not None), default=None)

    async def warn(self, attempt: Attempt) -> None:
        """Its sender is told of the delay. Raises StoreError."""
        await self._tell("delayed", attempt, attempt.outcome, attempt.row.accepted + self._patience.give_up)
        await self._queue.warned(attempt.row.queue_id)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _settlement(self, attempt: Attempt) -> Settlement:
        """What the row becomes, and the log and the story know it."""
        row, outcome, name, to = attempt.row, attempt.outcome, attempt.one.content.trace_id, attempt.row.recipient
        carrier, number, failures = type(attempt.route).__name__, row.attempts + 1, row.failures + attempt.unreached
        now = self._now()
        if isinstance(outcome, Deferred):
            retry, give_up, _ = self._patience
            wait = retry[min(max(row.attempts, row.failures), len(retry) - 1)]
            left = row.accepted + give_up - now
            if attempt.unreached:
                wait = min(wait, PROBE)
            if wait < left:
                if outcome.retry_after is not None:  # a long one does not shorten the time that the sender was promised
                    wait = min(max(wait, outcome.retry_after), left)
                self._story.attempted(attempt.one.content, to, number, attempt.route, outcome, wait)
                self.log.info(
                    "{name}, queue {id}: {to} deferred by {carrier}: {code} {text}; again in {wait:.0f} s",
                    name=name, id=row.queue_id, to=str(to), carrier=carrier,
                    code=outcome.code, text=outcome.text, wait=wait,
                )  # fmt: skip
                return Settlement(row.queue_id, outcome, now + wait, failures or None)
            outcome = Refused("5.4.7", f"Given up after {duration(give_up)}; last: {outcome.text}")
        self._story.attempted(attempt.one.content, to, number, attempt.route, outcome)
        fate = "delivered" if isinstance(outcome, Delivered) else "refused"
        self._note(f"{name}, queue {row.queue_id}: {to} {fate} by {carrier}: {outcome.code} {outcome.text}")
        return Settlement(row.queue_id, outcome, None, failures or None)

    def _action(self, attempt: Attempt, outcome: Outcome) -> Action | None:
        """What the sender may have to be told."""
        match outcome:
            case Refused():
                return "failed"
            case Deferred():
                old = self._now() - attempt.row.accepted >= self._patience.notice
                return "delayed" if old and not attempt.row.warned else None
        return None if outcome.reports or isinstance(attempt.route, Local) else "relayed"

    async def _report(self, attempt: Attempt, outcome: Outcome, action: Action) -> int | None:
        """The id of a row that has to stay, since its sender could not be told of its end."""
        try:
            if action == "delayed":
                await self.warn(attempt)
            else:
                await self._tell(action, attempt, outcome)
        except StoreError as error:
            self.log.error("queue {id}: its sender cannot be told: {error}", id=attempt.row.queue_id, error=error)
            return None if action == "delayed" else attempt.row.queue_id
        return None

    async def _tell(self, action: Action, attempt: Attempt, outcome: Outcome, until: float | None = None) -> None:
        row, one = attempt.row, attempt.one
        fate = Fate(action, one.content, one.trace, row.envelope, {row.recipient: outcome}, row.accepted, until)
        await self._post_office.report(fate)
