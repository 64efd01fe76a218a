"""Where an object stands in an account, and whether it may: what its type asks of what is there already.

docs/parley.rst §8.1. What its form asks is message/object_types.py.
"""

from __future__ import annotations

from gatewayd.address import Address, AddressError
from gatewayd.interfaces.records import RECEIPTS, Account, Awaited, Delivery
from gatewayd.interfaces.store import IStore
from gatewayd.message import receipts
from gatewayd.message.model import MAIL, REACTION, RECEIPT, RETRACT, Content, Payload
from gatewayd.message.object_types import REPLACEABLE
from gatewayd.outcome import Refused

NOT_THE_AUTHOR = Refused("5.7.1", "Only its author can edit or retract a message")
NOT_REPLACEABLE = Refused("5.7.1", "What is to be edited or retracted is not of a type that can be")
NOT_ASKED = Refused("5.7.1", "No such receipt was asked of this sender")
QUIET = {REACTION, RETRACT}  # no news that a mail program should count as unread


async def place(
    store: IStore, account: Account, content: Content, trace: bytes = b"", mailbox: str = "INBOX", *, seen: bool = False
) -> Delivery | Refused:
    """The delivery of an object of any type, well formed. Raises StoreError."""
    payload = content.fields
    flags = ("\\Seen",) if seen or payload.type in QUIET else ()
    if payload.type in REPLACEABLE:
        refused = await _not_replaced(store, account, payload)
        if refused is not None:
            return refused
    elif payload.type in (RECEIPT, MAIL) and receipts.status(payload) and payload.parents:
        awaited = await _awaited(store, account, payload)
        if awaited is None and payload.type == RECEIPT:
            return NOT_ASKED
        if awaited is not None and not awaited.mail:
            mailbox, flags = RECEIPTS, ("\\Seen",)
    return Delivery(account.account_id, content, trace, mailbox, flags)


async def _not_replaced(store: IStore, account: Account, payload: Payload) -> Refused | None:
    assert payload.replaces is not None
    original = (await store.find(account.account_id, [payload.replaces])).get(payload.replaces)
    if original is None:
        return None  # a reader that sees the original one day judges then
    if original.fields.type not in REPLACEABLE[payload.type]:
        return NOT_REPLACEABLE
    return None if _same_address(original.fields.from_, payload.from_) else NOT_THE_AUTHOR


async def _awaited(store: IStore, account: Account, payload: Payload) -> Awaited | None:
    """What this user asked of the one whose receipt this is, if it was this."""
    who = receipts.recipient(payload)
    if who is None:
        return None
    awaited = await store.expected_receipt(account.account_id, payload.parents[0], who)
    return awaited if awaited is not None and receipts.status(payload) in awaited.statuses else None


def _same_address(one: str, other: str) -> bool:
    try:
        return Address.parse(one).key == Address.parse(other).key
    except AddressError:
        return False
