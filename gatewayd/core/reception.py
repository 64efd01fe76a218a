"""Mail at the door, after its data and before it is kept: who sent it, whether it comes too early, what filters say.

What our users submit is completed (RFC 6409 §8).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from msgspec.structs import replace
from twisted.logger import Logger

from gatewayd.address import Address, Domain
from gatewayd.core.consent import INBOX, JUNK
from gatewayd.core.examination import Examined
from gatewayd.core.filtering import FIELD, Filtered, Filters, Visits
from gatewayd.core.greylist import Greylist
from gatewayd.interfaces.queue import Envelope
from gatewayd.interfaces.records import Account
from gatewayd.interfaces.routes import Origin
from gatewayd.message import bridge, submission
from gatewayd.message.mime import Mail
from gatewayd.outcome import Delivered, Outcome, Refused

Examine = Callable[[bytes, Origin, Address | None], Awaitable[Examined]]


class Judged(msgspec.Struct, frozen=True):
    """Mail that may be kept."""

    mail: Mail
    fields: bytes = b""  # that we set above it
    mailbox: str = INBOX
    examined: Examined | None = None
    refused: frozenset[Address] = frozenset()  # recipients for whom a filter does not take it
    verdict: str = ""  # what the author's domain and filters say to that, in words
    envelope: Envelope | None = None  # as a filter wants it; None: as it was


class Reception:
    """`now` gives seconds since the epoch, `random` n unguessable octets. Mail from an IP address that it `trusts` is
    not examined."""

    log = Logger()

    def __init__(
        self, hostname: Domain, now: Callable[[], float], random: Callable[[int], bytes], *,
        examine: Examine | None = None, filters: Filters | None = None, greylist: Greylist | None = None,
        trusts: Callable[[str], bool] = lambda address: False,
    ) -> None:  # fmt: skip
        self._hostname = hostname
        self._now = now
        self._random = random
        self._examine = examine
        self._filters = filters
        self._greylist = greylist
        self._trusts = trusts

    def asks(self, origin: Origin, submitter: Account | None) -> bool:
        """Whether judging waits for the DNS or for filters."""
        return self._filters is not None or (submitter is None and self._examines(origin))

    def _examines(self, origin: Origin) -> bool:
        return self._examine is not None and not origin.trusted and not self._trusts(origin.address)

    def visit(self, origin: Origin, submitter: Account | None) -> Visits | None:
        """A client's connection, for the filters; None: there are none."""
        return self._filters.visit(origin, submitter.address if submitter else None) if self._filters else None

    async def judge(
        self, envelope: Envelope, mail: Mail, submitter: Account | None, origin: Origin, visit: Visits | None = None
    ) -> Judged | Outcome:
        """An Outcome: it is not kept, and this is the answer for all. `visit`: of the client at the filters, which were
        asked before the data. Raises StoreError."""
        examined = None
        mail = bridge.without_fields(mail, FIELD.lower().encode())  # only ours is believed
        if submitter is not None:
            name = f"{self._random(12).hex()}@{submitter.address.domain}"
            mail = submission.completed(mail, self._now(), name, envelope.reverse_path or submitter.address)
        elif self._examine is not None and not origin.trusted:
            mail = bridge.without_results_of(mail, self._hostname)
            if not self._trusts(origin.address):
                examined = await self._examine(mail.octets, origin, envelope.reverse_path)
        if examined is not None and examined.dmarc == "fail" and examined.policy == "reject":
            self.log.info("refused mail of {origin}: DMARC policy of {d}", origin=str(origin), d=examined.author)
            text = f"{examined.author} asks that mail which fails DMARC be refused"
            return Refused("5.7.26", text)  # RFC 7372 §3.3: multiple checks failed
        if examined is not None and self._greylist is not None and not examined.authenticated:
            early = await self._greylist.ask(origin.address, envelope.reverse_path, envelope.recipients)
            if early is not None:
                return early
        filtered = Filtered("take", mail.octets)
        if self._filters is not None:
            asked = visit or self._filters.visit(origin, submitter.address if submitter else None)
            filtered = await asked.judge(mail.octets, envelope)
            if visit is None:
                asked.close()
            if filtered.envelope is not None and not filtered.envelope.recipients:
                filtered = replace(filtered, action="discard", why=f"{filtered.why}: no recipient is left")
        if filtered.action == "discard":  # as the filter's owner wants it; the log alone knows
            self.log.warn("discarded mail of {origin}: {why}", origin=str(origin), why=filtered.why)
            return Delivered("2.0.0", "Accepted")
        if filtered.outcome is not None:
            self.log.info("not taken from {origin}: {why}", origin=str(origin), why=filtered.why)
            return filtered.outcome
        return self._judged(mail if filtered.mail == mail.octets else Mail(filtered.mail), filtered, examined)

    def _judged(self, mail: Mail, filtered: Filtered, examined: Examined | None) -> Judged:
        mailbox, why = INBOX, [filtered.why] if filtered.why else []
        if filtered.action == "junk":
            mailbox = JUNK
        if examined is not None and examined.dmarc == "fail" and examined.policy == "quarantine":
            mailbox = JUNK
            why.insert(0, f"{examined.author} asks that mail which fails DMARC be put apart")
        verdict = "; ".join(why)
        fields = examined.field(self._hostname) if examined is not None else b""
        return Judged(mail, fields, mailbox, examined, filtered.refused, verdict, filtered.envelope)
