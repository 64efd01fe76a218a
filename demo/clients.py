"""The people of the demo: each sends in one way and reads in one way, with an ordinary client of that kind."""

from __future__ import annotations

import email
import email.policy
import imaplib
import poplib
import re
import smtplib
import time
from abc import ABC, abstractmethod
from email.message import EmailMessage
from email.utils import formatdate
from typing import Any, NamedTuple

from demo.legacy import Legacy, send_as_legacy
from demo.world import PASSWORD, Gateway, Reactor
from gatewayd.client import Message, ParleyClient, connect
from gatewayd.interfaces.dns import Endpoint

TIMEOUT = 30.0  # seconds until a message that has not come counts as lost


class Arrived(NamedTuple):
    sender: str
    text: str


class Lost(Exception):
    """The message did not come, or came otherwise than it was sent."""


class Client(ABC):
    """`send` gives a message to the client's own server. `go_online`, `receive`, `go_offline` read what came."""

    kind: str

    def __init__(self, address: str) -> None:
        self.address = address

    @abstractmethod
    def send(self, to: str, subject: str, text: str) -> None: ...

    def go_online(self) -> None:  # noqa: B027, not every kind has such a state
        """Sign in, and see from now on what comes."""

    @abstractmethod
    def receive(self, subject: str) -> Arrived:
        """Waits for that message; online or not before. Raises Lost."""

    def go_offline(self) -> None:  # noqa: B027
        """Sign out."""


def mail_of(sender: str, to: str, subject: str, text: str) -> EmailMessage:
    mail = EmailMessage(policy=email.policy.SMTP)
    mail["From"], mail["To"], mail["Subject"], mail["Date"] = sender, to, subject, formatdate()
    mail.set_content(text, cte="quoted-printable")
    return mail


def arrived(octets: bytes) -> Arrived:
    mail = email.message_from_bytes(octets, policy=email.policy.SMTP)
    body = mail.get_body(("plain",)) if isinstance(mail, EmailMessage) else None
    text = body.get_content() if body is not None else ""
    return Arrived(str(mail["From"]), text.replace("\r\n", "\n").rstrip("\n"))


class MailProgram(Client):
    """Sends by submission with STARTTLS; reading is IMAP's or POP3's."""

    def __init__(self, gateway: Gateway, name: str) -> None:
        super().__init__(f"{name}@{gateway.domain}")
        self._gateway = gateway

    def send(self, to: str, subject: str, text: str) -> None:
        with smtplib.SMTP(*self._gateway.port("submission"), timeout=TIMEOUT) as smtp:
            smtp.starttls(context=self._gateway.ssl)
            smtp.login(self.address, PASSWORD)
            smtp.sendmail(self.address, [to], mail_of(self.address, to, subject, text).as_bytes())


class IMAPProgram(MailProgram):
    """Online it waits in IDLE (RFC 2177)."""

    kind = "SMTP/IMAP"
    _imap: imaplib.IMAP4_SSL | None = None

    def go_online(self) -> None:
        if self._imap is not None:
            return
        host, port = self._gateway.port("imaps")
        self._imap = imaplib.IMAP4_SSL(host, port, ssl_context=self._gateway.ssl, timeout=TIMEOUT)
        self._imap.login(self.address, PASSWORD)
        self._imap.select("INBOX")

    def receive(self, subject: str) -> Arrived:
        if self._imap is None:
            self.go_online()
        assert self._imap is not None
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            self._imap.noop()
            self._imap.response("EXISTS")  # heard
            found = self._imap.uid("SEARCH", "SUBJECT", f'"{subject}"')[1][0].split()
            if found:
                fetched: Any = self._imap.uid("FETCH", found[-1].decode(), "(BODY.PEEK[])")[1]
                return arrived(fetched[0][1])
            if self._imap.response("EXISTS")[1] == [None]:  # nothing came since
                self._idle(self._imap)
        raise Lost("it did not come to the mailbox")

    def _idle(self, imap: imaplib.IMAP4_SSL) -> None:
        """Until the server says that something came."""
        tag = b"I1"
        imap.send(tag + b" IDLE\r\n")
        imap.readline()  # "+ idling"
        while b"EXISTS" not in imap.readline():
            pass
        imap.send(b"DONE\r\n")
        while not imap.readline().startswith(tag):
            pass

    def go_offline(self) -> None:
        if self._imap is not None:
            imap, self._imap = self._imap, None
            imap.logout()


