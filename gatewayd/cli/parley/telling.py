"""What stands in the log about another message, told as people would: who edited, took back, read or liked what."""

from __future__ import annotations

from gatewayd.cli.parley.terminal import plain, when, words
from gatewayd.client import Message
from gatewayd.client.conversation import Said
from gatewayd.client.device import Device
from gatewayd.message.model import EDIT, RECEIPT, RETRACT

QUOTED = 60  # characters of what it is about
SOMETHING = "a message that is not here"
RECEIVED = {"stored": "has {} on the server", "delivered": "has got {}", "displayed": "has read {}"}
REPORTED = {
    "stored": "it is there", "displayed": "it was read", "relayed": "it was handed on, and no more is told",
    "delayed": "not yet delivered", "failed": "not delivered",
}  # fmt: skip


async def told(device: Device, message: Message) -> str | None:
    """To stand behind the name of who did it, on one line but for a report; None: it is a message of its own."""
    fields = message.content.fields
    if not (message.type in {EDIT, RETRACT} or message.reaction is not None or message.receipts):
        return None
    about = await _shown(device, fields.replaces or next(iter(fields.parents), b""))
    if message.type == EDIT:
        return f"edited {_quote(about, about.message.text if about and not about.retracted else '')}"
    if message.type == RETRACT:
        return await _taken_back(device, about.message if about else None)
    if message.reaction is not None:
        return f"reacted {words(message.reaction)} to {_quote(about)}"
    if message.type == RECEIPT:
        return "; ".join(RECEIVED[one.status].format(_quote(about)) for one in message.receipts) or None
    if not message.receipts or about is None or about.message.sender != device.parley.user:
        return None
    fates = (f"  {one.by}: {REPORTED[one.status]}{f': {one.why}' if one.why else ''}" for one in message.receipts)
    return "\n".join((f"reports on {_quote(about)}", *map(plain, fates)))


async def _taken_back(device: Device, what: Message | None) -> str:
    if what is not None and what.type == EDIT:
        return f"took back the edit of {_quote(await _shown(device, what.content.fields.replaces or b''))}"
    if what is not None and what.reaction is not None:
        about = await _shown(device, next(iter(what.content.fields.parents), b""))
        return f"took back {words(what.reaction)} to {_quote(about)}"
    return f"took back {_which(what) if what else SOMETHING}"


async def _shown(device: Device, id: bytes) -> Said | None:
    message = await device.archive.message(id) if id else None
    shown = await device.shown([message]) if message else []
    return shown[0] if shown else Said(message, message, message.text, message.subject) if message else None


def _quote(said: Said | None, text: str = "") -> str:
    """How it begins; what was taken back is not repeated."""
    if said is None:
        return SOMETHING
    names = ", ".join(part.name or "" for part in said.files)
    line = first_line(text or said.text, said.subject, names) if said.understood else ""
    return f'"{words(line)}"' if line and not said.retracted else _which(said.message)


def first_line(*texts: str) -> str:
    """The first of them that says anything, not too much of it."""
    line = next((line.strip() for text in texts for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= QUOTED else f"{line[:QUOTED]}..."


def _which(message: Message) -> str:
    return f"{plain(message.mailbox)} {message.uid} of {when(message):%Y-%m-%d %H:%M}"
