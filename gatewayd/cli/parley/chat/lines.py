"""How messages and conversations look. Everything that somebody else wrote goes through `plain` or `words`."""

from __future__ import annotations

from datetime import date

from rich import filesize
from rich.text import Text

from gatewayd.cli.parley import fates
from gatewayd.cli.parley.terminal import how, plain, signed_by_author, when, words
from gatewayd.client.archive import Conversation
from gatewayd.client.conversation import Said
from gatewayd.client.message import Message

WIDTH = 27  # columns for a conversation
QUOTED = 60  # columns of what is answered
TOGETHER = 300  # seconds between messages under one head
BAR = "\N{BOX DRAWINGS LIGHT VERTICAL}"


def conversation(shown: Conversation) -> Text:
    count = (f" ({shown.unread})" if shown.unread else "") + (" !" if shown.refused else "")
    style = "red" if shown.refused else ""
    text = Text(names(shown.name), f"bold {style}" if shown.unread else style, no_wrap=True)
    text.truncate(WIDTH - len(count), overflow="ellipsis")
    return text.append(count)


def names(conversation: str) -> str:
    return plain(", ".join(conversation.splitlines()))


def rule(words: str, style: str = "dim") -> Text:
    return Text(f"\N{BOX DRAWINGS LIGHT HORIZONTAL}\N{BOX DRAWINGS LIGHT HORIZONTAL} {words} ", style)


def day(said: Said) -> date:
    return when(said.message).date()


def named(day: date, today: date) -> str:
    return "today" if day == today else f"{day:%A, %d %B}" if day.year == today.year else f"{day:%A, %d %B %Y}"


def message(said: Said, user: str, before: Said | None = None, *, head: bool = True) -> Text:
    """A head, what it answers (unless that is `before`, the message above), and what is said."""
    mine = said.message.sender == user
    text = Text()
    if head:
        text.append(f"{when(said.message):%H:%M}  ", "dim")
        text.append(_name(said.message.sender, user), "bold green" if mine else "bold cyan")
        note = _note(said, mine)
        text.append(f"  {note}" if note else "", "dim" if mine and said.waiting is None else "yellow")
        text.append("  edited" if said.edited else "", "dim")
        text.append("  a change waits to be sent" if said.waiting_changes else "", "yellow")
        text.append("\n")
    if said.answers is not None and (before is None or said.answers.message.id != before.message.id):
        quoted = f"{BAR} {_name(said.answers.message.sender, user)}: "
        text.append(quoted + first_words(_body(said.answers).plain) + "\n", "dim italic")
    text.append(_body(said))
    if said.reactions:
        text.append("\n" + "  ".join(f"{words(what)} {_name(who, user)}" for who, what in said.reactions), "magenta")
    for line, for_good in fates.troubles(said):
        text.append(f"\n{plain(line)}", "red" if for_good else "yellow")
    for id, reasons in said.refused.items():
        for recipient, reason in reasons.items() if id != said.message.id else ():
            text.append(f"\na change was not delivered to {plain(recipient)}: {plain(reason)}", "red")
    text.append("\nw: send it again   x: put this away" if said.refused or said.undelivered else "", "dim red")
    return text


def _name(who: str, user: str) -> str:
    return "you" if who == user else plain(who)


def _body(said: Said) -> Text:
    if said.retracted:
        return Text("taken back by its author", "dim italic")
    if not said.understood:
        return Text("needs a newer program to be shown", "dim italic")
    found = [Text(words(line)) for line in said.text.rstrip().splitlines()]
    if said.subject:
        found.insert(0, Text(words(said.subject), "bold"))
    found += [Text(f"[{plain(part.name or '')}, {size(part.size)}]", "underline") for part in said.files]
    return Text("\n").join(found) if found else Text("(no text)", "dim italic")


def goes_on(said: Said, before: Said, user: str) -> bool:
    """The same author says more, soon after, and as much is known of it: so it may stand under the head of that one."""
    mine = said.message.sender == user
    return (
        said.message.sender == before.message.sender
        and not (said.edited or said.waiting_changes)
        and _note(said, mine) == _note(before, mine)
        and abs((when(said.message) - when(before.message)).total_seconds()) < TOGETHER
    )


def _note(said: Said, mine: bool) -> str:
    """Of ours what became of it; of others who answers for it, unless it is the author's own domain."""
    if mine:
        return plain(fates.state(said))
    return "" if signed_by_author(said.message) else plain(how(said.message))


def first_words(*texts: str) -> str:
    """One line, of the first text that says something."""
    found = next((line for text in texts for line in text.splitlines() if line.strip()), "")
    line = Text(words(found.strip()))
    line.truncate(QUOTED, overflow="ellipsis")
    return line.plain


def files(message: Message) -> str:
    return plain(", ".join(part.name or "" for part in message.files))


def quote(said: Said) -> str:
    return f"{plain(said.message.sender)}: {first_words(_body(said).plain)}"


def size(octets: int) -> str:
    """As people say it."""
    if octets < 1024:
        return f"{octets} octets"
    return filesize.decimal(octets)


def progress(name: str, octets: int, whole: int, *, up: bool) -> str:
    arrow = "\N{UPWARDS ARROW}" if up else "\N{DOWNWARDS ARROW}"
    return f"{arrow} {plain(name)} {100 * octets // max(1, whole)} % of {size(whole)}"


def details(said: Said, user: str) -> str:
    """Of one message: who says so, to whom, and what became of it."""
    fields = said.message.content.fields
    rows = (
        f"From   {fields.from_}",
        f"To     {', '.join(fields.to)}",
        f"Date   {when(said.message):%Y-%m-%d %H:%M:%S %z}",
        f"Id     {said.message.id.hex()}",
        f"How    {how(said.message) if said.message.content.signature else 'not sent yet'}",
        *(f"File   {part.name}, {part.type}, {part.size} octets" for part in said.files),
    )
    fate = (
        *(fates.each(said) if said.message.sender == user else ()),
        f"parley verify {said.message.id.hex()[:16]}  checks the signature now",
    )
    answers = (f"Answers {quote(said.answers)}",) if said.answers else ()
    return "\n".join((*map(plain, rows), *answers, "", *map(plain, fate)))
