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
_WHY: tuple[tuple[str, str], ...] = (  # RFC 3463 codes in plain words, the first that begins so
    ("5.1.1", "There is no such mailbox. Is the address spelled correctly?"),
    ("5.1.10", "The domain takes no mail at all."),
    ("5.1.2", "There is no such domain. Is the address spelled correctly?"),
    ("5.1.3", "That is no address."),
    ("5.2.2", "The mailbox is full."),
    ("5.3.2", "The mail server of the domain takes no mail at all."),
    ("5.3.4", "The message is too large for the server there."),
    ("5.4.7", "It was tried again and again, in vain. You may send it once more."),
    ("5.4", "There is no way to the mail server of the domain."),
    ("5.6.7", "The server there takes no addresses with other than English letters."),
    ("5.6", "The server there cannot take a message of this form."),
    ("5.7.30", "You demand that it stays encrypted all the way, and the next server does not promise that."),
    ("5.7", "It is not let in there. Their postmaster can tell why."),
    ("4.2.2", "The mailbox is full."),
    ("4.4", "The mail server of the domain cannot be reached."),
    ("4.7.5", "The mail server of the domain does not prove that it is the right one."),
)
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
    human = _human(action, reporting, results, until, mail, arrival, whole)
    fields = [f"Original-Envelope-Id: {_line(envid)}"] if envid else []
    fields += [f"Reporting-MTA: dns; {reporting}", f"Arrival-Date: {internet_date(arrival)}"]
    for address, result in results.items():
        kind = "rfc822" if address.is_ascii else "utf-8"
        fields += ["", *([f"Original-Recipient: {_line(orcpt[address])}"] if orcpt.get(address) else [])]
        fields += [f"Final-Recipient: {kind}; {_shown(address)}", f"Action: {action}", f"Status: {result.code}"]
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
    if header.isascii():
        original_type = "message/rfc822" if whole else "text/rfc822-headers"
    else:
        original_type = "message/global" if whole else "message/global-headers"
    parts = (
        _part("text/plain; charset=utf-8", _crlf(human.encode())),
        _part(f"message/{status}", _crlf("\n".join(fields).encode()) + b"\r\n"),
        _part(original_type, original),
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
    action: Action, reporting: Domain, results: Mapping[Address, Outcome], until: float | None, mail: bytes,
    arrival: float, whole: bool,
) -> str:  # fmt: skip
    first, more = _WORDS[action]
    more = more.format(reporting=reporting, until="" if until is None else internet_date(until))
    subject = _line("".join(mime.header(mail, b"subject")[:1]))[:200]
    about = f"Subject: {subject or '(none)'}\nOf:      {internet_date(arrival)}"
    said = "\n".join(_of_one(address, outcome) for address, outcome in results.items())
    end = _END.format(what="your message" if whole else "the header of your message")
    return f"This is the mail server at {reporting}.\n\n{first}\n\n{said}\n\n{about}\n\n{more}{end}"


def _of_one(address: Address, outcome: Outcome) -> str:
    """What it means, and below it the words that a postmaster asks for."""
    lines = [f"  <{address.local}@{address.domain.unicode}>"]
    means = next((words for code, words in _WHY if outcome.code == code or outcome.code.startswith(f"{code}.")), "")
    lines += [f"      {means}"] if means else []
    said = _line(outcome.text)
    return "\n".join([*lines, f"      {'In detail: ' if means else ''}{outcome.code} {said}"])


def _shown(address: Address) -> str:
    """What has other letters in front of the @ may have them behind it (RFC 6533 §4)."""
    return str(address) if address.is_ascii else f"{address.local}@{address.domain.unicode}"


def _part(media_type: str, octets: bytes) -> bytes:
    encoding = "" if octets.isascii() else "Content-Transfer-Encoding: 8bit\r\n"
    return f"Content-Type: {media_type}\r\n{encoding}\r\n".encode() + octets


def _line(text: str) -> str:
    """What a peer said, made fit for one field (no line of its own)."""
    return " ".join(text.split())[:900]


def _crlf(text: bytes) -> bytes:
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"").replace(b"\n", b"\r\n").replace(b"\0", b"")
