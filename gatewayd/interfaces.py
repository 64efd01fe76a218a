"""The plug points and the plain records that cross them: what the core needs, said without saying who provides it.

Implementations live on floor 2 and 3 and are joined in service.py; `zope.interface.verify.verifyObject` checks them
in the tests. Times are seconds since the epoch unless a name ends in `_ms`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from zope.interface import Attribute, Interface

from gatewayd.address import Address, Domain
from gatewayd.crypto.dane import TLSA
from gatewayd.errors import StoreError
from gatewayd.message.model import Content, Part
from gatewayd.outcome import Outcome

RECEIPTS = "Receipts"  # the mailbox where receipts stand

# -- records of the store -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Account:
    account_id: int
    address: Address
    limited: bool = field(default=False, compare=False)  # it has a quota: who delivers had better ask


@dataclass(frozen=True, slots=True)
class ScramCredentials:
    """What is kept instead of a password (RFC 5802 §5.1, SHA-256)."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes


@dataclass(frozen=True, slots=True)
class Mailbox:
    mailbox_id: int
    name: str  # Unicode, "/" separates levels; "INBOX" exactly so
    special_use: str | None  # "\\Sent" and so on, RFC 6154
    uidvalidity: int
    uidnext: int
    highest_modseq: int
    subscribed: bool


@dataclass(frozen=True, slots=True)
class Quota:
    """What an account's mail takes, and may take (RFC 9208). Each message counts once, in however many mailboxes."""

    octets: int
    messages: int
    max_octets: int | None = None  # None: as much as there is room for
    max_messages: int | None = None

    @property
    def full(self) -> bool:
        """Not even the smallest message fits."""
        octets = self.max_octets is not None and self.octets >= self.max_octets
        return octets or (self.max_messages is not None and self.messages >= self.max_messages)


class Entry(NamedTuple):
    """A message standing in a mailbox."""

    mailbox_id: int
    uid: int
    message_id: int
    modseq: int
    flags: str  # flags and keywords joined by one space, sorted; "" for none; never \\Recent
    internal_date_ms: int


class Summary(NamedTuple):
    """What FETCH asks of a message without its body, ready to be joined into a response (RFC 9051 §7.5.2)."""

    size: int  # octets of the RFC 5322 form: RFC822.SIZE
    envelope: bytes  # "(...)" of ENVELOPE
    bodystructure: bytes  # "(...)" of BODYSTRUCTURE
    body: bytes  # "(...)" of BODY


class Expunged(NamedTuple):
    mailbox_id: int
    uid: int
    modseq: int


ContactState = Literal["requested", "granted", "revoked", "none"]


@dataclass(frozen=True, slots=True)
class Contact:
    """Whether somebody may write to an account. Who is no contact is a stranger; one who is a stranger again stands in
    the log as "none" (docs/parley.rst §8.4)."""

    address: Address
    state: ContactState
    since_ms: int  # when it came to this state
    modseq: int  # its place in the account's log


@dataclass(frozen=True, slots=True)
class Awaited:
    """What a user asked one recipient of an object to be told."""

    statuses: frozenset[str]  # message/receipts.py STATUSES
    mail: bool  # of a mail: the answer is for a mail program


class Owed(NamedTuple):
    """A receipt that a user gives: once for each object and status."""

    account_id: int
    object_id: bytes
    status: str
    at_ms: int
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Changes:
    """The tail of an account's log after some modseq, oldest first."""

    entries: Sequence[Entry]
    expunged: Sequence[Expunged]
    contacts: Sequence[Contact]
    modseq: int  # ask again from here
    more: bool  # the limit cut it


@dataclass(frozen=True, slots=True)
class Allowance:
    """What strangers may have waiting in one account."""

    sender: int  # undecided messages of one of them
    account: int  # strangers that came in the last day and wait


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a stranger sends waits for the account's decision. Without an allowance (mail) it is nobody's request."""

    sender: Address
    allowance: Allowance | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message into one account's mailbox."""

    account_id: int
    content: Content
    trace: bytes = b""  # header lines with CRLF that stand above the mail form
    mailbox: str = "INBOX"  # a name, or a special-use attribute such as "\\Sent"
    flags: Collection[str] = ()
    internal_date_ms: int | None = None  # None: now
    once: bool = True  # a second delivery of this object id to this mailbox is answered as the first, and not stored;
    # INBOX, \\Introductions and \\Junk are one in this: where a message arrives depends on what was decided since
    introduction: Introduction | None = None


