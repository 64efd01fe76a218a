"""ENVELOPE, BODYSTRUCTURE and BODY of a message as IMAP text (RFC 3501 §7.4.2), made once and kept in its row."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gatewayd.message.addresses import addresses
from gatewayd.message.mime import Entity, decoded, parameters, parse, unfold

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
        return nstring(None if value is None else unfold(value))

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
    encoding = unfold(entity.first(b"content-transfer-encoding") or b"7bit").split(b";")[0].strip()
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


# -- inside ---------------------------------------------------------------------------------------------------------


def _optional(entity: Entity, name: bytes) -> bytes | None:
    value = entity.first(name)
    return None if value is None else unfold(value)


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
    language = b"NIL" if raw is None else nstring(unfold(raw))
    return [disposition, language, nstring(_optional(entity, b"content-location"))]


def _addresses(entity: Entity, name: bytes, default: bytes = b"NIL") -> bytes:
    """The address list of a field; names stay encoded words, as the client decodes them itself."""
    out = [
        b"(%s NIL %s %s)" % (nstring(display or None), nstring(local), nstring(domain))
        for key, value in entity.fields
        if key == name
        for display, local, domain in addresses(unfold(value))
    ]
    return b"(%s)" % b"".join(out) if out else default
