"""Eight-bit mail made seven-bit: what is inside stays the same."""

from __future__ import annotations

import email

from hypothesis import given
from hypothesis import strategies as st

from gatewayd.message import mime
from gatewayd.message.downgrade import seven_bit
from tests.corpus import messages

NESTED = (
    "From: a@b.test\r\nContent-Type: multipart/mixed; boundary=x\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    "--x\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße\r\n"
    "--x\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nÄ\r\n"
    "--x\r\nContent-Type: text/plain\r\n\r\nplain stays\r\n--x--\r\n"
).encode()


def bodies(mail: bytes) -> list[bytes]:
    """Of the leaves, decoded, but for the line end that base64 needs not."""
    return [mime.decoded_body(mail, e).rstrip(b"\r\n") for e in mime.walk(mime.parse(mail)) if not e.children]


def test_parts_are_encoded_where_they_must() -> None:
    made = seven_bit(NESTED)
    assert made.isascii()
    assert bodies(made) == bodies(NESTED) == ["Grüße".encode(), "Ä".encode(), b"plain stays"]
    assert b"plain stays\r\n--x--" in made and b"8bit" not in made
    read = email.message_from_bytes(made)
    assert read.get_payload(0).get_payload(decode=True) == "Grüße".encode()  # type: ignore[union-attr]


def test_what_is_seven_bit_is_untouched() -> None:
    mail = b"Subject: x\r\n\r\nbody\r\n"
    assert seven_bit(mail) == mail
    assert b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: base64\r\n\r\n" in seven_bit(mail + b"\xff\r\n")


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"Content-Transfer-Encoding: 8BIT\r\n", b"Mime-Version: 1.0\r\n"])
)
def test_any_body(body: bytes, fields: bytes) -> None:
    mail = b"Subject: x\r\n" + fields + b"\r\n" + body
    made = seven_bit(mail)
    assert made.partition(b"\r\n\r\n")[2].isascii()
    assert bodies(made) == bodies(mail)


def test_real_mail() -> None:
    for mail in messages():
        made = seven_bit(mail)
        assert seven_bit(made) == made
        if not made.isascii():  # a header, or what stands between the parts
            continue
        assert len(bodies(made)) == len(bodies(mail))
