"""POP3's engine as a function."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatewayd.wire.pop3.connection import (
    MAX_LINE,
    Answer,
    AuthResponse,
    BadCommand,
    Command,
    POP3Connection,
    RemoteProtocolError,
    State,
)

SESSION = b"CAPA\r\nUSER alice\r\nPASS a b\r\nSTAT\r\nauth plain\r\nTOP 1 2\r\nX\r\n\xff\r\nNOOP\nQUIT\r\nNOOP\r\n"


def talk(chunks: list[bytes]) -> list[object]:
    engine, events = POP3Connection(), []
    for chunk in chunks:
        waiting = engine.receive(chunk)
        while waiting:
            (event,) = waiting
            events.append(event)
            state = State.TRANSACTION if event == Command("PASS", "a b") else None
            engine.send(Answer(True, "", state=State.OVER if event == Command("QUIT", "") else state))
            waiting = engine.receive(b"")
    return events


@given(st.lists(st.integers(0, len(SESSION)), max_size=30))
def test_any_split_gives_the_same_events(cuts: list[int]) -> None:
    points = [0, *sorted(cuts), len(SESSION)]
    assert talk([SESSION[a:b] for a, b in pairwise(points)]) == [
        Command("CAPA", ""), Command("USER", "alice"), Command("PASS", "a b"), Command("STAT", ""),
        BadCommand("AUTH is not allowed now"), Command("TOP", "1 2"), BadCommand("unknown command"),
        BadCommand("not UTF-8"), Command("NOOP", ""), Command("QUIT", ""),
    ]  # fmt: skip


COMMANDS = st.sampled_from(
    [b"CAPA\r\n", b"USER a\r\n", b"PASS a b\r\n", b"stat\n", b"AUTH PLAIN\r\n", b"STLS\r\n", b"X\r\n", b"QUIT\r\n"]
)


@given(
    st.lists(COMMANDS | st.binary(max_size=20), max_size=12).map(b"".join), st.lists(st.integers(0, 10**6), max_size=9)
)
@example(b"STLS\r\nCAPA\r\n", [6])
def test_any_split_of_anything_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    points = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    assert talk([stream[a:b] for a, b in pairwise(points)]) == talk([stream])


def test_one_command_at_a_time() -> None:
    engine = POP3Connection()
    assert engine.receive(b"USER a\r\nPASS b\r\n") == [Command("USER", "a")]
    assert engine.receive(b"") == []
    engine.send(Answer(True, ""))
    assert engine.receive(b"") == [Command("PASS", "b")]


@pytest.mark.parametrize(
    ("state", "line", "allowed"),
    [
        (State.AUTHORIZATION, b"RETR 1", False),
        (State.AUTHORIZATION, b"DELE 1", False),
        (State.AUTHORIZATION, b"utf8", True),
        (State.TRANSACTION, b"USER a", False),
        (State.TRANSACTION, b"STLS", False),
        (State.TRANSACTION, b"uidl", True),
    ],
)
def test_what_a_state_allows(state: State, line: bytes, allowed: bool) -> None:
    engine = POP3Connection()
    engine.state = state
    (event,) = engine.receive(line + b"\r\n")
    assert isinstance(event, Command if allowed else BadCommand)


def test_a_response_that_is_no_text_ends_the_exchange() -> None:
    engine = POP3Connection()
    engine.state = State.RESPONSE
    assert engine.receive(b"\xff\r\n") == [BadCommand("not UTF-8")]
    engine.send(Answer(False, "no"))
    assert engine.receive(b"CAPA\r\n") == [Command("CAPA", "")]


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_as_long_as_may_be_and_longer(end: bytes) -> None:
    assert len(POP3Connection().receive(b"x" * MAX_LINE + end)) == len(end)
    with pytest.raises(RemoteProtocolError):
        POP3Connection().receive(b"x" * (MAX_LINE + 1) + end)


def test_an_answer_is_one_line_whatever_it_says() -> None:
    octets = POP3Connection().send(Answer(False, "a\r\n+OK\x00b" + "x" * 600))
    assert octets.startswith(b"-ERR a +OK b") and octets.count(b"\r\n") == 1 and len(octets) <= 512


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b"", b".\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b"a\r\n..b\r\n.\r\n", b"a\r\n...b\r\n..\r\n.\r\n"),
        (b"\xff\0\r\n", b"\xff\0\r\n.\r\n"),
        (b"a\n.\r\nb\r\n", b"a\n..\r\nb\r\n.\r\n"),  # no end for a client that takes LF for one
    ],
)
def test_dots_are_stuffed(body: bytes, sent: bytes) -> None:
    assert POP3Connection().send(Answer(True, "", body)) == b"+OK \r\n" + sent


@given(st.lists(st.sampled_from([b".", b"\r\n", b"\n", b"\r", b"x", b"\xff"]), max_size=30).map(b"".join))
def test_no_body_ends_before_its_end(body: bytes) -> None:
    """Neither for a client whose lines end in CRLF, nor for one whose lines end in LF."""
    rest = POP3Connection().send(Answer(True, "", body)).partition(b"\r\n")[2]
    for ending in (b"\r\n", b"\n"):
        lines = rest.split(ending)
        assert next(i for i, line in enumerate(lines) if line.rstrip(b"\r") == b".") == len(lines) - 2


def test_a_challenge_is_answered_by_the_next_line() -> None:
    engine = POP3Connection()
    engine.receive(b"AUTH PLAIN\r\n")
    assert engine.send(Answer(None, "", state=State.RESPONSE)) == b"+ \r\n"
    assert engine.receive(b"AGEAYg==\r\n") == [AuthResponse("AGEAYg==")]


@given(st.lists(st.binary(max_size=100), max_size=10))
def test_random_octets_are_bad_commands(chunks: list[bytes]) -> None:
    for event in talk([chunk + b"\r\n" for chunk in chunks]):
        assert isinstance(event, BadCommand | Command)


def test_what_is_sent_ahead_of_tls_is_gone() -> None:
    engine = POP3Connection()
    assert engine.receive(b"STLS\r\nUSER a\r\nPASS b\r\n") == [Command("STLS", "")]
    engine.send(Answer(True, "", state=State.OVER))
    assert engine.receive(b"USER a\r\n") == []
    engine.tls_started()
    assert engine.receive(b"") == []


def test_an_endless_line() -> None:
    with pytest.raises(RemoteProtocolError):
        POP3Connection().receive(b"x" * (MAX_LINE + 1))


@given(st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\r", b".").replace(b"\n", b".")), max_size=8))
def test_a_body_comes_through_whole(lines: list[bytes]) -> None:
    body = b"".join(line + b"\r\n" for line in lines)
    head, _, rest = POP3Connection().send(Answer(True, "here\r\nit is", body)).partition(b"\r\n")
    assert head == b"+OK here it is"
    received = []
    for line in rest.split(b"\r\n"):
        if line == b".":
            break
        received.append(line.removeprefix(b".") if line.startswith(b".") else line)
    assert received == lines
    assert rest.endswith(b".\r\n")
