"""The argument grammar (RFC 3501 §9): a reader over one whole command, its literals in place; and what is written.

Every read raises BadSyntax, whose words go into the BAD response.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence

_ATOM = re.compile(rb'[^\x00-\x20\x7f(){%*"\\\]]+')
_ASTRING = re.compile(rb'[^\x00-\x20\x7f(){%*"\\]+')
_LIST_MAILBOX = re.compile(rb'[^\x00-\x20\x7f(){"\\]+')
_QUOTED = re.compile(rb'"((?:[^"\\\r\n]|\\["\\])*)"')
_LITERAL = re.compile(rb"~?\{(\d{1,10})\+?\}\r\n")
_SET = re.compile(rb"(?:\d+|\*)(?::(?:\d+|\*))?(?:,(?:\d+|\*)(?::(?:\d+|\*))?)*")
_FLAG = re.compile(rb'\\?[^\x00-\x20\x7f-\xff(){%*"\\\]]+')
STAR = 2**32  # what "*" reads as: above every number there is

SequenceSet = tuple[tuple[int, int], ...]


class BadSyntax(Exception):
    pass


class Reader:
    def __init__(self, line: bytes) -> None:
        self._line = line
        self._at = 0

    @property
    def ended(self) -> bool:
        return self._at >= len(self._line)

    def end(self) -> None:
        if not self.ended:
            raise BadSyntax("too many arguments")

    def peek(self, octets: bytes) -> bool:
        return self._line.startswith(octets, self._at)

    def upcoming(self, octets: int) -> bytes:
        return self._line[self._at : self._at + octets]

    def skip(self, octets: bytes) -> bool:
        if self.peek(octets):
            self._at += len(octets)
            return True
        return False

    def need(self, octets: bytes) -> None:
        if not self.skip(octets):
            raise BadSyntax(f"{octets.decode()!r} is expected")

    def space(self) -> None:
        if not self.skip(b" "):
            raise BadSyntax("an argument is missing")

    def _match(self, pattern: re.Pattern[bytes], what: str) -> re.Match[bytes]:
        found = pattern.match(self._line, self._at)
        if found is None:
            raise BadSyntax(f"{what} is expected")
        self._at = found.end()
        return found

    def atom(self) -> str:
        return self._match(_ATOM, "an atom").group().decode("utf-8", "replace")

    def word(self) -> str:
        return self.atom().upper()

    def number(self) -> int:
        return int(self._match(re.compile(rb"\d{1,19}"), "a number").group())

    def string(self) -> bytes:
        if self.peek(b'"'):
            return re.sub(rb"\\(.)", rb"\1", self._match(_QUOTED, "a quoted string").group(1))
        size = int(self._match(_LITERAL, "a string").group(1))
        value = self._line[self._at : self._at + size]
        if len(value) < size:
            raise BadSyntax("the literal is cut off")
        self._at += size
        return value

    def astring(self) -> bytes:
        if self.peek(b'"') or self.peek(b"{"):
            return self.string()
        return self._match(_ASTRING, "a string").group()

    def mailbox(self) -> str:
        return mailbox_name(self.astring())

    def list_mailbox(self) -> str:
        if self.peek(b'"') or self.peek(b"{"):
            return mailbox_name(self.string())
        return mailbox_name(self._match(_LIST_MAILBOX, "a mailbox pattern").group())

    def sequence_set(self) -> SequenceSet:
        ranges = []
        for item in self._match(_SET, "a sequence set").group().split(b","):
            low, colon, high = item.partition(b":")
            if max(len(low), len(high)) > 10:
                raise BadSyntax("a number from 1 to 4294967295 is expected")
            first = STAR if low == b"*" else int(low)
            last = first if not colon else STAR if high == b"*" else int(high)
            if 0 in (first, last) or max(first, last) > STAR:
                raise BadSyntax("a number from 1 to 4294967295 is expected")
            ranges.append((min(first, last), max(first, last)))
        return tuple(ranges)

    def flags(self) -> list[str]:
        """A parenthesized list, or (STORE allows it) one or more flags in the open."""
        bracket = self.skip(b"(")
        found: list[str] = []
        while not (bracket and self.skip(b")")):
            if found:
                self.space()
            found.append(canonical_flag(self._match(_FLAG, "a flag").group().decode("ascii")))
            if not bracket and self.ended:
                break
        return found


_SYSTEM_FLAGS = {f.lower(): f for f in ("\\Seen", "\\Answered", "\\Flagged", "\\Deleted", "\\Draft", "\\Recent")}


def canonical_flag(flag: str) -> str:
    """System flags in their one spelling; RFC 3501 §2.3.2. Unknown ones with a backslash are refused."""
    if flag.startswith("\\"):
        if flag.lower() not in _SYSTEM_FLAGS:
            raise BadSyntax(f"{flag} is no flag")
        return _SYSTEM_FLAGS[flag.lower()]
    return flag


# -- mailbox names: modified UTF-7 (RFC 3501 §5.1.3) ----------------------------------------------------------------


def mailbox_name(octets: bytes) -> str:
    """From the wire. Raises BadSyntax."""

    def shifted(found: re.Match[str]) -> str:
        if not found[1]:
            return "&"
        letters = found[1].replace(",", "/")
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True).decode("utf-16-be")

    try:
        text = octets.decode("ascii")
        name = re.sub(r"&([^-]*)-", shifted, text)
    except (UnicodeDecodeError, binascii.Error, ValueError):
        try:
            name = octets.decode("utf-8")  # RFC 6855 clients, and sloppy ones
        except UnicodeDecodeError:
            raise BadSyntax("not a mailbox name") from None
    if any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise BadSyntax("a mailbox name holds no control characters")
    top, slash, below = name.partition("/")
    return "INBOX" + slash + below if top.upper() == "INBOX" else name  # RFC 9051 §5.1


def encoded_name(name: str) -> bytes:
    """For the wire, quoted."""

    def shift(found: re.Match[str]) -> str:
        letters = base64.b64encode(found[0].encode("utf-16-be")).decode().rstrip("=")
        return "&" + letters.replace("/", ",") + "-"

    text = re.sub(r"[^\x20-\x7e]+", shift, name.replace("&", "&-"))
    return b'"' + text.replace("\\", "\\\\").replace('"', '\\"').encode("ascii") + b'"'


def quoted(text: str) -> bytes:
    """Text of ours as a string; octets that a quoted string cannot hold go as a literal."""
    octets = text.encode("utf-8")
    if re.search(rb"[\r\n\x80-\xff\0]", octets):
        return b"{%d}\r\n%s" % (len(octets), octets)
    return b'"' + octets.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def compact(numbers: Sequence[int]) -> bytes:
    """Rising numbers as a sequence set: 1:3,7."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(a) if a == b else f"{a}:{b}" for a, b in ranges).encode()
