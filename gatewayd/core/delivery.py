"""The post office: decides for each recipient of an accepted message, and has it durable before it answers.

Everything that comes in passes here: mail by SMTP, objects by Parley, APPEND, import. Local recipients are delivered,
others queued. No protocol's reply codes are known here; outcomes are those of outcome.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from twisted.internet import defer
from twisted.logger import Logger

from gatewayd.address import Address, AddressError, Domain
from gatewayd.core import filing
from gatewayd.core.admission import Admission
from gatewayd.core.bridges import Bridges, authors_domain
from gatewayd.core.consent import INBOX, JUNK, Consent, Provenance
from gatewayd.core.dmarc import aligned
from gatewayd.core.pulling import QUOTA, Puller, Source, blobs_of_user
from gatewayd.core.receipts import Receipts
from gatewayd.core.reception import Judged, Reception
from gatewayd.core.recipients import Found, Recipients
from gatewayd.core.reports import Fate, Reporter
from gatewayd.core.srs import SRS
from gatewayd.core.story import Story
from gatewayd.errors import QuotaExceeded, StoreError, StoreFull
from gatewayd.interfaces import Account, Bridged, Delivery, Envelope, IQueue, IStore, Origin, Placed, Route
from gatewayd.message import bridge, object_types
from gatewayd.message.dates import internet_date
from gatewayd.message.model import MAIL, MAX_PAYLOAD, RECEIPT, Content, ObjectError, Part
from gatewayd.message.receipts import STORED, may_ask
from gatewayd.outcome import (
    ALIAS_LOOP,
    MAILBOX_FULL,
    MESSAGE_OVER_QUOTA,
    NO_SUCH_USER,
    NOT_YOUR_ADDRESS,
    RELAY_DENIED,
    STORE_FAILED,
    STORE_FULL,
    TOO_BIG,
    Deferred,
    Delivered,
    Outcome,
    Refused,
)

MAX_HEAD = 64 * 1024  # octets within which a loop is looked for
NOT_FILTERED = Refused("5.7.1", "A content filter does not take it for this recipient")
CONTACT = 5.0  # seconds: a domain that calls all the time wakes its queue no more often
MAX_CONTACTED = 10_000
LARGEST = 4 * 1024**3  # octets of the blobs of one object
LARGEST_MAIL = 64 * 1024**2  # octets of one that was born as mail


NO_FILES = Refused("5.7.1", "Until the recipient consents, only text is taken")

Stamp = Callable[[str], bytes]  # a message's id to the Received field that names it


class Router(Protocol):
    async def route(self, domain: Domain) -> Route: ...


class Signer(Protocol):
    async def sign(self, domain: Domain, payload: bytes) -> tuple[bytes, bytes]:
        """(protected header, signature) by the domain's current key. Raises KeyError: no key."""

    async def verify(self, content: Content) -> Domain:
        """Who signed. Raises ValueError when the signature does not hold, LookupError when keys cannot be had."""


@dataclass(frozen=True, slots=True)
class _Letter:
    """One accepted message on its way to its recipients."""

    content: Content
    envelope: Envelope
    trace: bytes
    provenance: Provenance = Provenance.HERE
    mailbox: str = INBOX
    told: set[Address] = field(default_factory=set)  # whose outcome the log and the story have
    sorted: dict[Address, str] = field(default_factory=dict)  # the mailboxes of those for whom it was not that

    @property
    def sender(self) -> Address:
        return Address.parse(self.content.fields.from_)

    @property
    def peer(self) -> Domain | None:
        """Which domain made an object that came from elsewhere."""
        return self.sender.domain if self.provenance is Provenance.NATIVE else None

    @property
    def answers(self) -> bool:
        """A bounce or the like, which consent never stops (RFC 5321 §4.5.5)."""
        return self.envelope.reverse_path is None and self.content.fields.type == MAIL

    def to(self, recipients: Sequence[Address]) -> Envelope:
        return replace(self.envelope, recipients=tuple(recipients))


