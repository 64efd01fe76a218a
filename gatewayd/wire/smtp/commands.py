"""Command lines to events (RFC 5321 §4.1.1 and the extensions that parameters.py names). Pure: a line in, an event out.

What the session answers with, Reply, stands here too.
"""

from __future__ import annotations

import base64
import binascii
import re
from enum import Enum, auto

import msgspec

from gatewayd.address import Address, AddressError
from gatewayd.wire.smtp.parameters import (
    MailParameters,
    ParameterError,
    RcptParameters,
    mail_parameters,
    rcpt_parameters,
)


class State(Enum):
    NEW = auto()  # nothing said yet
    READY = auto()  # greeted, no transaction
    MAIL = auto()  # reverse-path given
    RCPT = auto()  # at least one recipient accepted
    CHUNKS = auto()  # some BDAT was accepted, the last one not yet
    AUTH = auto()  # in the middle of an exchange
    DATA = auto()  # reading content
    OVER = auto()  # QUIT or STARTTLS: nothing more is read


class Hello(msgspec.Struct, frozen=True):
    name: str
    extended: bool


class MailFrom(msgspec.Struct, frozen=True):
    reverse_path: Address | None
    parameters: MailParameters = MailParameters()


class RcptTo(msgspec.Struct, frozen=True):
    recipient: Address | None  # None: <postmaster>, who is named without a domain (RFC 5321 §4.5.1)
    parameters: RcptParameters = RcptParameters()


class StartData(msgspec.Struct, frozen=True):
    """DATA was asked for: answer 354 and call go_ahead, or refuse."""


class Chunk(msgspec.Struct, frozen=True):
    """`size` octets of BDAT were taken, more are to come (RFC 3030 §2)."""

    size: int


class Message(msgspec.Struct, frozen=True):
    content: bytes


class RefusedMessage(msgspec.Struct, frozen=True):
    """The content was read to its end and thrown away; answer with this."""

    code: int
    enhanced: str
    text: str
    chunk: bool = False  # of one BDAT, which was not the last


class Auth(msgspec.Struct, frozen=True):
    mechanism: str
    initial: bytes | None


class AuthResponse(msgspec.Struct, frozen=True):
    response: bytes | None  # None: the client cancelled with "*"


class Simple(msgspec.Struct, frozen=True):
    """RSET, NOOP, VRFY, HELP, QUIT, STARTTLS."""

    verb: str


class BadCommand(msgspec.Struct, frozen=True):
    code: int
    enhanced: str
    text: str
    fatal: bool = False  # where the next command begins cannot be known: say this and close


class StartChunk(msgspec.Struct, frozen=True):
    """BDAT: so many octets follow. The engine's own; no session sees it."""

    size: int
    last: bool


class Reply(msgspec.Struct, frozen=True):
    """What the session sends. `enhanced` is left out where RFC 2034 §4 says so: greeting, HELO, EHLO, 3xx."""

    code: int
    lines: tuple[str, ...]
    enhanced: str = ""
    state: State | None = None  # the state that this reply moves the engine to
    final: bool = True  # another one follows to the same command: LMTP, after the content (RFC 2033 §4.2)


def reply(code: int, enhanced: str, *lines: str, state: State | None = None) -> Reply:
    return Reply(code, lines, enhanced, state)


Event = (
    Hello | MailFrom | RcptTo | StartData | Chunk | Message | RefusedMessage | Auth | AuthResponse | Simple | BadCommand
)

VERBS = {
    "EHLO", "HELO", "LHLO", "MAIL", "RCPT", "DATA", "BDAT", "AUTH", "STARTTLS", "NOOP", "HELP", "RSET", "VRFY", "QUIT",
}  # fmt: skip
NOT_OFFERED = {"EXPN", "ETRN", "TURN", "SEND", "SOML", "SAML"}  # 502 (RFC 5321 §4.2.4)
_PATH = re.compile(r"(?P<path><[^>]*>|<\"(?:[^\"\\]|\\.)*\"@[^>]*>)(?P<parameters>(?: +\S+)*) *\Z")
_CHUNK = re.compile(r"(?P<size>[0-9]{1,15})(?P<last> +LAST)? *\Z", re.IGNORECASE)


