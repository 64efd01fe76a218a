"""IStore and IBlobs: what the core needs of a store, said without saying which."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from zope.interface import Attribute, Interface

from gatewayd.address import Address, Domain
from gatewayd.errors import StoreError
from gatewayd.interfaces.records import (
    Account,
    Allowance,
    Awaited,
    Changes,
    Contact,
    ContactState,
    Counts,
    Delivery,
    Entry,
    Mailbox,
    Owed,
    Peer,
    Placed,
    Quota,
    ScramCredentials,
    Summary,
    Watcher,
)
from gatewayd.message.model import Content, Part


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

    async def counts(account_id: int, mailbox_id: int | None = None) -> dict[int, Counts]:
        """By mailbox_id, of all mailboxes or of this one; none of one that is empty."""

    async def create_mailbox(account_id: int, name: str) -> Mailbox:
        """Superior levels are made too. Raises MailboxExists, BadMailbox."""

    async def delete_mailbox(account_id: int, name: str) -> None:
        """Not INBOX: BadMailbox."""

    async def rename_mailbox(account_id: int, name: str, to: str) -> None:
        """Inferior mailboxes move along; renaming INBOX moves its messages (RFC 3501 §6.3.5). Raises as `create`."""

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

    async def find(account_id: int, object_ids: Collection[bytes]) -> dict[bytes, Content]:
        """The account's copies of those objects that it has, without their blobs."""

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

    async def contacts_among(pairs: Collection[tuple[int, Address]]) -> dict[tuple[int, Address], Contact | None]:
        """As `contact`, of many accounts and addresses."""

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

    async def changes(account_id: int, since_modseq: int, limit: int = 1000, epoch: bytes = b"") -> Changes:
        """Raises LogBeganAnew: this log was not at that modseq in that epoch (b"": in any)."""

    def watch(account_id: int, callback: Watcher) -> Callable[[], None]:
        """Call back, on the reactor's thread, after each commit that changed this account, other processes'
        included; calls may merge. If it was deliveries they come along, by rising modseq; else nothing does, and the
        log tells. Returns what ends it."""

    async def peer(domain: Domain) -> Peer | None: ...
    async def remember_peer(peer: Peer) -> None: ...
