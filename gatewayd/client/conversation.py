"""What a conversation looks like: edits, retractions, reactions and receipts laid upon the messages that they are about
(docs/parley.rst §8.1, §8.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gatewayd.address import Address
from gatewayd.client.message import Message, Receipt
from gatewayd.message.model import EDIT, RETRACT, Part, Payload

KNOWN = {"bridged", "receipts", "receipt", "references"}  # extensions that a reader may be obliged to understand
RANK = {"relayed": 1, "stored": 2, "delivered": 3, "displayed": 4}  # what one is glad to know, the best last


@dataclass(frozen=True)
class Said:
    """A message as it is to be shown."""

    message: Message
    version: Message  # which is shown: the message itself, or the last edit
    text: str
    subject: str
    edited: bool = False
    retracted: bool = False
    understood: bool = True  # else its author forbids to show it to a program that does not know all of it
    reactions: Mapping[tuple[str, str], Sequence[bytes]] = field(default_factory=dict)  # (who, what) -> their ids
    receipts: Mapping[str, str] = field(
        default_factory=dict
    )  # recipient -> the most that is known: "relayed", "stored", "delivered", "displayed"
    waiting: str | None = None  # not None: it is in the outbox still, perhaps with the reason
    answers: Said | None = None  # which other message, where it is known
    changes: Sequence[bytes] = ()  # the ids of what is laid upon it
    waiting_changes: Sequence[bytes] = ()  # which of them are in the outbox still
    refused: Mapping[bytes, Mapping[str, str]] = field(
        default_factory=dict
    )  # ids, its own or of changes -> recipient -> why he will not get that

    put_off: Mapping[str, Receipt] = field(default_factory=dict)  # recipients for whom it is in the outbox still
    reports: Sequence[Message] = ()  # mails that say who will not get it, or not yet

    @property
    def undelivered(self) -> Mapping[str, str]:
        """Recipients who will not get it, and why."""
        return {**{to: said.why for to, said in self._reported("failed")}, **self.refused.get(self.message.id, {})}

    @property
    def delayed(self) -> Mapping[str, Receipt]:
        """Recipients who have not got it yet, or had not when a report said so and nothing better is known. `at` 0: it
        is to be sent to them still."""
        better = {*self.receipts, *self.undelivered}
        return {to: said for to, said in (*self._reported("delayed"), *self.put_off.items()) if to not in better}

    @property
    def recipients(self) -> Sequence[str]:
        """Whom it names."""
        return list(dict.fromkeys(map(_bare, self.message.content.fields.to)))

    def _reported(self, status: str) -> Iterator[tuple[str, Receipt]]:
        told = (receipt for report in self.reports for receipt in report.receipts if receipt.status == status)
        return ((receipt.by, receipt) for receipt in told if receipt.by in self.recipients)

    @property
    def files(self) -> tuple[Part, ...]:
        return () if self.retracted or not self.understood else self.version.files


def conversation_of(user: str, payload: Payload) -> str:
    """The same for everything that is said among the same people."""
    others = sorted({_bare(text) for text in (payload.from_, *payload.to)} - {_bare(user)})
    return "\n".join(others) or user


def laid_together(messages: Sequence[Message], beside: Sequence[Message] = ()) -> list[Said]:
    """In the order of `messages`, which are of one conversation; `beside` are others of it that are not to be shown,
    but may be what these are about, or the other way. What belongs to a message that is in neither is left out, but for
    an edit, which tells enough by itself."""
    known = [*messages, *beside]
    by_id = {message.id: message for message in known}
    replaced = [(message, by_id.get(message.content.fields.replaces or b"")) for message in known]
    retracted = {original.id for message, original in replaced if original and _takes_back(message, original)}
    edits: dict[bytes, Message] = {}
    reactions: dict[bytes, dict[tuple[str, str], list[bytes]]] = {}
    changes: dict[bytes, list[bytes]] = {}
    reports: dict[bytes, list[Message]] = {}
    apart: set[bytes] = set()  # shown with another message
    for message in known:
        fields = message.content.fields
        told = message.receipts
        if message.type == RETRACT or (told and RANK.keys() >= {receipt.status for receipt in told}):
            apart.add(message.id)
        elif message.type == EDIT and fields.replaces in by_id:
            apart.add(message.id)
            original = by_id[fields.replaces]
            if message.replaces(original) and message.id not in retracted:
                before = edits.get(original.id)
                if before is None or _later(message, before):
                    edits[original.id] = message
        elif (reaction := message.reaction) is not None and fields.parents and fields.parents[0] in by_id:
            apart.add(message.id)
            if message.id not in retracted:
                by_whom = reactions.setdefault(fields.parents[0], {})
                by_whom.setdefault((message.sender, reaction), []).append(message.id)
        elif told:
            about = by_id.get(told[0].of)
            if about is not None and {receipt.by for receipt in told}.intersection(map(_bare, about.content.fields.to)):
                reports.setdefault(about.id, []).append(message)
        if message.id in apart:
            changes.setdefault(_shown_with(message, by_id), []).append(message.id)
    said = {
        message.id: replace(
            _said(message, edits.get(message.id), message.id in retracted),
            reactions=reactions.get(message.id, {}),
            changes=changes.get(message.id, ()),
            reports=reports.get(message.id, ()),
        )
        for message in known
        if message.id not in apart
    }
    return [
        replace(said[message.id], answers=said.get(_answered(message))) for message in messages if message.id in said
    ]


def _answered(message: Message) -> bytes:
    parents = message.content.fields.parents
    return parents[0] if parents else b""


def _shown_with(message: Message, by_id: Mapping[bytes, Message]) -> bytes:
    """The id of what a change is about: of the message, also if it takes back an edit or a reaction."""
    fields = message.content.fields
    about = fields.replaces or _answered(message)
    other = by_id.get(about)
    if message.type == RETRACT and other is not None and (other.type == EDIT or other.reaction is not None):
        return _shown_with(other, by_id)
    return about


def is_change(message: Message) -> bool:
    """Of another message, with which it is shown."""
    return message.type in {EDIT, RETRACT} or message.reaction is not None


def most_known(receipts: Iterable[Receipt]) -> dict[str, str]:
    """By recipient."""
    found: dict[str, str] = {}
    for receipt in receipts:
        if RANK.get(receipt.status, 0) > RANK.get(found.get(receipt.by, ""), 0):
            found[receipt.by] = receipt.status
    return found


def _said(message: Message, edit: Message | None, retracted: bool) -> Said:
    shown = edit or message
    understood = KNOWN.issuperset(message.content.fields.crit) and KNOWN.issuperset(shown.content.fields.crit)
    return Said(
        message,
        shown,
        shown.text if understood and not retracted else "",
        shown.subject if understood and not retracted else "",
        edit is not None or (message.type == EDIT),
        retracted,
        understood,
    )


def _takes_back(message: Message, original: Message) -> bool:
    return message.type == RETRACT and message.replaces(original)


def _later(edit: Message, other: Message) -> bool:
    """The latest date counts, of equal ones the greater id."""
    return (edit.content.fields.date, edit.id) > (other.content.fields.date, other.id)


def _bare(text: str) -> str:
    """An address in the one form, or the text where it is none."""
    try:
        return str(Address.parse(text))
    except ValueError:
        return text
