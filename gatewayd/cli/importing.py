"""Old mail, read from mbox files and Maildirs: octets kept, line ends made CRLF (RFC 4155; Maildir: cr.yp.to/proto)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

_FROM_LINE = re.compile(rb"From \S*.*?([A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d)(?: \S+)?? (\d{4})\b")
_QUOTED_FROM = re.compile(rb"^>(>*From )", re.MULTILINE)
_BARE_LF = re.compile(rb"(?<!\r)\n")
_FLAGS = {"D": "\\Draft", "F": "\\Flagged", "R": "\\Answered", "S": "\\Seen", "T": "\\Deleted", "P": "$Forwarded"}


class Found(NamedTuple):
    mail: bytes
    flags: tuple[str, ...]
    internal_date_ms: int | None


def read(path: Path) -> Iterator[Found]:
    """A Maildir by its directory, else an mbox. Raises OSError; ValueError for what is neither."""
    if path.is_dir():
        if not (path / "cur").is_dir():
            raise ValueError(f"{path}: a directory without cur/ is not a Maildir")
        yield from _maildir(path)
    else:
        yield from _mbox(path)


def _maildir(path: Path) -> Iterator[Found]:
    for file in sorted([*(path / "cur").glob("*"), *(path / "new").glob("*")], key=lambda f: f.name):
        if file.is_file() and not file.name.startswith("."):
            letters = file.name.rpartition(":2,")[2] if ":2," in file.name else ""
            flags = tuple(sorted(_FLAGS[letter] for letter in set(letters) & set(_FLAGS)))
            yield Found(_crlf(file.read_bytes()), flags, int(file.stat().st_mtime * 1000))


def _mbox(path: Path) -> Iterator[Found]:
    """mboxrd: a From_ line at the start, or after an empty line, begins a message; one ">" was put before others."""
    began: bytes | None = None
    lines: list[bytes] = []
    blank = True
    with path.open("rb") as file:
        for line in file:
            if blank and line.startswith(b"From "):
                if began is not None:
                    yield _from_mbox(began, lines)
                began, lines = line, []
            elif began is not None:
                lines.append(line)
            elif line.strip():
                raise ValueError(f"{path}: not an mbox: it does not begin with a From_ line")
            blank = line in (b"\n", b"\r\n")
    if began is not None:
        yield _from_mbox(began, lines)


def _from_mbox(began: bytes, lines: list[bytes]) -> Found:
    if lines and lines[-1] in (b"\n", b"\r\n"):
        lines.pop()  # the separator is not the message's
    return Found(_crlf(_QUOTED_FROM.sub(rb"\1", b"".join(lines))), (), _date(began))


def _date(line: bytes) -> int | None:
    """RFC 4155: asctime, in UTC."""
    match = _FROM_LINE.match(line)
    if match is None:
        return None
    try:
        when = datetime.strptime(f"{match[1].decode()} {match[2].decode()}", "%a %b %d %H:%M:%S %Y")
    except ValueError:
        return None
    return int(when.replace(tzinfo=UTC).timestamp() * 1000)


def _crlf(mail: bytes) -> bytes:
    return _BARE_LF.sub(b"\r\n", mail)
