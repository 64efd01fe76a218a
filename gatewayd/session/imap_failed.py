"""The answer NO: what a command cannot do, in words, with the code that tells programs why (RFC 5530)."""

from __future__ import annotations

from gatewayd.errors import QuotaExceeded, StoreError, StoreFull
from gatewayd.interfaces.records import BadMailbox, MailboxExists, NoSuchMailbox


class No(Exception):
    """The command fails with NO and these words."""


def failure(error: StoreError, command: str) -> str:
    match error:
        case NoSuchMailbox():
            code = "TRYCREATE" if command in {"APPEND", "COPY", "MOVE"} else "NONEXISTENT"
            return f"NO [{code}] No such mailbox"
        case MailboxExists():
            return "NO [ALREADYEXISTS] The mailbox exists"
        case BadMailbox():
            return f"NO [CANNOT] {error}"
        case QuotaExceeded():
            return "NO [OVERQUOTA] The quota does not allow it"
        case StoreFull():
            return "NO [OVERQUOTA] No space is left"
    return f"NO [UNAVAILABLE] {error}"
