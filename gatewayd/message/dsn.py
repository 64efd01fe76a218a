"""Reports on delivery that a person understands and a program can read (RFC 3461, 3462, 3464, 5321 §6.1, 3834 §2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from gatewayd.address import Address, Domain
from gatewayd.message import mime
from gatewayd.message.dates import internet_date
from gatewayd.outcome import Outcome

MAX_HEADER = 32 * 1024  # octets of the original's header that go along

Action = Literal["failed", "delayed", "relayed", "delivered"]  # RFC 3464 §2.3.3

_SUBJECTS: dict[Action, str] = {
    "failed": "Your message could not be delivered",
    "delayed": "Your message is delayed",
    "relayed": "Your message went on to a server that sends no reports",
    "delivered": "Your message was delivered",
}
_WORDS: dict[Action, tuple[str, str]] = {
    "failed": ("Your message could not be delivered to:", ""),
    "delayed": (
        "Your message has not been delivered yet to:",
        "This is only a warning: you do not have to send it again. {reporting} goes on trying until\n{until}"
        "\nand tells you if it was in vain.\n\n",
    ),
    "relayed": ("Your message was handed over to a server that will not report its delivery, for:", ""),
    "delivered": ("Your message was delivered to:", ""),
}
_END = """\
You do not have to answer this report. Below it are the details for mail programs, and {what}.
"""


def report(
    action: Action,
    *,
    reporting: Domain,
    reverse_path: Address,
    results: Mapping[Address, Outcome],
    mail: bytes,
    arrival: float,
    now: float,
    unique: str,
    until: float | None = None,
    envid: str = "",
    orcpt: Mapping[Address, str] = {},
    whole: bool = False,
) -> bytes:
    """CRLF lines. Times in seconds since the epoch; `unique` makes Message-ID and boundary; `until` is when a delayed
    message is given up. `envid`, `orcpt` and `whole` (RET=FULL) are what the sender gave along."""
    whole = whole and mail == _crlf(mail)  # binary fits into no report
    header = mime.section(mail, (), "HEADER") or b""
    human = _human(action, reporting, results, until, "your message" if whole else "the header of your message")
    fields = [f"Original-Envelope-Id: {_line(envid)}"] if envid else []
    fields += [f"Reporting-MTA: dns; {reporting}", f"Arrival-Date: {internet_date(arrival)}"]
    for address, result in results.items():
        kind = "rfc822" if address.is_ascii else "utf-8"
        fields += ["", *([f"Original-Recipient: {_line(orcpt[address])}"] if orcpt.get(address) else [])]
        fields += [f"Final-Recipient: {kind}; {address}", f"Action: {action}", f"Status: {result.code}"]
        if action in {"failed", "delayed"}:
            fields.append(f"Diagnostic-Code: smtp; {_line(result.text)}")
        if until is not None:
            fields.append(f"Will-Retry-Until: {internet_date(until)}")
    ascii_only = "\n".join(fields).isascii()
    status = "delivery-status" if ascii_only else "global-delivery-status"  # RFC 6533 §3
    boundary = f"=_report_{unique}"
    head = [
        f"From: Mail Delivery System <MAILER-DAEMON@{reporting}>",
        f"To: <{reverse_path}>",
        f"Subject: {_SUBJECTS[action]}",
        f"Date: {internet_date(now)}",
        f"Message-ID: <{unique}@{reporting}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status; boundary="{boundary}"',
    ]
    original = mail if whole else _crlf(header[:MAX_HEADER])
    message_type = "message/rfc822" if header.isascii() else "message/global"
    original_type = message_type if whole else "text/rfc822-headers"
    encoding = "" if human.isascii() else "Content-Transfer-Encoding: 8bit\r\n"
    parts = (
        f"Content-Type: text/plain; charset=utf-8\r\n{encoding}\r\n".encode() + _crlf(human.encode()),
        f"Content-Type: message/{status}\r\n\r\n".encode() + _crlf("\n".join(fields).encode()) + b"\r\n",
        f"Content-Type: {original_type}\r\nContent-Transfer-Encoding: 8bit\r\n\r\n".encode() + original,
    )
    mark = boundary.encode()
    body = b"".join(b"--" + mark + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + mark + b"--\r\n"
    return "\r\n".join(head).encode("utf-8") + b"\r\n\r\n" + body


def is_automatic(mail: bytes) -> bool:
    """Whether no person waits for it: mail of a list or of a program (RFC 3834 §2, RFC 2919)."""
    for name, value in mime.parse(mail).fields:
        words = value.strip().lower()
        if name == b"list-id" or (name == b"precedence" and words in {b"bulk", b"list", b"junk"}):
            return True
        if name == b"auto-submitted" and not words.startswith(b"no"):
            return True
    return False


def _human(
    action: Action, reporting: Domain, results: Mapping[Address, Outcome], until: float | None, what: str
) -> str:  # fmt: skip
    first, more = _WORDS[action]
    more = more.format(reporting=reporting, until="" if until is None else internet_date(until))
    said = "\n".join(f"  <{address}>\n      {o.code} {_line(o.text)}" for address, o in results.items())
    end = _END.format(what=what)
    return f"This is the mail server at {reporting}.\n\n{first}\n\n{said}\n\n{more}{end}"


def _line(text: str) -> str:
    """What a peer said, made fit for one field (no line of its own)."""
    return " ".join(text.split())[:900]


def _crlf(text: bytes) -> bytes:
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"").replace(b"\n", b"\r\n").replace(b"\0", b"")
