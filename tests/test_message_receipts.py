"""A receipt as a mail's report and back, and reports that other servers and programs write."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.address import Address, Domain
from gatewayd.message import mime, receipts
from gatewayd.message.bridge import bridged_payload, restore
from gatewayd.message.dsn import report
from gatewayd.message.mime import Mail
from gatewayd.message.model import Content, Payload
from gatewayd.message.object_types import check
from gatewayd.message.render import render
from gatewayd.outcome import Deferred, Delivered, Refused

ALPHA = Domain.parse("alpha.test")
ID = b"\1" * 32
NAMED = f"{ID.hex()}@alpha.test"


def receipt(status: str, by: str = "bob@beta.test", references: Any = (NAMED,)) -> Content:
    ext = {"receipt": {"status": status}, "references": list(references)}
    payload = Payload(by, ("alice@alpha.test",), 7000, b"n" * 16, "receipt", parents=(ID,), ext=ext)
    return Content(b"p", payload.encode(), b"s" * 64, {})


def view(mail: bytes) -> Payload:
    return bridged_payload(Mail(mail), by=ALPHA, nonce=b"n" * 16, received_ms=1, reverse_path=None)[0]


@pytest.mark.parametrize("by", ["bob@beta.test", "böb@beta.test", '"b b"@beta.test'])
@pytest.mark.parametrize(
    ("status", "as_mail"), [("stored", "stored"), ("delivered", "stored"), ("displayed", "displayed")]
)
def test_a_receipt_is_a_report_that_any_program_reads(status: str, as_mail: str, by: str) -> None:
    """Mail knows of delivery and of display; that it comes from a domain's signature it does not know."""
    content = receipt(status, by)
    check(content)
    mail = render(content)
    assert restore(Mail(mail)) == content
    said = view(mail)
    assert said.parents == (ID,)
    assert (receipts.status(said), receipts.recipient(said)) == (as_mail, Address.parse(by))
    report = mime.parse(mail)
    assert (report.media_type, [child.type for child in report.children]) == (
        "multipart/report",
        ["text", "message", "text"],
    )
    assert report.parameters["report-type"] in ("delivery-status", "disposition-notification")
    assert (b"global-" in mail) == (not by.isascii())


@given(
    st.sampled_from(receipts.STATUSES), st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.integers(-(2**64), 2**64 - 1), max_size=3
    ),
)  # fmt: skip
def test_no_field_brings_a_line_of_its_own(status: str, by: str, references: list[Any]) -> None:
    content = receipt(status, by, references)
    mail = render(content)
    assert restore(Mail(mail)) == content
    assert mail.count(b"\r\n") == mail.count(b"\n") == mail.count(b"\r")
    assert max(map(len, mail.split(b"\r\n"))) <= 998
    assert mail == render(content)


@pytest.mark.parametrize(
    ("action", "result", "word", "why"),
    [
        ("failed", Refused("5.1.1", "No such user"), "failed", "5.1.1 No such user"),
        ("delivered", Delivered(), "stored", ""),
        ("relayed", Delivered(), "relayed", ""),
        ("delayed", Deferred("4.4.1", "No answer"), "delayed", "4.4.1 No answer"),
    ],
)
def test_our_own_delivery_reports_are_read(action: Any, result: Any, word: str, why: str) -> None:
    original = Content(b"", Payload("alice@alpha.test", ("bob@beta.test",), 0, b"n" * 16).encode(), b"", {})
    mail = report(
        action, reporting=ALPHA, reverse_path=Address.parse("alice@alpha.test"),
        results={Address.parse("bob@beta.test"): result}, mail=render(original), arrival=0, now=0, unique="u",
    )  # fmt: skip
    said = view(mail)
    assert receipts.fates(said) == [receipts.Fate("bob@beta.test", word, why)]
    assert said.parents == (original.id,)


