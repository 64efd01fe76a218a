"""A Parley-born object as RFC 5322 mail: the same octets every time, so that IMAP sizes and UIDs hold.

RFC 5322, 2045-2047, 2231, 9078 (reactions). The signed object rides in one Parley-Object field; the bodies are the
MIME parts, encoded so that their exact octets come back (bridge.restore).
"""

from __future__ import annotations

import base64
import binascii
import re
from email.header import Header
from urllib.parse import quote

from gatewayd.address import Address, AddressError
from gatewayd.message import receipts
from gatewayd.message.dates import internet_date
from gatewayd.message.model import EDIT, MAIL, MAX_PARENTS, REACTION, RECEIPT, RETRACT, Content, Part, Payload

OBJECT_FIELD = b"Parley-Object"
LARGEST = 32 * 1024 * 1024  # octets of all bodies that a rendering holds: below what mail servers take, in base64
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(;\s*[A-Za-z0-9-]+=[A-Za-z0-9_.-]+)*\Z")
_MESSAGE_ID = re.compile(r"[!-;=?A-~]{1,400}@[!-;=?A-~]{1,400}\Z")  # what fits between brackets, and in a line
SUBJECTS = {RETRACT: "Message retracted", RECEIPT: "Receipt"}
NOTES = {RETRACT: b"I retract the message that this answers.\r\n"}


def render(content: Content) -> bytes:
    """CRLF lines of at most 998 octets; no field can bring a line of its own. Raises ObjectError."""
    payload = content.fields
    lines = [
        f"From: {_address(payload.from_)}",
        f"Date: {internet_date(payload.date / 1000)}",
        f"Message-ID: <{message_id(content.id, payload)}>",
    ]
    if payload.to:
        lines.append("To: " + ",\r\n ".join(_address(to) for to in payload.to))
    subject = payload.subject or SUBJECTS.get(payload.type, "")
    if subject:
        lines.append("Subject: " + _unstructured(subject))
    answers = [f"<{text}>" for text in references(payload)]
    if payload.replaces is not None:
        replaced = f"<{message_id(payload.replaces, payload)}>"
        answers.insert(0, replaced)
        if payload.type == EDIT:
            lines.append(f"Supersedes: {replaced}")  # RFC 2156 §2.3.1.2
    if answers:
        lines += [f"In-Reply-To: {answers[0]}", "References: " + "\r\n ".join(reversed(answers))]
    if receipts.DISPLAYED in receipts.asked(payload):
        lines.append(f"Disposition-Notification-To: {_address(payload.from_)}")  # RFC 8098 §2.1
    if payload.type == RECEIPT:
        lines.append("Auto-Submitted: auto-replied")  # RFC 3834 §5
    lines.append("MIME-Version: 1.0")
    head = "\r\n".join(lines).encode("utf-8") + b"\r\n" + _object_field(content.signed)
    if payload.type == RECEIPT and not payload.parts:
        return head + receipts.as_report(content, answers[0][1:-1] if answers else "unknown@invalid")
    bodies_held = held(payload)
    bodies = [
        _part(payload, part, content.bodies[part.hash]) if part.hash in bodies_held else _note(content, part)
        for part in payload.parts
    ]
    if payload.crit:  # no mail program understands it: what it holds goes along, and is not shown
        bodies.insert(0, _hint("This message is for programs that know: " + ", ".join(payload.crit)))
    if len(bodies) == 1:
        return head + bodies[0]
    if not bodies:
        return head + b"Content-Type: text/plain\r\n\r\n" + NOTES.get(payload.type, b"")
    boundary = b"=_parley_" + content.id.hex()[:40].encode()
    head += b'Content-Type: multipart/mixed; boundary="%s"\r\n\r\n' % boundary
    return head + b"".join(b"--%s\r\n%s\r\n" % (boundary, body) for body in bodies) + b"--%s--\r\n" % boundary


def message_id(object_id: bytes, payload: Payload) -> str:
    """The Message-ID, without brackets, of an object by the author of this payload."""
    return f"{object_id.hex()}@{_atom(payload.from_.rpartition('@')[2])}"


def rendered_id(content: Content) -> str:
    """The Message-ID, without brackets, of this object's mail form; "" for a mail that has none."""
    payload = content.fields
    if payload.type != MAIL:
        return message_id(content.id, payload)
    bridged = payload.ext.get("bridged")
    said = bridged.get("message_id") if isinstance(bridged, dict) else None
    text = str(said).strip().removeprefix("<").removesuffix(">")
    return text if _MESSAGE_ID.match(text) else ""


