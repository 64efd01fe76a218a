"""Who may write to whom: what becomes of a message by what its recipient has said of its sender (docs/parley.rst §8.4).

One list serves mail and Parley. A stranger's Parley message is an introduction: short text, and few of them. Mail
cannot be told to wait: a stranger's is only sorted, by whether the DNS vouches for its author.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from msgspec.structs import replace
from twisted.internet import defer

from gatewayd.address import Address, Domain
from gatewayd.core.dmarc import organisational
from gatewayd.core.rate import Buckets
from gatewayd.errors import StoreError
from gatewayd.interfaces.records import (
    Account,
    Allowance,
    Contact,
    ContactState,
    Delivery,
    Introduction,
    Placed,
    TooManyIntroductions,
)
from gatewayd.interfaces.store import IStore
from gatewayd.message.model import MESSAGE, Content
from gatewayd.outcome import Deferred, Delivered, Outcome, Refused

NOTHING = Allowance(0, 0)
INBOX, INTRODUCTIONS, JUNK = "INBOX", "\\Introductions", "\\Junk"
RECEIVED = Delivered("2.0.0", "Received")  # all that a stranger learns, undecided or refused
UNDECIDED = 3600.0  # seconds after which a stranger may try again
DAY = 86400.0
SHARE = 5  # of an account's introductions one domain has at most a fifth: it shuts out nobody else
MAX_SUBJECT = 200  # characters of an introduction's subject
MAX_PAYLOAD = 4096  # octets of an introduction's payload: names, ids, and no room for more


class Provenance(Enum):
    """How a message came, as far as consent goes."""

    HERE = auto()  # of a user of this gateway, or the gateway's own
    NATIVE = auto()  # an object of another domain, by Parley
    AUTHENTICATED = auto()  # mail whose author's domain vouches for it
    UNAUTHENTICATED = auto()
    UNEXAMINED = auto()  # mail that nobody looked at: examination is off, or the client is trusted


@dataclass(frozen=True, slots=True)
class Policy:
    mail: str = "authenticated"  # which strangers' mail reaches INBOX: "authenticated"; "off": every; "all": none
    text: int = 2000  # characters of an introduction
    pending: int = 3  # undecided messages of one stranger
    per_account: int = 50  # strangers a day
    per_domain: int = 100  # introductions a day from one domain, to all users here


def place(state: ContactState, provenance: Provenance, mail: str) -> str:
    """The whole decision: the mailbox for a message from one who is in that state."""
    if state == "revoked":
        return JUNK
    if state == "granted" or provenance is Provenance.HERE:
        return INBOX
    if provenance is Provenance.NATIVE or mail == "all":
        return INTRODUCTIONS
    return INTRODUCTIONS if provenance is Provenance.UNAUTHENTICATED and mail != "off" else INBOX


def state_of(contact: Contact | None) -> ContactState:
    return contact.state if contact is not None else "none"


async def knows(store: IStore, account_id: int, other: Address) -> bool:
    """Whether the account has granted the other; or has not revoked one of this gateway, where nobody is a stranger.
    Raises StoreError."""
    state = state_of(await store.contact(account_id, other))
    return state == "granted" or (state != "revoked" and other.domain in await store.domains())


def fault(content: Content, limit: int) -> str | None:
    """Why an object cannot be an introduction, None if it can."""
    fields = content.fields
    if fields.type != MESSAGE or fields.replaces is not None or fields.crit:
        return "Until the recipient consents, only plain messages are taken"
    kinds = {part.type.partition(";")[0].strip() for part in fields.parts}
    if content.blobs or kinds - {"text/plain"} or any(part.name is not None for part in fields.parts):
        return "Until the recipient consents, only text is taken"
    texts = [body.decode("utf-8", "replace") for body in content.bodies.values()]
    if sum(map(len, texts)) > limit or len(fields.subject) > MAX_SUBJECT or len(content.payload) > MAX_PAYLOAD:
        return f"Until the recipient consents, a message has at most {limit} characters"
    return None


class Consent:
    """Every coroutine may raise StoreError."""

    def __init__(self, store: IStore, steady: Callable[[], float], policy: Policy | None = None) -> None:
        self._store = store
        self.policy = policy or Policy()
        most, share = self.policy.per_domain, max(1, self.policy.per_account // SHARE)
        self._domains = Buckets(most * 60 / DAY, steady, most)
        self._shares = Buckets(share * 60 / DAY, steady, share)  # of a domain in an account's

    async def state(self, account_id: int, sender: Address) -> ContactState:
        return state_of(await self._store.contact(account_id, sender))

    async def states(self, pairs: Collection[tuple[int, Address]]) -> dict[tuple[int, Address], ContactState]:
        """What each account has said of the address beside it."""
        return {pair: state_of(contact) for pair, contact in (await self._store.contacts_among(pairs)).items()}

    async def written(self, letters: Sequence[tuple[Account, Sequence[Address]]]) -> None:
        """Writing to somebody grants them the answer, unless they were revoked."""
        pairs = dict.fromkeys(
            (account.account_id, address)
            for account, recipients in letters
            for address in recipients
            if address.key != account.address.key
        )
        states = await self.states(pairs)
        strangers = [pair for pair in pairs if states[pair] in ("none", "requested")]
        granting = [self._store.set_contact(account_id, address, "granted") for account_id, address in strangers]
        try:
            await defer.gatherResults(map(defer.Deferred.fromCoroutine, granting), consumeErrors=True)
        except defer.FirstError as failed:
            failed.subFailure.raiseException()

    def sorted(
        self, delivery: Delivery, sender: Address, state: ContactState, provenance: Provenance
    ) -> Delivery | Refused:
        """The delivery, to the mailbox where it belongs; the sender is in that `state` there. Of one with an
        introduction `answer` must be asked."""
        where = place(state, provenance, self.policy.mail)
        if where == INBOX:
            return delivery
        if provenance is not Provenance.NATIVE:
            return replace(
                delivery, mailbox=where, introduction=Introduction(sender) if where == INTRODUCTIONS else None
            )
        wrong = fault(delivery.content, self.policy.text)
        if wrong is not None:
            return Refused("5.7.1", wrong)
        allowance = Allowance(self.policy.pending, self.policy.per_account)
        if self._take(sender.domain, delivery.account_id):
            allowance = NOTHING  # a repeat is still answered as the first time
        return replace(delivery, mailbox=where, introduction=Introduction(sender, allowance))

    def answer(self, delivery: Delivery, placed: Placed | StoreError) -> Outcome | None:
        """What a stranger is told: the same, whether undecided or revoked. None: what anybody is told."""
        introduction = delivery.introduction
        if introduction is None or introduction.allowance is None:
            return None
        new = isinstance(placed, Placed) and not placed.duplicate
        domain, counted = introduction.sender.domain, introduction.allowance != NOTHING
        if not new and counted:
            self._spend(domain, delivery.account_id, -1)
        if isinstance(placed, TooManyIntroductions):
            if counted:
                return Deferred("4.7.1", str(placed), UNDECIDED)
            return _used_up(self._wait(domain, delivery.account_id))
        return RECEIVED if isinstance(placed, Placed) else None

    async def request(self, account_id: int, sender: Address, address: Address) -> Deferred | None:
        """A stranger asks for consent without a message; 0 is nobody's account. None: it is kept, or there is nothing
        to be kept."""
        if wait := self._take(sender.domain, account_id or address.key):
            return _used_up(wait)
        if account_id and await self.state(account_id, sender) == "none":
            allowance = Allowance(self.policy.pending, self.policy.per_account)
            try:
                await self._store.request_contact(account_id, sender, allowance)
            except TooManyIntroductions as error:
                return Deferred("4.7.1", str(error), UNDECIDED)
        return None

    def nobody(self, domain: Domain) -> Deferred | None:
        """A peer named a user who is not here; that counts too, or it could try all names. None: it may."""
        wait = self._take(domain)
        return _used_up(wait) if wait else None

    def _take(self, domain: Domain, whose: int | tuple[str, str] | None = None) -> float:
        """One of the domain's whole quota, and of its share of the account's; or of the address's, if that might be
        one. Seconds to wait; 0.0: taken."""
        wait = self._wait(domain, whose)
        if not wait:
            self._spend(domain, whose, 1)
        return wait

    def _wait(self, domain: Domain, whose: int | tuple[str, str] | None) -> float:
        name = organisational(domain.name)
        return max(self._domains.wait(name), self._shares.wait((name, whose)) if whose is not None else 0.0)

    def _spend(self, domain: Domain, whose: int | tuple[str, str] | None, count: int) -> None:
        name = organisational(domain.name)
        self._domains.spend(name, count)
        if whose is not None:
            self._shares.spend((name, whose), count)


def _used_up(wait: float) -> Deferred:
    return Deferred("4.7.28", "Too many first messages from your domain today", max(60.0, math.ceil(wait)))
