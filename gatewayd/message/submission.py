"""Mail that our users hand in: what is changed in it (RFC 6409 §8), and in whose name it comes (§6.1)."""

from __future__ import annotations

from gatewayd.address import Address
from gatewayd.message import bridge, mime
from gatewayd.message.dates import internet_date

# For the eyes of the sender, or set by who delivers (RFC 5322 §3.6.3, RFC 5321 §4.4): no business of the recipients
_DROPPED = (b"bcc", b"resent-bcc", b"return-path")


def completed(mail: mime.Mail, now: float, message_id: str, author: Address) -> mime.Mail:
    """The mail with the Date, Message-ID and From that it may have left out, and without its Bcc."""
    present = mail.root.named
    lines = ""
    if b"date" not in present:
        lines += f"Date: {internet_date(now)}\r\n"
    if b"message-id" not in present:
        lines += f"Message-ID: <{message_id}>\r\n"
    if b"from" not in present:
        lines += f"From: {author}\r\n"
    kept = bridge.without_fields(mail, *_DROPPED)
    return mime.Mail(lines.encode("utf-8") + kept.octets) if lines else kept


def claimed(mail: mime.Mail) -> list[tuple[str, Address | None]]:
    """(field, address) of each whom the mail names as its author or sender; None for one that is no address, and for a
    From that names nobody."""
    authors = bridge.authors(mail) or ([None] if mail.root.first(b"from") is not None else [])
    senders = bridge.addresses(mail, b"sender")
    return [("From", each) for each in authors] + [("Sender", each) for each in senders]
