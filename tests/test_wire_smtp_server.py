"""The SMTP server's engine as a function: octets in, events out."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.wire.smtp.server import (
    ALLOWED,
    VERBS,
    Auth,
    AuthResponse,
    BadCommand,
    Event,
    Hello,
    MailFrom,
    Message,
    RcptTo,
    RefusedMessage,
    Simple,
    SMTPServer,
    StartData,
    State,
    reply,
)


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
    assert events[1].parameters == {"SIZE": "10", "BODY": "8BITMIME"}  # type: ignore[union-attr]
    assert events[3] == RcptTo(None, {})
    assert events[8] == AuthResponse(b"\0a\0b")
    assert events[10] == AuthResponse(None)
    assert isinstance(events[16], RefusedMessage)


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_random_octets_are_bad_commands(chunks: list[bytes]) -> None:
    events, _ = talk([chunk + b"\r\n" for chunk in chunks])
    for event in events:
        assert isinstance(event, BadCommand | Simple | Hello | MailFrom | RcptTo | Auth | AuthResponse | StartData)


@pytest.mark.parametrize("state", list(ALLOWED))
@pytest.mark.parametrize("verb", sorted(VERBS))
def test_what_is_allowed_when(state: State, verb: str) -> None:
    arguments = {"EHLO": " x", "HELO": " x", "MAIL": " FROM:<a@b.test>", "RCPT": " TO:<a@b.test>", "AUTH": " PLAIN"}
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
        (b"MAIL FROM:a@b.test\r\n", 501), (b"MAIL <a@b.test>\r\n", 501),
        (b"MAIL FROM:<a@b.test> SIZE=1 SIZE=2\r\n", 501),
        (b"MAIL FROM:<a@b.test> =x\r\n", 501), (b"MAIL FROM:<a@b@c.test>\r\n", 501),
        (b"MAIL FROM:<a b@c.test>\r\n", 501),
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
