"""IMAP's view of a message against Python's email package on real mail; whole, and quickly made, whatever comes."""

from __future__ import annotations

import email
import email.header
import email.message
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatewayd.message import mime
from gatewayd.message.structure import envelope, nstring, summarize
from tests.corpus import messages

# -- reading what was written ---------------------------------------------------------------------------------------

TOKEN = re.compile(rb'"((?:[^"\\\r\n\0\x80-\xff]|\\["\\])*)"|\{(\d+)\}\r\n|([()])|(NIL)|(\d+)')


def read(text: bytes) -> Any:
    """A parenthesised list as lists of bytes, None and int; nothing else may stand there."""
    stack: list[list[Any]] = [[]]
    at = 0
    while at < len(text):
        space = text.startswith(b" ", at)
        at += space
        found = TOKEN.match(text, at)
        assert found, text[at : at + 60]
        quoted, literal, bracket, nil, number = found.groups()
        first = not stack[-1]
        between_lists = bracket == b"(" and not first and isinstance(stack[-1][-1], list)  # 1*address, 1*body
        assert space == (not first and bracket != b")") or (between_lists and not space), text[
            max(0, at - 40) : at + 20
        ]
        at = found.end()
        if bracket == b"(":
            stack.append([])
        elif bracket == b")":
            done = stack.pop()
            assert done, "an empty list is written NIL"
            stack[-1].append(done)
        elif literal is not None:
            stack[-1].append(text[at : at + int(literal)])
            assert len(stack[-1][-1]) == int(literal) and b"\0" not in stack[-1][-1]
            at += int(literal)
        elif quoted is not None:
            stack[-1].append(re.sub(rb"\\(.)", rb"\1", quoted))
        else:
            stack[-1].append(None if nil else int(number))
    assert len(stack) == 1 and len(stack[0]) == 1
    return stack[0][0]


def nstr(value: Any) -> bool:
    return value is None or isinstance(value, bytes)


def check_envelope(items: Any) -> None:
    assert len(items) == 10
    assert all(nstr(items[i]) for i in (0, 1, 8, 9))
    for field in items[2:8]:
        for address in field or ():
            assert len(address) == 4 and all(map(nstr, address))


def check_parameters(value: Any) -> None:
    assert value is None or (len(value) % 2 == 0 and all(isinstance(word, bytes) for word in value))


def check_extension(items: Any) -> None:
    disposition, language, location = items
    if disposition is not None:
        name, parameters = disposition
        assert isinstance(name, bytes)
        check_parameters(parameters)
    assert nstr(language) and nstr(location)


def check_body(items: Any, *, extended: bool) -> None:
    """The grammar of `body` (RFC 3501 §9)."""
    if isinstance(items[0], list):
        count = next(i for i, item in enumerate(items) if not isinstance(item, list))
        for child in items[:count]:
            check_body(child, extended=extended)
        assert isinstance(items[count], bytes)
        if extended:
            check_parameters(items[count + 1])
            check_extension(items[count + 2 :])
        else:
            assert len(items) == count + 1
        return
    kind, subtype, parameters, content_id, description, encoding, octets, *rest = items
    assert isinstance(kind, bytes) and isinstance(subtype, bytes) and isinstance(encoding, bytes)
    assert kind != b"MULTIPART"
    check_parameters(parameters)
    assert nstr(content_id) and nstr(description) and isinstance(octets, int)
    if (kind, subtype) == (b"MESSAGE", b"RFC822"):
        check_envelope(rest.pop(0))
        check_body(rest.pop(0), extended=extended)
    if kind == b"TEXT" or (kind, subtype) == (b"MESSAGE", b"RFC822"):
        assert isinstance(rest.pop(0), int)
    if extended:
        assert nstr(rest.pop(0))
        check_extension(rest)
    else:
        assert not rest


def check(mail: bytes) -> None:
    size, envelope_text, bodystructure, body = summarize(mail)
    assert size == len(mail)
    check_envelope(read(envelope_text))
    check_body(read(bodystructure), extended=True)
    check_body(read(body), extended=False)


# -- against the standard library -----------------------------------------------------------------------------------


def sound() -> Iterator[tuple[bytes, email.message.Message]]:
    """Mail of the corpus in which the standard library finds no defect."""
    count = 0
    for mail in messages():
        parsed = email.message_from_bytes(mail)
        if not any(part.defects for part in parsed.walk()):
            count += 1
            yield mail, parsed
    assert count > 350


def raw(part: email.message.Message) -> bytes:
    payload: Any = part._payload  # type: ignore[attr-defined]
    return str(payload).encode("ascii", "surrogateescape")


