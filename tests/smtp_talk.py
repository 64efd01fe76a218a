"""For the tests of the SMTP listeners: a client that says what it is told, and a next hop that plays a script."""

from __future__ import annotations

import base64
import contextlib
import imaplib
import socket
import threading
from collections.abc import Iterable
from typing import Any

from demo.world import PASSWORD, Gateway
from tests.patience import eventually

TIMEOUT = 20.0  # seconds


class Talk:
    """A connection to a listener of a gateway. Replies come with all their lines, without their line ends."""

    def __init__(
        self, gateway: Gateway, service: str = "smtp", *, tls: bool = False, connected: socket.socket | None = None,
        source: str = "",
    ) -> None:  # fmt: skip
        self.gateway = gateway
        at = (source, 0) if source else None
        self.socket: Any = connected or socket.create_connection(gateway.port(service), TIMEOUT, at)
        self._file = self.socket.makefile("rb")
        if tls:
            self.wrap()
        assert self.reply().startswith("220 ")

    def wrap(self) -> None:
        self.socket = self.gateway.ssl.wrap_socket(self.socket, server_hostname=self.gateway.address)
        self._file = self.socket.makefile("rb")

    def say(self, text: str | bytes) -> None:
        self.socket.sendall(text if isinstance(text, bytes) else text.encode() + b"\r\n")

    def reply(self) -> str:
        lines: list[str] = []
        while not lines or lines[-1][3:4] == "-":
            line = self._file.readline()
            if not line:
                break
            lines.append(line.decode().removesuffix("\r\n"))
        return "\n".join(lines)

    def do(self, command: str | bytes) -> str:
        self.say(command)
        return self.reply()

    def all(self, *commands: str) -> list[str]:
        return [self.do(command) for command in commands]

    def ended(self) -> bool:
        try:
            return bool(self._file.readline() == b"")
        except ConnectionError:
            return True

    def start_tls(self) -> None:
        assert self.do("STARTTLS").startswith("220")
        self.wrap()

    def sign_in(self, user: str = "alice@alpha.test") -> Talk:
        """Under TLS already or not."""
        self.do("EHLO client.test")
        if not hasattr(self.socket, "cipher"):
            self.start_tls()
            self.do("EHLO client.test")
        letters = base64.b64encode(f"\0{user}\0{PASSWORD}".encode()).decode()
        assert self.do(f"AUTH PLAIN {letters}").startswith("235 ")
        return self

    def send(self, sender: str, to: list[str], mail: bytes, parameters: str = "", rcpt: str = "") -> str:
        """One transaction by DATA; the reply to its end."""
        assert self.do(f"MAIL FROM:<{sender}>{parameters}").startswith("250")
        for address in to:
            assert self.do(f"RCPT TO:<{address}>{rcpt}").startswith("250")
        assert self.do("DATA").startswith("354")
        return self.do(mail + b"\r\n.\r\n")

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Mailbox:
    """A user's INBOX by IMAP."""

    def __init__(self, gateway: Gateway, user: str, mailbox: str = "INBOX") -> None:
        host, port = gateway.port("imaps")
        self.imap = imaplib.IMAP4_SSL(host, port, ssl_context=gateway.ssl, timeout=TIMEOUT)
        self.imap.authenticate("PLAIN", lambda _: f"\0{user}\0{PASSWORD}".encode())  # its login() knows ASCII only
        self.imap.select(mailbox)

    def mails(self) -> list[bytes]:
        self.imap.noop()
        found: list[Any] = self.imap.fetch("1:*", "(BODY.PEEK[])")[1]
        return [part[1] for part in found if isinstance(part, tuple)]

    def wait(self, count: int) -> list[bytes]:
        """Until there are so many."""
        eventually(lambda: len(self.mails()) >= count)
        found = self.mails()
        assert len(found) == count
        return found

    def clear(self) -> None:
        self.imap.noop()
        self.imap.store("1:*", "+FLAGS", "(\\Deleted)")
        self.imap.expunge()

    def __enter__(self) -> Mailbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.imap.logout()


def mail_data(file: Iterable[bytes]) -> bytes:
    """What comes after DATA, up to its dot. Raises ConnectionError when the other side goes away before it."""
    lines: list[bytes] = []
    for line in file:
        if line == b".\r\n":
            return b"".join(lines)
        lines.append(line)
    raise ConnectionError


class NextHop:
    """A mail server at `address` that answers each command, by its beginning, as it was told to."""

    def __init__(self, address: str, port: int) -> None:
        self.answers: dict[str, bytes] = {}
        self.heard: list[str] = []
        self.mails: list[bytes] = []
        self._usual = {
            "BANNER": b"220 mx\r\n", "EHLO": b"250-mx\r\n250-PIPELINING\r\n250 8BITMIME\r\n", "MAIL": b"250 ok\r\n",
            "RCPT": b"250 ok\r\n", "DATA": b"354 go\r\n", "END": b"250 ok\r\n", "RSET": b"250 ok\r\n",
            "QUIT": b"221 bye\r\n",
        }  # fmt: skip
        self._listener = socket.create_server((address, port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._play, args=(connection,), daemon=True).start()

    def _play(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as file:
            connection.sendall(self._answer("BANNER"))
            for line in file:
                command = line.decode().strip()
                self.heard.append(command)
                answer = self._answer(command)
                connection.sendall(answer)
                if answer.startswith(b"354"):
                    self.mails.append(mail_data(file))
                    connection.sendall(self._answer("END"))

    def _answer(self, command: str) -> bytes:
        for answers in (self.answers, self._usual):
            for key, answer in answers.items():
                if command.upper().startswith(key.upper()):
                    return answer
        return b"500 what?\r\n"

    def wait(self, count: int) -> list[bytes]:
        """Until it has got so many."""
        eventually(lambda: len(self.mails) >= count)
        assert len(self.mails) == count
        return self.mails

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # else it listens for as long as the thread is in its accept()
        self._listener.close()
