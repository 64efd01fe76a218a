"""IMAP's engine as a function: lines and literals in any split, bounded, one command at a time."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.wire.imap import RemoteProtocolError
from gatewayd.wire.imap.connection import (
    MAX_LINE,
    BadCommand,
    Command,
    Continue,
    IMAPConnection,
    Line,
    NeedLiteral,
    State,
    Tagged,
)
from gatewayd.wire.imap.syntax import BadSyntax, Reader, encoded_name, mailbox_name

SESSION = (
    b'a1 LOGIN {5}\r\nalice "pass\\"word"\r\n'
    b'a2 SELECT "INBOX"\r\n'
    b"a3 uid fetch 1:*,7 (FLAGS BODY.PEEK[HEADER.FIELDS (From To)]<0.100>)\r\n"
    b"a4 APPEND Drafts (\\Draft) {11+}\r\nSubject: x\n\r\n"
    b"a5 NONSENSE\r\n"
    b"* bad tag\r\n"
    b"a6 IDLE\r\nDONE\r\n"
    b"a7 STARTTLS\r\n"
)


def answer(engine: IMAPConnection, event: Any) -> None:
    match event:
        case NeedLiteral():
            engine.send(Continue(b"go on"))
        case Command(tag, "IDLE"):
            engine.send(Continue(b"idling", State.IDLE))
        case Command(tag, "LOGIN"):
            engine.send(Tagged(tag, b"OK", State.SELECTED))
        case Line():
            engine.send(Tagged(b"x", b"OK", State.SELECTED))
        case Command(tag) | BadCommand(tag):
            engine.send(Tagged(tag, b"OK"))


def talk(chunks: list[bytes], state: State = State.NOT_AUTHENTICATED) -> list[Any]:
    """All events, each answered at once; a command's arguments as octets."""
    engine = IMAPConnection(10_000)
    engine.state = state
    events = []
    for chunk in chunks:
        waiting = engine.receive(chunk)
        while waiting:
            (event,) = waiting
            events.append((type(event).__name__, str(getattr(event, "text", "")), str(getattr(event, "name", ""))))
            answer(engine, event)
            waiting = engine.receive(b"")
    return events


@given(st.lists(st.integers(0, len(SESSION)), max_size=40))
def test_any_split_gives_the_same_events(cuts: list[int]) -> None:
    points = [0, *sorted(cuts), len(SESSION)]
    assert talk([SESSION[a:b] for a, b in pairwise(points)]) == talk([SESSION])


def test_the_session() -> None:
    assert [event[0] + event[-1] for event in talk([SESSION])] == [
        "NeedLiteral", "CommandLOGIN", "CommandSELECT", "CommandFETCH", "CommandAPPEND", "BadCommand", "BadCommand",
        "CommandIDLE", "Line", "BadCommand",
    ]  # fmt: skip


@given(st.lists(st.binary(max_size=80), max_size=15), st.sampled_from([State.NOT_AUTHENTICATED, State.SELECTED]))
def test_random_octets_raise_one_error_only(chunks: list[bytes], state: State) -> None:
    try:
        talk([chunk + b"\r\n" for chunk in chunks], state)
    except RemoteProtocolError:
        pass


def test_commands_ahead_of_tls_are_gone() -> None:
    engine = IMAPConnection(100)
    (event,) = engine.receive(b"a STARTTLS\r\nb LOGIN a b\r\n")
    engine.send(Tagged(event.tag, b"OK", State.OVER))  # type: ignore[union-attr]
    assert engine.receive(b"c LOGIN a b\r\n") == []
    engine.tls_started()
    assert engine.receive(b"") == []
    assert isinstance(engine.receive(b"d NOOP\r\n")[0], Command)


def test_an_announced_literal_is_judged_before_it_comes() -> None:
    stranger = IMAPConnection(10_000_000)
    (event,) = stranger.receive(b"a LOGIN {9999999999}\r\n")
    assert event == BadCommand(b"a", "[TOOBIG] The literal is too large")
    known = IMAPConnection(200_000)
    known.state = State.SELECTED
    (event,) = known.receive(b"a APPEND INBOX {999999+}\r\n")
    assert isinstance(event, BadCommand)
    known.send(Tagged(b"a", b"NO"))
    for _ in range(100):  # what was sent all the same is thrown away, and kept nowhere
        assert known.receive(b"x" * 10_000 if _ < 99 else b"x" * 9_999) == []
    assert isinstance(known.receive(b"\r\nb NOOP\r\n")[0], BadCommand | Command)


def test_an_endless_line() -> None:
    with pytest.raises(RemoteProtocolError, match="too long"):
        for _ in range(100):
            IMAPConnection(100).receive(b"x" * (MAX_LINE + 1))


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=40)


@given(NAMES)
def test_mailbox_names_come_back(name: str) -> None:
    octets = encoded_name(name)
    assert octets.isascii()
    inner = octets.removeprefix(b'"').removesuffix(b'"').replace(b'\\"', b'"').replace(b"\\\\", b"\\")
    assert mailbox_name(inner) == name


@given(st.binary(max_size=60))
def test_the_reader_raises_one_error_only(octets: bytes) -> None:
    for read in ("atom", "word", "number", "string", "astring", "mailbox", "list_mailbox", "sequence_set", "flags"):
        try:
            getattr(Reader(octets), read)()
        except BadSyntax:
            pass
