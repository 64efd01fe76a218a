"""The SMTP server's engine as a function: octets in, events out."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.wire.smtp.commands import (
    VERBS,
    Auth,
    AuthResponse,
    BadCommand,
    Chunk,
    Event,
    Hello,
    MailFrom,
    Message,
    RcptTo,
    RefusedMessage,
    Reply,
    Simple,
    StartData,
    State,
    reply,
)
from gatewayd.wire.smtp.parameters import MailParameters
from gatewayd.wire.smtp.server import ALLOWED, SMTPServer


def answer(event: Event) -> tuple[int, State | None]:
    """What a server that takes everything says."""
    match event:
        case Hello():
            return 250, State.READY
        case MailFrom():
            return 250, State.MAIL
        case RcptTo():
            return 250, State.RCPT
        case StartData():
            return 354, State.DATA
        case Auth():
            return 334, State.AUTH
        case AuthResponse():
            return 235, State.READY
        case Chunk():
            return 250, State.CHUNKS
        case Simple("QUIT"):
            return 221, State.OVER
        case Simple("RSET"):
            return 250, State.READY
        case BadCommand():
            return event.code, None
    return 250, None


def talk(chunks: list[bytes], max_size: int = 10_000) -> tuple[list[Event], bytes]:
    """All events of the chunks, each answered at once; and what was said."""
    engine = SMTPServer(max_size)
    events: list[Event] = []
    said = b""
    for chunk in chunks:
        waiting = engine.receive(chunk)
        while waiting:
            (event,) = waiting
            events.append(event)
            code, state = answer(event)
            said += engine.send(reply(code, "", "x", state=state))
            waiting = engine.receive(b"")
    return events, said


SESSION = (
    b"EHLO client.test\r\nMAIL FROM:<a@b.test> SIZE=10 BODY=8BITMIME\r\nRCPT TO:<c@d.test>\r\nRCPT TO:<Postmaster>\r\n"
    b"DATA\r\nSubject: x\r\n\r\n..dot\r\n.\r\nRSET\r\nAUTH PLAIN\r\nAGEAYg==\r\nAUTH LOGIN =\r\n*\r\nNOOP\r\nFOO\r\n"
    b'MAIL FROM:<>\r\nRCPT TO:<"a b"@d.test>\r\nDATA\r\nbare\nlf\r\n.\r\nQUIT\r\nNOOP\r\n'
)


@given(st.lists(st.integers(0, len(SESSION)), max_size=40))
def test_any_split_gives_the_same_events(cuts: list[int]) -> None:
    points = [0, *sorted(cuts), len(SESSION)]
    chunks = [SESSION[a:b] for a, b in itertools.pairwise(points)]
    assert talk(chunks) == talk([SESSION])


def test_the_session() -> None:
    events, _ = talk([SESSION])
    kinds = [type(event).__name__ for event in events]
    assert kinds == [
        "Hello", "MailFrom", "RcptTo", "RcptTo", "StartData", "Message", "Simple", "Auth", "AuthResponse", "Auth",
        "AuthResponse", "Simple", "BadCommand", "MailFrom", "RcptTo", "StartData", "RefusedMessage", "Simple",
    ]  # fmt: skip
    assert events[5] == Message(b"Subject: x\r\n\r\n.dot\r\n")
    said = MailParameters(frozenset({"SIZE", "BODY"}), size=10, body="8BITMIME")
    assert events[1].parameters == said  # type: ignore[union-attr]
    assert events[3] == RcptTo(None)
    assert events[8] == AuthResponse(b"\0a\0b")
    assert events[10] == AuthResponse(None)
    assert isinstance(events[16], RefusedMessage)


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_random_octets_are_bad_commands(chunks: list[bytes]) -> None:
    events, _ = talk([chunk + b"\r\n" for chunk in chunks])
    for event in events:
        assert isinstance(event, BadCommand | Simple | Hello | MailFrom | RcptTo | Auth | AuthResponse | StartData)


@pytest.mark.parametrize("state", list(ALLOWED))
@pytest.mark.parametrize("verb", sorted(VERBS - {"LHLO"}))
def test_what_is_allowed_when(state: State, verb: str) -> None:
    arguments = {
        "EHLO": " x",
        "HELO": " x",
        "MAIL": " FROM:<a@b.test>",
        "RCPT": " TO:<a@b.test>",
        "AUTH": " PLAIN",
        "VRFY": " bob",
        "BDAT": " 0 LAST",
    }
    engine = SMTPServer(100)
    engine.state = state
    (event,) = engine.receive(verb.encode() + arguments.get(verb, "").encode() + b"\r\n")
    if verb in ALLOWED[state]:
        assert not isinstance(event, BadCommand)
    else:
        assert event == BadCommand(503, "5.5.1", f"{verb} is not allowed now")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"NOOP\n", 500), (b"NO\rOP\r\n", 500), (b"NOOP\0\r\n", 500), (b"\xff\xfe\r\n", 500), (b"\r\n", 500),
        (b"EHLO\r\n", 501), (b"EHLO \xc3\xa4\r\n", 501), (b"STARTTLS now\r\n", 501), (b"QUIT now\r\n", 501),
        (b"RSET now\r\n", 501), (b"VRFY\r\n", 501), (b"EXPN all\r\n", 502), (b"ETRN b.test\r\n", 502),
        (b"SEND FROM:<a@b.test>\r\n", 502), (b"XYZZY\r\n", 500),
        (b"MAIL FROM:a@b.test\r\n", 501), (b"MAIL <a@b.test>\r\n", 501),
        (b"MAIL FROM:<a@b.test> SIZE=1 SIZE=2\r\n", 501),
        (b"MAIL FROM:<a@b.test> =x\r\n", 501), (b"MAIL FROM:<a@b@c.test>\r\n", 501),
        (b"MAIL FROM:<a b@c.test>\r\n", 501), (b"MAIL FROM:<a@b.test> X=1\r\n", 555),
        (b"MAIL FROM:<a@[127.0.0.1]>\r\n", 501), (b"MAIL FROM:<" + b"a" * 65 + b"@b.test>\r\n", 501),
        (b"AUTH\r\n", 501), (b"AUTH PLAIN !!!\r\n", 501),
        (b"X" * 3000 + b"\r\n", 500), (b"MAIL FROM:<" + b"a" * 9000 + b"\r\n", 500),
        (b"AUTH PLAIN " + b"A" * 13000 + b"\r\n", 500),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_bad_commands(line: bytes, code: int) -> None:
    for chunks in ([line], [line[i : i + 1] for i in range(len(line))]):
        engine = SMTPServer(100)
        engine.state = State.READY
        found = [event for chunk in chunks for event in engine.receive(chunk)]
        assert [type(event) for event in found] == [BadCommand]
        assert found[0].code == code  # type: ignore[union-attr]


# -- BDAT -----------------------------------------------------------------------------------------------------------

BINARY = b"a\0b\rc\nd\r\n.\r\nQUIT\r\n"  # 18 octets, none of which is a command
CHUNKED = (
    b"EHLO client.test\r\nMAIL FROM:<a@b.test> BODY=BINARYMIME\r\nRCPT TO:<c@d.test>\r\nDATA\r\n"
    b"BDAT 18\r\n" + BINARY + b"BDAT 0\r\nNOOP\r\nDATA\r\nBDAT 18 LAST\r\n" + BINARY + b"BDAT 18\r\n" + BINARY +
    b"MAIL FROM:<a@b.test>\r\nBDAT 18 LAST\r\n" + BINARY + b"RCPT TO:<c@d.test>\r\nBDAT 18 LAST\r\n" + BINARY +
    b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nbdat 9\r\nSubject: BDAT 0 last\r\nQUIT\r\n"
)  # fmt: skip


@given(st.lists(st.integers(0, len(CHUNKED)), max_size=40))
def test_any_split_of_chunks_gives_the_same_events(cuts: list[int]) -> None:
    points = [0, *sorted(cuts), len(CHUNKED)]
    assert talk([CHUNKED[a:b] for a, b in itertools.pairwise(points)]) == talk([CHUNKED])


def test_chunks_are_counted_and_never_commands() -> None:
    events, _ = talk([CHUNKED])
    assert events[3] == BadCommand(503, "5.5.1", "BODY=BINARYMIME comes by BDAT (RFC 3030 3)")
    assert events[4:9] == [
        Chunk(18), Chunk(0), Simple("NOOP"), BadCommand(503, "5.5.1", "DATA is not allowed now"), Message(BINARY * 2),
    ]  # fmt: skip
    refused = BadCommand(503, "5.5.1", "BDAT is not allowed now")
    assert events[9] == events[11] == refused  # no transaction, no recipient: its octets are skipped all the same
    assert events[13] == RefusedMessage(
        550, "5.6.0", "A bare CR or LF in the message; lines end in CRLF (RFC 5321 2.3.8)"
    )
    assert events[16:] == [Chunk(9), Message(b"Subject: "), Simple("QUIT")]


def test_chunks_that_are_too_much_are_skipped_and_end_the_transaction() -> None:
    talk_to = b"EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n"
    too_big = RefusedMessage(552, "5.3.4", "Message larger than 30 octets", chunk=True)
    events, _ = talk([talk_to + b"BDAT 18\r\n" + BINARY + b"BDAT 18\r\n" + BINARY + b"BDAT 18 LAST\r\n" + BINARY], 30)
    assert events[3:] == [Chunk(18), too_big, BadCommand(503, "5.5.1", "BDAT is not allowed now")]
    engine = SMTPServer(30)
    engine.state = State.RCPT
    assert engine.receive(b"BDAT 99999999999999\r\n") == []
    for _ in range(100):
        assert engine.receive(b"x" * 10_000) == []
    assert len(engine._buffer) == 0  # nothing is kept of it


@pytest.mark.parametrize(
    "line", [b"BDAT", b"BDAT x", b"BDAT -1", b"BDAT 1 2", b"BDAT 1 LASTS", b"BDAT 1e3", b"BDAT " + b"9" * 16]
)
def test_a_chunk_without_a_size_ends_the_connection(line: bytes) -> None:
    engine = SMTPServer(100)
    engine.state = State.RCPT
    (event,) = engine.receive(line + b"\r\nQUIT\r\n")
    assert isinstance(event, BadCommand)
    assert (event.code, event.fatal) == (521, True)


def test_lmtp_is_greeted_by_lhlo_alone() -> None:
    for lmtp, good, bad in ((True, b"LHLO", b"EHLO"), (False, b"EHLO", b"LHLO")):
        engine = SMTPServer(100, lmtp=lmtp)
        assert engine.receive(bad + b" x\r\n") == [BadCommand(500, "5.5.1", "Command not recognized")]
        engine.send(reply(500, "", "no"))
        assert engine.receive(good + b" x\r\n") == [Hello("x", True)]


def test_several_replies_to_one_command_are_one_turn() -> None:
    engine = SMTPServer(100, lmtp=True)
    assert engine.receive(b"NOOP\r\nHELP\r\n") == [Simple("NOOP")]
    engine.send(Reply(250, ("one",), final=False))
    assert engine.receive(b"") == []
    engine.send(Reply(250, ("two",)))
    assert engine.receive(b"") == [Simple("HELP")]


def test_source_routes_are_read_and_ignored() -> None:
    engine = SMTPServer(100)
    engine.state = State.READY
    (event,) = engine.receive(b"MAIL FROM:<@hop.test,@hop2.test:a@b.test>\r\n")
    assert str(event.reverse_path) == "a@b.test"  # type: ignore[union-attr]


def test_what_is_pipelined_behind_starttls_is_gone() -> None:
    engine = SMTPServer(100)
    engine.state = State.READY
    (event,) = engine.receive(b"STARTTLS\r\nMAIL FROM:<a@b.test>\r\n")
    assert event == Simple("STARTTLS")
    engine.send(reply(220, "2.0.0", "Go", state=State.OVER))
    assert engine.receive(b"RCPT TO:<a@b.test>\r\n") == []
    engine.tls_started()
    assert engine.receive(b"") == []
    (event,) = engine.receive(b"MAIL FROM:<a@b.test>\r\n")
    assert isinstance(event, BadCommand)  # EHLO has to be said again


@given(st.text(max_size=600), st.integers(200, 559))
def test_a_reply_is_lines_whatever_it_says(text: str, code: int) -> None:
    octets = SMTPServer(100).send(reply(code, "5.0.0", text, text))
    lines = octets.split(b"\r\n")
    assert len(lines) == 3
    assert lines[0].startswith(b"%d-5.0.0 " % code)
    assert lines[1].startswith(b"%d 5.0.0 " % code)
    assert octets.isascii()
    assert b"\n" not in lines[0] + lines[1]