class POPProgram(MailProgram):
    """POP3 knows no news: it looks again and again."""

    kind = "SMTP/POP3"

    def receive(self, subject: str) -> Arrived:
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            pop = poplib.POP3_SSL(*self._gateway.port("pop3s"), context=self._gateway.ssl, timeout=TIMEOUT)
            pop.user(self.address)
            pop.pass_(PASSWORD)
            try:
                for number in range(pop.stat()[0], 0, -1):
                    octets = b"\r\n".join(pop.retr(number)[1]) + b"\r\n"
                    if email.message_from_bytes(octets)["Subject"] == subject:
                        pop.dele(number)
                        return arrived(octets)
            finally:
                pop.quit()
            time.sleep(0.02)
        raise Lost("it did not come to the maildrop")


class ParleyProgram(Client):
    """The live tail of the account's log."""

    kind = "Parley"
    _session: ParleyClient | None = None

    def __init__(self, gateway: Gateway, name: str, reactor: Reactor) -> None:
        super().__init__(f"{name}@{gateway.domain}")
        self._gateway = gateway
        self.reactor = reactor
        self._since = 0

    async def connect(self) -> ParleyClient:
        return await connect(
            self.reactor.reactor, self.address, PASSWORD, server=Endpoint(*self._gateway.port("parley")),
            authorities=self._gateway.root / "ca.pem",
        )  # fmt: skip

    def send(self, to: str, subject: str, text: str) -> None:
        async def send() -> None:
            async with await self.connect() as parley:
                (result,) = await parley.send([to], text, subject=subject)
                if not result.code.startswith("2"):
                    raise Lost(f"{result.code} {result.text}")

        self.reactor.wait(send())

    def go_online(self) -> None:
        self._session = self.reactor.wait(self.connect())

    def receive(self, subject: str) -> Arrived:
        async def receive() -> Message:
            if self._session is None:
                self._session = await self.connect()
            async for message in self._session.messages(self._since, live=True):
                self._since = message.modseq
                if message.subject == subject:
                    return message
            raise Lost("the log ended")

        message = self.reactor.wait(receive(), TIMEOUT)
        return Arrived(message.sender, message.text.replace("\r\n", "\n").rstrip("\n"))

    def go_offline(self) -> None:
        if self._session is not None:
            self.reactor.call(self._session.close)
            self._session = None


class LegacyHost(Client):
    """carol at the plain mail domain; when she is offline, her server is."""

    def __init__(self, host: Legacy) -> None:
        super().__init__("carol@legacy.test")
        self.kind = f"legacy ({host.name})"
        self._host = host
        self._up = False

    def send(self, to: str, subject: str, text: str) -> None:
        self.go_online()
        send_as_legacy(self._host, mail_of(self.address, to, subject, text).as_bytes(), to)

    def go_online(self) -> None:
        if not self._up:
            self._host.start()
            self._up = True

    def receive(self, subject: str) -> Arrived:
        deadline = time.monotonic() + TIMEOUT
        wanted = re.compile(rb"^Subject: " + re.escape(subject.encode()) + rb"\r?$", re.MULTILINE)
        while time.monotonic() < deadline:
            for octets in self._host.messages():
                if wanted.search(octets):
                    return arrived(octets)
            time.sleep(0.02)
        raise Lost("it did not come to the legacy mailbox")

    def go_offline(self) -> None:
        if self._up:
            self._host.stop()
            self._up = False
