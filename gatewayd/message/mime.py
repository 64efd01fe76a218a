"""MIME structure over the raw octets (RFC 2045, 2046, 5322 §2.2), by offsets; nothing is copied or changed.

Reads whatever mail there is: no input raises. What cannot be read as multipart is one opaque body (RFC 2049 §2).
"""

from __future__ import annotations

import base64
import binascii
import email.message
import email.utils
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from gatewayd.once import once

MAX_DEPTH = 50
MAX_PARTS = 1000

LONG = 2000  # characters of a field value that the standard library's slow readers are still given
SLOW_CHARSETS = {"punycode", "idna"}  # decoding takes the square of the length; no mail is written in them

_FOLD = re.compile(rb"\r?\n(?=[ \t])")
_FIELD = re.compile(rb"^([!-9;-~]+)[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)(?:\n|\Z)", re.MULTILINE)
_WORD = re.compile(r"=\?([^?*\s]{1,40})(?:\*[^?\s]{0,40})?\?([bBqQ])\?([^?]*)\?=(\s+(?==\?))?")  # RFC 2047 §2
_MEDIA_TYPE = re.compile(r"[!#$%&'*+\-.^_`{|}~\w]+/[!#$%&'*+\-.^_`{|}~\w]+", re.ASCII)
_PARAMETER = re.compile(r';\s*([^\s=;]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))', re.DOTALL)


@dataclass(slots=True)
class Entity:
    """A message or a body part: mail[start:body] is its header with the empty line, mail[body:end] its body."""

    start: int
    body: int
    end: int
    fields: list[tuple[bytes, bytes]]  # (name in lower case, raw value with its folding, without the line end)
    type: str = "text"
    subtype: str = "plain"
    parameters: dict[str, str] = field(default_factory=dict)
    children: list[Entity] = field(default_factory=list)  # multipart: its parts; message/rfc822: the one message
    named: dict[bytes, list[bytes]] = field(default_factory=dict)  # the raw values of its fields, by name

    def __post_init__(self) -> None:
        for name, value in self.fields:
            self.named.setdefault(name, []).append(value)

    def all(self, name: bytes) -> Sequence[bytes]:
        """The raw values of a field."""
        return self.named.get(name, ())

    def first(self, name: bytes) -> bytes | None:
        return self.named[name][0] if name in self.named else None

    def values(self, name: bytes) -> list[str]:
        """Those of a field, unfolded and decoded (RFC 2047)."""
        return [decoded(value) for value in self.named.get(name, ())]

    @property
    def media_type(self) -> str:
        return f"{self.type}/{self.subtype}"


class Mail(msgspec.Struct, frozen=True, dict=True):
    """A mail on its way in, read when somebody first asks, and then once for all who do."""

    octets: bytes

    @once
    def root(self) -> Entity:
        return parse(self.octets)


def parse(mail: bytes) -> Entity:
    """The whole tree."""
    budget = [MAX_PARTS]
    return _entity(mail, 0, len(mail), 0, budget, "text/plain")


def section(mail: bytes, path: tuple[int, ...], what: str, fields: Sequence[bytes] = ()) -> bytes | None:
    """A body section (RFC 3501 §6.4.5): `what` is "", HEADER, TEXT, MIME, HEADER.FIELDS or HEADER.FIELDS.NOT.

    None when there is no such part.
    """
    if not path and what == "":
        return mail
    entity = parse(mail)
    whole = True  # a message, not a part of one
    for number in path:
        below = _numbered(entity, number, whole=whole)
        if below is None:
            return None
        entity, whole = below, False
    if path and what == "":
        return mail[entity.body : entity.end]
    if what == "MIME":
        return mail[entity.start : entity.body] if path else None
    if path:  # HEADER and TEXT of a part are those of the message inside it
        if entity.media_type != "message/rfc822" or not entity.children:
            return None
        entity = entity.children[0]
    if what == "TEXT":
        return mail[entity.body : entity.end]
    if what == "HEADER":
        return mail[entity.start : entity.body]
    wanted = {name.lower() for name in fields}
    keep = what == "HEADER.FIELDS"
    lines = [m.group() for m in _FIELD.finditer(mail, entity.start, entity.body)]
    chosen = [line for line in lines if (line.split(b":", 1)[0].strip().lower() in wanted) == keep]
    return b"".join(line if line.endswith(b"\n") else line + b"\r\n" for line in chosen) + b"\r\n"


