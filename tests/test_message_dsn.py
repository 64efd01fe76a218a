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
