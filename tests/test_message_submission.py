"""What is changed in mail that users hand in, and whom it names as its author or sender."""

from __future__ import annotations

import email

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.address import Address
from gatewayd.message.mime import Mail
from gatewayd.message.submission import claimed, completed

ALICE = Address.parse("alice@alpha.test")
NOW = 1_700_000_000.0


def names(*pairs: tuple[str, str | None]) -> list[tuple[str, Address | None]]:
    return [(field, Address.parse(text) if text else None) for field, text in pairs]


def test_what_is_missing_is_added() -> None:
    bare = email.message_from_bytes(completed(Mail(b"Subject: x\r\n\r\nhi\r\n"), NOW, "1@alpha.test", ALICE).octets)
    assert bare["Date"] == "Tue, 14 Nov 2023 22:13:20 +0000"
    assert (bare["Message-ID"], bare["From"], bare["Subject"]) == ("<1@alpha.test>", "alice@alpha.test", "x")
    whole = b"DATE: y\r\nfrom: a@b.test\r\nMessage-Id: <x@y>\r\n\r\nFrom: in the body\r\nBcc: too\r\n"
    assert completed(Mail(whole), NOW, "1@alpha.test", ALICE).octets == whole


def test_what_nobody_should_see_is_gone() -> None:
    kept = b"From: a@b.test\r\nDate: y\r\nMessage-ID: <x@y>\r\n"
    secret = b"BCC: one@x.test,\r\n two@x.test\r\nbcc : three@x.test\r\nResent-Bcc: x\r\nReturn-Path: <z@x.test>\r\n"
    mail = Mail(secret + kept + secret + b"\r\nBcc: x\r\n")
    assert completed(mail, NOW, "1", ALICE).octets == kept + b"\r\nBcc: x\r\n"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"From: Alice <alice@alpha.test>", names(("From", "alice@alpha.test"))),
        (b"From: alice@alpha.test (bob@alpha.test)", names(("From", "alice@alpha.test"))),
        (b'From: "bob@alpha.test" <alice@alpha.test>', names(("From", "alice@alpha.test"))),
        (b"From: =?utf-8?q?Liddell=2C_Alice?= <alice@alpha.test>", names(("From", "alice@alpha.test"))),
        (b"From: =?utf-8?q?bob=40alpha=2Etest?= <alice@alpha.test>", names(("From", "alice@alpha.test"))),
        (b"From: alice\r\n @alpha.test", names(("From", "alice@alpha.test"))),
        (b"From: alice@xn--bcher-kva.test", names(("From", "alice@b\u00fccher.test"))),
        ("From: alice@b\u00fccher.test".encode(), names(("From", "alice@xn--bcher-kva.test"))),
        (b"From: a@b.test, c@d.test", names(("From", "a@b.test"), ("From", "c@d.test"))),
        (b"From: a@b.test\r\nFROM : c@d.test", names(("From", "a@b.test"), ("From", "c@d.test"))),
        (b"From: Team: a@b.test, c@d.test;", names(("From", "a@b.test"), ("From", "c@d.test"))),
        (b"From: undisclosed:;", names(("From", None))),
        (b"From:", names(("From", None))),
        (b"From: a@b.test\r\nSender: c@d.test", names(("From", "a@b.test"), ("Sender", "c@d.test"))),
        (b"Subject: none", []),
    ],
)  # fmt: skip
def test_in_whose_name_it_comes(header: bytes, said: list[tuple[str, Address | None]]) -> None:
    assert claimed(Mail(header + b"\r\n\r\nFrom: body@x.test\r\n")) == said


@pytest.mark.parametrize(
    "value",
    [
        b"<bob@b.test> <alice@alpha.test>", b"alice@alpha.test bob@b.test", b"alice@alpha.test; bob@b.test",
        b"bob@b.test\0, alice@alpha.test", b"<@x.test:bob@b.test>", b"alice <=?utf-8?q?bob=40b=2Etest?=>", b"bob",
        b"bob@", b'"bob@b.test', b"<bob@b.test", b"bob@b.test>", b"bob@[127.0.0.1]", b"bob%b.test@",
        b"((bob@b.test", b"alice@alpha.test,,<>bob",
    ],
)  # fmt: skip
def test_what_can_be_read_in_two_ways_is_never_ours_alone(value: bytes) -> None:
    """What one program shows as bob's and another as alice's is not taken for alice's."""
    found = claimed(Mail(b"From: " + value + b"\r\n\r\n"))
    assert any(address != ALICE for _, address in found)


@given(st.binary(max_size=300), st.binary(max_size=50))
def test_any_octets(head: bytes, body: bytes) -> None:
    mail = b"Bcc: x@y.test\r\n" + head + b"\r\n\r\n" + body
    claimed(Mail(mail))
    changed = completed(Mail(mail), NOW, "1@alpha.test", ALICE).octets
    assert changed.endswith(body)
    assert b"from" in {line.partition(b":")[0].strip().lower() for line in changed.split(b"\n")}