def header(mail: bytes, name: bytes) -> list[str]:
    """The values of a field, whose name is in lower case, of the top header, unfolded and decoded (RFC 2047)."""
    fields = _fields(mail, 0, _header_end(mail, 0, len(mail)))
    return [decoded(value) for key, value in fields if key == name]


def block(text: bytes) -> list[tuple[bytes, bytes]]:
    """Fields that stand by themselves, as a delivery report has them: (name in lower case, raw value)."""
    return _fields(text, 0, len(text))


def text_of(mail: bytes, root: Entity | None = None) -> str:
    """What a person reads: every text part, decoded. `root` is the mail parsed, if it is."""
    return "\n".join(
        decoded_text(mail, entity)
        for entity in walk(root or parse(mail))
        if entity.type == "text" and not (entity.first(b"content-disposition") or b"").strip().startswith(b"attach")
    )


def walk(entity: Entity) -> Iterator[Entity]:
    """The leaves and the inner nodes, top first."""
    yield entity
    for child in entity.children:
        yield from walk(child)


def decoded_body(mail: bytes, entity: Entity) -> bytes:
    """The body without its transfer encoding (RFC 2045 §6); a damaged one gives what can be read of it."""
    body = mail[entity.body : entity.end]
    encoding = (entity.first(b"content-transfer-encoding") or b"").split(b";")[0].strip().lower()
    if encoding == b"base64":
        return _from_base64(body)
    if encoding == b"quoted-printable":
        return binascii.a2b_qp(body)
    return body


def decoded_text(mail: bytes, entity: Entity) -> str:
    return _in_charset(decoded_body(mail, entity), entity.parameters.get("charset", "utf-8"))


def decoded(value: bytes) -> str:
    """A raw field value, unfolded, with its encoded words decoded."""
    text = unfolded(value)
    if "=?" not in text:
        return text
    out: list[str] = []
    at, charset, octets = 0, "", b""
    for found in _WORD.finditer(text):
        begins = found[1].lower()
        if found.start() > at or begins != charset:  # words may end inside a character, if the next goes on with it
            out += _in_charset(octets, charset), text[at : found.start()]
            octets = b""
        charset, octets = begins, octets + _word_octets(found[2], found[3])
        at = found.end()
    return "".join((*out, _in_charset(octets, charset), text[at:]))


def unfold(value: bytes) -> bytes:
    return (_FOLD.sub(b"", value) if b"\n" in value else value).strip()


def unfolded(value: bytes) -> str:
    """A raw field value as text: UTF-8, else Latin-1."""
    octets = unfold(value)
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        return octets.decode("latin-1")


def parameters(value: str) -> dict[str, str]:
    """`; name=value` pairs, RFC 2231 continuations and charsets resolved."""
    if "*" in value and len(value) < LONG:
        message = email.message.Message()
        message["content-type"] = "a/b" + value[value.find(";") :] if ";" in value else "a/b"
        found = {}
        try:
            for name, _ in message.get_params([], unquote=False)[1:]:
                raw = message.get_param(name)
                if raw is not None:
                    found[name.lower()] = email.utils.collapse_rfc2231_value(raw)
        except (ValueError, LookupError, TypeError, UnicodeError):
            return found
        return found
    return {
        m.group(1).lower(): re.sub(r"\\(.)", r"\1", m.group(2)) if m.group(2) is not None else m.group(3)
        for m in reversed(list(_PARAMETER.finditer(value)))
    }


# -- inside ---------------------------------------------------------------------------------------------------------


def _in_charset(octets: bytes, charset: str) -> str:
    try:
        return octets.decode("latin-1" if charset.lower() in SLOW_CHARSETS else charset or "utf-8", "replace")
    except (LookupError, ValueError, UnicodeError):  # no such charset, or one that is no text encoding
        return octets.decode("latin-1")


def _word_octets(encoding: str, text: str) -> bytes:
    octets = text.encode("utf-8", "replace")
    if encoding in "qQ":
        return binascii.a2b_qp(octets, header=True)
    return _from_base64(octets)


