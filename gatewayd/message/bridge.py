"""Mail as an object, an object as mail, and the way back; nothing lost (DESIGN §3)."""

from __future__ import annotations

import base64
import binascii
import email.utils
import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC
from typing import Any

from gatewayd.address import Address, AddressError, Domain
from gatewayd.message import mime, receipts
from gatewayd.message.addresses import mailboxes
from gatewayd.message.model import MAIL, MAX_PARENTS, RFC822, Content, ObjectError, Part, Payload
from gatewayd.message.object_types import reaction_text
from gatewayd.message.render import OBJECT_FIELD, held, render

MAX_SUBJECT = 1000  # characters of the structured view; the mail itself keeps all
MAX_VIEW = 64 * 1024  # octets of readable text beside a mail
MAX_HEAD = 64 * 1024  # octets within which our own rendering names its Parley-Object
MAX_ADDRESSES = 64 * 1024  # characters of fields that are read for addresses
MAX_SHOWN = 100  # recipients in the structured view
_MESSAGE_IDS = re.compile(r"<([!-;=?A-~]{1,400}@[!-;=?A-~]{1,400})>")
_OBJECT_ID = re.compile(r"([0-9a-f]{64})@")  # as the rendering of an object names it
NOBODY = "unknown@invalid"  # the author of a mail that names none (RFC 2606 §2)
_OBJECT = OBJECT_FIELD.lower()
_DATES = range(0, 253402300800)  # seconds of the years 1970 to 9999


def as_mail(content: Content, trace: bytes = b"") -> bytes:
    """What a mail program gets: the trace lines, then the original mail or the rendering. Raises ObjectError."""
    if content.fields.type == MAIL:
        return trace + content.bodies[content.fields.parts[0].hash]
    return trace + render(content)


def waives_tls(mail: mime.Mail) -> bool:
    """Whether the sender says that it had rather arrive than be secret (RFC 8689 §5). Said twice it is not said."""
    said = mail.root.all(b"tls-required")
    return len(said) == 1 and said[0].strip().lower() == b"no"


def mail_bodies(content: Content) -> set[bytes]:
    """The hashes of the bodies that `as_mail` needs at hand."""
    return {content.fields.parts[0].hash} if content.fields.type == MAIL else held(content.fields)


def fits(content: Content) -> bool:
    """Whether its mail form holds every body."""
    return all(part.hash in mail_bodies(content) for part in content.fields.parts) or content.fields.type == MAIL


def bridged_payload(
    mail: mime.Mail, *, by: Domain, nonce: bytes, received_ms: int, reverse_path: Address | None,
    auth: Mapping[str, str] | None = None,
) -> tuple[Payload, dict[bytes, bytes]]:  # fmt: skip
    """Any octets as an object of type mail: the original, and beside it a readable view. Raises nothing."""
    bodies: dict[bytes, bytes] = {}

    def part(media_type: str, body: bytes) -> Part:
        digest = hashlib.sha256(body).digest()
        bodies[digest] = body
        return Part(digest, media_type, len(body))

    octets, root = mail.octets, mail.root
    parts = [part(RFC822, octets)]
    view = mime.text_of(octets, root).strip().encode("utf-8", "replace")
    if len(view) > MAX_VIEW:  # no half character
        view = view[:MAX_VIEW].decode("utf-8", "ignore").encode("utf-8")
    if view:
        parts.append(part("text/plain; charset=utf-8", view))
    author = _author(authors(mail), reverse_path)
    bridged: dict[str, Any] = {"by": by.name, "message_id": _first(root, b"message-id"), **(auth or {})}
    ext: dict[str, Any] = {"bridged": bridged}
    answered = _answered(root)
    reaction = _reaction(octets, root)
    if reaction is not None:
        bridged["reaction"] = reaction
    report = receipts.read_report(octets, root)
    if report is not None:
        reported_on, ext["receipt"] = report
        answered = list(dict.fromkeys([reported_on, *answered]))[:MAX_PARENTS]
    elif _wants_notification(mail, author):
        ext["receipts"] = [receipts.DISPLAYED]
    if answered:
        ext["references"] = answered
    shown = (_mailboxes(mail, b"to") + _mailboxes(mail, b"cc"))[:MAX_SHOWN]
    payload = Payload(
        from_=str(author or NOBODY),
        to=tuple(_encodable(address) for address in shown if "@" in address),
        date=_date(root.values(b"date"), received_ms),
        nonce=nonce,
        type=MAIL,
        subject=_first(root, b"subject"),
        parts=tuple(parts),
        parents=tuple(dict.fromkeys(bytes.fromhex(m[1]) for m in map(_OBJECT_ID.match, answered) if m)),
        ext=ext,
    )
    return payload, bodies


def taken_in_by(fields: Payload) -> str | None:
    """The domain that took a mail in, as the object of it says."""
    bridged = fields.ext.get("bridged")
    said = bridged.get("by") if isinstance(bridged, dict) else None
    return said if isinstance(said, str) else None


def _first(root: mime.Entity, name: bytes) -> str:
    return _encodable(next(iter(root.values(name)), ""))[:MAX_SUBJECT]


def _answered(root: mime.Entity) -> list[str]:
    """The Message-IDs, without brackets, of what this mail answers, nearest first (RFC 5322 §3.6.4)."""
    found = _MESSAGE_IDS.findall(" ".join(root.values(b"in-reply-to"))[:MAX_HEAD])
    found += reversed(_MESSAGE_IDS.findall(" ".join(root.values(b"references"))[:MAX_HEAD]))
    return list(dict.fromkeys(found))[:MAX_PARENTS]


