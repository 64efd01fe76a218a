"""A bounce is a multipart/report that the standard library reads back."""

from __future__ import annotations

import email
import re

from gatewayd.address import Address, Domain
from gatewayd.message.dsn import bounce
from gatewayd.outcome import Refused


def test_a_bounce_names_the_recipient_and_brings_no_foreign_line() -> None:
    to = Address.parse("gone@legacy.test")
    mail = bounce(
        reporting=Domain.parse("mx.alpha.test"),
        reverse_path=Address.parse("alice@alpha.test"),
        failed={to: Refused("5.1.1", "no\r\nBcc: everyone@evil.test\r\n such user")},
        mail=b"Subject: hi\r\nFrom: alice@alpha.test\r\n\r\nsecret body\r\n",
        arrival=0,
        now=60,
        unique="abc",
    )
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", mail)
    report = email.message_from_bytes(mail)
    assert report["Bcc"] is None
    assert report.get_content_type() == "multipart/report"
    human, status, header = report.get_payload()
    assert "gone@legacy.test" in human.get_payload()
    per_recipient = status.get_payload()[1]
    assert per_recipient["Final-Recipient"] == "rfc822; gone@legacy.test"
    assert per_recipient["Status"] == "5.1.1"
    assert per_recipient["Bcc"] is None
    assert "Subject: hi" in header.get_payload()
    assert b"secret body" not in mail