def _from_base64(body: bytes) -> bytes:
    letters = re.sub(rb"[^A-Za-z0-9+/]", b"", body.split(b"=", 1)[0])
    return base64.b64decode(letters[: len(letters) - (len(letters) % 4 == 1)] + b"===")


def _header_end(mail: bytes, start: int, end: int) -> int:
    """Where the body begins."""
    if mail.startswith(b"\r\n", start, end):
        return start + 2
    if mail.startswith(b"\n", start, end):
        return start + 1
    crlf, lf = mail.find(b"\n\r\n", start, end), mail.find(b"\n\n", start, end)
    if lf >= 0 and (crlf < 0 or lf < crlf):
        return lf + 2
    return crlf + 3 if crlf >= 0 else end


def _fields(mail: bytes, start: int, body: int) -> list[tuple[bytes, bytes]]:
    return [(m.group(1).lower(), m.group(2).rstrip(b"\r")) for m in _FIELD.finditer(mail, start, body)]


def _entity(mail: bytes, start: int, end: int, depth: int, budget: list[int], default: str) -> Entity:
    budget[0] -= 1
    body = _header_end(mail, start, end)
    entity = Entity(start, body, end, _fields(mail, start, body))
    said = entity.first(b"content-type")
    value = "" if said is None else decoded(said)
    media = (value.split(";", 1)[0].strip() or default).lower()
    if not _MEDIA_TYPE.fullmatch(media):
        media, value = "text/plain", ""  # RFC 2045 §5.2
    entity.type, entity.subtype = media.split("/")
    if ";" in value:
        entity.parameters = parameters(value)
    if depth >= MAX_DEPTH or budget[0] <= 0:
        if entity.type == "multipart" or media == "message/rfc822":
            entity.type, entity.subtype = "application", "octet-stream"  # not looked into
        return entity
    if entity.type == "multipart":
        inner = "message/rfc822" if entity.subtype == "digest" else "text/plain"
        boundary = entity.parameters.get("boundary", "")
        if boundary:
            for begin, stop in _split(mail, body, end, boundary.encode("utf-8", "replace")):
                if budget[0] <= 0:
                    break
                entity.children.append(_entity(mail, begin, stop, depth + 1, budget, inner))
        if not entity.children:  # no boundary, or none found: one opaque body
            entity.type, entity.subtype = "text", "plain"
    elif media in ("message/rfc822", "message/global") and _is_identity(entity):
        entity.subtype = "rfc822"
        entity.children = [_entity(mail, body, end, depth + 1, budget, "text/plain")]
    elif media == "message/rfc822":  # encoded, which RFC 2046 §5.2.1 forbids: opaque
        entity.type, entity.subtype = "application", "octet-stream"
    return entity


def _is_identity(entity: Entity) -> bool:
    encoding = (entity.first(b"content-transfer-encoding") or b"").strip().lower()
    return encoding not in (b"base64", b"quoted-printable")


def _split(mail: bytes, body: int, end: int, boundary: bytes) -> list[tuple[int, int]]:
    """The (start, end) of each part; the line end before a boundary belongs to the boundary (RFC 2046 §5.1.1)."""
    line = re.compile(rb"^--" + re.escape(boundary.rstrip()) + rb"(--)?[ \t]*\r?(?:\n|\Z)", re.MULTILINE)
    parts = []
    begin: int | None = None
    for found in line.finditer(mail, body, end):
        if begin is not None and begin < found.start():  # two boundaries in a row are one
            stop = found.start()
            stop -= mail[stop - 1 : stop] == b"\n"
            stop -= mail[stop - 1 : stop] == b"\r"
            parts.append((begin, max(begin, stop)))
        begin = found.end()
        if found.group(1):
            return parts
    if begin is not None and begin < end:
        parts.append((begin, end))  # no closing boundary: to the end
    return parts


def _numbered(entity: Entity, number: int, *, whole: bool) -> Entity | None:
    """Part `number` below this one; a message/rfc822 part is looked through (RFC 3501 §6.4.5)."""
    if not whole and entity.media_type == "message/rfc822" and entity.children:
        entity, whole = entity.children[0], True
    if entity.type == "multipart" and entity.children:
        return entity.children[number - 1] if 1 <= number <= len(entity.children) else None
    return entity if whole and number == 1 else None
