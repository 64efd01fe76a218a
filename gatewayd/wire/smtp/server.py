"""The server's engine: octets to commands, replies to octets. Which command may come when is one table."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from gatewayd.address import Address, AddressError
from gatewayd.wire.smtp import LocalProtocolError
from gatewayd.wire.smtp.data import DataReader

MAX_LINE = 2048  # octets of a command line: RFC 5321 §4.5.3.1.4 asks for 512, extensions add
MAX_AUTH_LINE = 12288  # RFC 4954 §4


class State(Enum):
    NEW = auto()  # nothing said yet
    READY = auto()  # greeted, no transaction
    MAIL = auto()  # reverse-path given
    RCPT = auto()  # at least one recipient accepted
    AUTH = auto()  # in the middle of an exchange
    DATA = auto()  # reading content
    OVER = auto()  # QUIT or STARTTLS: nothing more is read


@dataclass(frozen=True, slots=True)
class Hello:
    name: str
    extended: bool


@dataclass(frozen=True, slots=True)
class MailFrom:
    reverse_path: Address | None
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RcptTo:
    recipient: Address | None  # None: <postmaster>, who is named without a domain (RFC 5321 §4.5.1)
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StartData:
    """DATA was asked for: answer 354 and call go_ahead, or refuse."""


@dataclass(frozen=True, slots=True)
class Message:
    content: bytes


@dataclass(frozen=True, slots=True)
class RefusedMessage:
    """The content was read to its end and thrown away; answer with this."""

    code: int
    enhanced: str
    text: str


@dataclass(frozen=True, slots=True)
class Auth:
    mechanism: str
    initial: bytes | None


@dataclass(frozen=True, slots=True)
class AuthResponse:
    response: bytes | None  # None: the client cancelled with "*"


@dataclass(frozen=True, slots=True)
class Simple:
    """RSET, NOOP, VRFY, HELP, QUIT, STARTTLS."""

    verb: str


@dataclass(frozen=True, slots=True)
class BadCommand:
    code: int
    enhanced: str
    text: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What the session sends. `enhanced` is left out where RFC 2034 §4 says so: greeting, HELO, EHLO, 3xx."""

    code: int
    lines: tuple[str, ...]
    enhanced: str = ""
    state: State | None = None  # the state that this reply moves the engine to


def reply(code: int, enhanced: str, *lines: str, state: State | None = None) -> Reply:
    return Reply(code, lines, enhanced, state)


Event = Hello | MailFrom | RcptTo | StartData | Message | RefusedMessage | Auth | AuthResponse | Simple | BadCommand

# Which commands each state allows; all else is 503 (RFC 5321 §4.1.4).
ALLOWED = {
    State.NEW: {"EHLO", "HELO", "NOOP", "HELP", "RSET", "VRFY", "QUIT"},
    State.READY: {"EHLO", "HELO", "MAIL", "AUTH", "STARTTLS", "NOOP", "HELP", "RSET", "VRFY", "QUIT"},
    State.MAIL: {"EHLO", "HELO", "RCPT", "NOOP", "HELP", "RSET", "VRFY", "QUIT"},
    State.RCPT: {"EHLO", "HELO", "RCPT", "DATA", "NOOP", "HELP", "RSET", "VRFY", "QUIT"},
}
VERBS = set().union(*ALLOWED.values())
_PATH = re.compile(r"(?P<path><[^>]*>|<\"(?:[^\"\\]|\\.)*\"@[^>]*>)(?P<parameters>(?: +\S+)*) *\Z")
_PARAMETER = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*(=[!-<>-~]+)?\Z")


