"""From a letter to its recipients: local copies where consent puts them, the queue for others, reports to the sender.

Everything is durable before it is answered, and idempotent, so that a crash in the middle costs nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
from msgspec.structs import replace
from twisted.internet import defer
from twisted.logger import Logger

from gatewayd.address import Address, Domain
from gatewayd.core import filing
from gatewayd.core.bridges import Bridges
from gatewayd.core.bridging import Bridging
from gatewayd.core.consent import INBOX, JUNK, Consent, Provenance
from gatewayd.core.recipients import Found, Recipients, is_role
from gatewayd.core.reports import Fate, Reporter
from gatewayd.core.srs import SRS
from gatewayd.core.story import Story
from gatewayd.core.verdict import UNEXAMINED, Findings
from gatewayd.crypto import cose
from gatewayd.errors import QuotaExceeded, StoreError, StoreFull
from gatewayd.interfaces.queue import Envelope, IQueue, MailObject
from gatewayd.interfaces.records import Account, ContactState, Delivery, Placed
from gatewayd.interfaces.store import IStore
from gatewayd.message import bridge
from gatewayd.message.mime import Mail
from gatewayd.message.model import MAIL, Content
from gatewayd.message.receipts import may_ask
from gatewayd.once import once
from gatewayd.outcome import (
    ALIAS_LOOP,
    MAILBOX_FULL,
    MESSAGE_OVER_QUOTA,
    NO_SUCH_USER,
    STORE_FAILED,
    STORE_FULL,
    Deferred,
    Delivered,
    Outcome,
    Refused,
)  # fmt: skip

DELIVERED = Delivered("2.0.0", "Delivered")


class Letter(msgspec.Struct, frozen=True, dict=True):
    """One accepted message on its way to its recipients."""

    content: Content
    envelope: Envelope
    trace: bytes
    provenance: Provenance = Provenance.HERE
    findings: Findings = UNEXAMINED
    author: Account | None = None  # a user of ours, who files a copy under Sent: without it nothing counts as done
    told: set[Address] = set()  # whose outcome the log and the story have
    sorted: dict[Address, str] = {}  # the mailboxes of those for whom it was not that

    @once
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

    def queued_for(self, recipients: Sequence[Address], *, here: bool = False) -> MailObject:
        """`here`: they may be users here, and nothing that was found out is forgotten meanwhile."""
        envelope = self.to(recipients)
        if here:
            envelope = replace(envelope, found=self.findings.kept(self.provenance))
        return MailObject(self.content, self.trace, envelope)


class _Work(msgspec.Struct):
    """A letter whose recipients are sorted by what has to be done for them."""

    letter: Letter
    answers: Answers = {}
    remote: list[Address] = []
    local: dict[Address, Account] = {}
    aliases: dict[Address, Found] = {}
    sent: Outcome | None = None  # what became of its author's copy


Answers = dict[Address, Outcome]
Copy = tuple[Account, Delivery | Outcome]  # one account's of a message, or why there is none
Stored = Callable[[Account, Content], Awaitable[None]]  # a local copy stands, of a message that asks for receipts


class Posting:
    log = Logger()

    def __init__(
        self, store: IStore, queue: IQueue, recipients: Recipients, consent: Consent, bridging: Bridging,
        reporter: Reporter, story: Story, stored: Stored, note: Callable[[str], None], now: Callable[[], float],
        bridges: Bridges, srs: SRS | None,
    ) -> None:  # fmt: skip
        self._store = store
        self._queue = queue
        self._recipients = recipients
        self._consent = consent
        self._bridge = bridging
        self._reporter = reporter
        self._story = story
        self._stored = stored
        self._note = note
        self._now = now
        self._bridges = bridges
        self._srs = srs

    async def post(self, letter: Letter) -> Answers:
        return (await self.post_all([letter]))[0]

    async def post_all(self, letters: Sequence[Letter]) -> list[Answers]:
        """Local copies and the queue, side by side, for the recipients of each envelope; both are idempotent, so a
        crash between them costs nothing."""
        answers = await self._post_quietly(letters)
        for letter, each in zip(letters, answers, strict=True):
            self._tell(letter, each)
        return answers

    async def one_fate(self, letter: Letter, answers: dict[Address, Outcome]) -> dict[Address, Outcome]:
        """SMTP has one reply for all recipients. Once one copy is ours, the others are too: what is deferred waits in
        the queue, of what is refused the sender is told. If even that cannot be done all is deferred: twice is better
        than never."""
        if len({answer.ok for answer in answers.values()}) == 1:
            return answers
        try:
            deferred = [address for address, answer in answers.items() if isinstance(answer, Deferred)]
            if deferred:
                await self._queue.enqueue([letter.queued_for(deferred, here=True)])
            refused = {address: answer for address, answer in answers.items() if isinstance(answer, Refused)}
            if refused:
                fate = Fate("failed", letter.content, letter.trace, letter.envelope, refused, self._now())
                await self.report(fate)
        except StoreError as error:
            return dict.fromkeys(answers, self.failed(error))
        return dict.fromkeys(answers, Delivered("2.0.0", "Accepted"))

    async def hold(self, letter: Letter) -> dict[Address, Outcome]:
        """For users here too it waits in the queue (RFC 4865)."""
        (answers,) = await self._queued([letter.queued_for(letter.envelope.recipients, here=True)])
        for address, answer in answers.items():
            self._story.posted(letter.content, address, answer, letter.findings.mailbox)
        return answers

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
        letter = Letter(await self._bridge.bridged(Mail(mail), author, None), Envelope(None, (recipient,)), b"")
        self._story.made_here(letter.content)
        return (await self.post(letter))[recipient]

    # -- inside -----------------------------------------------------------------------------------------------------

    def _tell(self, letter: Letter, answers: Mapping[Address, Outcome]) -> None:
        for address in [each for each in answers if each not in letter.told]:
            answer = answers[address]
            letter.told.add(address)
            self._story.posted(letter.content, address, answer, letter.sorted.get(address, letter.findings.mailbox))
            said = f"from <{letter.envelope.reverse_path or ''}> to <{address}>: {answer.code} {answer.text}"
            self._note(f"{letter.content.trace_id}: {said}")

    async def _post_quietly(self, letters: Sequence[Letter]) -> list[Answers]:
        try:
            found = await self._recipients.find_all({to for letter in letters for to in letter.envelope.recipients})
            sorted_out = [await self._sorted_out(letter, found) for letter in letters]
            copies = await self._copies(sorted_out)
        except StoreError as error:
            if len(letters) > 1:  # one of them may have been the reason
                return [(await self._post_quietly([letter]))[0] for letter in letters]
            return [dict.fromkeys(letter.envelope.recipients, self.failed(error)) for letter in letters]
        queued = defer.Deferred.fromCoroutine(self._enqueue([work for work in sorted_out if work.remote]))
        filed = iter(await self._file(copies))
        for work in sorted_out:
            work.sent = next(filed) if work.letter.author is not None else None
            work.answers.update({address: next(filed) for address in work.local})
        await queued
        for work in sorted_out:
            if work.sent is not None and not work.sent.ok:
                work.answers = dict.fromkeys(work.letter.envelope.recipients, work.sent)
                continue
            for alias, targets in work.aliases.items():
                work.answers[alias] = await self._post_alias(work.letter, alias, targets)
            if work.local and work.letter.envelope.asked:
                await self._report_delivered(work.letter, {address: work.answers[address] for address in work.local})
        return [work.answers for work in sorted_out]

    async def _sorted_out(self, letter: Letter, found: Mapping[Address, Found | None]) -> _Work:
        """Raises StoreError."""
        work = _Work(letter)
        for address in letter.envelope.recipients:
            them = found[address]
            if them is None:
                work.remote.append(address)
            elif them.behind:
                known = await self._bridges.verify(address)
                if known.ok:
                    work.remote.append(address)
                else:
                    work.answers[address] = known
            elif len(them.accounts) == 1 and not them.elsewhere:
                work.local[address] = them.accounts[0]
            elif them:
                work.aliases[address] = them
            else:
                work.answers[address] = ALIAS_LOOP if them.circular else self.no_such_user(letter.peer)
        if letter.content.blobs and (work.remote or work.local or work.aliases):
            work.letter = replace(letter, content=await self._store.blobs.keep(letter.content))
        return work

    async def _copies(self, works: Sequence[_Work]) -> list[Copy]:
        """Of each letter its author's, if it has one, then those of its local recipients. Raises StoreError."""
        pairs = {(account.account_id, work.letter.sender) for work in works for account in work.local.values()}
        states = await self._consent.states(pairs)
        copies: list[Copy] = []
        for work in works:
            letter = work.letter
            if letter.author is not None:
                place = filing.place(self._store, letter.author, letter.content, mailbox="\\Sent", seen=True)
                copies.append((letter.author, await place))
            for address, account in work.local.items():
                copies.append(await self._copy(letter, address, account, states[account.account_id, letter.sender]))
        return copies

    async def _enqueue(self, works: Sequence[_Work]) -> None:
        """Who is elsewhere."""
        if not works:
            return
        queued = await self._queued([work.letter.queued_for(work.remote) for work in works])
        for work, answers in zip(works, queued, strict=True):
            work.answers.update(answers)
            self._tell(work.letter, answers)  # before the first attempt does

    async def _queued(self, objects: Sequence[MailObject]) -> list[Answers]:
        try:
            return await self._queue.enqueue(objects)
        except StoreError as error:
            if len(objects) > 1:  # one of them may have been the reason
                return [(await self._queued([one]))[0] for one in objects]
            return [dict.fromkeys(one.envelope.recipients, self.failed(error)) for one in objects]

    async def _report_delivered(self, letter: Letter, answers: Mapping[Address, Outcome]) -> None:
        """To a sender who asked for it (RFC 3461 §5.1)."""
        delivered = {address: answer for address, answer in answers.items() if answer.ok}
        fate = Fate("delivered", letter.content, letter.trace, letter.envelope, delivered, self._now())
        try:
            await self.report(fate)
        except StoreError as error:  # the message is there, and that counts
            self.log.error("a report of success could not be sent: {error}", error=error)

    async def _post_alias(self, letter: Letter, alias: Address, found: Found) -> Outcome:
        """To all whom the alias names; who of them does not get it is no reason to send it to the others again."""
        asked = letter.envelope.asked.get(alias)  # holds for all targets (RFC 3461 §5.2.7.1)
        envelope = replace(letter.envelope, asked=dict.fromkeys(found.elsewhere, asked) if asked else {})
        sender = envelope.reverse_path
        if self._srs is not None and sender is not None and not await self._recipients.is_ours(sender):
            envelope = replace(envelope, reverse_path=self._srs.forward(sender, alias.domain))  # SPF holds for us
        here, there = replace(letter, envelope=envelope), None
        if found.elsewhere:
            try:
                there = await self._sent_on(here, alias)
            except LookupError as error:
                return self.failed(StoreError(f"no key of {error}"))
            except StoreError as error:
                return self.failed(error)
            if there is None:
                return Refused("5.4.6", f"It goes round in a loop: {alias} has sent it on before")
        answers: dict[Address, Outcome] = {}
        states = await self._consent.states({(account.account_id, letter.sender) for account in found.accounts})
        copies = [
            await self._copy(letter, alias, account, states[account.account_id, letter.sender])
            for account in found.accounts
        ]
        filed = await self._file(copies)
        answers.update(zip((account.address for account in found.accounts), filed, strict=True))
        if there is not None:
            answers.update((await self._queued([there.queued_for(found.elsewhere)]))[0])
        return next(iter((await self.one_fate(here, answers)).values()))

    async def _sent_on(self, letter: Letter, alias: Address) -> Letter | None:
        """With the mark by which it is known should it come back; None: it has (RFC 5321 §6.3). By Parley the mark
        travels within the mail, which is ours then. Raises StoreError, LookupError."""
        name, back_to = str(alias).encode("utf-8"), letter.envelope.reverse_path
        mail, mark = Mail(await self._mail(letter.content)), b"Delivered-To: %s\r\n" % name
        if name.lower() in (value.strip().lower() for value in mail.root.all(b"delivered-to")):
            return None
        signer = cose.signer(letter.content.protected)[0]
        if signer == (back_to.domain if back_to is not None else alias.domain):
            return replace(letter, trace=mark + letter.trace)
        content = await self._bridge.sent_on(letter.content, Mail(mark + mail.octets), alias.domain, back_to)
        self._story.sent_on(letter.content, alias, content)
        return replace(letter, content=await self._store.blobs.keep(content) if content.blobs else content)

    async def _copy(self, letter: Letter, address: Address, account: Account, state: ContactState) -> Copy:
        """One account's, whose owner has said that of the sender. Postmaster and the like are open to all (RFC
        5321 §4.5.1, RFC 2142 §4). Raises StoreError."""
        mailbox = letter.findings.mailbox
        if mailbox == JUNK and letter.provenance is Provenance.AUTHENTICATED:  # then it is a filter's word alone
            mailbox = INBOX if state == "granted" else JUNK  # the user's goes before it
        copy = await filing.place(self._store, account, letter.content, _return_path(letter) + letter.trace, mailbox)
        open_to_all = letter.answers or is_role(address)
        if isinstance(copy, Delivery) and copy.mailbox == INBOX and not open_to_all:
            copy = self._consent.sorted(copy, letter.sender, state, letter.provenance)
        if isinstance(copy, Delivery):
            letter.sorted[address] = copy.mailbox
            said = letter.findings.field(copy.mailbox, letter.sender, state, letter.provenance)
            if said:
                copy = replace(copy, trace=_return_path(letter) + said + letter.trace)
        return account, copy

    async def _file(self, copies: Sequence[Copy]) -> list[Outcome]:
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
            return self.failed(placed)
        if may_ask(delivery.content):
            await self._stored(account, delivery.content)
        return DELIVERED

    def no_such_user(self, peer: Domain | None) -> Outcome:
        """`peer`: whose native object it is for."""
        if peer is not None and (too_many := self._consent.nobody(peer)):
            return too_many
        return NO_SUCH_USER

    async def _mail(self, content: Content) -> bytes:
        return bridge.as_mail(await self._store.blobs.load(content, bridge.mail_bodies(content)))

    def failed(self, error: StoreError) -> Outcome:
        if isinstance(error, QuotaExceeded):
            return MESSAGE_OVER_QUOTA if error.never else MAILBOX_FULL
        self.log.error("the store could not: {error}", error=error)
        return STORE_FULL if isinstance(error, StoreFull) else STORE_FAILED


def _return_path(letter: Letter) -> bytes:
    """RFC 5321 §4.4."""
    return b"Return-Path: <%s>\r\n" % str(letter.envelope.reverse_path or "").encode("utf-8")
