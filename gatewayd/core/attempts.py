"""What comes of attempts to hand mail on: when the next one is, delay notices, the end and who is told of it.

RFC 5321 §4.5.4.1 (how often, and how long), §6.1 (bounce); RFC 3461 §6 (reports).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec.structs import replace
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
        """Seconds until the first of them is due again. Reports are durable before the end is: a crash between the two
        may tell them twice."""
        settlements = [self._settlement(attempt) for attempt in attempts]
        untold = await self._tell_all(
            [
                (action, attempt, settlement.outcome)
                for attempt, settlement in zip(attempts, settlements, strict=True)
                if (action := self._action(attempt, settlement.outcome)) is not None
            ]
        )
        settled = [one for one in settlements if one.queue_id not in untold]
        try:
            if settled:
                await self._queue.settle(settled)
        except StoreError as error:  # tried again then: twice is better than never
            self.log.error("{count} attempts not recorded; leases will run out: {e}", count=len(settled), e=error)
        due = min((one.next_attempt for one in settled if one.next_attempt is not None), default=None)
        return None if due is None else due - self._now()

    async def warn(self, attempts: Sequence[Attempt]) -> None:
        """Their senders are told of the delay."""
        await self._tell_all([("delayed", attempt, attempt.outcome) for attempt in attempts])

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

    async def _tell_all(self, due: Sequence[tuple[Action, Attempt, Outcome]]) -> set[int]:
        """One report for all recipients of a message that have the same fate. The ids of rows that have to stay, since
        the sender could not be told of their end."""
        fates: dict[tuple[Action, int, object], list[tuple[Attempt, Outcome]]] = defaultdict(list)
        for action, attempt, outcome in due:
            fates[action, attempt.row.message_key, attempt.row.envelope.terms].append((attempt, outcome))
        telling = [defer.Deferred.fromCoroutine(self._tell(action, each)) for (action, _, _), each in fates.items()]
        return {queue_id for untold in await defer.gatherResults(telling) for queue_id in untold}

    async def _tell(self, action: Action, attempts: Sequence[tuple[Attempt, Outcome]]) -> Sequence[int]:
        rows, one = [attempt.row for attempt, _ in attempts], attempts[0][0].one
        first, ids = rows[0], [row.queue_id for row in rows]
        asked = {address: told for row in rows for address, told in row.envelope.asked.items()}
        envelope = replace(first.envelope, recipients=tuple(row.recipient for row in rows), asked=asked)
        results = {attempt.row.recipient: outcome for attempt, outcome in attempts}
        until = first.accepted + self._patience.give_up if action == "delayed" else None
        try:
            await self._post_office.report(
                Fate(action, one.content, one.trace, envelope, results, first.accepted, until)
            )
            if action == "delayed":
                await self._queue.warned(ids)
        except StoreError as error:
            self.log.error("queue {ids}: the sender cannot be told: {e}", ids=", ".join(map(str, ids)), e=error)
            return () if action == "delayed" else ids
        return ()
