"""A bounce is a multipart/report that the standard library reads back."""

from __future__ import annotations

import email
import re
from email.message import Message
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gatewayd.address import Address, Domain
from gatewayd.message.dsn import is_automatic, report
from gatewayd.outcome import Deferred, Delivered, Outcome, Refused

TO = Address.parse("gone@legacy.test")
MAIL = b"Subject: hi\r\nFrom: alice@alpha.test\r\n\r\nsecret body\r\n"


def make(action: Any, result: Outcome, mail: bytes = MAIL, **more: Any) -> Message:
    octets = report(
        action,
        reporting=Domain.parse("mx.alpha.test"),
        reverse_path=Address.parse("alice@alpha.test"),
        results={TO: result},
        mail=mail,
        arrival=0,
        now=60,
        unique="abc",
        **more,
    )
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", octets)
    made = email.message_from_bytes(octets)
    assert made.get_content_type() == "multipart/report"
    return made


def test_a_bounce_names_the_recipient_and_brings_no_foreign_line() -> None:
    made = make("failed", Refused("5.1.1", "no\r\nBcc: everyone@evil.test\r\n such user"))
    assert made["Bcc"] is None
    human, status, header = made.get_payload()  # type: ignore[misc]
    assert "gone@legacy.test" in human.get_payload()  # type: ignore[operator, union-attr]
    per_recipient = status.get_payload()[1]  # type: ignore[index, union-attr]
    assert per_recipient["Final-Recipient"] == "rfc822; gone@legacy.test"  # type: ignore[call-overload, index]
    assert per_recipient["Status"] == "5.1.1"  # type: ignore[call-overload, index]
    assert per_recipient["Action"] == "failed"  # type: ignore[call-overload, index]
    assert per_recipient["Bcc"] is None  # type: ignore[call-overload, index]
    assert "Subject: hi" in header.get_payload()  # type: ignore[operator, union-attr]
    assert "secret body" not in made.as_string()


def test_a_delay_says_until_when_it_is_tried() -> None:
    made = make("delayed", Deferred("4.4.1", "no answer"), until=86400.0)
    human, status, _ = made.get_payload()  # type: ignore[misc]
    words = human.get_payload()  # type: ignore[union-attr]
    assert "do not have to send it again" in words and "Fri, 02 Jan 1970" in words  # type: ignore[operator]
    assert "Action: delayed" in str(status) and "Will-Retry-Until: Fri, 02 Jan 1970" in str(status)


def test_what_the_sender_asked_for_stands_in_the_report() -> None:
    made = make("failed", Refused("5.1.1", "no"), envid="a+b\r\nBcc:x", orcpt={TO: "rfc822;was@here.test"}, whole=True)
    status = str(made.get_payload(1))
    assert "Original-Envelope-Id: a+b Bcc:x" in status
    assert "Original-Recipient: rfc822;was@here.test" in status
    assert "secret body" in str(made.get_payload(2))
    assert "Action: relayed" in str(make("relayed", Delivered()).get_payload(1))


def test_mail_of_programs_is_told_from_mail_of_people() -> None:
    for field in (b"List-Id: <a.test>", b"Precedence: bulk", b"Auto-Submitted: auto-replied"):
        assert is_automatic(field + b"\r\n" + MAIL)
    assert not is_automatic(b"Auto-Submitted: no\r\n" + MAIL)


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_text_of_others_makes_a_field(envid: str, orcpt: str) -> None:
    made = make("failed", Refused("5.1.1", envid), envid=envid, orcpt={TO: orcpt})
    fields = {name for part in made.get_payload(1).get_payload() for name in dict(part.items())}  # type: ignore[arg-type, union-attr]
    assert fields <= {
        "Reporting-MTA", "Original-Envelope-Id", "Arrival-Date", "Original-Recipient", "Final-Recipient", "Action",
        "Status", "Diagnostic-Code",
    }  # fmt: skip


def words(code: str, to: str = "gone@legacy.test", text: str = "as it said", mail: bytes = MAIL) -> str:
    outcome = Deferred(code, text) if code.startswith("4") else Refused(code, text)
    octets = report(
        "failed", reporting=Domain.parse("mx.alpha.test"), reverse_path=Address.parse("alice@alpha.test"),
        results={Address.parse(to): outcome}, mail=mail, arrival=0, now=60, unique="abc",
    )  # fmt: skip
    human: Any = email.message_from_bytes(octets).get_payload(0)
    return str(human.get_payload(decode=True).decode()).replace("\r\n", "\n")


def test_a_person_reads_which_message_it_was_and_what_went_wrong() -> None:
    assert words("5.1.1").splitlines()[2:11] == [
        "Your message could not be delivered to:",
        "",
        "  <gone@legacy.test>",
        "      There is no such mailbox. Is the address spelled correctly?",
        "      In detail: 5.1.1 as it said",
        "",
        "Subject: hi",
        "Of:      Thu, 01 Jan 1970 00:00:00 +0000",
        "",
    ]
    assert "takes no mail at all" in words("5.1.10")
    assert "too large" in words("5.3.4") and "cannot be reached" in words("4.4.1")
    assert "\n      5.0.0 as it said\n" in words("5.0.0")  # nothing is made up
    assert "Subject: (none)" in words("5.1.1", mail=b"")
    assert "Subject: a b\n" in words("5.1.1", mail=b"Subject: =?utf-8?q?a=0Ab?=\r\n\r\n")
    assert "<bob@bücher.test>" in words("5.1.1", "bob@bücher.test")


def test_other_letters_than_english_ones() -> None:
    """RFC 6533 §3, §4: what is in eight bits says so, and has the types made for it."""
    to = Address.parse("käthe@bücher.test")
    octets = report(
        "failed", reporting=Domain.parse("mx.alpha.test"), reverse_path=Address.parse("jürgen@alpha.test"),
        results={to: Refused("5.1.1", "no")}, mail="Subject: Grüße\r\n\r\n".encode(), arrival=0, now=60, unique="abc",
    )  # fmt: skip
    parts: Any = email.message_from_bytes(octets).get_payload()
    kinds = ["text/plain", "message/global-delivery-status", "message/global-headers"]
    assert [part.get_content_type() for part in parts] == kinds
    assert all(part["Content-Transfer-Encoding"] == "8bit" for part in parts)
    assert "Final-Recipient: utf-8; käthe@bücher.test\r\n".encode() in octets
    ascii_only = make("failed", Refused("5.1.1", "no"))
    assert [part.get_content_type() for part in ascii_only.get_payload()][2] == "text/rfc822-headers"  # type: ignore[union-attr]