def theirs(part: email.message.Message) -> Any:
    kind = part.get_content_type()
    if part.get_content_maintype() == "message" and kind != "message/rfc822":
        return kind
    if part.is_multipart():
        return kind, [theirs(child) for child in part.get_payload()]  # type: ignore[union-attr]
    return kind, len(raw(part)), raw(part).count(b"\n") if part.get_content_maintype() == "text" else None


def ours(items: Any) -> Any:
    if isinstance(items[0], list):
        count = next(i for i, item in enumerate(items) if not isinstance(item, list))
        return f"multipart/{items[count].decode().lower()}", [ours(child) for child in items[:count]]
    kind = f"{items[0].decode()}/{items[1].decode()}".lower()
    if kind == "message/rfc822":
        return kind, [ours(items[8])]
    if kind.startswith("message/"):
        return kind
    return kind, items[6], items[7] if kind.startswith("text/") else None


def test_parts_types_sizes_and_lines_are_those_of_the_standard_library() -> None:
    for mail, parsed in sound():
        assert ours(read(summarize(mail)[2])) == theirs(parsed)


def test_all_of_the_corpus_is_summarised_well() -> None:
    for mail in messages():
        check(mail)


def leaves(part: email.message.Message, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Any]]:
    if part.get_content_maintype() == "multipart" and part.is_multipart():
        for number, child in enumerate(part.get_payload(), 1):
            yield from leaves(child, (*path, number))  # type: ignore[arg-type]
    elif part.get_content_type() == "message/rfc822" and part.is_multipart() and path:
        (inner,) = part.get_payload()
        multipart = inner.get_content_maintype() == "multipart" and inner.is_multipart()  # type: ignore[union-attr]
        yield from leaves(inner, path if multipart else (*path, 1))  # type: ignore[arg-type]
    elif part.get_content_maintype() != "message":
        yield path or (1,), part


def test_sections_are_the_octets_of_the_parts() -> None:
    seen = 0
    for mail, parsed in sound():
        for path, part in leaves(parsed):
            body, header = mime.section(mail, path, ""), mime.section(mail, path, "MIME")
            assert body == raw(part), path
            assert header is not None and header + body in mail
            seen += len(path) > 1
    assert seen > 50


def test_decoded_bodies_are_those_of_the_standard_library() -> None:
    seen = 0
    for mail, parsed in sound():
        parts = [part for part in parsed.walk() if not part.is_multipart()]
        entities = [entity for entity in mime.walk(mime.parse(mail)) if not entity.children]
        for part, entity in zip(parts, entities, strict=False):
            if part.get_content_type() != entity.media_type:
                break  # message/delivery-status: it looks inside, we do not
            if part.get("content-transfer-encoding", "").lower() in {"base64", "quoted-printable"}:
                decoded: Any = part.get_payload(decode=True)
                if not part.defects:  # decoding finds more of them
                    assert mime.decoded_body(mail, entity) == decoded
                    seen += 1
    assert seen > 100


def test_headers_are_decoded_as_the_standard_library_does_where_it_can() -> None:
    seen = 0
    for mail in messages():
        for _, value in mime.parse(mail).fields:
            text = re.sub(rb"\r?\n(?=[ \t])", b"", value).strip().decode("latin-1")
            if "=?" not in text or not text.isascii():
                continue
            try:
                expected = str(email.header.make_header(email.header.decode_header(text)))
            except (LookupError, ValueError, email.errors.HeaderParseError):
                continue
            assert mime.decoded(value).split() == expected.split() or '"' in text or "=?=" in text or "?=." in text, (
                text
            )
            seen += 1
    assert seen > 30


# -- by hand --------------------------------------------------------------------------------------------------------

NESTED = b"""\
From: a@b.test\r
Subject: outer\r
Content-Type: multipart/mixed; boundary=x\r
\r
preamble\r
--x\r
\r
one\r
--x\r
Content-Type: message/rfc822\r
\r
Subject: inner\r
Content-Type: multipart/alternative; boundary="y z"\r
\r
--y z\r
Content-Type: text/plain\r
X: 2.1\r
\r
two one\r
--y z\r
Content-Type: text/html; charset=utf-8\r
Content-Disposition: attachment; filename="a \\"b\\".html"\r
\r
<p>two\r
two\r
--y z--\r
--x\r
Content-Type: message/rfc822\r
\r
Subject: single\r
\r
three\r
--x--\r
epilogue\r
"""


