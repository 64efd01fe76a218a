"""Commands out of octets: lines with their literals (RFC 3501 §4.3, RFC 7888), one at a time, states in one table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from gatewayd.wire.imap import RemoteProtocolError
from gatewayd.wire.imap.syntax import Reader

MAX_LINE = 64 * 1024  # octets of a command without its literals
MAX_SMALL_LITERAL = 64 * 1024  # of any literal but APPEND's; and of all before sign-in

_LITERAL_AT_END = re.compile(rb"\{(\d+)(\+?)\}\r?\n\Z")
_COMMAND = re.compile(rb'([^\x00-\x20\x7f(){%*"\\+]{1,64}) (?:(UID) )?([A-Za-z]+)(?: |\Z)', re.IGNORECASE)


class State(Enum):
    NOT_AUTHENTICATED = auto()
    AUTHENTICATED = auto()
    SELECTED = auto()
    IDLE = auto()  # until DONE
    RESPONSE = auto()  # the next line answers AUTHENTICATE
    OVER = auto()


_ANY = {"CAPABILITY", "NOOP", "LOGOUT", "ID"}
_SIGNED_IN = _ANY | {
    "SELECT", "EXAMINE", "CREATE", "DELETE", "RENAME", "SUBSCRIBE", "UNSUBSCRIBE", "LIST", "LSUB", "STATUS", "APPEND",
    "NAMESPACE", "ENABLE", "IDLE", "GETQUOTA", "GETQUOTAROOT",
}  # fmt: skip
_SELECTED = {"CHECK", "CLOSE", "UNSELECT", "EXPUNGE", "SEARCH", "FETCH", "STORE", "COPY", "MOVE"}
ALLOWED = {
    State.NOT_AUTHENTICATED: _ANY | {"STARTTLS", "LOGIN", "AUTHENTICATE"},
    State.AUTHENTICATED: _SIGNED_IN,
    State.SELECTED: _SIGNED_IN | _SELECTED,
}
WITH_UID = {"EXPUNGE", "SEARCH", "FETCH", "STORE", "COPY", "MOVE"}


@dataclass(frozen=True, slots=True)
class Command:
    tag: bytes
    name: str
    uid: bool
    arguments: Reader


@dataclass(frozen=True, slots=True)
class Line:
    """The answer to a continuation: AUTHENTICATE's response, or DONE."""

    text: bytes


@dataclass(frozen=True, slots=True)
class BadCommand:
    tag: bytes
    text: str


@dataclass(frozen=True, slots=True)
class NeedLiteral:
    """Ask the client to go on with its literal; no command yet."""


@dataclass(frozen=True, slots=True)
class Untagged:
    text: bytes  # without "* " and CRLF; may hold literals


@dataclass(frozen=True, slots=True)
class Tagged:
    tag: bytes
    text: bytes
    state: State | None = None


@dataclass(frozen=True, slots=True)
class Continue:
    text: bytes
    state: State | None = None


class IMAPConnection:
    def __init__(self, max_append: int) -> None:
        self.state = State.NOT_AUTHENTICATED
        self._max_append = max_append
        self._buffer = bytearray()
        self._command = bytearray()  # lines and literals of the command that is coming in
        self._literal = 0  # octets of it still to come
        self._discard = 0  # octets of a refused LITERAL+ still to be thrown away
        self._refused = False  # what comes is the rest of a refused command
        self._lines = 0
        self._waiting = False

    def receive(self, data: bytes) -> list[Command | Line | BadCommand | NeedLiteral]:
        """At most one event; `receive(b"")` asks for the next. Raises RemoteProtocolError."""
        self._buffer += data
        while not self._waiting and self.state is not State.OVER:
            if self._discard:
                gone = min(self._discard, len(self._buffer))
                del self._buffer[:gone]
                self._discard -= gone
                if self._discard:
                    return []
            if self._literal:
                taken = min(self._literal, len(self._buffer))
                self._command += self._buffer[:taken]
                del self._buffer[:taken]
                self._literal -= taken
                if self._literal:
                    return []
            end = self._buffer.find(b"\n")
            if (end if end >= 0 else len(self._buffer)) + self._lines > MAX_LINE:
                raise RemoteProtocolError("command line too long")
            if end < 0:
                return []
            line = bytes(self._buffer[: end + 1])
            del self._buffer[: end + 1]
            if self.state in (State.RESPONSE, State.IDLE):
                self._waiting = True
                return [Line(line.rstrip(b"\r\n"))]
            self._lines += len(line)
            if self._refused:
                self._skip(line)
                continue
            self._command += line
            event = self._line_read(line)
            if event is not None:
                self._waiting = True
                return [event]
        return []

    def send(self, event: Untagged | Tagged | Continue) -> bytes:
        match event:
            case Untagged(text):
                return b"* " + text + b"\r\n"
            case Continue(text, state):
                self._waiting = False
                self.state = state or self.state
                return b"+ " + text + b"\r\n"
            case Tagged(tag, text, state):
                self._waiting = False
                self.state = state or self.state
                return tag + b" " + text + b"\r\n"

    def tls_started(self) -> None:
        """What came ahead of the handshake is never a command (RFC 3501 §6.2.1)."""
        self.state = State.NOT_AUTHENTICATED
        self._buffer.clear()
        self._command.clear()
        self._literal = self._discard = self._lines = 0
        self._refused = False
        self._waiting = False

    # -- inside -----------------------------------------------------------------------------------------------------

    def _skip(self, line: bytes) -> None:
        literal = _LITERAL_AT_END.search(line)
        if literal is not None and literal[2]:
            self._discard = _size(literal[1])
        else:
            self._refused, self._lines = False, 0

    def _line_read(self, line: bytes) -> Command | BadCommand | NeedLiteral | None:
        literal = _LITERAL_AT_END.search(line)
        if literal is None:
            whole = bytes(self._command).removesuffix(b"\n").removesuffix(b"\r")
            self._command.clear()
            self._lines = 0
            return self._whole(whole)
        size, at_once = _size(literal[1]), bool(literal[2])
        append = self.state is not State.NOT_AUTHENTICATED and b" APPEND " in bytes(self._command[:80]).upper()
        if len(self._command) + size > (self._max_append if append else MAX_SMALL_LITERAL) + MAX_LINE:
            tag = bytes(self._command).split(b" ", 1)[0][:64]
            self._command.clear()
            self._lines = 0
            self._discard, self._refused = (size, True) if at_once else (0, False)
            return BadCommand(tag, "[TOOBIG] The literal is too large")
        if self._command.endswith(b"+}\r\n") or self._command.endswith(b"}\r\n"):
            self._literal = size
        else:
            raise RemoteProtocolError("lines end in CRLF")
        return None if at_once else NeedLiteral()

    def _whole(self, line: bytes) -> Command | BadCommand:
        found = _COMMAND.match(line)
        if found is None:
            return BadCommand(b"*", "a tag and a command are expected")
        tag, uid, name = found[1], found[2] is not None, found[3].decode("ascii").upper()
        if name not in set().union(*ALLOWED.values()) or (uid and name not in WITH_UID):
            return BadCommand(tag, "unknown command")
        if name not in ALLOWED[self.state]:
            return BadCommand(tag, f"{name} is not allowed now")
        return Command(tag, name, uid, Reader(line[found.end() :]))


def _size(digits: bytes) -> int:
    if len(digits) > 10:  # its octets must not be read as commands
        raise RemoteProtocolError("an impossible literal")
    return int(digits)
