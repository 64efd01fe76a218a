"""From a letter to its recipients: local copies where consent puts them, the queue for others, reports to the sender.

Everything is durable before it is answered, and idempotent, so that a crash in the middle costs nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

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
from gatewayd.errors import QuotaExceeded, StoreError, StoreFull
from gatewayd.interfaces.queue import Envelope, IQueue
from gatewayd.interfaces.records import Account, Delivery, Placed
from gatewayd.interfaces.store import IStore
from gatewayd.message import bridge
from gatewayd.message.model import MAIL, Content
from gatewayd.message.receipts import may_ask
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

MAX_HEAD = 64 * 1024  # octets within which a loop is looked for


@dataclass(frozen=True, slots=True)
class Letter:
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

    async def post(
        self, letter: Letter, recipients: Sequence[Address], sent: Sequence[Copy] = ()
    ) -> dict[Address, Outcome]:
        """Local copies and the queue, side by side; both are idempotent, so a crash between them costs nothing. Without
        the copy that its sender files, if any, nothing counts as done."""
        answers = await self._post_quietly(letter, recipients, sent)
        self._tell(letter, answers)
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
                await self._queue.enqueue(letter.content, letter.trace, letter.to(deferred))
            refused = {address: answer for address, answer in answers.items() if isinstance(answer, Refused)}
            if refused:
                fate = Fate("failed", letter.content, letter.trace, letter.envelope, refused, self._now())
                await self.report(fate)
        except StoreError as error:
            return dict.fromkeys(answers, self.failed(error))
        return dict.fromkeys(answers, Delivered("2.0.0", "Accepted"))

    async def hold(self, letter: Letter) -> dict[Address, Outcome]:
        """For users here too it waits in the queue (RFC 4865)."""
        try:
            answers = await self._queue.enqueue(letter.content, letter.trace, letter.envelope)
        except StoreError as error:
            answers = dict.fromkeys(letter.envelope.recipients, self.failed(error))
        for address, answer in answers.items():
            self._story.posted(letter.content, address, answer, letter.mailbox)
        return answers

    async def sent(self, account: Account, content: Content) -> Copy:
        """What its sender keeps."""
        try:
            return account, await filing.place(self._store, account, content, mailbox="\\Sent", seen=True)
        except StoreError as error:
            return account, self.failed(error)

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
        letter = Letter(await self._bridge.bridged(mail, author, None), Envelope(None, (recipient,)), b"")
        self._story.made_here(letter.content)
        return (await self.post(letter, [recipient]))[recipient]

    # -- inside -----------------------------------------------------------------------------------------------------

    def _tell(self, letter: Letter, answers: Mapping[Address, Outcome]) -> None:
        for address in [each for each in answers if each not in letter.told]:
            answer = answers[address]
            letter.told.add(address)
            self._story.posted(letter.content, address, answer, letter.sorted.get(address, letter.mailbox))
            said = f"from <{letter.envelope.reverse_path or ''}> to <{address}>: {answer.code} {answer.text}"
            self._note(f"{letter.content.trace_id}: {said}")

    async def _post_quietly(
        self, letter: Letter, recipients: Sequence[Address], sent: Sequence[Copy]
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
                    answers[address] = ALIAS_LOOP if found.circular else self.no_such_user(letter.peer)
            if remote or local or aliases:
                letter = replace(letter, content=await self._store.blobs.keep(letter.content))
        except StoreError as error:
            return {a: answers.get(a, self.failed(error)) for a in recipients}
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
        self, letter: Letter, recipients: Sequence[Address], *, tell: bool = False
    ) -> dict[Address, Outcome]:
        try:
            answers = await self._queue.enqueue(letter.content, letter.trace, letter.to(recipients))
        except StoreError as error:
            answers = dict.fromkeys(recipients, self.failed(error))
        if tell:
            self._tell(letter, answers)  # before the first attempt does
        return answers

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
        mark = b"Delivered-To: %s\r\n" % str(alias).encode("utf-8")
        try:
            if found.elsewhere and mark.lower() in (await self._mail(letter.content))[:MAX_HEAD].lower():
                return ALIAS_LOOP  # it was sent on from here before (RFC 5321 §6.3)
        except StoreError as error:
            return self.failed(error)
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
        return next(iter((await self.one_fate(sent_on, answers)).values()))

    async def _copy(self, letter: Letter, address: Address, account: Account) -> Copy:
        """One account's. Postmaster and the like are open to all (RFC 5321 §4.5.1, RFC 2142 §4)."""
        trace = _return_path(letter) + letter.trace
        try:
            mailbox = letter.mailbox
            if mailbox == JUNK and letter.provenance is Provenance.AUTHENTICATED:  # then it is a filter's word alone
                state = await self._consent.state(account.account_id, letter.sender)
                mailbox = INBOX if state == "granted" else JUNK  # the user's goes before it
            copy = await filing.place(self._store, account, letter.content, trace, mailbox)
            open_to_all = letter.answers or is_role(address)
            if isinstance(copy, Delivery) and copy.mailbox == INBOX and not open_to_all:
                copy = await self._consent.sorted(copy, letter.sender, letter.provenance)
        except StoreError as error:
            return account, self.failed(error)
        if isinstance(copy, Delivery):
            letter.sorted[address] = copy.mailbox
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
        return Delivered("2.0.0", "Delivered")

    def no_such_user(self, peer: Domain | None) -> Outcome:
        """`peer`: whose native object it is for."""
        if peer is not None and not self._consent.nobody(peer):
            return self._consent.used_up
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