class Placed(NamedTuple):
    """Where a delivery stands."""

    uidvalidity: int
    uid: int
    modseq: int
    duplicate: bool
    mailbox: str  # its name


class Arrival(NamedTuple):
    """A message that has just been delivered and committed, for those who watch the account."""

    mailbox: str  # its name
    uid: int
    modseq: int
    flags: str  # as Entry has them
    content: Content


Watcher = Callable[[Sequence[Arrival]], None]


@dataclass(frozen=True, slots=True)
class Peer:
    """What is remembered of another domain."""

    domain: Domain
    parley_until: float  # it published Parley; no way down to mail before this time
    keys: bytes | None  # its last key set, encoded as it came
    keys_until: float


class NoSuchMailbox(StoreError):
    pass


class MailboxExists(StoreError):
    pass


class TooManyIntroductions(StoreError):
    """A stranger's allowance is used up; its message says which."""


class WrongOctets(Exception):
    """What was brought does not have the hash that was announced; it is gone."""


class OverQuota(Exception):
    """The owner has brought too much that no message names."""


class IBlobs(Interface):
    """Large bodies, found by their hash. Every method may raise StoreError; a return means durable."""

    async def keep(content: Content) -> Content:
        """Its blobs are there, those at hand too, and stay for a day without a message that names them; the Content
        that comes back has them at hand no longer."""

    async def load(content: Content, digests: Collection[bytes]) -> Content:
        """With these blobs at hand."""

    async def read(digest: bytes, offset: int, length: int) -> tuple[bytes, int]:
        """(the octets from there on, the size of all)."""

    async def add(owner: str, part: Part, offset: int, data: bytes, quota: int) -> int:
        """The owner brings a blob piece by piece; how many octets are there now. Data that does not begin where the
        last ended is left out: the answer says where to go on. `quota` is of what no message has named yet.
        Raises WrongOctets, OverQuota."""

    async def claim(owner: str, part: Part) -> bool:
        """Whether the owner has brought it whole: then a message of theirs may name it."""


