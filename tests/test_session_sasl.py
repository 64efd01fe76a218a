from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.session.sasl import BadResponse, plain, plain_base64

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(WORDS, WORDS, st.booleans())
def test_user_and_password_come_through(user: str, password: str, named: bool) -> None:
    message = f"{user if named else ''}\0{user}\0{password}".encode()
    assert plain(message) == (user, password)
    assert plain_base64(base64.b64encode(message)) == (user, password)


@pytest.mark.parametrize("message", [b"", b"a", b"a\0b", b"a\0b\0c\0d", b"\0\xff\0x"])
def test_what_is_no_response(message: bytes) -> None:
    with pytest.raises(BadResponse, match="PLAIN"):
        plain(message)


def test_nobody_acts_for_others() -> None:
    with pytest.raises(BadResponse, match="others"):
        plain(b"bob\0alice\0secret")


@given(st.binary(max_size=40))
def test_random_letters(letters: bytes) -> None:
    try:
        plain_base64(letters)
    except BadResponse:
        pass