def _reaction(mail: bytes, root: mime.Entity) -> str | None:
    """What a mail says of the one that it answers (RFC 9078 §2)."""
    for entity in mime.walk(root):
        disposition = (entity.first(b"content-disposition") or b"").split(b";")[0].strip().lower()
        if disposition == b"reaction" and entity.media_type == "text/plain":
            return reaction_text(mime.decoded_text(mail, entity).encode("utf-8", "replace"))
    return None


def _wants_notification(mail: mime.Mail, author: Address | None) -> bool:
    """The author asks to be told that it was displayed (RFC 8098 §2.1); of a list's mail nobody is told."""
    named = mail.root.named
    if author is None or b"list-id" in named or b"auto-submitted" in named:
        return False
    asked = addresses(mail, b"disposition-notification-to")
    return len(asked) == 1 and asked[0] is not None and asked[0].key == author.key


def authors(mail: mime.Mail) -> list[Address | None]:
    """The addresses of the From field, None for each that is none."""
    return addresses(mail, b"from")


def automatic(mail: mime.Mail) -> bool:
    """A program's own answer, such as of somebody who is away (RFC 3834 §5)."""
    return any(value.strip().lower() != "no" for value in mail.root.values(b"auto-submitted"))


def author(mail: mime.Mail, reverse_path: Address | None) -> str:
    """Who says this, as `from` of its object has it."""
    return str(_author(authors(mail), reverse_path) or NOBODY)


def _author(found: list[Address | None], reverse_path: Address | None) -> Address | None:
    return next((address for address in found if address is not None), reverse_path)


def addresses(mail: mime.Mail, name: bytes) -> list[Address | None]:
    """Those of a field of the header, None for each that is none."""
    found: list[Address | None] = []
    for text in _mailboxes(mail, name):
        try:
            found.append(Address.parse(text))
        except AddressError:
            found.append(None)
    return found


def _mailboxes(mail: mime.Mail, name: bytes) -> list[str]:
    """Encoded words as they are: a comma in one parts nothing (RFC 2047 §5). One that is no address for more than
    anybody writes."""
    values = mail.root.all(name)
    if sum(map(len, values)) > MAX_ADDRESSES:
        return ["too many"]
    return [mime.unfolded(address) for value in values for address in mailboxes(mime.unfold(value))]


def names_object(mail: mime.Mail) -> bool:
    """It may be the rendering of one that `restore` gives."""
    return _OBJECT in mail.root.named


def restore(mail: mime.Mail) -> Content | None:
    """The object inside a rendering, with every body exact; None if it is not there whole. The caller verifies."""
    fields = mail.root.all(_OBJECT)
    if len(fields) != 1:
        return None
    try:
        signed = base64.b64decode(re.sub(rb"\s", b"", fields[0]), validate=True)
        content = Content.from_signed(signed, {})
        parts = content.fields.parts
    except (binascii.Error, ObjectError):
        return None
    wanted = {part.hash for part in parts}
    bodies: dict[bytes, bytes] = {}
    for entity in mime.walk(mail.root):
        if entity.type == "multipart":
            continue
        for body in _candidates(mime.decoded_body(mail.octets, entity)):
            digest = hashlib.sha256(body).digest()
            if digest in wanted:
                bodies[digest] = body
    restored = Content(content.protected, content.payload, content.signature, bodies)
    try:
        restored.check_bodies()
    except ObjectError:
        return None
    return None if restored.absent else restored


def without_results_of(mail: mime.Mail, hostname: Domain) -> mime.Mail:
    """The mail without Authentication-Results that claim to be ours (RFC 8601 §5); untouched when there are none."""
    return _without(mail, (b"authentication-results",), lambda value: _claims(value, hostname))


def without_fields(mail: mime.Mail, *names: bytes) -> mime.Mail:
    """The mail without fields of these names, in lower case; untouched when there are none."""
    return _without(mail, names, lambda value: True)


def _without(mail: mime.Mail, names: Collection[bytes], doomed: Callable[[bytes], bool]) -> mime.Mail:
    if not any(doomed(value) for name in names for value in mail.root.all(name)):
        return mail
    body = mail.root.body
    kept = []
    for line in _LINES.findall(mail.octets[:body]):
        key, _, value = line.partition(b":")
        if key.strip().lower() not in names or not doomed(value):
            kept.append(line)
    return mime.Mail(b"".join(kept) + mail.octets[body:])


_LINES = re.compile(rb"[^\n]*\n(?:[ \t][^\n]*\n)*")


def _claims(value: bytes, hostname: Domain) -> bool:
    authserv = re.sub(rb"\([^)]*\)", b"", value).strip().split(b";")[0].split()
    return bool(authserv) and authserv[0].strip(b'"').lower().decode("ascii", "replace") == hostname.name


def _candidates(body: bytes) -> tuple[bytes, ...]:
    """What a mail body may have been: text has CRLF on the way, and a last line end that it may not have had."""
    lf = body.replace(b"\r\n", b"\n")
    return body, lf, body.removesuffix(b"\r\n"), lf.removesuffix(b"\n"), b""


def _date(values: list[str], received_ms: int) -> int:
    for value in values:
        try:
            parsed = email.utils.parsedate_to_datetime(value)
            seconds = (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
        except (ValueError, TypeError, OverflowError, IndexError):
            continue
        if int(seconds) in _DATES:
            return int(seconds * 1000)
    return received_ms


def _encodable(text: str) -> str:
    """CBOR text is UTF-8: no lone surrogates."""
    return text.encode("utf-8", "replace").decode("utf-8")
