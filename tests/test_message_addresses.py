"""Address lists against Python's on real mail; and what most fields hold is read as what no field should hold is."""

from __future__ import annotations

import email.utils
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatewayd.message import mime
from gatewayd.message.addresses import _read, addresses
from tests.corpus import messages


def test_addresses_are_those_of_the_standard_library_where_it_finds_any() -> None:
    seen = 0
    for mail in messages():
        for name, value in mime.parse(mail).fields:
            if name not in {b"from", b"to", b"cc", b"sender", b"reply-to"} or re.search(rb"[(:;]|,\s*,|^,", value):
                continue  # comments and groups are told otherwise
            expected = email.utils.getaddresses([re.sub(r"\r\n(?=[ \t])", "", value.decode("latin-1"))])
            found = [(d.decode("latin-1"), b"%s@%s" % (a, b or b"")) for d, a, b in addresses(value) if a is not None]
            sound = all("@" in address and " " not in address for _, address in expected)
            if sound and len(expected) == len(found):  # else a second @ has split one
                assert [(d, a.decode("latin-1")) for d, a in found] == expected
                seen += 1
    assert seen > 500


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (b"a@b.test", [(b"", b"a", b"b.test")]),
        (b'"Doe, J. \\"x\\"" <j@b.test>, c@d.test', [(b'Doe, J. "x"', b"j", b"b.test"), (b"", b"c", b"d.test")]),
        (b'"a b"@c.test', [(b"", b"a b", b"c.test")]),
        (b"Joe Q. Public <@relay.test,@x:j . q @ b . test>", [(b"Joe Q. Public", b"j.q", b"b.test")]),
        (b"a@b.test (The (real) A)", [(b"The (real) A", b"a", b"b.test")]),
        (b"=?utf-8?q?=C3=BC?= <a@[127.0.0.1]>", [(b"=?utf-8?q?=C3=BC?=", b"a", b"[127.0.0.1]")]),
        (b"Friends: a@b.test, C <c@d.test>; e@f.test",
         [(b"", b"Friends", None), (b"", b"a", b"b.test"), (b"C", b"c", b"d.test"), (b"", None, None),
          (b"", b"e", b"f.test")]),
        (b"undisclosed-recipients:;", [(b"", b"undisclosed-recipients", None), (b"", None, None)]),
        (b"nobody", [(b"", b"nobody", b"")]),
        (b"Mail System <>", [(b"Mail System", b"", b"")]),
        (b", ,", []),
        ("ü@ö.test".encode(), [(b"", "ü".encode(), "ö.test".encode())]),
        (b'"open <a@b.test>', [(b"", b"open <a@b.test>", b"")]),
    ],
)  # fmt: skip
def test_addresses(field: bytes, expected: list[Any]) -> None:
    assert list(addresses(field)) == expected


PIECES = [
    b"a", b"B.c", b"Joe", b"Q.", b" ", b"  ", b"\t", b",", b", ", b"<", b">", b" <", b"@", b".", b"..", b"\xfc", b"'",
    b"a@b.test", b"<a@b.test>", b"\r\n ", b"=?utf-8?q?=2C?=", b'"', b"(", b")", b":", b";", b"[", b"\\",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
@example(b"Joe Q. Public <a@b.test>, c@d.test")
@example(b"Joe<a@b.test>")
@example(b"<a@b.test> , <c@d.test>")
def test_the_quick_way_and_the_long_one_find_the_same(field: bytes) -> None:
    assert list(addresses(field)) == list(_read(field))
