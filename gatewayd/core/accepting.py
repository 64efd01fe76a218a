"""Objects that peer domains send: who signed them, whom they reach here, what is fetched first (docs/parley.rst §7.3).

Many of one peer at once: one look-up, one hand-over to verify, one commit serve them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from gatewayd.address import Address, AddressError, Domain
from gatewayd.core.admission import Admission
from gatewayd.core.bridging import Signer
from gatewayd.core.consent import Consent, Provenance
from gatewayd.core.dmarc import aligned
from gatewayd.core.posting import Answers, Letter, Posting
from gatewayd.core.pulling import Puller, Source
from gatewayd.core.recipients import Found, Recipients
from gatewayd.core.story import Story
from gatewayd.core.submitting import too_big
from gatewayd.crypto import cose
from gatewayd.errors import StoreError
from gatewayd.interfaces.queue import Envelope
from gatewayd.interfaces.store import IStore
from gatewayd.message import bridge, object_types
from gatewayd.message.dates import internet_date
from gatewayd.message.mime import Mail
from gatewayd.message.model import MAIL, Content, ObjectError
from gatewayd.outcome import ALIAS_LOOP, RELAY_DENIED, TOO_BIG, Deferred, Outcome, Refused

NO_FILES = Refused("5.7.1", "Until the recipient consents, only text is taken")
FOREIGN_PATH = Refused("5.7.1", "The reverse-path is not of your domain")
MAX_HEAD = 64 * 1024  # octets within which a mail names its author
FOREIGN_AUTHOR = Refused("5.7.1", "The author is not of your domain")
FOREIGN_MAIL = Refused("5.7.1", "A mail that was not taken in by your domain")
FOREIGN_SIGNER = Refused("5.7.7", "Signed by another domain than yours")


class Handover(msgspec.Struct, frozen=True):
    """What a peer that has proved its name hands over."""

    peer: Domain
    content: Content
    reverse_path: Address | None
    recipients: Sequence[Address]  # each once
    source: Source | None = None  # where its blobs can be had


class Accepting:
    """`now` gives seconds since the epoch; `largest` and `largest_mail` are octets of an object's blobs."""

    def __init__(
        self, store: IStore, signer: Signer, hostname: Domain, recipients: Recipients, consent: Consent,
        admission: Admission | None, posting: Posting, puller: Puller, story: Story, now: Callable[[], float],
        largest: int, largest_mail: int,
    ) -> None:  # fmt: skip
        self._store = store
        self._signer = signer
        self._hostname = hostname
        self._recipients = recipients
        self._consent = consent
        self._admission = admission
        self._posting = posting
        self._puller = puller
        self._story = story
        self._now = now
        self._largest = largest
        self._largest_mail = largest_mail

    async def accept(self, handovers: Sequence[Handover]) -> list[Answers]:
        """An outcome for each recipient of each; only our own users are reached this way. Blobs are fetched first."""
        faults = [self._fault(handover) for handover in handovers]
        signed = iter(
            await self._signer.verify_all([h.content for h, fault in zip(handovers, faults, strict=True) if not fault])
        )
        faults = [fault or _unsigned(next(signed)) for fault in faults]
        answers: list[Answers] = []
        letters: list[tuple[int, Letter]] = []
        for number, (handover, fault) in enumerate(zip(handovers, faults, strict=True)):
            if fault is not None:
                answers.append(dict.fromkeys(handover.recipients, fault))
                continue
            letter, said = await self._letter(handover)
            answers.append(said)
            if letter is not None:
                letters.append((number, letter))
        posted = await self._posting.post_all([letter for _, letter in letters])
        for (number, _), each in zip(letters, posted, strict=True):
            answers[number].update(each)
        return answers

    def _fault(self, handover: Handover) -> Outcome | None:
        """One place checks that the sender is who signed in: the reverse-path, the author and, afterwards, the signer
        agree."""
        peer, content, reverse_path = handover.peer, handover.content, handover.reverse_path
        if self._admission is not None and (refused := self._admission.refuses(peer)):
            return refused
        if reverse_path is not None and reverse_path.domain != peer:
            return FOREIGN_PATH
        try:
            fields = content.fields
            if fields.type != MAIL and Address.parse(fields.from_).domain != peer:
                return FOREIGN_AUTHOR
            content.check_sent()
            object_types.check(content)
        except (ObjectError, AddressError) as error:
            return Refused("5.6.0", str(error))
        if fields.type == MAIL and bridge.taken_in_by(fields) != peer.name:
            return FOREIGN_MAIL
        if _claims_another(peer, content):  # before anybody is asked for keys
            return FOREIGN_SIGNER
        most = self._largest_mail if fields.type == MAIL else self._largest  # a mail is rendered whole
        return TOO_BIG if too_big(content, most) else None

    async def _letter(self, handover: Handover) -> tuple[Letter | None, Answers]:
        """What is to be posted, if anything, and answers for those whom it does not reach."""
        peer, content, reverse_path = handover.peer, handover.content, handover.reverse_path
        answers: Answers = dict.fromkeys(handover.recipients, RELAY_DENIED)
        ours: list[Address] = []
        try:
            ours = [to for to in handover.recipients if await self._recipients.is_ours(to)]
            self._story.handed_over(content, peer, reverse_path)
            if content.absent:
                answers.update(await self._fetch(peer, content, ours, handover.source))
                ours = [address for address in ours if answers[address] is RELAY_DENIED]
            if not ours:
                return None, answers
            provenance = await self._provenance(peer, content, reverse_path)
        except ObjectError as error:
            return None, {**answers, **dict.fromkeys(ours, Refused("5.6.0", str(error)))}
        except StoreError as error:
            return None, dict.fromkeys(handover.recipients, self._posting.failed(error))
        trace = (
            f"Received: from {peer} by {self._hostname} with PARLEY id {content.trace_id};\r\n"
            f"\t{internet_date(self._now())}\r\n"
        ).encode("ascii")
        return Letter(content, Envelope(reverse_path, tuple(ours)), trace, provenance), answers

    async def _fetch(
        self, peer: Domain, content: Content, recipients: Sequence[Address], source: Source | None
    ) -> Answers:
        """Has the object's blobs here, unless nobody wants them; answers for those who do not get it, or not yet."""
        answers: Answers = {}
        native = content.fields.type != MAIL
        if source is None:
            return dict.fromkeys(recipients, Refused("5.6.0", "A body is missing"))
        for address in recipients:
            found = await self._recipients.find(address)
            if not found:
                stranger = peer if native else None
                answers[address] = ALIAS_LOOP if found.circular else self._posting.no_such_user(stranger)
            elif full := await self._recipients.full(found):
                answers[address] = full
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
        said = bridge.author(Mail(mail), reverse_path)
        if said != fields.from_:
            raise ObjectError("the object names another author than its mail does")
        vouched = aligned(Address.parse(said).domain.name, peer.name)
        return Provenance.AUTHENTICATED if vouched else Provenance.UNAUTHENTICATED


def _claims_another(peer: Domain, content: Content) -> bool:
    """A header that claims nobody is found to be none when it is verified."""
    try:
        return cose.signer(content.protected)[0] != peer
    except cose.SignatureError:
        return False


def _unsigned(signer: Domain | Exception) -> Outcome | None:
    match signer:
        case LookupError():
            return Deferred("4.7.5", str(signer))
        case ValueError():
            return Refused("5.7.7", f"The signature does not hold: {signer}")
        case Exception():
            raise signer
    return None
