"""What Parley users of ours send: checked, signed by their domain, filed under Sent, posted (docs/parley.rst §7.3).

Many at once, from many connections: each step is taken for all of them, so that one look-up, one signature, one commit
serve them.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from twisted.logger import Logger

from gatewayd.address import Address, AddressError
from gatewayd.core.admission import Admission
from gatewayd.core.bridging import Signer
from gatewayd.core.posting import Answers, Letter, Posting
from gatewayd.core.pulling import blobs_of_user
from gatewayd.core.recipients import Recipients
from gatewayd.core.story import Story
from gatewayd.core.writing import Writing, Written
from gatewayd.errors import StoreError
from gatewayd.interfaces.queue import Envelope
from gatewayd.interfaces.records import Account
from gatewayd.interfaces.store import IStore
from gatewayd.message import object_types
from gatewayd.message.model import MAIL, MAX_PAYLOAD, RECEIPT, Content, ObjectError, Part
from gatewayd.outcome import NOT_YOUR_ADDRESS, STORE_FAILED, TOO_BIG, Outcome, Refused

NO_RECEIPT = Refused("5.7.1", "Receipts are made by the server that has the message")


class Submission(msgspec.Struct, frozen=True):
    """What a signed-in user sends."""

    account: Account
    content: Content  # not signed yet
    recipients: Sequence[Address]  # each once


class Submitting:
    log = Logger()

    def __init__(
        self, store: IStore, signer: Signer, recipients: Recipients, writing: Writing,
        admission: Admission | None, posting: Posting, story: Story, largest: int,
    ) -> None:  # fmt: skip
        self._store = store
        self._signer = signer
        self._recipients = recipients
        self._writing = writing
        self._admission = admission
        self._posting = posting
        self._story = story
        self._largest = largest  # octets of an object's blobs

    async def submit(self, submissions: Sequence[Submission]) -> list[Answers]:
        """An outcome for each recipient of each, when it is durable."""
        refused: dict[int, Outcome] = {}
        for number, submission in enumerate(submissions):
            fault = await self._fault(submission.account, submission.content) or await self._held(submission)
            if fault is not None:
                refused[number] = fault
        taken = {number: each for number, each in enumerate(submissions) if number not in refused}
        payloads = [(each.account.address.domain, each.content.payload) for each in taken.values()]
        letters: dict[int, Letter] = {}
        for (number, each), made in zip(taken.items(), await self._signer.sign_all(payloads), strict=True):
            if made is None:
                self.log.error("no signing key for {domain}", domain=each.account.address.domain)
                refused[number] = STORE_FAILED
                continue
            envelope = Envelope(each.account.address, tuple(each.recipients))
            letters[number] = Letter(each.content.sealed(*made), envelope, b"", author=each.account)
        written = {n: Written(taken[n].account, letter.content, taken[n].recipients) for n, letter in letters.items()}
        for number, failed in (await self._writing.note(written)).items():
            refused[number] = self._posting.failed(failed)
            del letters[number]
        for letter in letters.values():
            assert letter.author is not None
            self._story.submitted(letter.content, letter.author)
        posted = dict(zip(letters, await self._posting.post_all(list(letters.values())), strict=True))
        return [
            posted[number] if number in posted else dict.fromkeys(submission.recipients, refused[number])
            for number, submission in enumerate(submissions)
        ]

    async def _fault(self, account: Account, content: Content) -> Outcome | None:
        """Why it is not taken from this user."""
        try:
            content.check_sent()
            object_types.check(content)
            sender = Address.parse(content.fields.from_)
        except (ObjectError, AddressError) as error:
            return Refused("5.6.0", str(error))
        if sender.key != account.address.key or content.fields.type == MAIL:
            return NOT_YOUR_ADDRESS
        if content.fields.type == RECEIPT:
            return NO_RECEIPT
        if too_big(content, self._largest):
            return TOO_BIG
        try:
            for part in content.absent:
                if not await self._may_name(account, part):
                    return Refused("5.6.0", f"Put the blob {part.hash.hex()} first")
        except StoreError as error:
            return self._posting.failed(error)
        return None

    async def _may_name(self, account: Account, part: Part) -> bool:
        """A user's message names only blobs that they have: brought by themselves, or of a message of theirs."""
        if await self._store.blobs.claim(blobs_of_user(account), part):
            return True
        if not await self._store.names_blob(account.account_id, part.hash):
            return False
        _, size = await self._store.blobs.read(part.hash, 0, 0)
        return size == part.size

    async def _held(self, submission: Submission) -> Outcome | None:
        """The user writes to too many elsewhere."""
        if self._admission is None or not self._admission.counts_accounts:
            return None
        try:
            elsewhere = sum([not await self._recipients.is_ours(to) for to in submission.recipients])
        except StoreError as error:
            return self._posting.failed(error)
        return self._admission.account(str(submission.account.address), elsewhere)


def too_big(content: Content, most: int) -> bool:
    """More octets of blobs than that, or a payload that fits into no frame."""
    return len(content.payload) > MAX_PAYLOAD or sum(part.size for part in content.blobs.values()) > most
