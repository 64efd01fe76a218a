"""ENVELOPE, BODYSTRUCTURE and BODY of a message as IMAP text (RFC 3501 §7.4.2), made once and kept in its row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from gatewayd.message.mime import Entity, decoded, parameters, parse

_TOKEN = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)"?|[()<>,:;@]|\s+|\[[^\]]*\]?|[^\s"()<>,:;@\[]+', re.DOTALL)
_IN_COMMENT = re.compile(rb"\\.|[()]", re.DOTALL)
_UNSAFE = re.compile(rb'[\r\n\0\x80-\xff"\\]')


def summarize(mail: bytes) -> tuple[int, bytes, bytes, bytes]:
    """(size in octets, ENVELOPE, BODYSTRUCTURE, BODY). Raises nothing."""
    entity = parse(mail)
    return len(mail), envelope(entity), body(mail, entity, extended=True), body(mail, entity, extended=False)


def nstring(value: bytes | None) -> bytes:
    """NIL, a quoted string, or a literal where quoting cannot say it (RFC 3501 §4.3)."""
    if value is None:
        return b"NIL"
    if not _UNSAFE.search(value):
        return b'"' + value + b'"'
    if re.search(rb"[\r\n\0\x80-\xff]", value):
        value = value.replace(b"\0", b"")  # CHAR8 of a literal excludes NUL
        return b"{%d}\r\n" % len(value) + value
    return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def envelope(entity: Entity) -> bytes:
    def text(name: bytes) -> bytes:
        value = entity.first(name)
        return nstring(None if value is None else _unfold(value))

    author = _addresses(entity, b"from")
    return b"(%s)" % b" ".join(
        (
            text(b"date"),
            text(b"subject"),
            author,
            _addresses(entity, b"sender", author),
            _addresses(entity, b"reply-to", author),
            _addresses(entity, b"to"),
            _addresses(entity, b"cc"),
            _addresses(entity, b"bcc"),
            text(b"in-reply-to"),
            text(b"message-id"),
        )
    )


def body(mail: bytes, entity: Entity, *, extended: bool) -> bytes:
    if entity.type == "multipart" and entity.children:
        parts = b"".join(body(mail, child, extended=extended) for child in entity.children)
        items = [parts, _string(entity.subtype)]
        if extended:
            items += [_parameters(entity.parameters), *_extension(entity)]
        return b"(%s)" % b" ".join(items)
    encoding = _unfold(entity.first(b"content-transfer-encoding") or b"7bit").split(b";")[0].strip()
    items = [
        _string(entity.type),
        _string(entity.subtype),
        _parameters(entity.parameters or ({"charset": "us-ascii"} if entity.type == "text" else {})),
        nstring(_optional(entity, b"content-id")),
        nstring(_optional(entity, b"content-description")),
        nstring(encoding.upper() or b"7BIT"),
        b"%d" % (entity.end - entity.body),
    ]
    lines = b"%d" % mail.count(b"\n", entity.body, entity.end)
    if entity.media_type == "message/rfc822" and entity.children:
        inner = entity.children[0]
        items += [envelope(inner), body(mail, inner, extended=extended), lines]
    elif entity.type == "text":
        items.append(lines)
    if extended:
        items += [nstring(_optional(entity, b"content-md5")), *_extension(entity)]
    return b"(%s)" % b" ".join(items)


def addresses(value: bytes) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    """(display name, local part, domain) of each address of a field (RFC 5322 §3.4), unquoted; time and stack grow
    with the length only, whatever it holds. A group begins with its name in the local part and domain None, and ends
    with both None (RFC 3501 §7.4.2); a domain that is missing is b""."""
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


# -- inside ---------------------------------------------------------------------------------------------------------


def _unfold(value: bytes) -> bytes:
    return re.sub(rb"\r?\n(?=[ \t])", b"", value).strip()


def _optional(entity: Entity, name: bytes) -> bytes | None:
    value = entity.first(name)
    return None if value is None else _unfold(value)


def _string(value: str) -> bytes:
    return nstring(value.upper().encode("utf-8", "replace"))


def _parameters(pairs: dict[str, str]) -> bytes:
    if not pairs:
        return b"NIL"
    words: Iterable[str] = (word for name, value in pairs.items() for word in (name.upper(), value))
    return b"(%s)" % b" ".join(nstring(word.encode("utf-8", "replace")) for word in words)


def _extension(entity: Entity) -> list[bytes]:
    disposition = b"NIL"
    raw = entity.first(b"content-disposition")
    if raw is not None:
        value = decoded(raw)
        name = value.split(";", 1)[0].strip()
        if name:
            disposition = b"(%s %s)" % (_string(name), _parameters(parameters(value)))
    raw = entity.first(b"content-language")
    language = b"NIL" if raw is None else nstring(_unfold(raw))
    return [disposition, language, nstring(_optional(entity, b"content-location"))]


def _addresses(entity: Entity, name: bytes, default: bytes = b"NIL") -> bytes:
    """The address list of a field; names stay encoded words, as the client decodes them itself."""
    out = [
        b"(%s NIL %s %s)" % (nstring(display or None), nstring(local), nstring(domain))
        for key, value in entity.fields
        if key == name
        for display, local, domain in addresses(_unfold(value))
    ]
    return b"(%s)" % b"".join(out) if out else default
