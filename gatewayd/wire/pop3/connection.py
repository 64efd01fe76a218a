"""POP3 commands out of octets, responses into octets. One command at a time: the next is read after its answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

MAX_LINE = 8192  # octets: RFC 2449 §4 asks for 255, an AUTH response may be longer (RFC 5034 §4)


class RemoteProtocolError(Exception):
    """The client sends what cannot be a command."""


class State(Enum):
    AUTHORIZATION = auto()
    RESPONSE = auto()  # the next line answers an AUTH challenge
    TRANSACTION = auto()
    OVER = auto()


ALLOWED = {
    State.AUTHORIZATION: {"USER", "PASS", "AUTH", "CAPA", "STLS", "UTF8", "QUIT"},
    State.TRANSACTION: {"STAT", "LIST", "RETR", "DELE", "NOOP", "RSET", "TOP", "UIDL", "CAPA", "QUIT"},
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
VERBS = set().union(*ALLOWED.values())


@dataclass(frozen=True, slots=True)
class Command:
    verb: str
    argument: str


@dataclass(frozen=True, slots=True)
class AuthResponse:
    text: str


@dataclass(frozen=True, slots=True)
class BadCommand:
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """`ok` None is a challenge ("+ "). `body` is sent dot-stuffed with its end; its lines end in CRLF."""

    ok: bool | None
    text: str
    body: bytes | None = None
    state: State | None = None


class POP3Connection:
    def __init__(self) -> None:
        self.state = State.AUTHORIZATION
        self._buffer = bytearray()
        self._waiting = False

    def receive(self, data: bytes) -> list[Command | AuthResponse | BadCommand]:
        """At most one event; `receive(b"")` asks for the next. Raises RemoteProtocolError for an endless line."""
        self._buffer += data
        if self._waiting or self.state is State.OVER:
            return []
        end = self._buffer.find(b"\n")
        if end < 0 or end > MAX_LINE:
            if len(self._buffer) > MAX_LINE:
                raise RemoteProtocolError("line too long")
            return []
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        self._waiting = True
        response = self.state is State.RESPONSE
        if response:
            self.state = State.AUTHORIZATION
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            return [BadCommand("not UTF-8")]
        if response:
            return [AuthResponse(text)]
        verb, _, argument = text.partition(" ")
        verb = verb.upper()
        if verb not in VERBS:
            return [BadCommand("unknown command")]
        if verb not in ALLOWED[self.state]:
            return [BadCommand(f"{verb} is not allowed now")]
        return [Command(verb, argument)]

    def send(self, event: Answer) -> bytes:
        self._waiting = False
        if event.state is not None:
            self.state = event.state
        mark = {True: "+OK", False: "-ERR", None: "+"}[event.ok]
        line = f"{mark} {_CONTROL.sub(' ', event.text)[:450]}\r\n".encode()
        if event.body is None:
            return line
        body = event.body
        if body and not body.endswith(b"\r\n"):
            body += b"\r\n"
        if body.startswith(b"."):
            body = b"." + body
        # after a bare LF too: many clients end a line there, and must not find the end of the answer in a message
        return line + body.replace(b"\n.", b"\n..") + b".\r\n"

    def tls_started(self) -> None:
        """What came ahead of the handshake is never a command (RFC 2595 §4)."""
        self.state = State.AUTHORIZATION
        self._buffer.clear()
        self._waiting = False
