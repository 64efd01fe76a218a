"""The SMTP client's engine: replies, and what it never says."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.wire.smtp import LocalProtocolError, RemoteProtocolError
from gatewayd.wire.smtp.client import Command, Content, ServerReply, SMTPClient, Unasked
from gatewayd.wire.smtp.data import DataReader

REPLIES = (
    b"220 ready\r\n250-mx.test greets\r\n250-SIZE 100\r\n250 8BITMIME\r\n354\r\n"
    b"550 5.1.1 no\xff such\x1buser\r\n421 bye\n"
)
SAID = [
    ServerReply(220, ("ready",)),
    ServerReply(250, ("mx.test greets", "SIZE 100", "8BITMIME")),
    ServerReply(354, ("",)),
    ServerReply(550, ("5.1.1 no\N{REPLACEMENT CHARACTER} such user",)),  # control characters are for nobody
    ServerReply(421, ("bye",)),
]


@given(st.lists(st.integers(0, len(REPLIES)), max_size=20))
def test_any_split_gives_the_same_replies(cuts: list[int]) -> None:
    engine = SMTPClient()
    for _ in SAID[1:-1]:  # the first is the banner, and the last one nobody has asked for
        engine.send(Command("NOOP"))
    points = [0, *sorted(cuts), len(REPLIES)]
    got = [said for a, b in itertools.pairwise(points) for said in engine.receive(REPLIES[a:b])]
    assert got == [*SAID[:-1], Unasked(SAID[-1])]


def test_enhanced_codes() -> None:
    assert (SAID[3].enhanced, SAID[3].text) == ("5.1.1", "no\N{REPLACEMENT CHARACTER} such user")
    assert ServerReply(451, ("later",)).enhanced == "4.0.0"
    assert ServerReply(550, ("2.0.0 confused",)).enhanced == "5.0.0"  # its class is the reply code's


@pytest.mark.parametrize(
    "octets",
    [b"\r\n", b"hello\r\n", b"99 x\r\n", b"600 x\r\n", b"250-a\r\n550 b\r\n", b"250_a\r\n", b"x" * 70_000,
     b"250-x\r\n" * 70_000],
    ids=lambda octets: repr(octets[:12]),
)  # fmt: skip
def test_what_is_no_reply(octets: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        SMTPClient().receive(octets)


@given(st.lists(st.binary(max_size=80), max_size=10))
def test_random_octets_raise_one_error_only(chunks: list[bytes]) -> None:
    engine = SMTPClient()
    try:
        for chunk in chunks:
            engine.receive(chunk)
    except RemoteProtocolError:
        pass


@pytest.mark.parametrize("injected", [b"250 evil\r\n", b"250-", b"2", b"\r\n"])
def test_octets_ahead_of_the_handshake_are_not_believed(injected: bytes) -> None:
    """Together with the 220, or after it and before TLS is up."""
    together = SMTPClient()
    together.send(Command("STARTTLS"))
    with pytest.raises(RemoteProtocolError, match=r"ahead|not an SMTP reply"):
        together.receive(b"220 go\r\n" + injected)
    later = SMTPClient()
    later.send(Command("STARTTLS"))
    assert later.receive(b"220 go\r\n") == [ServerReply(220, ("go",))]
    with pytest.raises(RemoteProtocolError, match="ahead"):
        later.receive(injected)
    fine = SMTPClient()
    fine.send(Command("STARTTLS"))
    fine.receive(b"220 go\r\n")
    fine.tls_started()
    assert fine.receive(b"250 hello\r\n") == [ServerReply(250, ("hello",))]


def test_so_many_replies_as_were_asked_for() -> None:
    engine = SMTPClient()
    go, stop = ServerReply(220, ("go",)), ServerReply(421, ("or not",))
    assert engine.receive(b"220 go\r\n421 or not\r\n") == [go, Unasked(stop)]
    engine.send(Content(b"", replies=2))
    assert engine.receive(b"250 one\r\n250 two\r\n250 three\r\n")[-1] == Unasked(ServerReply(250, ("three",)))


def test_a_refused_starttls_changes_nothing() -> None:
    engine = SMTPClient()
    engine.send(Command("STARTTLS"))
    assert engine.receive(b"454 no\r\n") == [ServerReply(454, ("no",))]
    assert engine.receive(b"250 on\r\n") == [ServerReply(250, ("on",))]


@pytest.mark.parametrize("text", ["NOOP\r\nQUIT", "MAIL FROM:<a\n@b>", "RCPT TO:<a\0@b>", "\r"])
def test_a_command_is_one_line(text: str) -> None:
    with pytest.raises(LocalProtocolError):
        SMTPClient().send(Command(text))


@given(st.binary(max_size=300))
def test_content_leaves_so_that_one_message_arrives_or_not_at_all(mail: bytes) -> None:
    try:
        octets = SMTPClient().send(Content(mail))
    except LocalProtocolError:
        assert b"\r" in mail or b"\n" in mail
        return
    reader = DataReader(1 << 20)
    assert reader.feed(octets) == b""
    assert reader.message() == (mail if mail.endswith(b"\r\n") or not mail else mail + b"\r\n")
