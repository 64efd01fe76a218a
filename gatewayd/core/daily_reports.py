"""What the daily reports to other domains share (RFC 7489 §7.2, RFC 8460 §5.3): counting in memory, and the mail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from email.message import EmailMessage
from email.policy import SMTP
from typing import Generic, TypeVar

from gatewayd.address import Address, Domain
from gatewayd.errors import StoreError
from gatewayd.message.dates import internet_date
from gatewayd.outcome import Outcome

Send = Callable[[bytes, Address], Awaitable[Outcome]]  # mail of the gateway's own
Contact = Callable[[], Awaitable[Address]]  # in whose name

DAY = 86400

K = TypeVar("K")


class Tally(Generic[K]):
    """Counts in memory, at most `most` kinds between two flushes; more are not counted."""

    def __init__(self, keep: Callable[[Mapping[K, int]], Awaitable[None]], most: int) -> None:
        self._keep = keep
        self._most = most
        self._counts: Counter[K] = Counter()

    def count(self, kind: K) -> None:
        """Costs no more than a dictionary."""
        if kind in self._counts or len(self._counts) < self._most:
            self._counts[kind] += 1

    async def flush(self) -> None:
        """Raises StoreError; then nothing is lost."""
        counts, self._counts = self._counts, Counter()
        if not counts:
            return
        try:
            await self._keep(counts)
        except StoreError:
            self._counts.update(counts)
            raise


def report_mail(hostname: Domain, contact: Address, place: Address, domain: str, name: str, now: float) -> EmailMessage:
    """With the Subject that both standards ask for, and no content yet. `name` is the report's id."""
    mail = EmailMessage(policy=SMTP)
    mail["From"] = str(contact)
    mail["To"] = str(place)
    mail["Subject"] = f"Report Domain: {domain} Submitter: {hostname} Report-ID: <{name}>"
    mail["Date"] = internet_date(now)
    mail["Auto-Submitted"] = "auto-generated"
    return mail
