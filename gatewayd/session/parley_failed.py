"""The answer of a method that cannot do what was asked: an entry of the registry in docs/parley.rst §10."""

from __future__ import annotations

from gatewayd.errors import StoreError
from gatewayd.interfaces.records import BadMailbox, LogBeganAnew, MailboxExists, NoSuchMailbox
from gatewayd.wire.parley import RemoteProtocolError
from gatewayd.wire.parley.schema import Error


class Failed(Exception):
    """The request fails with this error; the connection goes on."""

    def __init__(self, error: str, text: str) -> None:
        super().__init__(text)
        self.error = error


def failure(error: Exception) -> Error:
    """What is the peer's fault or the store's, by its name in the registry; anything else is raised."""
    match error:
        case Failed():
            return Error(error.error, str(error))
        case RemoteProtocolError():
            return Error(error.code, error.text)
        case NoSuchMailbox():
            return Error("not-found", f"no mailbox {error}")
        case MailboxExists():
            return Error("exists", f"there is a mailbox {error}")
        case BadMailbox():
            return Error("bad-request", str(error))
        case LogBeganAnew():
            return Error("resync", str(error))
        case StoreError():
            return Error("unavailable", str(error))
    raise error