_Copy = tuple[Account, Delivery | Outcome]  # one account's of a message, or why there is none


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
        wake_peer: Callable[[Domain], Awaitable[object]] | None = None,
        story: Story | None = None,
        largest: int = LARGEST,
        largest_mail: int = LARGEST_MAIL,
        quota: int = QUOTA,
        note: Callable[[str], None] | None = None,
        bridges: Bridges | None = None,
        srs: SRS | None = None,
    ) -> None:
        self._note = note or (lambda line: self.log.info("{line}", line=line))
        self._store = store
        self._bridges = bridges or Bridges({}, _no_probe, now)
        self._srs = srs
        self._queue = queue
        self._signer = signer
        self._hostname = hostname
        self._now = now
        self._random = random
        self._reporter = Reporter(hostname, now, random)
        self._story = story or Story(now)
        self._recipients = Recipients(store, hostname, postmaster, self._bridges, srs)
        self._reception = reception or Reception(hostname, now, random)
        self._admission = admission
        self._consent = consent or Consent(store, now)
        self._receipts = Receipts(store, self._recipients.owns, signer.sign, self._post_receipt, now, random)
        self._largest = largest
        self._largest_mail = largest_mail
        self._puller = Puller(store.blobs, quota)
        self._contacted: dict[Domain, float] = {}
        self._wake_peer = wake_peer or queue.wake

    # -- questions before the data ----------------------------------------------------------------------------------

    async def recipient(self, address: Address, submitter: Account | None, client: str = "") -> Outcome:
        """May this sender write to this address? Open to all for local users, for everyone to signed-in users and to
        the servers behind us, whose IP address `client` is."""
        try:
            if await self._recipients.is_ours(address):
                found = await self._recipients.find(address)
                if not found:
                    return ALIAS_LOOP if found.circular else NO_SUCH_USER
                if await self._recipients.full(found):
                    return MAILBOX_FULL
                if found.behind:
                    return await self._bridges.verify(address)
                return Delivered("2.1.5", "Recipient ok")
        except StoreError as error:
            return self._failed(error)
        if submitter is None:
            return Delivered("2.1.5", "Recipient ok") if self._bridges.sent_by(client) else RELAY_DENIED
        return self._many(submitter, 1) or Delivered("2.1.5", "Recipient ok")

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
                    return Delivered("2.1.0", "Sender ok") if ok else RELAY_DENIED
                await self._contact(address.domain)
        except StoreError as error:
            return self._failed(error)
        if submitter is None and self._admission is not None:
            held = await self._admission.client(client, address.domain if address else None)
            if held is not None:
                return held
        return Delivered("2.1.0", "Sender ok")

    # -- acceptance -------------------------------------------------------------------------------------------------

    async def accept_mail(
        self, envelope: Envelope, mail: bytes, stamp: Stamp, submitter: Account | None, origin: Origin, *,
        each: bool = False,
    ) -> dict[Address, Outcome]:  # fmt: skip
        """Mail by SMTP or LMTP. Comes back when every recipient's copy is durable or refused: all alike, or `each` by
        itself."""
        size = len(mail)
        recipients, reverse_path = envelope.recipients, envelope.reverse_path
        behind = self._bridges.sent_by(origin.address) if submitter is None else frozenset[Domain]()
        try:
            if submitter is not None and not await self._sends_as(mail, submitter):
                return dict.fromkeys(recipients, NOT_YOUR_ADDRESS)
            trusted = replace(origin, trusted=True) if behind else origin
            judged = await self._reception.judge(envelope, mail, submitter, trusted)
        except StoreError as error:
            return dict.fromkeys(recipients, self._failed(error))
        if not isinstance(judged, Judged):
            self._story.turned_away(origin, reverse_path, recipients, judged)
            return dict.fromkeys(recipients, judged)
        mail, examined = judged.mail, judged.examined
        provenance = Provenance.UNEXAMINED if submitter is None else Provenance.HERE
        if examined is not None:
            provenance = Provenance.AUTHENTICATED if examined.authenticated else Provenance.UNAUTHENTICATED
        proven = examined is not None and (examined.spf, examined.spf_identity) == ("pass", "mailfrom")
        if submitter is None and not origin.trusted and not proven:
            envelope = envelope.without_success()
        try:
            author = submitter.address.domain if submitter else await self._our_domain(recipients)
            author = authors_domain([*bridge.authors(mail), reverse_path], behind) or author
            restored = await self._restored(mail)
            if restored is not None and examined is not None:
                provenance = Provenance.AUTHENTICATED  # by its signature
            content = restored or await self._bridged(
                mail, author, reverse_path, examined.summary if examined else None
            )
        except StoreError as error:
            return dict.fromkeys(recipients, self._failed(error))
        except KeyError as domain:
            self.log.error("no signing key for {domain}; refused {peer} for now", domain=domain, peer=str(origin))
            return dict.fromkeys(recipients, STORE_FAILED)
        if submitter is not None:
            by_hand = reverse_path is not None and not bridge.automatic(mail)
            if not await self._writes(submitter, content, recipients, by_hand=by_hand):
                return dict.fromkeys(recipients, STORE_FAILED)
        self._story.mail(content, origin, reverse_path, submitter, size)
        if examined is not None:
            self._story.examined(content, examined)
        if judged.verdict:
            self._story.judged(content, judged.verdict, judged.mailbox)
        letter = _Letter(content, envelope, judged.fields + stamp(content.trace_id), provenance, judged.mailbox)
        if envelope.not_before > self._now():
            return await self._hold(letter)
        answers: dict[Address, Outcome] = dict.fromkeys(judged.refused, NOT_FILTERED)
        answers.update(await self._post(letter, [to for to in recipients if to not in judged.refused]))
        return answers if each else await self._one_fate(letter, answers)

    async def _hold(self, letter: _Letter) -> dict[Address, Outcome]:
        """For users here too it waits in the queue (RFC 4865)."""
        try:
            answers = await self._queue.enqueue(letter.content, letter.trace, letter.envelope)
        except StoreError as error:
            answers = dict.fromkeys(letter.envelope.recipients, self._failed(error))
        for address, answer in answers.items():
            self._story.posted(letter.content, address, answer, letter.mailbox)
        return answers

    async def submit_object(
        self, account: Account, payload: bytes, bodies: Mapping[bytes, bytes], recipients: Sequence[Address]
    ) -> dict[Address, Outcome]:
        """A signed-in Parley user's message: checked, signed by the domain, filed under Sent, sent."""
        unsigned = Content(b"", payload, b"", bodies)
        try:
            unsigned.check_bodies()
            object_types.check(unsigned)
            sender = Address.parse(unsigned.fields.from_)
        except (ObjectError, AddressError) as error:
            return dict.fromkeys(recipients, Refused("5.6.0", str(error)))
        if sender.key != account.address.key or unsigned.fields.type == MAIL:
            return dict.fromkeys(recipients, NOT_YOUR_ADDRESS)
        if unsigned.fields.type == RECEIPT:
            return dict.fromkeys(recipients, Refused("5.7.1", "Receipts are made by the server that has the message"))
        if self._too_big(unsigned):
            return dict.fromkeys(recipients, TOO_BIG)
        try:
            for part in unsigned.absent:
                if not await self._may_name(account, part):
                    return dict.fromkeys(recipients, Refused("5.6.0", f"Put the blob {part.hash.hex()} first"))
        except StoreError as error:
            return dict.fromkeys(recipients, self._failed(error))
        try:
            protected, signature = await self._signer.sign(account.address.domain, payload)
        except KeyError:
            self.log.error("no signing key for {domain}", domain=account.address.domain)
            return dict.fromkeys(recipients, STORE_FAILED)
        content = unsigned.sealed(protected, signature)
        if not await self._writes(account, content, recipients):
            return dict.fromkeys(recipients, STORE_FAILED)
        if self._admission is not None:
            held = self._many(account, sum([not await self._recipients.is_ours(to) for to in recipients]))
            if held is not None:
                return dict.fromkeys(recipients, held)
        self._story.submitted(content, account)
        letter = _Letter(content, Envelope(account.address, tuple(recipients)), b"")
        return await self._post(letter, recipients, [await self._sent(account, content)])

    async def accept_object(
        self, peer: Domain, content: Content, reverse_path: Address | None, recipients: Sequence[Address],
        source: Source | None = None,
    ) -> dict[Address, Outcome]:  # fmt: skip
        """An object from a peer domain, its signature verified; only our own users are reached this way. Its blobs are
        fetched from `source` before it is accepted."""
        try:
            content.check_bodies()
            object_types.check(content)
        except ObjectError as error:
            return dict.fromkeys(recipients, Refused("5.6.0", str(error)))
        if self._too_big(content):
            return dict.fromkeys(recipients, TOO_BIG)
        trace = (
            f"Received: from {peer} by {self._hostname} with PARLEY id {content.trace_id};\r\n"
            f"\t{internet_date(self._now())}\r\n"
        ).encode("ascii")
        answers: dict[Address, Outcome] = dict.fromkeys(recipients, RELAY_DENIED)
        ours: list[Address] = []
        try:
            ours = [a for a in recipients if await self._recipients.is_ours(a)]
            self._story.handed_over(content, peer, reverse_path)
            if content.absent:
                answers.update(await self._fetch(peer, content, ours, source))
                ours = [address for address in ours if answers[address] is RELAY_DENIED]
            if not ours:
                return answers
            provenance = await self._provenance(peer, content, reverse_path)
        except ObjectError as error:
            return {**answers, **dict.fromkeys(ours, Refused("5.6.0", str(error)))}
        except StoreError as error:
            return dict.fromkeys(recipients, self._failed(error))
        letter = _Letter(content, Envelope(reverse_path, tuple(ours)), trace, provenance)
        answers.update(await self._post(letter, ours))
        return answers

    async def _fetch(
        self, peer: Domain, content: Content, recipients: Sequence[Address], source: Source | None
    ) -> dict[Address, Outcome]:
        """Has the object's blobs here, unless nobody wants them; answers for those who do not get it, or not yet."""
        answers: dict[Address, Outcome] = {}
        native = content.fields.type != MAIL
        if source is None:
            return dict.fromkeys(recipients, Refused("5.6.0", "A body is missing"))
        for address in recipients:
            found = await self._recipients.find(address)
            if not found:
                answers[address] = ALIAS_LOOP if found.circular else self._no_such_user(peer if native else None)
            elif await self._recipients.full(found):
                answers[address] = MAILBOX_FULL
            elif native and not await self._lets_bring(found, Address.parse(content.fields.from_)):
                answers[address] = NO_FILES
        takers = [address for address in recipients if address not in answers]
        missing = await self._puller.pull(peer, content.absent, source) if takers else None
        return answers if missing is None else {**answers, **dict.fromkeys(takers, missing)}

    async def _lets_bring(self, found: Found, sender: Address) -> bool:
        """Whether one of them lets the sender bring files: a stranger's first message has none."""
        for account in found.accounts:
            if await self._consent.state(account.account_id, sender) == "granted":
                return True
        return False

    async def _provenance(self, peer: Domain, content: Content, reverse_path: Address | None) -> Provenance:
        """A peer vouches for the mail of its own users. Raises ObjectError: the object names another author than its
        mail does."""
        fields = content.fields
        if fields.type != MAIL:
            return Provenance.NATIVE
        digest = fields.parts[0].hash
        mail = content.bodies.get(digest) or (await self._store.blobs.read(digest, 0, MAX_HEAD))[0]
        said = bridge.author(mail, reverse_path)
        if said != fields.from_:
            raise ObjectError("the object names another author than its mail does")
        vouched = aligned(Address.parse(said).domain.name, peer.name)
        return Provenance.AUTHENTICATED if vouched else Provenance.UNAUTHENTICATED

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
        content = await self._bridged(mail, account.address.domain, account.address)
        delivery = Delivery(account.account_id, content, b"", mailbox, flags, internal_date_ms, once=False)
        placed = (await self._store.deliver([delivery]))[0]
        if isinstance(placed, StoreError):
            raise placed
        return placed

    async def report(self, fate: Fate) -> None:
        """Tell the sender what became of recipients' copies, as far as that is wanted. Raises StoreError when it cannot
        be told now."""
        content = await self._store.blobs.load(fate.content, bridge.mail_bodies(fate.content))
        mail, to = self._reporter.report(replace(fate, content=content)), fate.envelope.reverse_path
        if mail is None or to is None:
            if fate.action == "failed":
                for address, why in fate.results.items():
                    self.log.warn("nobody is told that {to} failed: {why}", to=str(address), why=why.text)
            return
        answer = await self.notify(mail, to)
        if isinstance(answer, Deferred):
            raise StoreError(answer.text)
        self._story.told(fate.content, fate.action, to)

    async def notify(self, mail: bytes, recipient: Address) -> Outcome:
        """Mail of the gateway's own, with a null reverse-path: nobody is told when it does not arrive."""
        domains = await self._store.domains()
        author = recipient.domain if recipient.domain in domains else min(domains, key=str)
        letter = _Letter(await self._bridged(mail, author, None), Envelope(None, (recipient,)), b"")
        self._story.made_here(letter.content)
        return (await self._post(letter, [recipient]))[recipient]

    async def deliver_local(self, content: Content, trace: bytes, envelope: Envelope) -> dict[Address, Outcome]:
        """Queued mail whose domain is ours: it has become so, or the mail was held."""
        return await self._post(_Letter(content, envelope, trace), envelope.recipients)

    async def acknowledge(self, account: Account, contents: Collection[Content], status: str) -> None:
        """This became of messages that the user has: "delivered", "displayed". Raises nothing."""
        await self._receipts.give(account, contents, status)

    async def resume_receipts(self) -> None:
        """Those that could not be given when they were due. Raises StoreError."""
        await self._receipts.resume()

    def _many(self, account: Account, recipients: int) -> Deferred | None:
        """The user writes to so many elsewhere."""
        return self._admission.account(str(account.address), recipients) if self._admission is not None else None

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _contact(self, domain: Domain) -> None:
        now = self._now()
        if now - self._contacted.get(domain, 0.0) < CONTACT:
            return
        if len(self._contacted) >= MAX_CONTACTED:
            self._contacted.clear()
        self._contacted[domain] = now
        await self._wake_peer(domain)

    async def _sends_as(self, mail: bytes, owner: Account) -> bool:
        """Every address in From is the account's own (RFC 6409 §6.1); a missing From is not refused for that."""
        for author in bridge.authors(mail):
            if author is None or not await self._recipients.owns(owner, author):
                return False
        return True

    async def _mail(self, content: Content) -> bytes:
        return bridge.as_mail(await self._store.blobs.load(content, bridge.mail_bodies(content)))

    async def _may_name(self, account: Account, part: Part) -> bool:
        """A user's message names only blobs that they have: brought by themselves, or of a message of theirs."""
        if await self._store.blobs.claim(blobs_of_user(account), part):
            return True
        return await self._store.names_blob(account.account_id, part.hash)

    def _too_big(self, content: Content) -> bool:
        most = self._largest_mail if content.fields.type == MAIL else self._largest  # a mail is rendered whole
        blobs = sum(part.size for part in content.blobs.values())
        return len(content.payload) > MAX_PAYLOAD or blobs > most

    async def _our_domain(self, recipients: Sequence[Address]) -> Domain:
        domains = await self._store.domains()
        return next((a.domain for a in recipients if a.domain in domains), self._hostname)

    async def _restored(self, mail: bytes) -> Content | None:
        """The native object inside a rendering, if its signature and every body still hold (DESIGN §3)."""
        restored = bridge.restore(mail)
        if restored is None:
            return None
        try:
            signer = await self._signer.verify(restored)
            native = restored.fields.type != MAIL and Address.parse(restored.fields.from_).domain == signer
            object_types.check(restored)
        except (ValueError, LookupError) as error:
            self.log.info("a Parley-Object field was not believed: {error}", error=error)
            return None
        return restored if native else None

    async def _bridged(
        self, mail: bytes, by: Domain, reverse_path: Address | None, auth: Mapping[str, str] | None = None
    ) -> Content:
        payload, bodies = bridge.bridged_payload(
            mail,
            by=by,
            nonce=self._random(16),
            received_ms=int(self._now() * 1000),
            reverse_path=reverse_path,
            auth=auth,
        )
        encoded = payload.encode()
        protected, signature = await self._signer.sign(by, encoded)
        return Content(protected, encoded, signature, bodies)

    async def _post(
        self, letter: _Letter, recipients: Sequence[Address], sent: Sequence[_Copy] = ()
    ) -> dict[Address, Outcome]:
        """Local copies and the queue, side by side; both are idempotent, so a crash between them costs nothing. Without
        the copy that its sender files, if any, nothing counts as done."""
        answers = await self._post_quietly(letter, recipients, sent)
        self._tell(letter, answers)
        return answers

    def _tell(self, letter: _Letter, answers: Mapping[Address, Outcome]) -> None:
        for address in [each for each in answers if each not in letter.told]:
            answer = answers[address]
            letter.told.add(address)
            self._story.posted(letter.content, address, answer, letter.sorted.get(address, letter.mailbox))
            said = f"from <{letter.envelope.reverse_path or ''}> to <{address}>: {answer.code} {answer.text}"
            self._note(f"{letter.content.trace_id}: {said}")

    async def _one_fate(self, letter: _Letter, answers: dict[Address, Outcome]) -> dict[Address, Outcome]:
        """SMTP has one reply for all recipients. Once one copy is ours, the others are too: what is deferred waits in
        the queue, of what is refused the sender is told. If even that cannot be done all is deferred: twice is better
        than never."""
        if len({answer.ok for answer in answers.values()}) == 1:
            return answers
        try:
            deferred = [address for address, answer in answers.items() if isinstance(answer, Deferred)]
            if deferred:
                await self._queue.enqueue(letter.content, letter.trace, letter.to(deferred))
            refused = {address: answer for address, answer in answers.items() if isinstance(answer, Refused)}
            if refused:
                fate = Fate("failed", letter.content, letter.trace, letter.envelope, refused, self._now())
                await self.report(fate)
        except StoreError as error:
            return dict.fromkeys(answers, self._failed(error))
        return dict.fromkeys(answers, Delivered("2.0.0", "Accepted"))

    async def _post_quietly(
        self, letter: _Letter, recipients: Sequence[Address], sent: Sequence[_Copy]
    ) -> dict[Address, Outcome]:
        answers: dict[Address, Outcome] = {}
        try:
            remote: list[Address] = []
            local: dict[Address, Account] = {}
            aliases: dict[Address, Found] = {}
            for address in recipients:
                if not await self._recipients.is_ours(address):
                    remote.append(address)
                    continue
                found = await self._recipients.find(address)
                if found.behind:
                    known = await self._bridges.verify(address)
                    if known.ok:
                        remote.append(address)
                    else:
                        answers[address] = known
                elif len(found.accounts) == 1 and not found.elsewhere:
                    local[address] = found.accounts[0]
                elif found:
                    aliases[address] = found
                else:
                    answers[address] = ALIAS_LOOP if found.circular else self._no_such_user(letter.peer)
            if remote or local or aliases:
                letter = replace(letter, content=await self._store.blobs.keep(letter.content))
        except StoreError as error:
            return {a: answers.get(a, self._failed(error)) for a in recipients}
        copies = [await self._copy(letter, address, account) for address, account in local.items()]
        queueing = defer.Deferred.fromCoroutine(self._enqueue(letter, remote, tell=True)) if remote else None
        filed = await self._file([*sent, *copies])
        if queueing is not None:
            answers.update(await queueing)
        answers.update(zip(local, filed[len(sent) :], strict=True))
        for answer in filed[: len(sent)]:
            if not answer.ok:
                return dict.fromkeys(recipients, answer)
        for alias, found in aliases.items():
            answers[alias] = await self._post_alias(letter, alias, found)
        if local and letter.envelope.asked:
            await self._report_delivered(letter, {address: answers[address] for address in local})
        return answers

    async def _enqueue(
        self, letter: _Letter, recipients: Sequence[Address], *, tell: bool = False
    ) -> dict[Address, Outcome]:
        try:
            answers = await self._queue.enqueue(letter.content, letter.trace, letter.to(recipients))
        except StoreError as error:
            answers = dict.fromkeys(recipients, self._failed(error))
        if tell:
            self._tell(letter, answers)  # before the first attempt does
        return answers

    async def _report_delivered(self, letter: _Letter, answers: Mapping[Address, Outcome]) -> None:
        """To a sender who asked for it (RFC 3461 §5.1)."""
        delivered = {address: answer for address, answer in answers.items() if answer.ok}
        fate = Fate("delivered", letter.content, letter.trace, letter.envelope, delivered, self._now())
        try:
            await self.report(fate)
        except StoreError as error:  # the message is there, and that counts
            self.log.error("a report of success could not be sent: {error}", error=error)

    async def _post_alias(self, letter: _Letter, alias: Address, found: Found) -> Outcome:
        """To all whom the alias names; who of them does not get it is no reason to send it to the others again."""
        mark = b"Delivered-To: %s\r\n" % str(alias).encode("utf-8")
        try:
            if found.elsewhere and mark.lower() in (await self._mail(letter.content))[:MAX_HEAD].lower():
                return ALIAS_LOOP  # it was sent on from here before (RFC 5321 §6.3)
        except StoreError as error:
            return self._failed(error)
        asked = letter.envelope.asked.get(alias)  # holds for all targets (RFC 3461 §5.2.7.1)
        envelope = replace(letter.envelope, asked=dict.fromkeys(found.elsewhere, asked) if asked else {})
        sender = envelope.reverse_path
        if self._srs is not None and sender is not None and not await self._recipients.is_ours(sender):
            envelope = replace(envelope, reverse_path=self._srs.forward(sender, alias.domain))  # SPF holds for us
        sent_on = replace(letter, trace=mark + letter.trace, envelope=envelope)
        answers: dict[Address, Outcome] = {}
        filed = await self._file([await self._copy(letter, alias, account) for account in found.accounts])
        answers.update(zip((account.address for account in found.accounts), filed, strict=True))
        if found.elsewhere:
            answers.update(await self._enqueue(sent_on, found.elsewhere))
        return next(iter((await self._one_fate(sent_on, answers)).values()))

    async def _sent(self, account: Account, content: Content) -> _Copy:
        """What its sender keeps."""
        try:
            return account, await filing.place(self._store, account, content, mailbox="\\Sent", seen=True)
        except StoreError as error:
            return account, self._failed(error)

    async def _copy(self, letter: _Letter, address: Address, account: Account) -> _Copy:
        """One account's. Postmaster is open to all (RFC 5321 §4.5.1)."""
        trace = _return_path(letter) + letter.trace
        try:
            mailbox = letter.mailbox
            if mailbox == JUNK and letter.provenance is Provenance.AUTHENTICATED:  # then it is a filter's word alone
                state = await self._consent.state(account.account_id, letter.sender)
                mailbox = INBOX if state == "granted" else JUNK  # the user's goes before it
            copy = await filing.place(self._store, account, letter.content, trace, mailbox)
            open_to_all = letter.answers or address.local.lower() == "postmaster"
            if isinstance(copy, Delivery) and copy.mailbox == INBOX and not open_to_all:
                copy = await self._consent.sorted(copy, letter.sender, letter.provenance)
        except StoreError as error:
            return account, self._failed(error)
        if isinstance(copy, Delivery):
            letter.sorted[address] = copy.mailbox
        return account, copy

    async def _file(self, copies: Sequence[_Copy]) -> list[Outcome]:
        """They wait for one commit; each stands or falls alone."""
        deliveries = [delivery for _, delivery in copies if isinstance(delivery, Delivery)]
        try:
            placed = iter(await self._store.deliver(deliveries) if deliveries else [])
        except StoreError as error:
            placed = iter([error] * len(deliveries))
        return [
            await self._filed(account, delivery, next(placed)) if isinstance(delivery, Delivery) else delivery
            for account, delivery in copies
        ]

    async def _filed(self, account: Account, delivery: Delivery, placed: Placed | StoreError) -> Outcome:
        answer = self._consent.answer(delivery, placed)
        if answer is not None:
            return answer
        if isinstance(placed, StoreError):
            return self._failed(placed)
        if may_ask(delivery.content):
            await self._receipts.give(account, [delivery.content], STORED)
        return Delivered("2.0.0", "Delivered")

    def _no_such_user(self, peer: Domain | None) -> Outcome:
        """`peer`: whose native object it is for."""
        if peer is not None and not self._consent.nobody(peer):
            return self._consent.used_up
        return NO_SUCH_USER

    async def _writes(
        self, account: Account, content: Content, recipients: Sequence[Address], *, by_hand: bool = True
    ) -> bool:
        """Who is written to may answer, and the receipts that the message asks for will be known when they come."""
        try:
            if by_hand:
                await self._consent.written(account, recipients)
            await self._receipts.expect(account, content, recipients)
        except StoreError as error:
            self.log.error("the store could not: {error}", error=error)
            return False
        return True

    async def _post_receipt(self, content: Content, author: Address) -> Outcome:
        """With a null reverse-path: nobody is told when it does not arrive."""
        return (await self._post(_Letter(content, Envelope(None, (author,)), b""), [author]))[author]

    def _failed(self, error: StoreError) -> Outcome:
        if isinstance(error, QuotaExceeded):
            return MESSAGE_OVER_QUOTA if error.never else MAILBOX_FULL
        self.log.error("the store could not: {error}", error=error)
        return STORE_FULL if isinstance(error, StoreFull) else STORE_FAILED


def _return_path(letter: _Letter) -> bytes:
    """RFC 5321 §4.4."""
    return b"Return-Path: <%s>\r\n" % str(letter.envelope.reverse_path or "").encode("utf-8")


async def _no_probe(route: Bridged, address: Address) -> Outcome:
    return NO_SUCH_USER