class SMTPServer:
    """`receive` gives one event; the session answers it with one Reply, which also moves the state. What is pipelined
    behind waits in the buffer until then: what it means depends on the answer (RFC 2920 §3.1). `receive(b"")` asks for
    the next."""

    def __init__(self, max_size: int) -> None:
        self.state = State.NEW
        self._max_size = max_size
        self._buffer = bytearray()
        self._searched = 0
        self._overlong = False
        self._data: DataReader | None = None
        self._waiting = False  # for the reply to the last event

    def receive(self, data: bytes) -> list[Event]:
        if self.state is State.OVER:
            return []
        self._buffer += data
        if self._waiting or not self._buffer:
            return []
        event = self._content() if self._data is not None else self._next()
        self._waiting = event is not None
        return [] if event is None else [event]

    def send(self, event: Reply) -> bytes:
        """One reply, in as many lines as it has."""
        if not event.lines:
            raise LocalProtocolError("a reply has at least one line")
        self._waiting = False
        if event.state is State.DATA:
            self._data = DataReader(self._max_size)
        if event.state is not None:
            self.state = event.state
        enhanced = f"{event.enhanced} " if event.enhanced else ""
        last = len(event.lines) - 1
        lines = [
            f"{event.code}{'-' if i < last else ' '}{enhanced}{_clean(text)}\r\n" for i, text in enumerate(event.lines)
        ]
        return "".join(lines).encode("ascii", "backslashreplace")  # UTF-8 is not for every client, RFC 6531 §3.7.4

    def tls_started(self) -> None:
        """Nothing said in the clear counts, least of all commands sent ahead of the handshake (RFC 3207 §4.2, §6)."""
        self.state = State.NEW
        self._buffer.clear()
        self._searched = 0
        self._overlong = False
        self._data = None
        self._waiting = False

    # -- inside -----------------------------------------------------------------------------------------------------

    def _next(self) -> Event | None:
        auth = self.state is State.AUTH
        limit = MAX_AUTH_LINE if auth or self._buffer[:4].upper() == b"AUTH" else MAX_LINE
        end = self._buffer.find(b"\n", self._searched)
        if end < 0:
            if len(self._buffer) > limit:  # the rest is dropped until a line end comes
                self._buffer.clear()
                self._overlong = True
            self._searched = len(self._buffer)
            return None
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        self._searched = 0
        if self._overlong or len(line) > limit:
            self._overlong = False
            self._end_auth()
            return BadCommand(500, "5.5.2", "Line too long")
        return self._auth_line(line) if auth else self._command(line)

    def _content(self) -> Event | None:
        assert self._data is not None
        rest = self._data.feed(bytes(self._buffer))
        self._buffer.clear()
        if rest is None:
            return None
        self._buffer += rest
        data, self._data = self._data, None
        self.state = State.READY
        if data.too_big:
            return RefusedMessage(552, "5.3.4", f"Message larger than {self._max_size} octets")
        if data.bare:
            return RefusedMessage(550, "5.6.0", "A bare CR or LF in the message; lines end in CRLF (RFC 5321 2.3.8)")
        return Message(data.message())

    def _auth_line(self, line: bytes) -> Event:
        text = line[:-2]
        if not line.endswith(b"\r\n"):
            self._end_auth()
            return BadCommand(500, "5.5.2", "Lines end in CRLF")
        if text == b"*":
            return AuthResponse(None)
        try:
            return AuthResponse(base64.b64decode(text, validate=True))
        except binascii.Error:
            self._end_auth()
            return BadCommand(501, "5.5.2", "Not base64")

    def _end_auth(self) -> None:
        if self.state is State.AUTH:
            self.state = State.READY

    def _command(self, line: bytes) -> Event:
        if not line.endswith(b"\r\n") or b"\r" in line[:-2] or b"\0" in line:
            return BadCommand(500, "5.5.2", "Command lines end in CRLF and hold no CR, LF or NUL")
        try:
            text = line[:-2].decode("utf-8")
        except UnicodeDecodeError:
            return BadCommand(500, "5.5.2", "Commands are ASCII, or UTF-8 with SMTPUTF8")
        verb, _, rest = text.partition(" ")
        verb = verb.upper()
        if verb not in VERBS:
            return BadCommand(500, "5.5.1", "Command not recognized")
        if verb not in ALLOWED[self.state]:
            return BadCommand(503, "5.5.1", f"{verb} is not allowed now")
        match verb:
            case "EHLO" | "HELO":
                if not rest.strip() or not rest.isascii():
                    return BadCommand(501, "5.5.4", f"{verb} needs your name")
                return Hello(rest.strip()[:255], verb == "EHLO")
            case "MAIL":
                return self._path(rest, "FROM:")
            case "RCPT":
                return self._path(rest, "TO:")
            case "DATA":
                return StartData() if not rest.strip() else BadCommand(501, "5.5.4", "DATA takes nothing")
            case "AUTH":
                return self._auth(rest)
            case "STARTTLS" | "QUIT" if rest.strip():
                return BadCommand(501, "5.5.4", f"{verb} takes nothing")
        return Simple(verb)

    def _auth(self, rest: str) -> Event:
        mechanism, _, initial = rest.strip().partition(" ")
        if not mechanism:
            return BadCommand(501, "5.5.4", "AUTH needs a mechanism")
        if not initial:
            return Auth(mechanism.upper(), None)
        try:
            return Auth(mechanism.upper(), b"" if initial == "=" else base64.b64decode(initial.encode(), validate=True))
        except binascii.Error:
            return BadCommand(501, "5.5.2", "Not base64")

    def _path(self, rest: str, keyword: str) -> Event:
        if rest[: len(keyword)].upper() != keyword:
            return BadCommand(501, "5.5.4", f"{keyword}<address> is expected")
        found = _PATH.match(rest[len(keyword) :].lstrip(" "))
        if found is None:
            return BadCommand(501, "5.5.4", f"{keyword}<address> is expected")
        parameters: dict[str, str] = {}
        for word in found["parameters"].split():
            if not _PARAMETER.match(word):
                return BadCommand(501, "5.5.4", "Bad parameter")
            key, _, value = word.partition("=")
            if key.upper() in parameters:
                return BadCommand(501, "5.5.4", "A parameter twice")
            parameters[key.upper()] = value
        path = found["path"][1:-1]
        if not path and keyword == "FROM:":
            return MailFrom(None, parameters)
        if keyword == "TO:" and path.lower() == "postmaster":
            return RcptTo(None, parameters)
        if path.startswith("@"):  # a source route is read and ignored (RFC 5321 §4.1.1.3, appendix C)
            path = path.partition(":")[2]
        try:
            address = Address.parse(path)
        except AddressError as error:
            return BadCommand(553 if keyword == "TO:" else 501, "5.1.3" if keyword == "TO:" else "5.1.7", str(error))
        return MailFrom(address, parameters) if keyword == "FROM:" else RcptTo(address, parameters)


def _clean(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text)[:450]  # a reply line has 512 octets, RFC 5321 §4.5.3.1.5
