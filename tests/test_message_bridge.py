"""Mail -> object -> mail, and object -> mail -> object: exactly what went in."""

from __future__ import annotations

import email
import email.policy
import hashlib
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatewayd.address import Address, Domain
from gatewayd.message.bridge import as_mail, authors, bridged_payload, restore, waives_tls
from gatewayd.message.mime import Mail
from gatewayd.message.model import Content, Part, Payload
from gatewayd.message.render import render
from gatewayd.message.structure import summarize
from tests.corpus import messages

ALPHA = Domain.parse("alpha.test")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
BODIES = st.one_of(
    st.binary(max_size=300),
    TEXTS.map(str.encode),
    st.lists(st.sampled_from(["", ".", "From here", "hello ", "a=b\t", "ünï", "x" * 1200]), max_size=8).map(
        lambda lines: "\n".join(lines).encode()
    ),
    st.lists(st.sampled_from(["", "..", "--b", "hello"]), max_size=5).map(lambda lines: "\r\n".join(lines).encode()),
)


@st.composite
def contents(draw: st.DrawFn) -> Content:
    parts, bodies = [], {}
    for body in draw(st.lists(BODIES, max_size=4)):
        digest = hashlib.sha256(body).digest()
        media_type = draw(st.sampled_from(["text/plain", "text/plain; charset=utf-8", "image/png", "text/html"]))
        parts.append(Part(digest, media_type, len(body), draw(st.none() | TEXTS)))
        bodies[digest] = body
    payload = Payload(
        from_="alice@alpha.test",
        to=("bob@beta.test",),
        date=draw(st.integers(0, 4102444800000)),
        nonce=draw(st.binary(min_size=16, max_size=16)),
        type=draw(st.sampled_from(["message", "reaction", "edit", "retract", "poll"])),
        subject=draw(TEXTS),
        parts=tuple(parts),
        parents=tuple(draw(st.lists(st.binary(min_size=32, max_size=32), max_size=3))),
        crit=tuple(draw(st.lists(TEXTS, max_size=2))),
        replaces=draw(st.none() | st.binary(min_size=32, max_size=32)),
        ext=draw(st.just({}) | st.builds(lambda said: {"references": said}, st.lists(TEXTS, max_size=3))),
    )
    return Content(draw(st.binary(max_size=60)), payload.encode(), draw(st.binary(min_size=64, max_size=64)), bodies)


@given(contents())
def test_render_then_restore_gives_the_same_object(content: Content) -> None:
    mail = render(content)
    assert restore(Mail(mail)) == content
    on_the_way = b"Received: from x by y;\r\n\tThu, 1 Jan 1970 00:00:00 +0000\r\nDKIM-Signature: v=1; d=x\r\n" + mail
    assert restore(Mail(on_the_way)) == content


@given(contents())
def test_a_rendering_is_mail_that_smtp_carries(content: Content) -> None:
    mail = render(content)
    assert mail == render(content)
    assert mail.endswith(b"\r\n")
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)|\0", mail)
    assert max(len(line) for line in mail.split(b"\r\n")) <= 998
    names = [name for name, _ in email.message_from_bytes(mail, policy=email.policy.compat32).items()]
    known = {
        "From", "Date", "Message-ID", "To", "Subject", "In-Reply-To", "References", "Supersedes", "MIME-Version",
        "Parley-Object", "Content-Type", "Content-Transfer-Encoding", "Content-Disposition",
    }  # fmt: skip
    assert set(names) <= known
    assert len(names) == len(set(names))


def test_a_changed_body_is_not_restored() -> None:
    body = b"pay 10 euros\n"
    digest = hashlib.sha256(body).digest()
    payload = Payload("a@alpha.test", ("b@beta.test",), 0, b"n" * 16, parts=(Part(digest, "text/plain", len(body)),))
    mail = render(Content(b"", payload.encode(), b"s", {digest: body}))
    assert restore(Mail(mail)) is not None
    assert restore(Mail(mail.replace(b"10 euros", b"99 euros"))) is None


@given(st.binary(max_size=2000))
@example(b"From: =?x?q?=00=0A?= <a@b>\r\nDate: Mon, 99 Foo\r\nContent-Type: text/plain; charset=rot13\r\n\r\nx")
def test_any_octets_become_an_object_and_come_back(mail: bytes) -> None:
    payload, bodies = bridged_payload(Mail(mail), by=ALPHA, nonce=b"n" * 16, received_ms=1, reverse_path=None)
    content = Content(b"", payload.encode(), b"", bodies)
    content.check_bodies()
    assert as_mail(content) == mail
    assert as_mail(content, b"Trace: 1\r\n") == b"Trace: 1\r\n" + mail
    summarize(mail)
    restore(Mail(mail))


def test_the_corpus_comes_back_octet_for_octet() -> None:
    for mail in messages():
        payload, bodies = bridged_payload(Mail(mail), by=ALPHA, nonce=b"n" * 16, received_ms=1, reverse_path=None)
        content = Content(b"", payload.encode(), b"", bodies)
        content.check_bodies()
        assert as_mail(content) == mail
        size, *texts = summarize(mail)
        assert size == len(mail)
        for text in texts:
            assert balanced(text), text


def test_authors() -> None:
    mail = b"From: A <a@alpha.test>, broken\r\n\r\n"
    assert authors(Mail(mail)) == [Address.parse("a@alpha.test"), None]


def balanced(text: bytes) -> bool:
    """Parentheses match, outside quoted strings and literals; and nothing follows."""
    depth, position = 0, 0
    token = re.compile(rb'"(?:[^"\\\r\n]|\\["\\])*"|\{(\d+)\}\r\n|[()]|[^()"{\r\n]+')
    while position < len(text):
        found = token.match(text, position)
        if found is None:
            return False
        position = found.end() + int(found.group(1) or 0)
        depth += {b"(": 1, b")": -1}.get(found.group(), 0)
        if depth == 0 and position < len(text):
            return False
    return depth == 0


@pytest.mark.parametrize(
    ("mail", "waived"),
    [
        (b"TLS-Required: No\r\nSubject: x\r\n\r\n", True),
        (b"Subject: x\r\ntls-required:NO \r\n\r\n", True),
        (b"TLS-Required: yes\r\n\r\n", False),
        (b"TLS-Required: No\r\nTLS-Required: No\r\n\r\n", False),
        (b"Subject: x\r\n\r\nTLS-Required: No\r\n", False),
        (b"X-TLS-Required: No\r\n\r\n", False),
        (b"", False),
    ],
)
def test_the_sender_had_rather_that_it_arrives(mail: bytes, waived: bool) -> None:
    assert waives_tls(Mail(mail)) is waived
