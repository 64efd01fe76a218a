"""The bounce: a report that a person understands and a program can read (RFC 3462, 3464, 5321 §6.1, 3834 §2), as its
reader asked for it (RFC 3461 §6)."""

from __future__ import annotations

from collections.abc import Mapping

from gatewayd.address import Address, Domain
from gatewayd.message import mime
from gatewayd.message.dates import internet_date
from gatewayd.outcome import Outcome

MAX_HEADER = 32 * 1024  # octets of the original's header that go along

_WORDS = """\
This is the mail server at {reporting}.

Your message could not be delivered to:

{recipients}

You do not have to answer this report. Below it are the details for mail programs, and {what}.
"""


def bounce(
    *,
    reporting: Domain,
    reverse_path: Address,
    failed: Mapping[Address, Outcome],
    mail: bytes,
    arrival: float,
    now: float,
    unique: str,
    envid: str = "",
    orcpt: Mapping[Address, str] = {},
    whole: bool = False,
) -> bytes:
    """CRLF lines. `arrival` and `now` in seconds since the epoch; `unique` makes Message-ID and boundary. `envid`,
    `orcpt` and `whole` (RET=FULL) are what the sender gave along."""
    recipients = "\n".join(f"  <{address}>\n      {o.code} {_line(o.text)}" for address, o in failed.items())
    whole = whole and mail == _crlf(mail)  # binary fits into no report
    header = mime.section(mail, (), "HEADER") or b""
    what = "your message" if whole else "the header of your message"
    human = _WORDS.format(reporting=reporting, recipients=recipients, what=what)
    report = [f"Original-Envelope-Id: {_line(envid)}"] if envid else []
    report += [f"Reporting-MTA: dns; {reporting}", f"Arrival-Date: {internet_date(arrival)}"]
    for address, result in failed.items():
        kind = "rfc822" if address.is_ascii else "utf-8"
        report += ["", *([f"Original-Recipient: {_line(orcpt[address])}"] if orcpt.get(address) else [])]
        report += [
            f"Final-Recipient: {kind}; {address}",
            "Action: failed",
            f"Status: {result.code}",
            f"Diagnostic-Code: smtp; {_line(result.text)}",
        ]
    ascii_only = "\n".join(report).isascii()
    status = "delivery-status" if ascii_only else "global-delivery-status"  # RFC 6533 §3
    boundary = f"=_report_{unique}"
    head = [
        f"From: Mail Delivery System <MAILER-DAEMON@{reporting}>",
        f"To: <{reverse_path}>",
        "Subject: Your message could not be delivered",
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
        f"Content-Type: message/{status}\r\n\r\n".encode() + _crlf("\n".join(report).encode()) + b"\r\n",
        f"Content-Type: {original_type}\r\nContent-Transfer-Encoding: 8bit\r\n\r\n".encode() + original,
    )
    mark = boundary.encode()
    body = b"".join(b"--" + mark + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + mark + b"--\r\n"
    return "\r\n".join(head).encode("utf-8") + b"\r\n\r\n" + body


def _line(text: str) -> str:
    """What a peer said, made fit for one field (no line of its own)."""
    return " ".join(text.split())[:900]


def _crlf(text: bytes) -> bytes:
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"").replace(b"\n", b"\r\n").replace(b"\0", b"")