class IStore(Interface):
    """Accounts, mailboxes, messages and the log. Every method may raise StoreError; a return means committed."""

    blobs: IBlobs = Attribute("IBlobs: the large bodies of its messages")

    async def add_domain(domain: Domain) -> None: ...
    async def domains() -> frozenset[Domain]: ...

    async def add_account(address: Address, credentials: ScramCredentials) -> Account:
        """Makes INBOX and the special mailboxes too. Raises ValueError if it exists."""

    async def set_credentials(account_id: int, credentials: ScramCredentials) -> None: ...
    async def account(address: Address) -> Account | None: ...
    async def accounts() -> list[Account]: ...
    async def credentials(account_id: int) -> ScramCredentials | None: ...

    async def quota(account_id: int) -> Quota: ...
    async def set_quota(account_id: int, max_octets: int | None, max_messages: int | None) -> None: ...

    async def aliased_domains() -> frozenset[Domain]:
        """Those that have any alias."""

    async def alias_targets(alias: Address) -> tuple[Address, ...]:
        """An empty local part is the domain's catch-all."""

    async def aliases() -> list[tuple[Address, Address]]:
        """(alias, target), all of them."""

    async def add_alias(alias: Address, target: Address) -> None: ...
    async def remove_alias(alias: Address, target: Address | None) -> int:
        """None: all its targets. Returns how many went."""

    async def deliver(deliveries: Sequence[Delivery]) -> list[Placed | StoreError]:
        """Durable when it returns; each delivery stands or falls alone. QuotaExceeded is one way to fall."""

    async def mailboxes(account_id: int) -> list[Mailbox]: ...
    async def mailbox(account_id: int, name: str) -> Mailbox:
        """Raises NoSuchMailbox."""

    async def create_mailbox(account_id: int, name: str) -> Mailbox:
        """Superior levels are made too. Raises MailboxExists."""

    async def delete_mailbox(account_id: int, name: str) -> None: ...
    async def rename_mailbox(account_id: int, name: str, to: str) -> None:
        """Inferior mailboxes move along; renaming INBOX moves its messages (RFC 3501 §6.3.5)."""

    async def subscribe_mailbox(account_id: int, name: str, subscribed: bool) -> None: ...

    async def entries(account_id: int, mailbox_id: int, since_modseq: int = 0) -> list[Entry]:
        """Those with a greater modseq, by rising UID."""

    async def expunged(account_id: int, mailbox_id: int, since_modseq: int) -> list[int]:
        """UIDs that went after that modseq."""

    async def summaries(account_id: int, message_ids: Sequence[int]) -> dict[int, Summary]:
        """Derived on first need and kept."""

    async def mails(account_id: int, message_ids: Sequence[int]) -> dict[int, bytes]:
        """The RFC 5322 forms, trace lines first; the same octets every time."""

    async def contents(account_id: int, message_ids: Sequence[int]) -> dict[int, Content]:
        """Without their blobs."""

    async def names_blob(account_id: int, digest: bytes) -> bool:
        """Whether a message of the account has it."""

    async def find(account_id: int, object_id: bytes) -> Content | None:
        """The account's copy of an object, if it has one."""

    async def store_flags(
        account_id: int,
        mailbox_id: int,
        uids: Sequence[int],
        mode: str,
        flags: Collection[str],
        unchanged_since: int | None = None,
    ) -> list[Entry]:
        """mode is "+", "-" or "=". Returns the entries named by `uids` that exist, as they now are (with
        `unchanged_since`, only those that it let through)."""

    async def expunge(account_id: int, mailbox_id: int, uids: Sequence[int]) -> list[int]:
        """Removes these UIDs; returns those that were there."""

    async def copy(
        account_id: int, mailbox_id: int, uids: Sequence[int], target: str, move: bool = False
    ) -> tuple[int, list[tuple[int, int]]]:
        """One transaction. Returns (the target's uidvalidity, [(uid there, new uid)]). Raises NoSuchMailbox.
        Out of \\Introductions, to \\Junk revokes the sender's consent, to anything but \\Trash grants it. Out of
        \\Junk, to anything but those grants it."""

    async def contact(account_id: int, address: Address) -> Contact | None:
        """None for a stranger. Addresses are compared by their `key`."""

    async def contacts(account_id: int) -> list[Contact]:
        """By domain and local part."""

    async def set_contact(account_id: int, address: Address, state: ContactState) -> None:
        """Takes a place in the log; none if it is in that state already. What waited of one who is granted moves to
        INBOX, of one who is revoked to \\Junk."""

    async def request_contact(account_id: int, address: Address, allowance: Allowance) -> None:
        """A stranger becomes "requested", a contact stays as it is. Raises TooManyIntroductions."""

    async def expect_receipts(
        account_id: int, object_id: bytes, recipients: Sequence[Address], awaited: Awaited
    ) -> None:
        """This user asks these recipients. Remembered for a year."""

    async def expected_receipt(account_id: int, object_id: bytes, recipient: Address) -> Awaited | None:
        """What this user asked of that recipient, if anything."""

    async def owe_receipts(owed: Collection[Owed]) -> list[Owed]:
        """Those that are not sent yet, each as it was first owed."""

    async def unsent_receipts(limit: int) -> list[Owed]:
        """The oldest, of all accounts."""

    async def receipt_sent(owed: Owed) -> None:
        """It is delivered, or in the queue, or will never be."""

    async def changes(account_id: int, since_modseq: int, limit: int = 1000) -> Changes: ...

    def watch(account_id: int, callback: Watcher) -> Callable[[], None]:
        """Call back, on the reactor's thread, after each commit that changed this account, other processes'
        included; calls may merge. If it was deliveries they come along, by rising modseq; else nothing does, and the
        log tells. Returns what ends it."""

    async def peer(domain: Domain) -> Peer | None: ...
    async def remember_peer(peer: Peer) -> None: ...


# -- envelopes ------------------------------------------------------------------------------------------------------


NEVER = frozenset({"NEVER"})


@dataclass(frozen=True, slots=True)
class Asked:
    """What the sender asked to be told of one recipient (RFC 3461 §4.1, §4.2)."""

    notify: frozenset[str] = frozenset()  # NEVER; or some of SUCCESS, FAILURE, DELAY; empty: left to the servers
    orcpt: str = ""  # "rfc822;bob@example.org", decoded; "": not said

    def wants(self, event: str) -> bool:
        """Of SUCCESS, FAILURE, DELAY. What is left to us: failures and long delays."""
        return event in self.notify if self.notify else event != "SUCCESS"