def references(payload: Payload) -> list[str]:
    """The Message-IDs, without brackets, of what this answers, nearest first. Its author knew those of mail and of
    others' objects, and said them in `ext` (docs/parley.rst §8.2); else they are made of `parents`."""
    said = payload.ext.get("references")
    if isinstance(said, list):
        return [text for text in said[:MAX_PARENTS] if isinstance(text, str) and _MESSAGE_ID.match(text)]
    return [message_id(parent, payload) for parent in payload.parents]


def held(payload: Payload) -> set[bytes]:
    """The hashes of the bodies that the rendering holds: in the order of the parts, as long as they fit."""
    found: set[bytes] = set()
    size = 0
    for part in payload.parts:
        if size + part.size <= LARGEST:
            found.add(part.hash)
            size += part.size
    return found


def _note(content: Content, part: Part) -> bytes:
    """In the place of a body that is too large for mail."""
    name, media_type = _clean(part.name or "-"), _clean(part.type)
    text = _NOTE.format(name=name, type=media_type, size=part.size, sha256=part.hash.hex(), id=content.id.hex())
    body = text.encode("utf-8")
    return _part(content.fields, Part(b"", "text/plain; charset=utf-8", len(body)), body)


_NOTE = """\
This file is too large for mail. It is kept by the server, and a Parley client fetches it.

  name     {name}
  type     {type}
  size     {size} octets
  SHA-256  {sha256}
  message  {id}
"""


def is_text(part: Part, body: bytes) -> bool:
    """Whether lines of this body may be said with CRLF and read back exactly: UTF-8, all line ends of one kind."""
    if not part.type.startswith("text/") or b"\0" in body:
        return False
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    crlf = body.count(b"\r\n")
    return body.count(b"\r") == crlf and body.count(b"\n") in (crlf, body.count(b"\n") if crlf == 0 else -1)


def _part(payload: Payload, part: Part, body: bytes) -> bytes:
    media_type = part.type if _MEDIA_TYPE.match(part.type) else "application/octet-stream"
    if is_text(part, body):
        if "charset" not in media_type:
            media_type += "; charset=utf-8"
        lines = body.replace(b"\r\n", b"\n").split(b"\n")
        encoded = b"\r\n".join(_quoted_printable(line) for line in lines)
        if lines[-1]:
            encoded += b"=\r\n"  # a soft break: the mail ends its last line, the body does not
        encoding = "quoted-printable"
    else:
        letters = base64.b64encode(body)
        encoded = b"".join(letters[i : i + 76] + b"\r\n" for i in range(0, len(letters), 76))
        encoding = "base64"
    head = f"Content-Type: {media_type}\r\nContent-Transfer-Encoding: {encoding}\r\n"
    if payload.type == REACTION:
        head += "Content-Disposition: reaction\r\n"  # RFC 9078 §2
    elif part.name is not None:
        head += f"Content-Disposition: attachment;\r\n {_filename(part.name)}\r\n"
    elif payload.crit:
        head += "Content-Disposition: attachment\r\n"
    return head.encode("ascii") + b"\r\n" + encoded


def _hint(text: str) -> bytes:
    head = b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    return head + _quoted_printable(_clean(text)[:1000].encode("utf-8")) + b"\r\n"


def _quoted_printable(line: bytes) -> bytes:
    """One line; soft breaks end in CRLF. "From " and a lone dot are encoded, for what lies on the way."""
    encoded = binascii.b2a_qp(line, quotetabs=False, istext=False).replace(b"=\n", b"=\r\n")
    if encoded.endswith((b" ", b"\t")):  # RFC 2045 §6.7 (3)
        encoded = encoded[:-1] + b"=%02X" % encoded[-1]
    if encoded.startswith((b"From ", b".")):
        encoded = b"=%02X" % encoded[0] + encoded[1:]
    return encoded


def _object_field(signed: bytes) -> bytes:
    letters = base64.b64encode(signed)
    return OBJECT_FIELD + b":" + b"".join(b"\r\n " + letters[i : i + 76] for i in range(0, len(letters), 76)) + b"\r\n"


def _clean(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text.encode("utf-8", "replace").decode()).strip()


def _unstructured(text: str) -> str:
    text = _clean(text)
    if text.isascii() and len(text) <= 200 and "=?" not in text:
        return text
    return Header(text, "utf-8", maxlinelen=76).encode(linesep="\r\n")


def _address(text: str) -> str:
    try:
        return str(Address.parse(text))
    except AddressError:
        return f'"{_atom(text)[:200]}" <unknown@invalid>'


def _atom(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "_", text) or "invalid"


def _filename(name: str) -> str:
    name = _clean(name)[:200]
    if re.fullmatch(r"[A-Za-z0-9 ._-]+", name):
        return f'filename="{name}"'
    return "filename*=utf-8''" + quote(name, safe="")  # RFC 2231 §4
