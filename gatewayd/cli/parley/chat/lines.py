"""How messages and conversations look. Everything that somebody else wrote goes through `plain`."""

from __future__ import annotations

from datetime import date, datetime

from rich.text import Text

from gatewayd.address import Address
from gatewayd.cli.parley.terminal import how, plain
from gatewayd.client.archive import Conversation
from gatewayd.client.conversation import Said
from gatewayd.client.message import Message

WIDTH = 29  # columns for a conversation
STATES = {"": "on the server", "stored": "stored", "delivered": "delivered", "displayed": "read"}


def conversation(shown: Conversation) -> Text:
    count = f" ({shown.unread})" if shown.unread else ""
    name = plain(title(shown))
    if len(name) + len(count) > WIDTH:
        name = name[: WIDTH - len(count) - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return Text(name + count, "bold" if shown.unread else "", no_wrap=True)


def title(shown: Conversation) -> str:
    return ", ".join(shown.addresses)


def message(said: Said, user: str, today: date) -> Text:
    """A head, and below it what is said."""
    fields = said.message.content.fields
    mine = fields.from_ == user
    when = datetime.fromtimestamp(fields.date / 1000).astimezone()
    clock = f"{when:%H:%M}" if when.date() == today else f"{when:%Y-%m-%d %H:%M}"
    text = Text(f"{clock}  ", "dim")
    text.append(plain("you" if mine else fields.from_), "bold green" if mine else "bold cyan")
    text.append("  ")
    text.append(plain(state(said)) if mine else plain(how(said.message)), _colour(said, mine))
    if said.edited:
        text.append("  edited", "dim")
    if said.subject:
        text.append("\n" + plain(said.subject), "bold")
    if said.retracted:
        text.append("\ntaken back by its author", "dim italic")
    elif not said.understood:
        text.append("\nneeds a newer program to be shown", "dim italic")
    else:
        for line in said.text.rstrip().splitlines():
            text.append("\n" + plain(line))
        for part in said.message.files:
            text.append(f"\n[{plain(part.name or '')}, {part.size} octets]", "underline")
    if said.reactions:
        text.append("\n" + "  ".join(f"{plain(what)} {plain(who)}" for who, what in said.reactions), "magenta")
    for recipient, reason in said.undelivered.items():
        text.append(f"\nnot delivered to {plain(recipient)}: {plain(reason)}", "red")
    return text


def state(said: Said) -> str:
    """What is known of a message of ours: the least of its recipients."""
    if said.waiting is not None:
        return f"waits to be sent ({said.waiting})" if said.waiting else "waits to be sent"
    others = {_bare(to) for to in said.message.content.fields.to} - set(said.undelivered)
    known = [said.receipts.get(to, "") for to in sorted(others)]
    return STATES[min(known, key=list(STATES).index)] if known else ""


def signed_by_author(message: Message) -> bool:
    """Bridged or of another domain: not the author's own."""
    try:
        return not message.bridged and Address.parse(message.sender).domain == message.signer
    except ValueError:
        return False


def _colour(said: Said, mine: bool) -> str:
    if mine:
        return "yellow" if said.waiting is not None else "dim"
    return "dim" if signed_by_author(said.message) else "yellow"


def _bare(text: str) -> str:
    try:
        return str(Address.parse(text))
    except ValueError:
        return text


def details(said: Said) -> str:
    """Of one message: who says so, to whom, and what became of it."""
    fields = said.message.content.fields
    rows = [
        f"From   {fields.from_}",
        f"To     {', '.join(fields.to)}",
        f"Date   {datetime.fromtimestamp(fields.date / 1000).astimezone():%Y-%m-%d %H:%M:%S %z}",
        f"Id     {said.message.id.hex()}",
        f"How    {how(said.message) if said.message.content.signature else 'not sent yet'}",
        *(f"File   {part.name}, {part.type}, {part.size} octets" for part in said.message.files),
        "",
        *(f"{to}: {STATES[status]}" for to, status in said.receipts.items()),
        *(f"{to}: not delivered: {reason}" for to, reason in said.undelivered.items()),
        f"parley verify {said.message.id.hex()[:16]}  checks the signature now",
    ]
    return "\n".join(map(plain, rows))


HELP = """\
Tab         from the conversations to the messages, and to the place to write
Enter       there: sends (Ctrl+J: a new line). Among the conversations: opens one. Among the messages: tells about one
Ctrl+N      a new conversation, with one or several people
Ctrl+O      sends a file
F2          saves the files of the message that is highlighted
F3          who signed it, and what became of it
F4, F8      edits it, takes it back (if it is yours)
F5          reacts to it
F6, F7      accepts or refuses the stranger who wrote it (among the introductions)
F9          who may write to you, who may not, and who asks
Ctrl+Q      leaves; what waits to be sent is kept, and sent next time

What you write without a connection waits, and leaves by itself when the server is reached again.
Whom you write with sees that you are there, and writing, if you have granted each other to write (not with --quiet).
Yellow words beside a name: the message is signed by another domain than its author's, as all that was born as mail is.
"""
