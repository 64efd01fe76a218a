"""DATA: what is stuffed comes out as it went in, and only CRLF.CRLF ends it."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.wire.smtp.data import DataReader, has_bare, stuff

LINES = st.lists(st.binary(max_size=30).map(lambda line: re.sub(rb"[\r\n]", b".", line)) | st.just(b"."), max_size=12)


def read(octets: bytes, cuts: list[int], limit: int = 1 << 20) -> tuple[DataReader, bytes | None]:
    """Fed in pieces until the end is found; the rest then has all that follows it."""
    reader = DataReader(limit)
    points = [0, *sorted(cut % (len(octets) + 1) for cut in cuts), len(octets)]
    for begin, end in itertools.pairwise(points):
        rest = reader.feed(octets[begin:end])
        if rest is not None:
            return reader, rest + octets[end:]
    return reader, None


@given(LINES, st.lists(st.integers(0, 10_000), max_size=6), st.binary(max_size=20))
def test_stuffing_is_undone(lines: list[bytes], cuts: list[int], behind: bytes) -> None:
    mail = b"".join(line + b"\r\n" for line in lines)
    reader, rest = read(stuff(mail) + behind, cuts)
    assert rest == behind
    assert reader.message() == mail
    assert not reader.bare
    assert not reader.too_big


@given(st.binary(max_size=60).map(lambda b: re.sub(rb"[^\r\n.\0]", b"x", b)), st.lists(st.integers(0, 99), max_size=4))
def test_only_crlf_dot_crlf_ends(octets: bytes, cuts: list[int]) -> None:
    end = (b"\r\n" + octets).find(b"\r\n.\r\n")
    reader, rest = read(octets, cuts)
    if end < 0:
        assert rest is None
    else:
        content = octets[:end]
        assert rest == octets[end + 3 :]
        assert reader.bare == (re.search(rb"\r(?!\n)|(?<!\r)\n", content) is not None)


@given(st.binary(max_size=40).map(lambda b: re.sub(rb"[^\r\n]", b"x", b)))
def test_bare(octets: bytes) -> None:
    assert has_bare(octets) == (re.search(rb"\r(?!\n)|(?<!\r)\n", octets) is not None)


@pytest.mark.parametrize("mail", [b"a\nb\r\n", b"a\rb\r\n", b"a\r\n\n", b"\r", b"x\r\r\n"])
def test_what_must_not_leave(mail: bytes) -> None:
    with pytest.raises(ValueError, match="bare"):
        stuff(mail)


@pytest.mark.parametrize(("mail", "too_big"), [(b"x" * 98 + b"\r\n", False), (b"x" * 99 + b"\r\n", True)])
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_limit_is_that_of_the_message_unstuffed(mail: bytes, too_big: bool, step: int) -> None:
    for content in (mail, b".\r\n" * (len(mail) // 3) + b"y" * (len(mail) % 3 - 2) + b"\r\n" * (len(mail) % 3 == 2)):
        reader = DataReader(100)
        octets = stuff(content) + b"NEXT"
        rest = None
        for at in range(0, len(octets), step):
            if rest is None:
                rest = reader.feed(octets[at : at + step])
            else:
                rest += octets[at : at + step]
        assert rest == b"NEXT"
        assert reader.too_big == (len(content) > 100)
    assert too_big == (len(mail) > 100)


def test_an_endless_message_takes_no_memory() -> None:
    reader = DataReader(1000)
    for _ in range(1000):
        assert reader.feed(b"x" * 1000) is None
    assert len(reader._buffer) < 4000
    assert reader.feed(b"\r\n.\r\nQUIT") == b"QUIT"
    assert reader.too_big
