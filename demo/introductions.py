"""Strangers: a first Parley message waits in Introductions, and comes to INBOX when its recipient says so, by moving it
in a mail program, or by a grant in a Parley client."""

from __future__ import annotations

import imaplib
import time
from collections.abc import Callable

from demo.clients import TIMEOUT, Arrived, Client, Lost, ParleyProgram
from demo.world import PASSWORD, Gateway

Accept = Callable[[str], bool]  # the subject -> whether it waited there


def by_imap(gateway: Gateway, user: str) -> Accept:
    """Moves it, as a person drags it from folder to folder (RFC 6851)."""

    def accept(subject: str) -> bool:
        host, port = gateway.port("imaps")
        with imaplib.IMAP4_SSL(host, port, ssl_context=gateway.ssl, timeout=TIMEOUT) as imap:
            imap.login(user, PASSWORD)
            imap.select("Introductions")
            found = imap.uid("SEARCH", "SUBJECT", f'"{subject}"')[1][0].split()
            if found:
                imap.uid("MOVE", found[-1].decode(), "INBOX")
            return bool(found)

    return accept


def by_parley(program: ParleyProgram) -> Accept:
    def accept(subject: str) -> bool:
        async def grant() -> bool:
            async with await program.connect() as parley:
                waiting = [m.sender async for m in parley.messages(mailbox="Introductions") if m.subject == subject]
                for sender in waiting:
                    await parley.consent("grant", sender)
                return bool(waiting)

        return program.reactor.wait(grant())

    return accept


def introduce(sender: ParleyProgram, receiver: Client, accept: Accept, subject: str, text: str) -> Arrived:
    """Raises Lost."""
    sender.send(receiver.address, subject, text)
    deadline = time.monotonic() + TIMEOUT
    while not accept(subject):
        if time.monotonic() > deadline:
            raise Lost("it did not come to Introductions")
        time.sleep(0.05)
    return receiver.receive(subject)
