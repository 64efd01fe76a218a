"""POP3's engine as a function."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
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
