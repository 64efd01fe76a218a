"""FETCH: its attributes read, and responses joined from what the store keeps ready (RFC 3501 §6.4.5, §7.4.2)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from gatewayd.errors import StoreError
from gatewayd.interfaces.records import Entry, Summary
from gatewayd.interfaces.store import IStore
from gatewayd.message import mime
from gatewayd.wire.imap.syntax import BadSyntax, Reader

MACROS = {
    "ALL": ("FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE"),
    "FAST": ("FLAGS", "INTERNALDATE", "RFC822.SIZE"),
    "FULL": ("FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE", "BODY"),
}
SIMPLE = {"UID", "FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE", "BODY", "BODYSTRUCTURE"}
OLD_NAMES = {"RFC822": "", "RFC822.HEADER": "HEADER", "RFC822.TEXT": "TEXT"}
BODIES_AT_ONCE = 8  # bounds memory
ROWS_AT_ONCE = 1000
MAX_ATTRIBUTES = 100  # of one FETCH
_PART_NUMBER = re.compile(r"[1-9][0-9]{0,8}\Z", re.ASCII)
_FIELD_NAME = re.compile(rb"[!-9;-~]+\Z")  # RFC 5322 §3.6.8
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True, slots=True)
class Section:
    label: bytes  # as the response names it
    path: tuple[int, ...]
    what: str
    fields: tuple[bytes, ...] = ()
    peek: bool = False
    partial: tuple[int, int] | None = None  # (first octet, count)


Attribute = str | Section


def attributes(reader: Reader) -> list[Attribute]:
    """Raises BadSyntax."""
    if not reader.skip(b"("):
        return _attribute(reader)
    found: list[Attribute] = []
    while not reader.skip(b")"):
        if found:
            reader.space()
        found += _attribute(reader)
        if len(found) > MAX_ATTRIBUTES:
            raise BadSyntax("too many things to fetch")
    return found


def _attribute(reader: Reader) -> list[Attribute]:
    name = reader.word()
    if name in MACROS:
        return list(MACROS[name])
    if name in OLD_NAMES:
        return [Section(name.encode(), (), OLD_NAMES[name], peek=name == "RFC822.HEADER")]
    if name.startswith(("BODY[", "BODY.PEEK[")):  # "[" is an atom character: the section began in the word
        return [_section(reader, name.partition("[")[2], peek=name.startswith("BODY.PEEK"))]
    if name in SIMPLE:
        return [name]
    raise BadSyntax(f"{name} cannot be fetched")


def _section(reader: Reader, begin: str, *, peek: bool) -> Section:
    path: list[int] = []
    words = begin.split(".") if begin else []
    while words and _PART_NUMBER.match(words[0]):
        path.append(int(words.pop(0)))
    what = ".".join(words)
    if begin.endswith("."):
        raise BadSyntax("no such section")
    label = begin
    names: list[bytes] = []
    if what in {"HEADER.FIELDS", "HEADER.FIELDS.NOT"}:
        reader.space()
        reader.need(b"(")
        while not reader.skip(b")"):
            if names:
                reader.space()
            names.append(reader.astring())
            if not _FIELD_NAME.match(names[-1]):
                raise BadSyntax("no name of a header field")
        label += " (" + " ".join(name.decode("ascii", "replace") for name in names) + ")"
    elif what not in {"", "HEADER", "TEXT", "MIME"} or (what == "MIME" and not path):
        raise BadSyntax("no such section")
    reader.need(b"]")
    partial = None
    tail = b""
    if reader.skip(b"<"):
        first = reader.number()
        reader.need(b".")
        partial = (first, reader.number())
        reader.need(b">")
        tail = b"<%d>" % first
    return Section(b"BODY[" + label.encode() + b"]" + tail, tuple(path), what, tuple(names), peek, partial)


def sets_seen(wanted: Sequence[Attribute]) -> bool:
    return any(isinstance(a, Section) and not a.peek for a in wanted)


async def responses(
    store: IStore, account_id: int, chosen: Sequence[tuple[int, Entry]], wanted: Sequence[Attribute]
) -> AsyncIterator[bytes]:
    """One untagged response for each message that is still there."""
    need_body = any(isinstance(a, Section) for a in wanted)
    need_summary = any(a in {"RFC822.SIZE", "ENVELOPE", "BODY", "BODYSTRUCTURE"} for a in wanted)
    step = BODIES_AT_ONCE if need_body else ROWS_AT_ONCE
    for begin in range(0, len(chosen), step):
        some = chosen[begin : begin + step]
        ids = [entry.message_id for _, entry in some]
        mails = await store.mails(account_id, ids) if need_body else {}
        summaries = await store.summaries(account_id, ids) if need_summary else {}
        for number, entry in some:
            if (need_body and entry.message_id not in mails) or (need_summary and entry.message_id not in summaries):
                continue  # expunged meanwhile; the client hears of it at once after
            summary, mail = summaries.get(entry.message_id), mails.get(entry.message_id, b"")
            items = b" ".join(_item(a, entry, summary, mail) for a in wanted)
            yield b"%d FETCH (%s)" % (number, items)


def _item(attribute: Attribute, entry: Entry, summary: Summary | None, mail: bytes) -> bytes:
    if isinstance(attribute, Section):
        octets = mime.section(mail, attribute.path, attribute.what, attribute.fields)
        if octets is None:
            return attribute.label + b" NIL"
        if attribute.partial is not None:
            first, count = attribute.partial
            octets = octets[first : first + count]
        return b"%s {%d}\r\n%s" % (
            attribute.label,
            len(octets),
            octets,
        )  # NULs too, as all servers do: octets are octets
    if attribute == "UID":
        return b"UID %d" % entry.uid
    if attribute == "FLAGS":
        return b"FLAGS (%s)" % entry.flags.encode()
    if attribute == "INTERNALDATE":
        return b'INTERNALDATE "%s"' % internal_date(entry.internal_date_ms)
    if summary is None:
        raise StoreError("no summary")
    if attribute == "RFC822.SIZE":
        return b"RFC822.SIZE %d" % summary.size
    text: bytes = getattr(summary, attribute.lower())
    return attribute.encode() + b" " + text


def internal_date(ms: int) -> bytes:
    when = datetime.fromtimestamp(ms / 1000, UTC)
    return f"{when.day:2d}-{MONTHS[when.month - 1]}-{when.year:04d} {when:%H:%M:%S} +0000".encode()