def test_a_report_on_several_recipients() -> None:
    """Of each its own fate; what is no address, or no known action, is left out."""
    blocks = (
        b"Final-Recipient: rfc822; bob@beta.test\r\nAction: failed\r\nStatus: 5.1.1\r\n"
        b"Diagnostic-Code: smtp; 550 5.1.1 <bob@beta.test>: No such\r\n user\r\n\r\n"
        b"Final-Recipient: rfc822; carol@BETA.test\r\nAction: delayed\r\nStatus: 4.2.2\r\n\r\n"
        b"Final-Recipient: rfc822; dave@beta.test\r\nAction: delivered\r\nStatus: 2.0.0\r\n\r\n"
        b"Final-Recipient: rfc822; erin@beta.test\r\nAction: expanded\r\nStatus: 2.0.0\r\n\r\n"
        b"Final-Recipient: rfc822; nobody\r\nAction: failed\r\nStatus: 5.0.0\r\n\r\n"
        b"Final-Recipient: rfc822; fred@beta.test\r\nAction: pondered\r\nStatus: 5.0.0\r\n"
    )
    mail = (
        b"From: MAILER-DAEMON@beta.test\r\nContent-Type: multipart/report; boundary=b; report-type=delivery-status\r\n"
        b"\r\n--b\r\n\r\nSorry\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; x\r\n\r\n"
        b"%s\r\n--b\r\nContent-Type: text/rfc822-headers\r\n\r\nMessage-ID: <%s>\r\n\r\n--b--\r\n"
    )
    said = view(mail % (blocks, NAMED.encode()))
    assert said.ext["receipt"] == {
        "fates": [
            {"recipient": "bob@beta.test", "status": "failed", "why": "550 5.1.1 <bob@beta.test>: No such user"},
            {"recipient": "carol@beta.test", "status": "delayed", "why": "4.2.2"},
            {"recipient": "dave@beta.test", "status": "stored"},
            {"recipient": "erin@beta.test", "status": "relayed"},
        ]
    }
    assert [(fate.recipient, fate.status) for fate in receipts.fates(said)] == [
        ("bob@beta.test", "failed"), ("carol@beta.test", "delayed"), ("dave@beta.test", "stored"),
        ("erin@beta.test", "relayed"),
    ]  # fmt: skip
    assert (receipts.status(said), receipts.recipient(said)) == ("", None)
    assert view(mail % (b"Action: failed\r\n", NAMED.encode())).ext.get("receipt") is None
    many = b"\r\n".join(b"Final-Recipient: x; u%d@b.test\r\nAction: failed\r\n" % n for n in range(200))
    assert len(view(mail % (many, NAMED.encode())).ext["receipt"]["fates"]) == receipts.MAX_FATES


def notification(
    disposition: str = "manual-action/MDN-sent-manually; displayed", final: str = "rfc822; bob@beta.test"
) -> bytes:
    return (
        "From: bob@beta.test\r\n"
        "Content-Type: multipart/report; boundary=b; report-type=disposition-notification\r\n\r\n"
        f"--b\r\n\r\nread\r\n--b\r\nContent-Type: message/disposition-notification\r\n\r\nFinal-Recipient: {final}\r\n"
        f"Original-Message-ID: <{NAMED}>\r\nDisposition: {disposition}\r\n\r\n--b--\r\n"
    ).encode()


@pytest.mark.parametrize(
    ("mail", "word"),
    [
        (notification(), "displayed"),
        (notification("automatic-action/MDN-sent-automatically;displayed/error"), "displayed"),
        (notification("manual-action/MDN-sent-manually; deleted"), ""),
        (notification("displayed"), ""),
        (notification(final="bob"), ""),
        (notification(final="rfc822; bob"), ""),
        (notification().replace(b"Original-Message-ID", b"X-Original"), ""),
        (notification().replace(b"multipart/report", b"multipart/mixed"), ""),
        (notification().replace(b"message/disposition-notification", b"message/x"), ""),
    ],
)
def test_notifications_of_other_programs(mail: bytes, word: str) -> None:
    assert receipts.status(view(mail)) == word


@given(st.text(st.sampled_from("abc<>@;:/\r\n \t")), st.text(st.sampled_from("abc<>@;:/\r\n \t")))
def test_no_report_is_too_odd(one: str, other: str) -> None:
    mail = notification(one, other)
    assert receipts.status(view(mail)) in ("", "displayed")


@pytest.mark.parametrize(
    ("field", "asks"),
    [
        (b"Disposition-Notification-To: Alice <ALICE@alpha.test>\r\n", True),
        (b"Disposition-Notification-To: mallory@gamma.test\r\n", False),
        (b"Disposition-Notification-To: alice@alpha.test, mallory@gamma.test\r\n", False),
        (b"Disposition-Notification-To: alice@alpha.test\r\nList-Id: <x.alpha.test>\r\n", False),
        (b"Disposition-Notification-To: alice@alpha.test\r\nAuto-Submitted: auto-generated\r\n", False),
        (b"", False),
    ],
)
def test_which_mail_asks_for_a_receipt(field: bytes, asks: bool) -> None:
    said = view(b"From: alice@alpha.test\r\n" + field + b"\r\nHello")
    assert receipts.asked(said) == ({"displayed"} if asks else set())


@pytest.mark.parametrize("said", [None, 7, "displayed", {}, ["adored"], [["displayed"]], [7]])
def test_what_asks_for_nothing(said: Any) -> None:
    payload = Payload("a@b.test", (), 0, bytes(16), ext={"receipts": said, "receipt": said})
    assert receipts.asked(payload) == set()
    assert receipts.status(payload) == ""
