"""What MAIL and RCPT carry behind the path, read strictly: SIZE (RFC 1870), BODY (RFC 6152, RFC 3030), SMTPUTF8
(RFC 6531), AUTH (RFC 4954 §5), RET, ENVID, NOTIFY, ORCPT (RFC 3461 §4, RFC 6533 §3), REQUIRETLS (RFC 8689), HOLDFOR,
HOLDUNTIL (RFC 4865).

Whether a listener offers an extension is its session's to say; here stands what a value may be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec

BODIES = ("7BIT", "8BITMIME", "BINARYMIME")
NOTIFY = frozenset({"SUCCESS", "FAILURE", "DELAY"})
NEVER = frozenset({"NEVER"})

_WORD = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~\u00a1-\U0010ffff]+))?\Z")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*\Z")  # RFC 3461 §4
_UTF8_XTEXT = re.compile(r"(?:[!-*,-<>-\[\]-~\u00a1-\U0010ffff]|\\x\{([0-9A-F]{2,6})\})*\Z")  # RFC 6533 §3
_NUMBER = re.compile(r"[0-9]{1,20}\Z")
_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*\Z")


class ParameterError(ValueError):
    """`known`: the keyword is, its value is wrong (501); else it is not (555). RFC 5321 §4.1.1.11."""

    def __init__(self, text: str, *, known: bool = True) -> None:
        super().__init__(text)
        self.known = known


class MailParameters(msgspec.Struct, frozen=True):
    given: frozenset[str] = frozenset()  # the keywords, in capitals
    size: int = 0  # octets that the client means to send; 0: not said
    body: str = "7BIT"
    smtputf8: bool = False
    requiretls: bool = False
    ret: str = ""  # FULL, HDRS
    envid: str = ""  # decoded
    hold_for: int | None = None  # seconds
    hold_until: float | None = None  # seconds since the epoch


class RcptParameters(msgspec.Struct, frozen=True):
    given: frozenset[str] = frozenset()
    notify: frozenset[str] = frozenset()  # NEVER alone, or some of NOTIFY; empty: not said
    orcpt: str = ""  # "rfc822;bob@example.org", decoded


def xtext(text: str) -> str:
    """Printable ASCII as ENVID and ORCPT carry it (RFC 3461 §4)."""
    return "".join(c if "!" <= c <= "~" and c not in "+=" else f"+{ord(c):02X}" for c in text)


def from_xtext(text: str) -> str:
    """Raises ParameterError, for hidden control characters too: what is decoded stands in a header field one day."""
    if not _XTEXT.match(text):
        raise ParameterError("not xtext")
    decoded = re.sub(r"\+(..)", lambda found: chr(int(found[1], 16)), text)
    if not (decoded.isascii() and decoded.isprintable()):
        raise ParameterError("a character that does not print")
    return decoded


def mail_parameters(words: str) -> MailParameters:
    """Raises ParameterError."""
    return MailParameters(**_read(words, _MAIL))


def rcpt_parameters(words: str) -> RcptParameters:
    """Raises ParameterError."""
    return RcptParameters(**_read(words, _RCPT))


def _read(words: str, known: Mapping[str, tuple[str, Callable[[str], Any]]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    given: set[str] = set()
    for word in words.split(" "):
        if not word:
            continue
        found = _WORD.match(word)
        if found is None:
            raise ParameterError("Bad parameter")
        keyword, value = found[1].upper(), found[2] or ""
        if keyword in given:
            raise ParameterError("A parameter twice")
        if keyword not in known:
            raise ParameterError(f"Parameter {keyword} is not known", known=False)
        given.add(keyword)
        name, read = known[keyword]
        try:
            value = read(value)
        except ParameterError as error:
            raise ParameterError(f"{keyword}: {error}") from None
        if name:
            values[name] = value
    if {"HOLDFOR", "HOLDUNTIL"} <= given:
        raise ParameterError("HOLDFOR and HOLDUNTIL exclude each other")  # RFC 4865 §4.2
    return {**values, "given": frozenset(given)} if given else {}


def _number(value: str) -> int:
    if not _NUMBER.match(value):
        raise ParameterError("a number is expected")
    return int(value)


def _seconds(value: str) -> int:
    if len(value) > 9 or not _number(value):  # RFC 4865 §4.1
        raise ParameterError("1 to 999999999 seconds")
    return int(value)


def _moment(value: str) -> float:
    try:
        when = datetime.fromisoformat(value)
    except ValueError:
        when = datetime.min
    if when.tzinfo is None:
        raise ParameterError("a date and time with its zone is expected (RFC 3339)")
    return when.timestamp()


def _nothing(value: str) -> bool:
    if value:
        raise ParameterError("it takes no value")
    return True


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value.upper() not in choices:
            raise ParameterError(f"one of {', '.join(choices)} is expected")
        return value.upper()

    return read


def _envid(value: str) -> str:
    if not value or len(value) > 100:  # RFC 3461 §4.4
        raise ParameterError("1 to 100 characters")
    return from_xtext(value)


def _notify(value: str) -> frozenset[str]:
    words = value.upper().split(",")
    wanted = frozenset(words)
    if len(wanted) != len(words) or not (wanted == NEVER or wanted <= NOTIFY):  # RFC 3461 §4.1
        raise ParameterError("NEVER, or some of SUCCESS, FAILURE, DELAY")
    return wanted


def _orcpt(value: str) -> str:
    kind, semicolon, address = value.partition(";")
    if not semicolon or not address or not _TYPE.match(kind) or len(value) > 500:  # RFC 3461 §4.2
        raise ParameterError("an address type, a semicolon and an address are expected")
    return f"{kind};{_utf8(address) if kind.lower() == 'utf-8' else from_xtext(address)}"


def _utf8(text: str) -> str:
    """RFC 6533 §3: UTF-8 as it is, or in \\x{...}."""
    if not _UTF8_XTEXT.match(text):
        raise ParameterError("not utf-8-addr-xtext")
    try:
        decoded = re.sub(r"\\x\{([0-9A-F]+)\}", lambda found: chr(int(found[1], 16)), text)
        decoded.encode("utf-8")
    except ValueError:  # beyond Unicode, or a surrogate
        raise ParameterError("not a character") from None
    if not decoded.isprintable():
        raise ParameterError("a character that does not print")
    return decoded


def _submitter(value: str) -> None:
    """Who submitted it first; read and not believed (RFC 4954 §5)."""
    if not value:
        raise ParameterError("an address or <> is expected")


_MAIL: dict[str, tuple[str, Callable[[str], Any]]] = {
    "SIZE": ("size", _number),
    "BODY": ("body", _one_of(*BODIES)),
    "SMTPUTF8": ("smtputf8", _nothing),
    "AUTH": ("", _submitter),
    "RET": ("ret", _one_of("FULL", "HDRS")),
    "ENVID": ("envid", _envid),
    "REQUIRETLS": ("requiretls", _nothing),
    "HOLDFOR": ("hold_for", _seconds),
    "HOLDUNTIL": ("hold_until", _moment),
}
_RCPT: dict[str, tuple[str, Callable[[str], Any]]] = {"NOTIFY": ("notify", _notify), "ORCPT": ("orcpt", _orcpt)}