@pytest.mark.parametrize(
    ("path", "what", "expected"),
    [
        ((), "", NESTED),
        ((1,), "", b"one"),
        ((1,), "MIME", b"\r\n"),
        ((2,), "HEADER", b'Subject: inner\r\nContent-Type: multipart/alternative; boundary="y z"\r\n\r\n'),
        ((2, 1), "", b"two one"),
        ((2, 1), "MIME", b"Content-Type: text/plain\r\nX: 2.1\r\n\r\n"),
        ((2, 2), "", b"<p>two\r\ntwo"),
        ((3,), "", b"Subject: single\r\n\r\nthree"),
        ((3,), "HEADER", b"Subject: single\r\n\r\n"),
        ((3,), "TEXT", b"three"),
        ((3, 1), "", b"three"),
        ((), "HEADER", NESTED[:77]),
        ((), "TEXT", NESTED[77:]),
        ((0,), "", None),
        ((4,), "", None),
        ((1, 1), "", None),
        ((1, 1, 1), "", None),
        ((2, 3), "", None),
        ((3, 2), "", None),
        ((3, 1, 1), "", None),
        ((1,), "HEADER", None),
        ((2, 1), "TEXT", None),
        ((), "MIME", None),
    ],
)
def test_sections_by_their_numbers(path: tuple[int, ...], what: str, expected: bytes | None) -> None:
    assert mime.section(NESTED, path, what) == expected


def test_chosen_header_fields() -> None:
    mail = b"A: 1\r\nB: 2\r\n folded\r\na : 3\r\nnot a field\r\nC:\r\n\r\nA: body\r\n"
    assert mime.section(mail, (), "HEADER.FIELDS", [b"a", b"X"]) == b"A: 1\r\na : 3\r\n\r\n"
    assert mime.section(mail, (), "HEADER.FIELDS.NOT", [b"A"]) == b"B: 2\r\n folded\r\nC:\r\n\r\n"
    assert mime.section(mail, (), "HEADER.FIELDS", []) == b"\r\n"


def test_a_whole_body_structure() -> None:
    plain = [b"TEXT", b"PLAIN", [b"CHARSET", b"us-ascii"], None, None, b"7BIT"]
    html = [b"TEXT", b"HTML", [b"CHARSET", b"utf-8"], None, None, b"7BIT", 11, 1, None,
            [b"ATTACHMENT", [b"FILENAME", b'a "b".html']], None, None]  # fmt: skip
    embedded = NESTED[NESTED.index(b"Subject: inner") : NESTED.rindex(b"\r\n--x\r\n")]
    no_address = [None] * 6
    inner = [[*plain, 7, 0, None, None, None, None], html, b"ALTERNATIVE", [b"BOUNDARY", b"y z"], None, None, None]
    rfc822 = [b"MESSAGE", b"RFC822", None, None, None, b"7BIT"]
    assert read(summarize(NESTED)[2]) == [
        [*plain, 3, 0, None, None, None, None],
        [*rfc822, len(embedded), [None, b"inner", *no_address, None, None], inner, embedded.count(b"\n"), *[None] * 4],
        [*rfc822, 24, [None, b"single", *no_address, None, None], [*plain, 5, 0, *[None] * 4], 2, *[None] * 4],
        b"MIXED", [b"BOUNDARY", b"x"], None, None, None,
    ]  # fmt: skip


def test_envelope() -> None:
    mail = (
        b'Date: Thu, 1 Jan 1970 00:00:00 +0000\r\nSubject: a\r\n "folded" one\r\nFrom: A <a@b.test>\r\nTo: x@y.test\r\n'
        b"To: z@y.test\r\nReply-To:\r\nBcc: hidden:;\r\nIn-Reply-To: <1@x>\r\nMessage-ID: <2@x>\r\n\r\n"
    )
    a, x, z = [b"A", None, b"a", b"b.test"], [None, None, b"x", b"y.test"], [None, None, b"z", b"y.test"]
    group = [[None, None, b"hidden", None], [None, None, None, None]]
    assert read(envelope(mime.parse(mail))) == [
        b"Thu, 1 Jan 1970 00:00:00 +0000", b'a "folded" one', [a], [a], [a], [x, z], None, group, b"<1@x>", b"<2@x>",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, b"NIL"),
        (b"", b'""'),
        (b'a"b\\c', b'"a\\"b\\\\c"'),
        (b"a\r\nb", b"{4}\r\na\r\nb"),
        ("ü".encode(), b"{2}\r\n\xc3\xbc"),
        (b"a\0b\xff", b"{3}\r\nab\xff"),
    ],
)
def test_nstring(value: bytes | None, written: bytes) -> None:
    assert nstring(value) == written


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('a/b; A=1; b = "x \\"y\\""; c=\'d\'', {"a": "1", "b": 'x "y"', "c": "'d'"}),
        ("a/b; f*=utf-8''%c3%bc.txt", {"f": "ü.txt"}),
        ("a/b; f*0*=utf-8''%c3%bc; f*1=.t; f*2=xt", {"f": "ü.txt"}),
        ("a/b; n=1; n=2", {"n": "1"}),
        ("a/b;;; x", {}),
        ("a/b; x*=nothing''%ff", {"x": "ÿ"}),
    ],
)
def test_parameters(value: str, expected: dict[str, str]) -> None:
    assert mime.parameters(value) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"=?utf-8?q?a_=C3=BC?= =?UTF-8?B?w7w=?= b", "a üü b"),
        (b"=?utf-8?b?w7?= =?utf-8?b?vA?=", "ü"),  # no padding, and a character in two words
        (b"=?utf-8?q?=C3?=\r\n =?utf-8?q?=BC?=", "ü"),
        (b"=?iso-8859-1*de?q?=FC?=x", "üx"),
        (b"=?nonesuch?q?=FC?= =?punycode?q?a-b?=", "üa-b"),
        (b"=?utf-8?q?open", "=?utf-8?q?open"),
        (b"\xfc", "ü"),
    ],
)
def test_decoded_header_values(value: bytes, text: str) -> None:
    assert mime.decoded(value) == text


