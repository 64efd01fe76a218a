"""Where an object stands in an account, and whether it may: what its type asks of the objects that are there already.

docs/parley.rst §8.1. What its form asks is message/object_types.py.
"""

from __future__ import annotations

from gatewayd.address import Address, AddressError
from gatewayd.interfaces import Delivery, IStore
from gatewayd.message.model import REACTION, RETRACT, Content
from gatewayd.message.object_types import REPLACEABLE
from gatewayd.outcome import Refused

NOT_THE_AUTHOR = Refused("5.7.1", "Only its author can edit or retract a message")
NOT_REPLACEABLE = Refused("5.7.1", "What is to be edited or retracted is not of a type that can be")
QUIET = {REACTION, RETRACT}  # no news that a mail program should count as unread


async def place(
    store: IStore, account_id: int, content: Content, trace: bytes = b"", mailbox: str = "INBOX", *, seen: bool = False
) -> Delivery | Refused:
    """The delivery of an object of a known or unknown type. Raises StoreError, ObjectError."""
    payload = content.fields
    if payload.type in REPLACEABLE and payload.replaces is not None:
        original = await store.find(account_id, payload.replaces)
        if original is not None:  # else kept: a reader that sees the original one day judges then
            if original.fields.type not in REPLACEABLE[payload.type]:
                return NOT_REPLACEABLE
            if not same_address(original.fields.from_, payload.from_):
                return NOT_THE_AUTHOR
    flags = ("\\Seen",) if seen or payload.type in QUIET else ()
    return Delivery(account_id, content, trace, mailbox, flags)


def same_address(one: str, other: str) -> bool:
    try:
        return Address.parse(one).key == Address.parse(other).key
    except AddressError:
        return False
