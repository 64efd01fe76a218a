"""A mail of which a filter changes fields or the body; all the rest stays as it was, to the octet."""

from __future__ import annotations

import re

from gatewayd.message import mime

_FIELD = re.compile(rb"[^\n]*\n(?:[ \t][^\n]*\n)*|[^\n]+\Z")
_NAME = re.compile(rb"[!-9;-~]+\Z")  # RFC 5322 §2.2


class EditableMail:
    def __init__(self, mail: bytes) -> None:
        body = mime.parse(mail).body
        self._lines: list[bytes] = _FIELD.findall(mail[:body])
        self._blank = self._lines.pop() if self._lines and not self._lines[-1].strip() else b"\r\n"
        self.body = mail[body:]

    @property
    def octets(self) -> bytes:
        return b"".join(self._lines) + self._blank + self.body

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """(name, value with its folding and first space) of each field, in order."""
        pairs = [line.partition(b":") for line in self._lines]
        return [(name.strip(), value.rstrip(b"\r\n")) for name, colon, value in pairs if colon]

    def add(self, name: bytes, value: bytes, index: int | None = None) -> None:
        """Before field number `index`, from 0; None: behind all. Raises ValueError for a name that is none."""
        self._lines.insert(len(self._lines) if index is None else index, _field(name, value))

    def change(self, name: bytes, index: int, value: bytes) -> None:
        """The field that is number `index`, from 1, of those with that name; b"" takes it away. A field that is not
        there is added, as libmilter has it. Raises ValueError for a name that is none."""
        places = [i for i, line in enumerate(self._lines) if line.partition(b":")[0].strip().lower() == name.lower()]
        if 1 <= index <= len(places):
            self._lines[places[index - 1]] = _field(name, value) if value else b""
        elif value:
            self.add(name, value)


def _field(name: bytes, value: bytes) -> bytes:
    """Whatever the value holds, it brings no line of its own."""
    if not _NAME.match(name):
        raise ValueError(f"{name[:80]!r} is no field name")
    lines = [line.strip() for line in value.replace(b"\0", b"").replace(b"\r", b"\n").split(b"\n")]
    return name + b": " + b"\r\n\t".join(line for line in lines if line) + b"\r\n"