def test_an_encoded_message_is_opaque() -> None:
    mail = b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\nU3ViamVjdDogeA==\r\n"
    assert read(summarize(mail)[2])[:2] == [b"APPLICATION", b"OCTET-STREAM"]
    check(mail)


def test_empty_parts_have_no_negative_size() -> None:
    mail = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n--b\r\n--b\r\n\r\n\r\n--b--"
    assert [part[6] for part in read(summarize(mail)[3])[:2]] == [0, 0]
    check(mail)


# -- whatever comes -------------------------------------------------------------------------------------------------

PIECES = [
    b"\r\n", b"\r\n\r\n", b"\n", b"--b", b"--", b"Content-Type:", b" multipart/mixed; boundary=b", b" message/rfc822",
    b" text/plain; charset=", b"Content-Disposition: attachment; filename*=", b"utf-8''%ff", b"From:", b"To: ", b"<",
    b">", b"@", b",", b":", b";", b'"', b"\\", b"(", b")", b"[", b"=?utf-8?b?", b"?=",
    b"Content-Transfer-Encoding: base64",
    b"Subject: ", b"Date: ", b"\xff", b"\0", b"x", b" ", b"\r", b"Content-Language: de", b"*0*=", b"multipart/digest;",
]  # fmt: skip
SOUP = st.lists(st.sampled_from(PIECES), max_size=60).map(b"".join) | st.binary(max_size=300)


@given(SOUP)
@example(b"Content-Type: multipart/mixed\r\n\r\n")
@example(b"Content-Type: message/rfc822\r\n\r\n")
def test_any_octets_have_a_well_formed_summary(mail: bytes) -> None:
    check(mail)


@given(SOUP, st.lists(st.integers(0, 4), max_size=4).map(tuple), st.sampled_from(["", "HEADER", "TEXT", "MIME"]))
def test_any_section_is_a_piece_of_the_mail(mail: bytes, path: tuple[int, ...], what: str) -> None:
    section = mime.section(mail, path, what)
    assert section is None or section in mail


@given(SOUP)
def test_any_octets_have_a_text(mail: bytes) -> None:
    mime.text_of(mail)
    mime.decoded(mail)
    mime.header(mail, b"subject")


MANY = 1_000_000


@pytest.mark.parametrize(
    "mail",
    [
        b"From: " + b"(" * MANY,
        b"To: x:" + b"@" * MANY,
        b"To: x:" + b"<" * MANY,
        b"To: " + b"a:" * (MANY // 2),
        b"To: " + b'"' * MANY,
        b"To: " + b"\\(" * (MANY // 2),
        b"a" * MANY,
        b"a " * (MANY // 2),
        b"Subject: " + b"=?a?q?" * (MANY // 6),
        b"Subject: " + b"=?utf-8?q?a?= " * (MANY // 14),
        b'Content-Type: a/b; x*="' + b";" * MANY,
        b"Content-Type: a/b" + b"; x*0*=a" * (MANY // 8),
        b"Content-Type: a/b; x=" + b'"\\' * (MANY // 2),
        b"Content-Disposition: " + b"; a" * (MANY // 3),
        b"X: " + b"a\r\n " * (MANY // 4),
        b"Content-Type: text/plain; charset=punycode\r\n\r\n" + b"b" * MANY,
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n" * (MANY // 5),
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\n" * (MANY // 7),
        b"Content-Type: message/rfc822\r\n\r\n" * (MANY // 32),
        b"".join(
            b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (n, n) for n in range(MANY // 60)
        ),
    ],
)  # fmt: skip
def test_no_message_takes_the_square_of_its_length(mail: bytes) -> None:
    """Or the time that a test may take is over."""
    check(mail + b"\r\n\r\n")
    mime.text_of(mail)
    for _ in mime.walk(mime.parse(mail)):
        pass
    mime.header(mail, b"subject")