@dataclass(frozen=True, slots=True)
class Envelope:
    """RFC 5321 §2.3.1, with what the sender asked of the way."""

    reverse_path: Address | None  # None is <>, RFC 5321 §4.5.5
    recipients: tuple[Address, ...]
    options: frozenset[str] = frozenset()  # "SMTPUTF8", "REQUIRETLS": what every hop has to keep to
    ret: str = ""  # FULL or HDRS: how much of the message a report brings back (RFC 3461 §4.3)
    envid: str = ""  # the sender's own name for this envelope, decoded (RFC 3461 §4.4)
    asked: Mapping[Address, Asked] = field(default_factory=dict)
    not_before: float = 0.0  # seconds since the epoch: held until then (RFC 4865)

    @property
    def terms(self) -> tuple[object, ...]:
        """What recipients of one message must have in common to share a transaction."""
        return self.reverse_path, self.options, self.ret, self.envid

    def asked_of(self, recipient: Address) -> Asked:
        return self.asked.get(recipient) or Asked()

    def without_success(self) -> Envelope:
        """For a reverse-path that nobody vouches for: who forges it must not have us write to it."""
        asked = {
            to: replace(one, notify=(one.notify - {"SUCCESS"}) or NEVER) for to, one in self.asked.items() if one.notify
        }
        return replace(self, asked={**self.asked, **asked})


# -- the outbound queue ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Leased:
    """One recipient of a queued message, ours to try until the lease ends."""

    queue_id: int
    recipient: Address
    envelope: Envelope  # with this recipient alone
    message_key: int  # the same for all recipients of one queued message: read it once
    attempts: int  # that have failed so far
    accepted: float
    warned: bool = False  # the sender was told of the delay
    probe: bool = False  # the domain was not reached lately: nothing else goes there until this has an answer
    failures: int = 0  # times in a row that it could not be reached


@dataclass(frozen=True, slots=True)
class Queued:
    """A row of the queue as the operator sees it."""

    queue_id: int
    recipient: str
    reverse_path: str
    state: str
    attempts: int
    next_attempt: float
    last_status: str
    accepted: float
    message_key: int
    envelope: Envelope  # with this recipient alone


@dataclass(frozen=True, slots=True)
class Picked:
    """Which rows of the queue the operator means: all that fit everything that is said here."""

    queue_ids: tuple[int, ...] = ()
    address: str = ""  # recipient or sender
    domain: str = ""  # the recipient's
    message: bytes = b""  # the first octets of the object's id


EVERYTHING = Picked()


class IQueue(Interface):
    """The outbound spool. Legal states: gatewayd/queue/states.py. A return means committed; raises StoreError."""

    async def enqueue(content: Content, trace: bytes, envelope: Envelope) -> dict[Address, Outcome]:
        """Idempotent by (object id, recipient): a repeat is answered with what is known of the first: queued or
        delivered as Delivered, refused as Refused."""

    async def lease(
        limit: int, seconds: float, exclude: Collection[Domain] = (), strangers: int | None = None
    ) -> list[Leased]:
        """Takes due rows, domains in turns; a lease that runs out (a killed process) makes its row due again. Of a
        domain that was not reached lately comes one message, a probe: of at most `strangers` such (None: no bound)."""

    async def message(message_key: int) -> tuple[Content, bytes]:
        """The content and the trace."""

    async def settle(
        queue_id: int, outcome: Outcome, next_attempt: float | None = None, failures: int | None = None
    ) -> None:
        """Delivered and Refused end the row; Deferred needs `next_attempt`. `failures` None: the domain was reached.
        Else it was not, for that many times in a row, and all its rows wait until `next_attempt`."""

    async def give_back(queue_ids: Sequence[int]) -> None:
        """Leased, and not tried."""

    async def overdue(domain: Domain, accepted_before: float, seconds: float, limit: int) -> list[Leased]:
        """Leases waiting rows of that age, due or not."""

    async def unwarned(domain: Domain, accepted_before: float, limit: int) -> list[Leased]:
        """Rows of that age whose senders know of no delay. They are not leased."""

    async def warned(queue_id: int) -> None:
        """The sender knows."""

    async def wake(domain: Domain) -> int:
        """Makes the domain's waiting rows due now; returns how many."""

    async def blobs() -> set[bytes]:
        """The hashes of those that messages have which still wait."""

    async def recover() -> int:
        """At the start of the one process that owns the queue: leases of a killed one end now. Returns how many."""

    async def next_due() -> float | None: ...
    async def listing(limit: int = 1000, picked: Picked = ...) -> list[Queued]:
        """What is in the queue, soonest first."""

    async def hold(picked: Picked) -> int:
        """Stops waiting rows; one that is tried just now is not touched. Returns how many, as the next three do."""

    async def release(picked: Picked) -> int:
        """Lets held rows go on, now."""

    async def retry(picked: Picked) -> int:
        """Waiting rows are due now, and their domains are taken for reachable."""

    async def drop(picked: Picked) -> int:
        """Takes waiting and held rows out. Nobody is told."""

    def watch(callback: Callable[[], None]) -> None:
        """Call back on the reactor's thread when rows became due: by enqueue, wake, release or retry here, and after
        commits of other processes."""