def split(line: bytes) -> tuple[str, str] | BadCommand:
    """(verb in capitals, the rest) of a line with its end."""
    if not line.endswith(b"\r\n") or b"\r" in line[:-2] or b"\0" in line:
        return BadCommand(500, "5.5.2", "Command lines end in CRLF and hold no CR, LF or NUL")
    try:
        verb, _, rest = line[:-2].decode("utf-8").partition(" ")
    except UnicodeDecodeError:
        return BadCommand(500, "5.5.2", "Commands are ASCII, or UTF-8 with SMTPUTF8")
    verb = verb.upper()
    if verb in NOT_OFFERED:
        return BadCommand(502, "5.5.1", f"{verb} is not offered here")
    return (verb, rest) if verb in VERBS else BadCommand(500, "5.5.1", "Command not recognized")


def event(verb: str, rest: str) -> Event | StartChunk:
    """What a command that may come now says."""
    match verb:
        case "EHLO" | "HELO":
            if not rest.strip() or not rest.isascii():
                return BadCommand(501, "5.5.4", f"{verb} needs your name")
            return Hello(rest.strip()[:255], verb == "EHLO")
        case "MAIL":
            return _mail(rest)
        case "RCPT":
            return _rcpt(rest)
        case "DATA":
            return StartData() if not rest.strip() else BadCommand(501, "5.5.4", "DATA takes nothing")
        case "BDAT":
            found = _CHUNK.match(rest.strip())
            if found is None:  # its octets would be read as commands
                return BadCommand(521, "5.5.4", "BDAT takes a number of octets, and LAST; closing", fatal=True)
            return StartChunk(int(found["size"]), found["last"] is not None)
        case "AUTH":
            return _auth(rest)
        case "STARTTLS" | "QUIT" | "RSET" if rest.strip():
            return BadCommand(501, "5.5.4", f"{verb} takes nothing")
        case "VRFY" if not rest.strip():
            return BadCommand(501, "5.5.4", "VRFY needs a name")
    return Simple(verb)


def auth_response(line: bytes) -> AuthResponse | BadCommand:
    """A line of an exchange (RFC 4954 §4)."""
    if not line.endswith(b"\r\n"):
        return BadCommand(500, "5.5.2", "Lines end in CRLF")
    if line == b"*\r\n":
        return AuthResponse(None)
    try:
        return AuthResponse(base64.b64decode(line[:-2], validate=True))
    except binascii.Error:
        return BadCommand(501, "5.5.2", "Not base64")


def _auth(rest: str) -> Event:
    mechanism, _, initial = rest.strip().partition(" ")
    if not mechanism:
        return BadCommand(501, "5.5.4", "AUTH needs a mechanism")
    if not initial:
        return Auth(mechanism.upper(), None)
    try:
        return Auth(mechanism.upper(), b"" if initial == "=" else base64.b64decode(initial.encode(), validate=True))
    except binascii.Error:
        return BadCommand(501, "5.5.2", "Not base64")


def _mail(rest: str) -> Event:
    try:
        path, words = _path(rest, "FROM:")
        parameters = mail_parameters(words)
        return MailFrom(_address(path) if path else None, parameters)
    except ParameterError as error:
        return _bad(error)
    except AddressError as error:
        return BadCommand(501, "5.1.7", str(error))


def _rcpt(rest: str) -> Event:
    try:
        path, words = _path(rest, "TO:")
        parameters = rcpt_parameters(words)
        return RcptTo(None if path.lower() == "postmaster" else _address(path), parameters)
    except ParameterError as error:
        return _bad(error)
    except AddressError as error:
        return BadCommand(553, "5.1.3", str(error))


def _bad(error: ParameterError) -> BadCommand:
    return BadCommand(501 if error.known else 555, "5.5.4", str(error))


def _path(rest: str, keyword: str) -> tuple[str, str]:
    """(the path without its brackets, the parameters). Raises ParameterError."""
    found = _PATH.match(rest[len(keyword) :].lstrip(" "))
    if rest[: len(keyword)].upper() != keyword or found is None:
        raise ParameterError(f"{keyword}<address> is expected")
    return found["path"][1:-1], found["parameters"]


def _address(path: str) -> Address:
    """A source route is read and ignored (RFC 5321 §4.1.1.3, appendix C). Raises AddressError."""
    return Address.parse(path.partition(":")[2] if path.startswith("@") else path)
