"""The client's engine: replies out of octets, commands and content into octets (RFC 5321 §4.2, §4.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gatewayd.wire.smtp import LocalProtocolError, RemoteProtocolError
from gatewayd.wire.smtp.data import stuff

MAX_REPLY = 64 * 1024  # octets of one reply, all its lines
_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?\Z", re.DOTALL)
_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?: |\Z)")


@dataclass(frozen=True, slots=True)
class ServerReply:
    code: int
    lines: tuple[str, ...]

    @property
    def enhanced(self) -> str:
        """The RFC 2034 code, or one made from the basic code's class."""
        found = _ENHANCED.match(self.lines[0])
        if found and int(found[1][0]) == self.code // 100:
            return found[1]
        return f"{min(self.code // 100, 5)}.0.0"

    @property
    def text(self) -> str:
        return " ".join(_ENHANCED.sub("", line, count=1) for line in self.lines).strip()


@dataclass(frozen=True, slots=True)
class Command:
    text: str  # without its CRLF


@dataclass(frozen=True, slots=True)
class Content:
    octets: bytes  # the message; the engine stuffs dots and ends it
    replies: int = 1  # LMTP has one for each recipient (RFC 2033 §4.2)


@dataclass(frozen=True, slots=True)
class Chunk:
    octets: bytes  # the message, whole and as it is: BDAT LAST (RFC 3030 §2)
    replies: int = 1


@dataclass(frozen=True, slots=True)
class Unasked:
    """A reply to nothing. From here on none could be told from the one before it."""

    reply: ServerReply


class SMTPClient:
    def __init__(self) -> None:
        self._owed = 1  # replies; the first is the banner
        self._buffer = bytearray()
        self._code = 0
        self._lines: list[str] = []
        self._size = 0
        self._asked_tls = False
        self._granted_tls = False

    def receive(self, data: bytes) -> list[ServerReply | Unasked]:
        if self._granted_tls and data:
            raise RemoteProtocolError("octets sent ahead of the TLS handshake")
        self._buffer += data
        replies = []
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end]).removesuffix(b"\r")
            del self._buffer[: end + 1]
            found = _LINE.match(line)
            if found is None or (self._lines and int(found[1]) != self._code):
                raise RemoteProtocolError(f"not an SMTP reply: {line[:100]!r}")
            self._size += len(line)
            self._code = int(found[1])
            self._lines.append(_shown((found[3] or b"").decode("utf-8", "replace")))
            if self._size > MAX_REPLY:
                raise RemoteProtocolError("an endless reply")
            if found[2] != b"-":
                replies.append(ServerReply(self._code, tuple(self._lines)))
                self._lines, self._size = [], 0
        if self._asked_tls and replies:
            self._asked_tls, self._granted_tls = False, replies[0].code == 220
            if self._granted_tls and (len(replies) > 1 or self._lines or self._buffer):  # response injection
                raise RemoteProtocolError("octets sent ahead of the TLS handshake")
        if len(self._buffer) > MAX_REPLY:
            raise RemoteProtocolError("an endless reply line")
        asked, unasked = replies[: self._owed], replies[self._owed :]
        self._owed -= len(asked)
        return [*asked, *map(Unasked, unasked)]

    def send(self, event: Command | Content | Chunk) -> bytes:
        """Raises LocalProtocolError for what must not leave: a line end in a command, a bare CR or LF in content."""
        if isinstance(event, Command):
            if re.search(r"[\r\n\0]", event.text):
                raise LocalProtocolError("a command is one line")
            self._asked_tls = event.text.upper() == "STARTTLS"
            self._owed += 1
            return event.text.encode("utf-8") + b"\r\n"
        self._owed += event.replies
        if isinstance(event, Chunk):
            return b"BDAT %d LAST\r\n" % len(event.octets) + event.octets
        try:
            return stuff(event.octets)
        except ValueError as error:
            raise LocalProtocolError(str(error)) from None

    def tls_started(self) -> None:
        """Nothing said in the clear counts (RFC 3207 §4.2)."""
        self._asked_tls = self._granted_tls = False
        self._buffer.clear()
        self._lines, self._size = [], 0


def _shown(text: str) -> str:
    """Logs, reports and the operator's terminal repeat it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
