"""SEARCH: keys read into a predicate over entries; mail is loaded only for keys that need it (RFC 3501 §6.4.4)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime

from gatewayd.interfaces.records import Entry
from gatewayd.message import mime
from gatewayd.session.imap_fetch import MONTHS
from gatewayd.session.imap_mailbox import OpenMailbox
from gatewayd.wire.imap.syntax import BadSyntax, Reader

FLAG_KEYS = {
    "ANSWERED": "\\Answered", "DELETED": "\\Deleted", "DRAFT": "\\Draft", "FLAGGED": "\\Flagged", "SEEN": "\\Seen",
    "RECENT": "\\Recent",
}  # fmt: skip
_DATE = re.compile(r'"?(\d{1,2})-([A-Za-z]{3})-(\d{4})"?\Z')
MAX_KEYS = 1000


class BadCharset(Exception):
    pass


@dataclass(slots=True)
class Candidate:
    """One message under test; its octets are asked for once, if at all."""

    number: int
    entry: Entry
    load: Callable[[], Awaitable[bytes]]
    _mail: bytes | None = None

    async def mail(self) -> bytes:
        if self._mail is None:
            self._mail = await self.load()
        return self._mail


Test = Callable[[Candidate], Awaitable[bool]]


def read(reader: Reader, mailbox: OpenMailbox) -> Test:
    """Raises BadSyntax, BadCharset."""
    if reader.upcoming(8).upper() == b"CHARSET ":
        reader.word()
        reader.space()
        if reader.astring().upper() not in {b"UTF-8", b"US-ASCII"}:
            raise BadCharset
        reader.space()
    tests = [_key(reader, mailbox, 0)]
    while not reader.ended:
        reader.space()
        tests.append(_key(reader, mailbox, 0))
        if len(tests) > MAX_KEYS:
            raise BadSyntax("too many keys")
    return _all(tests)


def _all(tests: list[Test]) -> Test:
    async def test(c: Candidate) -> bool:
        for one in tests:
            if not await one(c):
                return False
        return True

    return test


def _plain(test: Callable[[Candidate], bool]) -> Test:
    async def asynchronous(c: Candidate) -> bool:
        return test(c)

    return asynchronous


def _flag(flag: str, *, there: bool) -> Test:
    wanted = flag.lower()
    return _plain(lambda c: (wanted in c.entry.flags.lower().split()) == there)


def _key(reader: Reader, mailbox: OpenMailbox, depth: int) -> Test:
    if depth > 50:
        raise BadSyntax("keys nested too deep")
    if reader.skip(b"("):
        tests = [_key(reader, mailbox, depth + 1)]
        while not reader.skip(b")"):
            reader.space()
            tests.append(_key(reader, mailbox, depth + 1))
        return _all(tests)
    if any(reader.peek(c) for c in (b"*", *(b"%d" % n for n in range(10)))):
        return _members(reader, mailbox, uid=False)
    name = reader.word()
    if name in FLAG_KEYS:
        return _flag(FLAG_KEYS[name], there=True)
    if name.startswith("UN") and name[2:] in FLAG_KEYS:
        return _flag(FLAG_KEYS[name[2:]], there=False)
    if name in {"ALL", "OLD"}:
        return _plain(lambda c: True)
    if name == "NEW":
        return _plain(lambda c: False)  # \Recent is never set
    reader.space()
    match name:
        case "NOT":
            inner = _key(reader, mailbox, depth + 1)

            async def negated(c: Candidate) -> bool:
                return not await inner(c)

            return negated
        case "OR":
            one = _key(reader, mailbox, depth + 1)
            reader.space()
            other = _key(reader, mailbox, depth + 1)

            async def either(c: Candidate) -> bool:
                return await one(c) or await other(c)

            return either
        case "UID":
            return _members(reader, mailbox, uid=True)
        case "KEYWORD" | "UNKEYWORD":
            return _flag(reader.atom(), there=name == "KEYWORD")
        case "LARGER" | "SMALLER":
            limit = reader.number()

            async def sized(c: Candidate) -> bool:
                size = len(await c.mail())
                return size > limit if name == "LARGER" else size < limit

            return sized
        case "BEFORE" | "ON" | "SINCE":
            wanted = _date(reader)
            return _plain(
                lambda c: _compare(name, datetime.fromtimestamp(c.entry.internal_date_ms / 1000, UTC).date(), wanted)
            )
        case "SENTBEFORE" | "SENTON" | "SENTSINCE":
            day = _date(reader)

            async def sent(c: Candidate) -> bool:
                for value in mime.header(await c.mail(), b"date"):
                    try:
                        return _compare(name[4:], parsedate_to_datetime(value).date(), day)
                    except (ValueError, TypeError, OverflowError):
                        continue
                return False

            return sent
        case "FROM" | "TO" | "CC" | "BCC" | "SUBJECT" | "HEADER":
            field = (reader.astring() if name == "HEADER" else name.encode()).lower()
            if name == "HEADER":
                reader.space()
            text = _text(reader)

            async def in_header(c: Candidate) -> bool:
                return any(text in value.casefold() for value in mime.header(await c.mail(), field))

            return in_header
        case "BODY" | "TEXT":
            text = _text(reader)

            async def in_text(c: Candidate) -> bool:
                mail = await c.mail()
                head = (mime.section(mail, (), "HEADER") or b"") if name == "TEXT" else b""
                return text in f"{mime.decoded(head)}\n{mime.text_of(mail)}".casefold()

            return in_text
    raise BadSyntax(f"{name} is no search key")


def _members(reader: Reader, mailbox: OpenMailbox, *, uid: bool) -> Test:
    try:
        members = {entry.uid for _, entry in mailbox.select(reader.sequence_set(), uid=uid)}
    except ValueError as error:
        raise BadSyntax(str(error)) from None
    return _plain(lambda c: c.entry.uid in members)


def _text(reader: Reader) -> str:
    return reader.astring().decode("utf-8", "replace").casefold()


def _date(reader: Reader) -> date:
    found = _DATE.match(reader.astring().decode("ascii", "replace"))
    try:
        if found:
            return date(int(found[3]), MONTHS.index(found[2].capitalize()) + 1, int(found[1]))
    except ValueError:
        pass
    raise BadSyntax("a date such as 1-Feb-2026 is expected")


def _compare(how: str, day: date, wanted: date) -> bool:
    return {"BEFORE": day < wanted, "ON": day == wanted, "SINCE": day >= wanted}[how]
