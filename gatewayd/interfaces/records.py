"""The records of the store: what is kept, what is asked of it, and what it answers. Times are seconds since the epoch
unless a name ends in `_ms`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import msgspec

from gatewayd.address import Address, Domain
from gatewayd.errors import StoreError
from gatewayd.message.model import Content

MAX_NAME = 500  # characters of a mailbox name
MAX_MAILBOXES = 2000  # of an account: each client of it has a list of them
RECEIPTS = "Receipts"  # the mailbox where receipts stand


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
    changed: int  # its place in the account's log: when it was made, renamed, subscribed or not


class Deleted(NamedTuple):
    """A mailbox that is there no more. No other of the account ever has its UIDVALIDITY."""

    name: str  # its last one
    uidvalidity: int
    modseq: int


class Counts(NamedTuple):
    """Of a mailbox."""

    messages: int
    unseen: int


@dataclass(frozen=True, slots=True)
class Quota:
    """What an account's mail takes, and may take (RFC 9208). Each message counts once, in however many mailboxes."""

    octets: int
    messages: int
    max_octets: int | None = None  # None: as much as there is room for
    max_messages: int | None = None

    def full(self, octets: int = 1) -> bool:
        """A message of so many does not fit now."""
        many = self.max_octets is not None and self.octets + octets > self.max_octets
        return many or (self.max_messages is not None and self.messages >= self.max_messages)

    def never(self, octets: int) -> bool:
        """Nor would it if all else were gone."""
        return self.max_messages == 0 or (self.max_octets is not None and octets > self.max_octets)


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
    mailboxes: Sequence[Mailbox]  # all of them, as they are now: by their names the entries are told
    deleted: Sequence[Deleted]  # after that modseq, and until now
    modseq: int  # ask again from here
    more: bool  # the limit cut it
    epoch: bytes  # to be told along with that modseq: which log it is a place of


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


class Delivery(msgspec.Struct, frozen=True):
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
    uid: int  # 0 for one that came before, as its modseq: it may have been moved or removed since
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


class BadMailbox(StoreError):
    """What no mailbox can be called, or what cannot be done to this one."""


class LogBeganAnew(StoreError):
    """The store was restored from a backup, or the account made anew: what was read of its log before is no part of
    it."""


class TooManyIntroductions(StoreError):
    """A stranger's allowance is used up; its message says which."""


class WrongOctets(Exception):
    """What was brought does not have the hash that was announced; it is gone."""


class OverQuota(Exception):
    """The owner has brought too much that no message names."""
