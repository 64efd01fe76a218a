"""What a message says is shown on a terminal, and must not command it."""

from __future__ import annotations

import re
from datetime import datetime

from gatewayd.address import Address
from gatewayd.client.message import Message

BOLD, NORMAL = "\x1b[1m", "\x1b[0m"
JOINERS = "\u200c\u200d"  # of Persian, Indic scripts, and emoji; never in an address or a name of a file
FLAG = re.compile("(\U0001f3f4[\U000e0020-\U000e007e]{1,16}\U000e007f)")  # of a region; tags are nothing elsewhere
UNSEEN = "\u00ad\u200b\u200e\u200f\u2060\ufeff"  # soft hyphen, spaces of no width, marks of direction


def plain(text: str) -> str:
    """Without control characters, and without those that turn the direction of what stands beside."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


def words(text: str) -> str:
    """What somebody says, in any script: also with what joins letters and emoji, and without marks that nobody sees."""
    return "".join(
        piece if FLAG.fullmatch(piece) else "".join(c if c in JOINERS else plain(c) for c in piece if c not in UNSEEN)
        for piece in FLAG.split(text)
    )


def how(message: Message) -> str:
    """Who answers for it, in a few words."""
    results = "".join(f"; {name} {result}" for name, result in message.results.items())
    kind = "" if message.type in {"message", "mail"} else f"{message.type}, "
    return f"mail, taken in by {message.signer}{results}" if message.bridged else f"{kind}signed by {message.signer}"


def when(message: Message) -> datetime:
    """Its date, here."""
    return datetime.fromtimestamp(message.content.fields.date / 1000).astimezone()


def signed_by_author(message: Message) -> bool:
    """Not bridged, and by no other domain."""
    try:
        return not message.bridged and Address.parse(message.sender).domain == message.signer
    except ValueError:
        return False
