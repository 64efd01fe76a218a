"""Address lists as header fields have them (RFC 5322 §3.4, §4.4): whatever octets there are, none raises."""

from __future__ import annotations

import re
from collections.abc import Iterator

_TOKEN = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)"?|[()<>,:;@]|\s+|\[[^\]]*\]?|[^\s"()<>,:;@\[]+', re.DOTALL)
_IN_COMMENT = re.compile(rb"\\.|[()]", re.DOTALL)
# What most fields hold: addr, or words <addr>, without quotes, comments, groups, routes and domain literals
_ATOM = rb"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~.\x80-\xff]+"
_PLAIN = re.compile(rb"\s*(?:((?:%s(?: %s)*)?) ?<(%s)@(%s)>|(%s)@(%s))\s*" % ((_ATOM,) * 6))
_LOCAL = re.compile(_ATOM)
_NOT_PLAIN = re.compile(rb'["(:;\\\[]')


def addresses(value: bytes) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    """(display name, local part, domain) of each address of a field (RFC 5322 §3.4), unquoted; time and stack grow
    with the length only, whatever it holds. A group begins with its name in the local part and domain None, and ends
    with both None (RFC 3501 §7.4.2); a domain that is missing is b""."""
    if not _NOT_PLAIN.search(value):
        plain = [_PLAIN.fullmatch(one) for one in value.split(b",")]
        if all(plain):
            yield from ((one[1] or b"", one[2] or one[4], one[3] or one[5]) for one in plain if one)
            return
    yield from _read(value)


def mailboxes(value: bytes) -> Iterator[bytes]:
    """The same, as RFC 5321 §4.1.2 writes them, quoted where they must be; b"" for one that has only a name."""
    for display, local, domain in addresses(value):
        if domain:
            plain = _LOCAL.fullmatch(local or b"")
            quoted = local if plain else b'"' + re.sub(rb'(["\\])', rb"\\\1", local or b"") + b'"'
            yield b"%s@%s" % (quoted, domain)
        elif domain is not None and (display or local):
            yield local or b""


def _read(value: bytes) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    at = 0
    one = _Address()
    group = False
    while at < len(value):
        found = _TOKEN.match(value, at)
        assert found is not None  # it matches whatever there is
        at = found.end()
        token = found.group()
        if token == b"(":
            comment, at = _comment(value, at)
            one.comments.append(comment)
        elif token == b"," and not one.inside:
            yield from one.read()
            one = _Address()
        elif token == b":" and not one.inside and not group:
            yield b"", one.words(), None
            one, group = _Address(), True
        elif token == b";" and not one.inside:
            yield from one.read()
            if group:
                yield b"", None, None
            one, group = _Address(), False
        else:
            one.take(token, found[1])
    yield from one.read()
    if group:
        yield b"", None, None


class _Address:
    """The tokens of one address while they come in: (text, is an operator, stands apart from the one before)."""

    def __init__(self) -> None:
        self.inside = False  # < and >
        self.comments: list[bytes] = []
        self._before: list[tuple[bytes, bool, bool]] = []
        self._angle: list[tuple[bytes, bool, bool]] | None = None
        self._apart = False

    def take(self, token: bytes, quoted: bytes | None) -> None:
        if token.isspace():
            self._apart = True
            return
        if token == b"<" and self._angle is None:
            self.inside, self._angle = True, []
        elif token == b">":
            self.inside = False
        elif token == b":" and self.inside and self._angle is not None:
            self._angle.clear()  # what stood before is a source route (RFC 5322 §4.4)
        else:
            text = re.sub(rb"\\(.)", rb"\1", quoted, flags=re.DOTALL) if quoted is not None else token
            (self._angle if self.inside and self._angle is not None else self._before).append(
                (text, token == b"@", self._apart)
            )
        self._apart = False

    def words(self) -> bytes:
        return _joined(self._before)

    def read(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        tokens = self._before if self._angle is None else self._angle
        last = max((i for i, (_, operator, _) in enumerate(tokens) if operator), default=len(tokens))
        local, domain = _joined(tokens[:last], dots=True), b"".join(text for text, _, _ in tokens[last + 1 :])
        display = b" ".join(self.comments) if self._angle is None else _joined(self._before)
        if local or domain or self._angle is not None:
            yield display, local, domain


def _joined(tokens: list[tuple[bytes, bool, bool]], *, dots: bool = False) -> bytes:
    """With a space where one stood; none around the `dots` of a local part (RFC 5322 §4.4)."""
    out: list[bytes] = []
    for text, _, apart in tokens:
        if out and apart and not (dots and (out[-1].endswith(b".") or text.startswith(b"."))):
            out.append(b" ")
        out.append(text)
    return b"".join(out)


def _comment(value: bytes, at: int) -> tuple[bytes, int]:
    """The text of a comment that began just before, and where it ends; nested ones stand in it as they are."""
    depth = 1
    for found in _IN_COMMENT.finditer(value, at):
        depth += {b"(": 1, b")": -1}.get(found.group(), 0)
        if not depth:
            return re.sub(rb"\\(.)", rb"\1", value[at : found.start()], flags=re.DOTALL).strip(), found.end()
    return value[at:].strip(), len(value)