# -- what the operator is told ---------------------------------------------------------------------------------------


class Event(NamedTuple):
    """One step in a message's story."""

    trace_id: str  # Content.trace_id; "" for what was refused before it was ours
    at: float
    address: str  # whom it is about, a sender or a recipient; "" for neither
    text: str  # plain words


Record = Callable[[Event], None]  # costs next to nothing and never fails


# -- DNS ------------------------------------------------------------------------------------------------------------


class ResolutionFailed(Exception):
    """SERVFAIL, time-out, no server: nothing is known, try later. Absence is an empty answer, not this."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place to try, already ordered by preference and weight; `host` is a name or an IP literal."""

    host: str
    port: int
    name: str = ""  # where `host` is a literal: the name that the DNS gave it for
    tlsa: tuple[TLSA, ...] = ()  # of `_port._tcp.name`, where all that led there is DNSSEC-secure


@dataclass(frozen=True, slots=True)
class Answer:
    """`secure`: the resolver is trusted and set AD (RFC 4035 §3.2.3)."""

    records: tuple[object, ...] = ()
    secure: bool = False
    exists: bool = False  # the name has records of this type


class IResolver(Interface):
    """Each raises ResolutionFailed; an absent name or type is an answer with exists=False."""

    async def srv(name: str) -> Answer:
        """records: Endpoint, ordered as RFC 2782 says; a single "." target gives exists=True and none."""

    async def mx(domain: Domain) -> Answer:
        """records: tuple[int, str] (preference, host), ordered; null MX (RFC 7505) gives exists=True and none."""

    async def addresses(host: str) -> Answer:
        """records: str, IPv6 and IPv4 literals; a literal is its own answer."""

    async def txt(name: str) -> Answer:
        """records: bytes, each the joined strings of one record."""

    async def tlsa(name: str) -> Answer:
        """records: TLSA."""


# -- routes and couriers --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Local:
    pass


@dataclass(frozen=True, slots=True)
class Parley:
    domain: Domain
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Mail:
    domain: Domain
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Bridged:
    """The domain is ours, its mailboxes are on another server."""

    endpoint: Endpoint
    lmtp: bool = False  # RFC 2033, else SMTP


Route = Local | Parley | Mail | Bridged | Outcome  # an Outcome: no route, and why


@dataclass(frozen=True, slots=True)
class Origin:
    """Where mail came from: the client's IP address, what it called itself, and how it spoke."""

    address: str
    helo: str
    protocol: str = "SMTP"  # as in the Received field: "ESMTPSA"
    trusted: bool = False  # a server of ours in front of this one (LMTP), which has judged the mail already

    def __str__(self) -> str:
        return f"{self.helo} [{self.address}]"


class ICourier(Interface):
    """Carries one message over one route to all recipients there."""

    async def deliver(
        route: Parley | Mail | Bridged, envelope: Envelope, content: Content, trace: bytes
    ) -> dict[Address, Outcome]:
        """An outcome for each recipient; never raises for what the peer or the network did."""

    async def close() -> None:
        """Ends idle connections."""


# -- authentication -------------------------------------------------------------------------------------------------


class AuthenticationFailed(Exception):
    """Wrong user or password: which of them is never said (RFC 4954 §4, RFC 5530 AUTHENTICATIONFAILED)."""


class IAuthenticator(Interface):
    async def password(user: str, password: str) -> Account:
        """PLAIN, LOGIN, USER/PASS. Raises AuthenticationFailed; StoreError when the store cannot tell."""

    async def scram(user: str) -> tuple[Account | None, ScramCredentials]:
        """For SCRAM. An unknown user gets made-up credentials, the same every time, and no account (RFC 5802 §5.1)."""
