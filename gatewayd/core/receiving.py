"""Mail that arrives by SMTP and LMTP: judged, made an object that its taker signs, posted.

Many at once, from many connections: each step is taken for all of them, so that one signature and one commit serve
them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace
from twisted.logger import Logger

from gatewayd.address import Address, Domain
from gatewayd.core.bridges import Bridges, authors_domain
from gatewayd.core.bridging import Bridging
from gatewayd.core.consent import Provenance
from gatewayd.core.filtering import Visits
from gatewayd.core.posting import Answers, Letter, Posting
from gatewayd.core.reception import Judged, Reception
from gatewayd.core.recipients import Recipients
from gatewayd.core.story import Story
from gatewayd.core.verdict import Findings
from gatewayd.core.writing import Writing, Written
from gatewayd.errors import StoreError
from gatewayd.interfaces.queue import TLS_OPTIONAL, Envelope
from gatewayd.interfaces.records import Account
from gatewayd.interfaces.routes import Origin
from gatewayd.interfaces.store import IStore
from gatewayd.message import bridge, submission
from gatewayd.message.mime import Mail
from gatewayd.message.model import INLINE, Content
from gatewayd.outcome import STORE_FAILED, Delivered, Refused

NOT_FILTERED = Refused("5.7.1", "A content filter does not take it for this recipient")

Stamp = Callable[[str], bytes]  # a message's id to the Received field that names it


class Arrival(msgspec.Struct, frozen=True):
    """A mail whose data has come."""

    envelope: Envelope
    mail: Mail
    stamp: Stamp
    submitter: Account | None  # a signed-in user of ours
    origin: Origin
    each: bool = False  # recipients have an answer each (LMTP), not all the same
    visit: Visits | None = None  # what filters saw of the client before it

    @property
    def recipients(self) -> tuple[Address, ...]:
        """Each once."""
        return self.envelope.recipients


@dataclass(slots=True)
class _Kept:
    """One that may be kept."""

    arrival: Arrival
    judged: Judged
    envelope: Envelope
    author: Domain  # who makes an object of it
    provenance: Provenance
    content: Content | None  # the native object that it was before; else none yet
    restored: bool


class Receiving:
    """`now` gives seconds since the epoch."""

    log = Logger()

    def __init__(
        self, store: IStore, hostname: Domain, recipients: Recipients, bridges: Bridges, reception: Reception,
        bridging: Bridging, writing: Writing, posting: Posting, story: Story, now: Callable[[], float],
    ) -> None:  # fmt: skip
        self._store = store
        self._hostname = hostname
        self._recipients = recipients
        self._bridges = bridges
        self._reception = reception
        self._bridging = bridging
        self._writing = writing
        self._posting = posting
        self._story = story
        self._now = now

    async def receive(self, arrivals: Sequence[Arrival]) -> list[Answers]:
        """An outcome for each recipient of each, when every copy is durable or refused."""
        answers: dict[int, Answers] = {}
        kept: dict[int, _Kept] = {}
        for number, arrival in enumerate(arrivals):
            try:
                found = await self._kept(arrival)
            except StoreError as error:
                found = dict.fromkeys(arrival.recipients, self._posting.failed(error))
            if isinstance(found, _Kept):
                kept[number] = found
            else:
                answers[number] = found
        await self._sign(kept.values())
        for number, mail in list(kept.items()):
            if mail.content is None:
                domain, peer = mail.author, str(mail.arrival.origin)
                self.log.error("no signing key for {domain}; refused {peer} for now", domain=domain, peer=peer)
                answers[number] = dict.fromkeys(kept.pop(number).arrival.recipients, STORE_FAILED)
        for number, failed in (await self._writing.note({n: w for n, m in kept.items() if (w := _written(m))})).items():
            answers[number] = dict.fromkeys(kept.pop(number).arrival.recipients, self._posting.failed(failed))
        letters = {number: self._letter(mail) for number, mail in kept.items()}
        held = {number for number, letter in letters.items() if letter.envelope.not_before > self._now()}
        for number in held:
            answers[number] = (await self._safely([letters[number]], self._hold))[0]
        posted = {number: letter for number, letter in letters.items() if number not in held}
        takers = [_for_takers(letter, kept[number].judged.refused) for number, letter in posted.items()]
        for number, said in zip(posted, await self._safely(takers, self._posting.post_all), strict=True):
            try:
                answers[number] = await self._answers(kept[number], posted[number], said)
            except Exception:  # what is there is there
                self.log.failure("{id} is posted, but not all is told of it", id=posted[number].content.trace_id)
                answers[number] = said
        return [answers[number] for number in range(len(arrivals))]

    async def _safely(
        self, letters: Sequence[Letter], post: Callable[[Sequence[Letter]], Awaitable[list[Answers]]]
    ) -> list[Answers]:
        """They have their names: one that is posted again is no second copy, while mail that is received again would
        be. So a fault of ours in the midst of posting goes no further than here."""
        try:
            return await post(letters)
        except Exception:
            if len(letters) > 1:
                return [(await self._safely([one], post))[0] for one in letters]
            self.log.failure("{id} could not be posted", id=letters[0].content.trace_id)
            return [dict.fromkeys(letters[0].envelope.recipients, STORE_FAILED)]

    async def _hold(self, letters: Sequence[Letter]) -> list[Answers]:
        return [await self._posting.hold(letter) for letter in letters]

    def takes_long(self, arrival: Arrival) -> bool:
        """It waits for a disk, for whom the DNS names, or for a filter."""
        if len(arrival.mail.octets) > INLINE or bridge.names_object(arrival.mail):
            return True
        return self._reception.asks(arrival.origin, arrival.submitter)

    async def _kept(self, arrival: Arrival) -> _Kept | Answers:
        """Raises StoreError."""
        envelope, submitter, origin = arrival.envelope, arrival.submitter, arrival.origin
        behind = self._bridges.sent_by(origin.address) if submitter is None else frozenset[Domain]()
        if submitter is not None and (wrong := await self._sends_as(arrival.mail, submitter)):
            return dict.fromkeys(arrival.recipients, wrong)
        trusted = replace(origin, trusted=True) if behind else origin
        judged = await self._reception.judge(envelope, arrival.mail, submitter, trusted, arrival.visit)
        if not isinstance(judged, Judged):
            self._story.turned_away(origin, envelope.reverse_path, arrival.recipients, judged)
            return dict.fromkeys(arrival.recipients, judged)
        mail, examined = judged.mail, judged.examined
        envelope = judged.envelope or envelope
        if "REQUIRETLS" not in envelope.options and bridge.waives_tls(mail):
            envelope = replace(envelope, options=envelope.options | {TLS_OPTIONAL})
        provenance = Provenance.UNEXAMINED if submitter is None else Provenance.HERE
        if examined is not None:
            provenance = Provenance.AUTHENTICATED if examined.authenticated else Provenance.UNAUTHENTICATED
        proven = examined is not None and (examined.spf, examined.spf_identity) == ("pass", "mailfrom")
        if submitter is None and not origin.trusted and not proven:
            envelope = envelope.without_success()
        author = submitter.address.domain if submitter else await self._our_domain(arrival.recipients)
        if behind:
            author = authors_domain([*bridge.authors(mail), envelope.reverse_path], behind) or author
        restored = await self._bridging.restored(mail)
        if restored is not None and examined is not None:
            provenance = Provenance.AUTHENTICATED  # by its signature
        return _Kept(arrival, judged, envelope, author, provenance, restored, restored is not None)

    async def _sends_as(self, mail: Mail, owner: Account) -> Refused | None:
        """Every address in From and Sender is the account's own (RFC 6409 §6.1); a missing From is not refused for
        that."""
        for field, address in submission.claimed(mail):
            if address is None:
                return Refused("5.7.1", f"{field} holds no address, or something that is none")
            if not await self._recipients.owns(owner, address):
                return Refused("5.7.1", f"{field} names {address}, which is not an address of {owner.address}")
        return None

    async def _our_domain(self, recipients: Sequence[Address]) -> Domain:
        domains = await self._store.domains()
        return next((a.domain for a in recipients if a.domain in domains), self._hostname)

    async def _sign(self, mails: Collection[_Kept]) -> None:
        """Makes objects of those that are none yet, except where a domain has no key."""
        unsigned = [mail for mail in mails if mail.content is None]
        payloads = [
            self._bridging.unsigned(
                mail.judged.mail, mail.author, mail.envelope.reverse_path,
                mail.judged.examined.summary if mail.judged.examined else None,
            )
            for mail in unsigned
        ]  # fmt: skip
        contents = await self._bridging.sign_all([mail.author for mail in unsigned], payloads)
        for mail, content in zip(unsigned, contents, strict=True):
            mail.content = content

    def _letter(self, mail: _Kept) -> Letter:
        """Tells the story of what was done until now."""
        arrival, judged, content = mail.arrival, mail.judged, mail.content
        assert content is not None
        examined, size = judged.examined, len(arrival.mail.octets)
        self._story.mail(content, arrival.origin, mail.envelope.reverse_path, arrival.submitter, size)
        if examined is not None:
            self._story.examined(content, examined)
        if judged.verdict:
            self._story.judged(content, judged.verdict, judged.mailbox)
        vouched = examined.vouched if examined is not None else ""
        findings = Findings("its signature holds" if mail.restored else vouched, judged.verdict, judged.mailbox)
        trace = judged.fields + arrival.stamp(content.trace_id)
        return Letter(content, mail.envelope, trace, mail.provenance, findings)

    async def _answers(self, mail: _Kept, letter: Letter, posted: Answers) -> Answers:
        """To the client, from those of the recipients to whom it was posted."""
        answers: Answers = {**dict.fromkeys(mail.judged.refused, NOT_FILTERED), **posted}
        if mail.judged.envelope is not None:
            self._as_the_client_sees(mail.arrival.recipients, answers)
        return answers if mail.arrival.each else await self._posting.one_fate(letter, answers)

    def _as_the_client_sees(self, recipients: Sequence[Address], answers: Answers) -> None:
        """Of those whom a filter took away, all is well; of those whom it added, the sender knows nothing."""
        for address in [address for address in answers if address not in recipients]:
            if isinstance(answers[address], Refused):
                self.log.warn("{to}, added by a filter: {why}", to=str(address), why=answers.pop(address).text)
        answers.update((to, Delivered("2.0.0", "Accepted")) for to in recipients if to not in answers)


def _written(mail: _Kept) -> Written | None:
    """What a user of ours wrote; None: nobody of them did."""
    submitter, content = mail.arrival.submitter, mail.content
    if submitter is None or content is None:
        return None
    by_hand = mail.envelope.reverse_path is not None and not bridge.automatic(mail.judged.mail)
    return Written(submitter, content, mail.arrival.recipients, by_hand)


def _for_takers(letter: Letter, refused: Collection[Address]) -> Letter:
    """For those for whom no filter refuses it."""
    if not refused:
        return letter
    return replace(letter, envelope=letter.to([to for to in letter.envelope.recipients if to not in refused]))
