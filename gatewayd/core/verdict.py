"""The one line above a mail that tells its reader why it stands where it stands, and how to have it otherwise.

Written for each copy: what one user knows of the sender, another does not.
"""

from __future__ import annotations

import msgspec

from gatewayd.address import Address
from gatewayd.core.consent import INBOX, INTRODUCTIONS, JUNK, Provenance
from gatewayd.core.filtering import FIELD
from gatewayd.interfaces.records import ContactState

MAX_LINE = 900  # octets; RFC 5322 §2.1.1 allows 998


class Findings(msgspec.Struct, frozen=True):
    """What was found out of a mail on its way in, in words."""

    vouched: str = ""  # who speaks for its author, or why nobody does; "": it was not examined
    said: str = ""  # what the author's domain and the filters want
    mailbox: str = INBOX  # where they want it

    def field(self, mailbox: str, sender: Address, state: ContactState, provenance: Provenance) -> bytes:
        """Of the copy of one to whom the sender is in that `state`, with its CRLF; b"" where nobody looked."""
        why = "; ".join(filter(None, self._why(mailbox, sender, state, provenance)))
        if not why:
            return b""
        name = mailbox.removeprefix("\\")
        line = f"{FIELD}: {name}; {why}"
        printable = "".join(c if c.isprintable() else " " for c in line)
        return printable[:MAX_LINE].encode("ascii", "replace") + b"\r\n"

    def _why(self, mailbox: str, sender: Address, state: ContactState, provenance: Provenance) -> tuple[str, ...]:
        if mailbox == JUNK:
            if self.mailbox == JUNK:
                return self.said, self.vouched
            return (f"you have refused {sender}; move a mail of theirs out of Junk to take them back",)
        if mailbox == INTRODUCTIONS:
            how = "move it to INBOX to let them write, to Junk to refuse them"
            return f"you do not know {sender}", self.vouched, self.said, how
        if state == "granted" and self.vouched:
            link = "but" if provenance is Provenance.UNAUTHENTICATED else "and"
            known = f"you know {sender}, {link} {self.vouched}"
            return known, f"else it were Junk: {self.said}" if self.mailbox == JUNK else self.said
        return self.vouched, self.said

    def kept(self, provenance: Provenance) -> str:
        """With how it came, while it waits in the queue for copies here."""
        said = (provenance.name, self.vouched, self.said, self.mailbox)
        return msgspec.json.encode(said).decode("utf-8")


def kept(text: str) -> tuple[Provenance, Findings]:
    """Nothing: it waited for others, whose domain has become ours since."""
    if not text:
        return Provenance.HERE, UNEXAMINED
    provenance, *said = msgspec.json.decode(text, type=tuple[str, str, str, str])
    return Provenance[provenance], Findings(*said)


UNEXAMINED = Findings()
