"""What a conversation looks like: edits, retractions, reactions and receipts laid upon the messages that they are about
(docs/parley.rst §8.1, §8.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from gatewayd.client.message import Draft, Message, Receipt
from gatewayd.message.model import EDIT, RETRACT, Content

KNOWN = {"bridged", "receipts", "receipt", "references"}  # extensions that a reader may be obliged to understand
RANK = {"stored": 1, "delivered": 2, "displayed": 3}


@dataclass(frozen=True)
class Said:
    """A message as it is to be shown."""

    message: Message
    text: str
    subject: str
    edited: bool = False
    retracted: bool = False
    understood: bool = True  # else its author forbids to show it to a program that does not know all of it
    reactions: tuple[tuple[str, str], ...] = ()  # (who, what)
    receipts: Mapping[str, str] = field(
        default_factory=dict
    )  # recipient -> the most that is known: "stored", "delivered", "displayed"
    waiting: str | None = None  # not None: it is in the outbox still, perhaps with the reason
    undelivered: Mapping[str, str] = field(default_factory=dict)  # recipient -> why he will not get it


def laid_together(messages: Sequence[Message]) -> list[Said]:
    """In the order of `messages`, which are of one conversation. What belongs to a message that is not among them is
    left out, but for an edit, which tells enough by itself."""
    by_id = {message.id: message for message in messages}
    replaced = [(message, by_id.get(message.content.fields.replaces or b"")) for message in messages]
    retracted = {original.id for message, original in replaced if original and _takes_back(message, original)}
    edits: dict[bytes, Message] = {}
    reactions: dict[bytes, list[tuple[str, str]]] = {}
    apart: set[bytes] = set()  # shown with another message
    for message in messages:
        fields = message.content.fields
        if message.type == RETRACT or message.receipt is not None:
            apart.add(message.id)
        elif message.type == EDIT and fields.replaces in by_id:
            apart.add(message.id)
            original = by_id[fields.replaces]
            if message.replaces(original) and message.id not in retracted:
                known = edits.get(original.id)
                if known is None or _later(message, known):
                    edits[original.id] = message
        elif (reaction := message.reaction) is not None and fields.parents and fields.parents[0] in by_id:
            apart.add(message.id)
            if message.id not in retracted:
                reactions.setdefault(fields.parents[0], []).append((message.sender, reaction))
    return [
        _said(message, edits.get(message.id), message.id in retracted, reactions.get(message.id, ()))
        for message in messages
        if message.id not in apart
    ]


def unsent(draft: Draft, trouble: str) -> Said:
    """One that waits in the outbox."""
    bodies = {sha256(body).digest(): body for body in draft.bodies}
    message = Message("", 0, 0, ("\\Seen",), Content(b"", draft.payload, b"", bodies))
    return Said(message, message.text, message.subject, waiting=trouble)


def most_known(receipts: Iterable[Receipt]) -> dict[str, str]:
    """By recipient."""
    found: dict[str, str] = {}
    for receipt in receipts:
        if RANK.get(receipt.status, 0) > RANK.get(found.get(receipt.by, ""), 0):
            found[receipt.by] = receipt.status
    return found


def _said(message: Message, edit: Message | None, retracted: bool, reactions: Iterable[tuple[str, str]]) -> Said:
    shown = edit or message
    understood = KNOWN.issuperset(message.content.fields.crit) and KNOWN.issuperset(shown.content.fields.crit)
    return Said(
        message,
        shown.text if understood and not retracted else "",
        shown.subject if understood and not retracted else "",
        edit is not None or (message.type == EDIT),
        retracted,
        understood,
        tuple(dict.fromkeys(reactions)),
    )


def _takes_back(message: Message, original: Message) -> bool:
    return message.type == RETRACT and message.replaces(original)


def _later(edit: Message, other: Message) -> bool:
    """The latest date counts, of equal ones the greater id."""
    return (edit.content.fields.date, edit.id) > (other.content.fields.date, other.id)
