"""The post office: decides for each recipient of an accepted message, and has it durable before it answers.

Everything that comes in passes here: mail by SMTP, objects by Parley, APPEND, import. Local recipients are delivered,
others queued. No protocol's reply codes are known here; outcomes are those of outcome.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from twisted.internet import defer
from twisted.logger import Logger

from gatewayd.address import Address, Domain
from gatewayd.core.accepting import Accepting, Handover
from gatewayd.core.admission import Admission
from gatewayd.core.bridges import Bridges
from gatewayd.core.bridging import Bridging, Signer
from gatewayd.core.consent import Consent
from gatewayd.core.filtering import Visits
from gatewayd.core.posting import Answers, Letter, Posting
from gatewayd.core.pulling import QUOTA, Puller
from gatewayd.core.rate import Buckets
from gatewayd.core.receipts import Receipts
from gatewayd.core.receiving import Arrival, Receiving
from gatewayd.core.reception import Reception
from gatewayd.core.recipients import Recipients
from gatewayd.core.reports import Fate, Reporter
from gatewayd.core.srs import SRS
from gatewayd.core.story import Story
from gatewayd.core.submitting import Submission, Submitting
from gatewayd.core.verdict import kept
from gatewayd.core.writing import Writing
from gatewayd.errors import StoreError
from gatewayd.interfaces.queue import Envelope, IQueue
from gatewayd.interfaces.records import Account, Delivery, Placed
from gatewayd.interfaces.routes import Bridged, Origin, Route
from gatewayd.interfaces.store import IStore
from gatewayd.message.mime import Mail
from gatewayd.message.model import Content, ObjectError
from gatewayd.outcome import (
    ALIAS_LOOP,
    NO_SUCH_USER,
    NOT_YOUR_ADDRESS,
    RECIPIENT_OK,
    RELAY_DENIED,
    SENDER_OK,
    Deferred,
    Outcome,
)

CONTACT = 5.0  # seconds: a domain that calls all the time wakes its queue no more often
LARGEST = 4 * 1024**3  # octets of the blobs of one object
LARGEST_MAIL = 64 * 1024**2  # octets of one that was born as mail


class Router(Protocol):
    async def route(self, domain: Domain) -> Route: ...


class PostOffice:
    """Accepts messages. `now` gives seconds since the epoch, `random` n unguessable octets."""

    log = Logger()

    def __init__(
        self,
        store: IStore,
        queue: IQueue,
        signer: Signer,
        hostname: Domain,
        now: Callable[[], float],
        random: Callable[[int], bytes],
        *,
        postmaster: Address | None = None,
        reception: Reception | None = None,
        admission: Admission | None = None,
        consent: Consent | None = None,
        story: Story | None = None,
        largest: int = LARGEST,
        largest_mail: int = LARGEST_MAIL,
        quota: int = QUOTA,
        note: Callable[[str], None] | None = None,
        bridges: Bridges | None = None,
        srs: SRS | None = None,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._queue = queue
        self._bridges = bridges or Bridges({}, _no_probe, steady)
        self._signer = signer
        self._hostname = hostname
        self._now = now
        self._random = random
        self._bridge = Bridging(signer, now, random)
        self._story = story or Story(now)
        self._recipients = Recipients(store, hostname, postmaster, self._bridges, srs)
        self._reception = reception or Reception(hostname, now, random)
        self._admission = admission
        self._consent = consent or Consent(store, steady)
        self._receipts = Receipts(store, self._recipients.owns, signer.sign, self._post_receipt, now, random)
        self._note = note or (lambda line: self.log.info("{line}", line=line))
        self._posting = Posting(
            store, queue, self._recipients, self._consent, self._bridge, Reporter(hostname, now, random), self._story,
            self._receipts.stored, self._note, now,
            self._bridges, srs,
        )  # fmt: skip
        writing = Writing(self._consent, self._receipts)
        self._receiving = Receiving(
            store, hostname, self._recipients, self._bridges, self._reception, self._bridge, writing, self._posting,
            self._story, now,
        )  # fmt: skip
        self._submitting = Submitting(
            store, signer, self._recipients, writing, admission, self._posting, self._story, largest
        )
        self._accepting = Accepting(
            store, signer, hostname, self._recipients, self._consent, admission, self._posting,
            Puller(store.blobs, quota), self._story, now, largest, largest_mail,
        )  # fmt: skip
        self._contacts = Buckets(60 / CONTACT, steady, burst=1)

    # -- questions before the data ----------------------------------------------------------------------------------

    async def recipient(
        self, address: Address, submitter: Account | None, client: str = "", octets: int = 0
    ) -> Outcome:
        """May this sender write to this address, a mail of so many octets if that is known? Open to all for local
        users, for everyone to signed-in users and to the servers behind us, whose IP address `client` is."""
        try:
            if await self._recipients.is_ours(address):
                found = await self._recipients.find(address)
                if not found:
                    return ALIAS_LOOP if found.circular else NO_SUCH_USER
                if full := await self._recipients.full(found, max(1, octets)):
                    return full
                if found.behind:
                    return await self._bridges.verify(address)
                return RECIPIENT_OK
        except StoreError as error:
            return self._posting.failed(error)
        if submitter is None:
            return RECIPIENT_OK if self._bridges.sent_by(client) else RELAY_DENIED
        return self._many(submitter, 1) or RECIPIENT_OK

    def visit(self, origin: Origin, submitter: Account | None) -> Visits | None:
        """A client's connection, for the filters to be asked step by step; None: there are none."""
        return self._reception.visit(origin, submitter)

    def turned_away(self, origin: Origin, sender: Address | None, recipient: Address | None, why: Outcome) -> None:
        """A client heard no before its data: who asks why finds it in the log, and where it is no mere guess at names,
        in the trace."""
        to = f" to <{recipient}>" if recipient is not None else ""
        line = f"not taken: from <{sender or ''}>{to} by {origin}: {why.code} {why.text}"
        self._note("".join(c if c.isprintable() else "?" for c in line))
        if why not in (NO_SUCH_USER, RELAY_DENIED):
            self._story.turned_away(origin, sender, [about for about in (recipient or sender,) if about], why)

    async def reverse_path(self, address: Address | None, submitter: Account | None, client: str) -> Outcome:
        """A signed-in user sends as an address of that account, a server behind us as any of its domain; nobody else
        sends as one of ours (RFC 6409 §6.1). `client` is an IP address."""
        try:
            if submitter is not None:
                if address is not None and not await self._recipients.owns(submitter, address):  # null: RFC 8098 §3
                    return NOT_YOUR_ADDRESS
            elif address is not None:
                if address.domain in await self._store.domains():
                    ok = address.domain in self._bridges.sent_by(client)
                    return SENDER_OK if ok else RELAY_DENIED
                await self._contact(address.domain)
        except StoreError as error:
            return self._posting.failed(error)
        if submitter is None and self._admission is not None:
            held = await self._admission.client(client, address.domain if address else None)
            if held is not None:
                return held
        return SENDER_OK

    # -- acceptance -------------------------------------------------------------------------------------------------

    async def receive(self, arrivals: Sequence[Arrival]) -> list[Answers]:
        """Mail by SMTP or LMTP, from however many clients: an outcome for each recipient of each."""
        return await self._receiving.receive(arrivals)

    async def submit(self, submissions: Sequence[Submission]) -> list[Answers]:
        """Objects of signed-in Parley users, of however many at once: an outcome for each recipient of each."""
        return await self._submitting.submit(submissions)

    def takes_long(self, one: Submission | Handover | Arrival) -> bool:
        """It waits for a disk, a peer or a server behind us: nobody else's should wait for it."""
        if any(to.domain in self._bridges for to in one.recipients):
            return True
        if isinstance(one, Arrival):
            return self._receiving.takes_long(one)
        try:
            return bool(one.content.blobs)
        except ObjectError:
            return False  # it will be refused

    async def accept(self, handovers: Sequence[Handover]) -> list[Answers]:
        """Objects of a peer domain, however many at once: an outcome for each recipient of each."""
        return await self._accepting.accept(handovers)

    def peer_contact(self, domain: Domain) -> None:
        """The domain is up: what waits for it goes now (DESIGN §2, back-off)."""
        defer.Deferred.fromCoroutine(self._contact(domain)).addErrback(
            lambda failure: self.log.failure("could not wake the queue", failure=failure)
        )

    async def append(
        self,
        account: Account,
        mailbox: str,
        mail: bytes,
        flags: Collection[str] = (),
        internal_date_ms: int | None = None,
    ) -> Placed:
        """File a message as it is: IMAP APPEND, import. Raises StoreError and its kinds."""
        content = await self._bridge.bridged(Mail(mail), account.address.domain, account.address)
        delivery = Delivery(account.account_id, content, b"", mailbox, flags, internal_date_ms, once=False)
        placed = (await self._store.deliver([delivery]))[0]
        if isinstance(placed, StoreError):
            raise placed
        return placed

    async def deliver_local(self, content: Content, trace: bytes, envelope: Envelope) -> dict[Address, Outcome]:
        """Queued mail whose domain is ours: it has become so, or the mail was held, or a mailbox was
        full."""
        return await self._posting.post(Letter(content, envelope, trace, *kept(envelope.found)))

    async def acknowledge(self, account: Account, contents: Collection[Content], status: str) -> None:
        """This became of messages that the user has: "delivered", "displayed". Raises nothing."""
        await self._receipts.give(account, contents, status)

    async def resume_receipts(self) -> None:
        """Those that could not be given when they were due. Raises StoreError."""
        await self._receipts.resume()

    async def report(self, fate: Fate) -> None:
        """Tell the sender what became of recipients' copies, as far as that is wanted. Raises StoreError when it cannot
        be told now."""
        await self._posting.report(fate)

    async def notify(self, mail: bytes, recipient: Address) -> Outcome:
        """Mail of the gateway's own, with a null reverse-path: nobody is told when it does not arrive."""
        return await self._posting.notify(mail, recipient)

    def _many(self, account: Account, recipients: int) -> Deferred | None:
        """The user writes to so many elsewhere."""
        return self._admission.account(str(account.address), recipients) if self._admission is not None else None

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _contact(self, domain: Domain) -> None:
        if not self._contacts.take(domain):
            await self._queue.wake(domain)

    async def _post_receipt(self, content: Content, author: Address) -> Outcome:
        """With a null reverse-path: nobody is told when it does not arrive."""
        return (await self._posting.post(Letter(content, Envelope(None, (author,)), b"")))[author]


async def _no_probe(route: Bridged, address: Address) -> Outcome:
    return NO_SUCH_USER
