"""The IMAP engine and its grammar: every split of the octets, literals, names, sets; bounded whatever comes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatewayd.session import imap_fetch, imap_search
from gatewayd.session.imap_mailbox import OpenMailbox
from gatewayd.wire.imap import RemoteProtocolError
from gatewayd.wire.imap.connection import (
    MAX_LINE,
    MAX_SMALL_LITERAL,
    BadCommand,
    Command,
    Continue,
    IMAPConnection,
    Line,
    NeedLiteral,
    State,
    Tagged,
    Untagged,
)
from gatewayd.wire.imap.syntax import STAR, BadSyntax, Reader, compact, encoded_name, mailbox_name, quoted

MAX_APPEND = 200_000
NEXT = {"LOGIN": State.AUTHENTICATED, "SELECT": State.SELECTED, "CLOSE": State.AUTHENTICATED, "LOGOUT": State.OVER}


def told(event: Any) -> tuple[Any, ...]:
    """An event as plain values."""
    match event:
        case Command(tag, name, uid, arguments):
            return "command", tag, name, uid, arguments._line[arguments._at :]
        case Line(text) | BadCommand(text):
            return type(event).__name__, text
    return (type(event).__name__,)


def answer(engine: IMAPConnection, event: Any) -> bytes:
    """What a session would send, without doing anything."""
    match event:
        case Command(tag, "IDLE"):
            return engine.send(Continue(b"idling", State.IDLE))
        case Command(tag, "AUTHENTICATE"):
            return engine.send(Continue(b"", State.RESPONSE))
        case Command(tag, name):  # STARTTLS is refused here
            return engine.send(Tagged(tag, b"OK", NEXT.get(name)))
        case Line():
            return engine.send(Tagged(b"x", b"OK", State.AUTHENTICATED))
        case BadCommand(tag):
            return engine.send(Tagged(tag, b"BAD"))
    return engine.send(Continue(b""))


def drive(chunks: Iterable[bytes], engine: IMAPConnection | None = None) -> list[tuple[Any, ...]]:
    """Every event of these octets, each answered before the next is asked for."""
    engine = engine or IMAPConnection(MAX_APPEND)
    seen = []
    try:
        for chunk in chunks:
            events = engine.receive(chunk)
            while events:
                (event,) = events
                seen.append(told(event))
                answer(engine, event)
                events = engine.receive(b"")
    except RemoteProtocolError as error:
        seen.append(("error", str(error)))
    return seen


def pieces(octets: bytes, cuts: Iterable[int]) -> list[bytes]:
    at = sorted({0, len(octets), *(cut % (len(octets) + 1) for cut in cuts)})
    return [octets[a:b] for a, b in itertools.pairwise(at)]


LINES = st.sampled_from(
    [
        b"a1 LOGIN alice secret\r\n",
        b"a2 login {5}\r\nalice {6+}\r\nse\r\nct\r\n",
        b"a3 SELECT INBOX\r\n",
        b"a4 UID FETCH 1:* (FLAGS BODY[HEADER.FIELDS (From)])\r\n",
        b"a5 APPEND x (\\Seen) {12+}\r\nSubject: x\r\n\r\n",
        b"a6 IDLE\r\n",
        b"DONE\r\n",
        b"a7 AUTHENTICATE PLAIN\r\n",
        b"AGEAYg==\r\n",
        b"a8 STARTTLS\r\n",
        b"a9 LOGOUT\r\n",
        b"b1 SELECT {70000+}\r\n" + b"b2 NOOP\r\n" * 7777 + b"1234567 {3+}\r\nabc\r\n",
        b"b3 SELECT {999999}\r\n",
        b"b4 NOOP\n",
        b"b5 LOGIN {3}\nabc x\r\n",
        b"b6 UID NOOP\r\n",
        b"b7 XYZZY {3+}\r\nabc\r\n",
        b"\r\n",
        b"{3+}\r\n",
        b"*\r\n",
        b"b8 SELECT {99999999999+}\r\n",
    ]
)
STREAMS = st.lists(LINES | st.binary(max_size=30), max_size=12).map(b"".join)


@given(STREAMS, st.lists(st.integers(0, 10**6), max_size=12))
@example(b"a1 LOGIN a b\r\na8 STARTTLS\r\na3 NOOP\r\n", [26])
def test_any_split_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    assert drive(pieces(stream, cuts)) == drive([stream])


@given(st.lists(LINES, max_size=6).map(b"".join))
def test_octet_by_octet_too(stream: bytes) -> None:
    stream = stream[:2000]
    assert drive(stream[i : i + 1] for i in range(len(stream))) == drive([stream])


@given(st.binary(max_size=3000) | st.text('a1 {}+\r\n0123456789()"\\*%LOGIN', max_size=500).map(str.encode))
def test_random_octets_raise_nothing_but_a_protocol_error(octets: bytes) -> None:
    drive([octets])


def test_literals_are_asked_for_and_stand_in_the_command() -> None:
    engine = IMAPConnection(MAX_APPEND)
    assert engine.receive(b"a LOGIN {5}\r\n") == [NeedLiteral()]
    assert engine.receive(b"al") == []  # not before the continuation is out
    assert engine.send(Continue(b"Go on")) == b"+ Go on\r\n"
    assert engine.receive(b"ice {4}\r\n") == [NeedLiteral()]
    engine.send(Continue(b""))
    (command,) = engine.receive(b"\r\n}\r\r\n")
    assert (command.tag, command.name) == (b"a", "LOGIN")
    assert command.arguments.astring() == b"alice"
    command.arguments.space()
    assert command.arguments.astring() == b"\r\n}\r"
    command.arguments.end()


def test_literals_at_once_need_no_continuation() -> None:
    assert drive([b"a LOGIN {5+}\r\nalice {0+}\r\n\r\nb NOOP\r\n"]) == [
        ("command", b"a", "LOGIN", False, b"{5+}\r\nalice {0+}\r\n"),
        ("command", b"b", "NOOP", False, b""),
    ]


def test_one_command_at_a_time() -> None:
    engine = IMAPConnection(MAX_APPEND)
    assert [told(e)[2] for e in engine.receive(b"a NOOP\r\nb CAPABILITY\r\n")] == ["NOOP"]
    assert engine.receive(b"") == []
    assert engine.send(Untagged(b"1 EXISTS")) == b"* 1 EXISTS\r\n"
    assert engine.receive(b"") == []
    assert engine.send(Tagged(b"a", b"OK Done")) == b"a OK Done\r\n"
    assert [told(e)[2] for e in engine.receive(b"")] == ["CAPABILITY"]


@pytest.mark.parametrize(
    ("first", "size"),
    [
        (b"a LOGIN ", MAX_SMALL_LITERAL + MAX_LINE),
        (b"a LOGIN ", 9_999_999_999),
        (b"a APPEND x ", 10_000_000),  # as large as that only when signed in
    ],
)
def test_a_literal_too_large_is_refused_at_its_announcement(first: bytes, size: int) -> None:
    said = ("BadCommand", b"a")
    assert drive([first + b"{%d}\r\n" % size, b"b NOOP\r\n"]) == [said, ("command", b"b", "NOOP", False, b"")]


def test_what_follows_a_refused_literal_is_thrown_away_to_the_end_of_its_command() -> None:
    engine = IMAPConnection(MAX_APPEND)
    size = 3_000_000
    stream = b"a SELECT {%d+}\r\n" % size + b"b LOGOUT\r\n" * (size // 10) + b" {7+}\r\nb NOOP\r\r\nc NOOP\r\n"
    chunks = [stream[i : i + 10_000] for i in range(0, len(stream), 10_000)]
    assert drive(chunks, engine) == [("BadCommand", b"a"), ("command", b"c", "NOOP", False, b"")]


def test_memory_is_bounded_however_much_is_announced_and_sent() -> None:
    engine = IMAPConnection(MAX_APPEND)
    assert drive([b"a LOGIN a b\r\nb SELECT {4294967295+}\r\n"], engine)[-1] == ("BadCommand", b"b")
    for _ in range(200):
        assert engine.receive(b"x" * 100_000) == []
        assert held(engine) == 0
    engine = IMAPConnection(MAX_APPEND)
    drive([b"a LOGIN a b\r\n"], engine)
    sent = 0
    with pytest.raises(RemoteProtocolError):  # small literals without end in one command
        for _ in range(10_000):
            for event in engine.receive(b"{1000+}\r\n" + b"x" * 1000):
                answer(engine, event)
            sent += 1000
            assert held(engine) <= MAX_LINE + MAX_SMALL_LITERAL + 10_000
    assert sent < 10_000_000


def held(engine: IMAPConnection) -> int:
    return sum(len(value) for value in vars(engine).values() if isinstance(value, bytearray))


def test_append_may_be_larger_than_other_literals_once_signed_in() -> None:
    mail = b"m" * MAX_APPEND
    line = b"b APPEND INBOX {%d+}\r\n" % len(mail) + mail + b"\r\n"
    events = drive([b"a LOGIN a b\r\n", line])
    assert events[-1] == ("command", b"b", "APPEND", False, line[9:-2])
    assert drive([line])[0] == ("BadCommand", b"b")
    more = b"b APPEND INBOX {%d}\r\n" % (MAX_APPEND + MAX_LINE)
    assert drive([b"a LOGIN a b\r\n", more])[-1] == ("BadCommand", b"b")


@pytest.mark.parametrize("line", [b"a" * (MAX_LINE + 1), b"a LOGIN " + b"x" * MAX_LINE + b"\r\n"])
def test_an_endless_line_is_a_protocol_error(line: bytes) -> None:
    engine = IMAPConnection(MAX_APPEND)
    with pytest.raises(RemoteProtocolError):
        engine.receive(line)


def test_an_impossible_literal_size_is_a_protocol_error() -> None:
    """Else its octets were read as commands."""
    assert drive([b"a SELECT {99999999999+}\r\nb LOGOUT\r\n"])[0][0] == "error"


@pytest.mark.parametrize(
    ("state", "name", "allowed"),
    [
        (State.NOT_AUTHENTICATED, b"SELECT INBOX", False),
        (State.NOT_AUTHENTICATED, b"FETCH 1 FLAGS", False),
        (State.NOT_AUTHENTICATED, b"LOGIN a b", True),
        (State.AUTHENTICATED, b"LOGIN a b", False),
        (State.AUTHENTICATED, b"STARTTLS", False),
        (State.AUTHENTICATED, b"FETCH 1 FLAGS", False),
        (State.AUTHENTICATED, b"select INBOX", True),
        (State.SELECTED, b"uid fetch 1 FLAGS", True),
        (State.SELECTED, b"UID SELECT INBOX", False),
        (State.SELECTED, b"DELETE x", True),
    ],
)
def test_what_a_state_allows(state: State, name: bytes, allowed: bool) -> None:
    engine = IMAPConnection(MAX_APPEND)
    engine.state = state
    (event,) = engine.receive(b"t " + name + b"\r\n")
    assert isinstance(event, Command if allowed else BadCommand)
    assert event.tag == b"t"


def test_after_starttls_nothing_that_came_before_is_a_command() -> None:
    engine = IMAPConnection(MAX_APPEND)
    (event,) = engine.receive(b"a STARTTLS\r\nb LOGIN a b\r\n")
    engine.send(Tagged(event.tag, b"OK", State.OVER))
    assert engine.receive(b"c LOGIN a b\r\n") == []
    engine.tls_started()
    assert engine.receive(b"") == []
    assert [told(e)[1] for e in engine.receive(b"d NOOP\r\n")] == [b"d"]


def test_after_logout_nothing_is_a_command() -> None:
    assert len(drive([b"a LOGOUT\r\nb NOOP\r\n", b"c NOOP\r\n"])) == 1


def test_idle_ends_with_a_line() -> None:
    assert drive([b"a LOGIN a b\r\nb IDLE\r\nDONE\r\nc NOOP\r\n"])[1:] == [
        ("command", b"b", "IDLE", False, b""),
        ("Line", b"DONE"),
        ("command", b"c", "NOOP", False, b""),
    ]


# -- the grammar of arguments ---------------------------------------------------------------------------------------


@given(st.binary(max_size=80))
def test_a_string_in_every_form(value: bytes) -> None:
    forms = [b"{%d}\r\n%s" % (len(value), value), b"{%d+}\r\n%s" % (len(value), value)]
    if not re.search(rb"[\r\n]", value):
        forms.append(b'"' + re.sub(rb'(["\\])', rb"\\\1", value) + b'"')
    for form in forms:
        reader = Reader(form + b" rest")
        assert reader.string() == value
        reader.space()
        assert reader.atom() == "rest"
        assert reader.ended


@pytest.mark.parametrize("line", [b'"open', b'"a\\b"', b'"a\rb"', b"{5}\r\nabc", b"{x}\r\nabc", b"", b"(a)"])
def test_what_is_no_string(line: bytes) -> None:
    with pytest.raises(BadSyntax):
        Reader(line).string()


NAMES = st.text(st.characters(exclude_categories=["Cs"], min_codepoint=32, exclude_characters="\x7f"), max_size=40)


@given(NAMES)
@example("~peter/mail/台北/日本語")
@example("a&b & 𝄞𝄞 &-")
@example('"\\ %*')
def test_a_mailbox_name_goes_out_and_comes_back(name: str) -> None:
    wire = encoded_name(name)
    assert wire.isascii() and b"\r" not in wire
    assert Reader(wire).mailbox() == re.sub(r"^inbox(?=/|\Z)", "INBOX", name, flags=re.IGNORECASE | re.ASCII)


@pytest.mark.parametrize(
    ("wire", "name"),
    [
        (b"~peter/mail/&U,BTFw-/&ZeVnLIqe-", "~peter/mail/台北/日本語"),  # RFC 3501 §5.1.3
        (b"Entw&APw-rfe", "Entwürfe"),
        (b"R&-D", "R&D"),
        (b"inBox", "INBOX"),
        (b"inbox/x", "INBOX/x"),
        ("Entwürfe".encode(), "Entwürfe"),
    ],
)
def test_modified_utf7(wire: bytes, name: str) -> None:
    assert mailbox_name(wire) == name
    assert mailbox_name(encoded_name(name)[1:-1]) == name


def test_modified_utf7_is_what_rfc_3501_shows() -> None:
    assert encoded_name("~peter/mail/台北/日本語") == b'"~peter/mail/&U,BTFw-/&ZeVnLIqe-"'


@given(st.binary(max_size=60) | st.text("&-,+AZaz09/=", max_size=20).map(str.encode))
def test_any_octets_are_a_mailbox_name_or_bad_syntax(octets: bytes) -> None:
    try:
        name = mailbox_name(octets)
    except BadSyntax:
        return
    assert not re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", name)
    assert mailbox_name(encoded_name(name)[1:-1].replace(b"\\\\", b"\\").replace(b'\\"', b'"')) == name


@given(NAMES)
def test_text_of_ours_is_one_string(text: str) -> None:
    reader = Reader(quoted(text))
    assert reader.string().decode() == text
    assert reader.ended


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        (b"1", ((1, 1),)),
        (b"2,4:7,9,12:*", ((2, 2), (4, 7), (9, 9), (12, STAR))),
        (b"*:4", ((4, STAR),)),
        (b"7:5", ((5, 7),)),
        (b"*", ((STAR, STAR),)),
        (b"4294967295", ((4294967295, 4294967295),)),
    ],
)
def test_sequence_sets(text: bytes, ranges: tuple[tuple[int, int], ...]) -> None:
    assert Reader(text).sequence_set() == ranges


@pytest.mark.parametrize(
    "text", [b"0", b"1:0", b"", b",1", b"a", b":", b"4294967297", b"9" * 6000, b"1:" + b"9" * 6000]
)
def test_what_is_no_sequence_set(text: bytes) -> None:
    with pytest.raises(BadSyntax):
        Reader(text).sequence_set()


@given(st.sets(st.integers(1, 60)))
def test_compact_is_a_sequence_set_of_the_same_numbers(numbers: set[int]) -> None:
    if numbers:
        ranges = Reader(compact(sorted(numbers))).sequence_set()
        assert [n for low, high in ranges for n in range(low, high + 1)] == sorted(numbers)


def test_flags() -> None:
    assert Reader(b"(\\SEEN \\flagged $Forwarded)").flags() == ["\\Seen", "\\Flagged", "$Forwarded"]
    assert Reader(b"\\Deleted x").flags() == ["\\Deleted", "x"]
    assert Reader(b"()").flags() == []
    for bad in (b"(\\Unknown)", b"(\\Seen", b"(a  b)", b"", b"\\*", "(ü)".encode()):
        with pytest.raises(BadSyntax):
            Reader(bad).flags()


# -- FETCH and SEARCH as they are read ------------------------------------------------------------------------------


def empty_mailbox() -> OpenMailbox:
    mailbox: Any = type("M", (), {"mailbox_id": 1, "name": "INBOX", "uidvalidity": 1})
    return OpenMailbox(1, mailbox, read_only=False)


FETCHED = ["FLAGS", "BODY[", "BODY.PEEK[", "1.2.", "1", ".", "HEADER", ".FIELDS", " (", "From", '"a b"', ")", "]", "<",
           "0", ".5", ">", "(", " ", "RFC822", "ALL", "TEXT", "MIME", "²", "99999999999", "{3}\r\na\rb"]  # fmt: skip
SEARCHED = ["ALL", "NOT", "OR", " ", "(", ")", "FROM", '"x"', "1:3", "*", "UID", "BEFORE", "1-Feb-2026", "31-Feb-2026",
            "LARGER", "5", "KEYWORD", "HEADER", "CHARSET", "UTF-8", "SINCE", '"', "{2}\r\nab", "9" * 5000]  # fmt: skip


@given(st.lists(st.sampled_from(FETCHED), max_size=12).map("".join) | st.text(max_size=30))
@example("BODY[²]")
@example("BODY[" + "1" * 5000 + "]")
def test_fetch_items_are_read_or_bad_syntax(text: str) -> None:
    reader = Reader(text.encode())
    try:
        wanted = imap_fetch.attributes(reader)
        reader.end()
    except BadSyntax:
        return
    for item in wanted:
        if isinstance(item, imap_fetch.Section):  # the label goes into a response
            assert re.fullmatch(rb"[\x20-\x7e]+", item.label)


@given(st.lists(st.sampled_from(SEARCHED), max_size=12).map("".join) | st.text(max_size=30))
def test_search_keys_are_read_or_bad(text: str) -> None:
    try:
        imap_search.read(Reader(text.encode()), empty_mailbox())
    except (BadSyntax, imap_search.BadCharset):
        pass


@pytest.mark.parametrize("bomb", [b"(" * 30_000, b"NOT " * 15_000 + b"ALL", b"OR " * 20_000, b"OR NOT (" * 8000])
def test_a_nesting_bomb_in_search_is_bad_syntax(bomb: bytes) -> None:
    with pytest.raises(BadSyntax):
        imap_search.read(Reader(bomb), empty_mailbox())


@pytest.mark.parametrize("bomb", [b"(" * 30_000, b"BODY[" * 10_000, b"(" + b"BODY[] " * 9000 + b"BODY[])"])
def test_a_nesting_bomb_in_fetch_is_bad_syntax(bomb: bytes) -> None:
    with pytest.raises(BadSyntax):
        imap_fetch.attributes(Reader(bomb))


@pytest.mark.parametrize(
    ("text", "label", "path", "what", "partial"),
    [
        (b"BODY[]", b"BODY[]", (), "", None),
        (b"body.peek[1.2.header.fields (From \"To\")]<10.20>", b"BODY[1.2.HEADER.FIELDS (From To)]<10>", (1, 2),
         "HEADER.FIELDS", (10, 20)),
        (b"BODY[3.MIME]", b"BODY[3.MIME]", (3,), "MIME", None),
        (b"RFC822.TEXT", b"RFC822.TEXT", (), "TEXT", None),
    ],
)  # fmt: skip
def test_sections(text: bytes, label: bytes, path: tuple[int, ...], what: str, partial: tuple[int, int] | None) -> None:
    (item,) = imap_fetch.attributes(Reader(text))
    assert isinstance(item, imap_fetch.Section)
    assert (item.label, item.path, item.what, item.partial) == (label, path, what, partial)


@pytest.mark.parametrize(
    "text", [b"BODY[MIME]", b"BODY[1.]", b"BODY[0]", b"BODY[1..2]", b"BODY[X]", b"BODY[TEXT", b"BODY[]<1>", b"NOTHING",
             b'BODY[HEADER.FIELDS ("a b")]', b"BODY[HEADER.FIELDS ({1}\r\n\r)]"]
)  # fmt: skip
def test_what_is_no_section(text: bytes) -> None:
    with pytest.raises(BadSyntax):
        imap_fetch.attributes(Reader(text))
