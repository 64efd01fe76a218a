"""What an object of each type must hold, and what a mail program sees of it (docs/parley.rst §8.1)."""

from __future__ import annotations

import email
import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gatewayd.address import Domain
from gatewayd.message.bridge import bridged_payload, restore
from gatewayd.message.mime import Mail
from gatewayd.message.model import Content, ObjectError, Part, Payload
from gatewayd.message.object_types import check, emoji, reaction_text
from gatewayd.message.render import references, render, rendered_id

ALPHA = Domain.parse("alpha.test")
ID, OTHER = b"\1" * 32, b"\2" * 32


def content(type: str, *bodies: bytes, media_type: str = "text/plain; charset=utf-8", **fields: Any) -> Content:
    parts = tuple(Part(hashlib.sha256(body).digest(), media_type, len(body)) for body in bodies)
    payload = Payload("alice@alpha.test", ("bob@beta.test",), 0, b"n" * 16, type=type, parts=parts, **fields)
    return Content(
        b"p", payload.encode(), b"s" * 64, {part.hash: body for part, body in zip(parts, bodies, strict=True)}
    )


GOOD = [
    content("message", b"Hello"),
    content("message", b"Hello", parents=(ID, OTHER)),
    content("message", b"Hello", parents=(ID,) * 20),
    content("edit", b"Hullo", replaces=ID),
    content("edit", b"Hullo", b"\0", replaces=ID, subject="Better"),
    content("retract", replaces=ID),
    content("reaction", "👍".encode(), parents=(ID,)),
    content("reaction", "👩‍👩‍👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿\n".encode(), parents=(ID,)),
    content("reaction", b"+1", parents=(ID,)),
    content("poll", b"?", parents=(ID,), replaces=OTHER, ext={"poll": {"choices": ["a", "b"]}}, crit=("poll",)),
    content("poll"),
]
BAD = [
    (content("message", b"Hello", replaces=ID), "replaces nothing"),
    (content("message", b"Hello", parents=(ID,) * 21), "at most 20 parents"),
    (content("message", b"Hello", parents=(b"short",)), "each an object id"),
    (content("edit", b"Hullo"), "`replaces` is missing"),
    (content("edit", b"Hullo", replaces=b"short"), "of 32 octets"),
    (content("edit", replaces=ID), "holds the new text"),
    (content("retract"), "`replaces` is missing"),
    (content("retract", b"sorry", replaces=ID), "no parts"),
    (content("retract", replaces=ID, subject="sorry"), "no subject"),
    (content("reaction", b"+1"), "names one message"),
    (content("reaction", b"+1", parents=(ID, OTHER)), "names one message"),
    (content("reaction", b"+1", parents=(ID,), replaces=OTHER), "names one message"),
    (content("reaction", parents=(ID,)), "one part"),
    (content("reaction", b"+1", b"-1", parents=(ID,)), "one part"),
    (content("reaction", b"+1", parents=(ID,), media_type="text/html"), "text/plain"),
    (content("reaction", b"x" * 65, parents=(ID,)), "at most 64 octets"),
    (content("reaction", b" \n", parents=(ID,)), "a few characters"),
    (content("reaction", b"\x1b[2J", parents=(ID,)), "a few characters"),
    (content("reaction", b"\xff", parents=(ID,)), "a few characters"),
    (content("reaction", "\u202egnp.exe".encode(), parents=(ID,)), "a few characters"),
    (content("poll", parents=(b"",)), "each an object id"),
    (content("poll", replaces=b""), "of 32 octets"),
]


@pytest.mark.parametrize("good", GOOD, ids=lambda c: c.fields.type)
def test_what_is_well_formed_comes_back_from_its_mail_form(good: Content) -> None:
    check(good)
    assert restore(Mail(render(good))) == good


@pytest.mark.parametrize("nonce", [b"", bytes(15), bytes(17)])
def test_a_nonce_of_another_length(nonce: bytes) -> None:
    payload = replace(GOOD[0].fields, nonce=nonce)
    with pytest.raises(ObjectError, match="16 octets"):
        check(Content.unsigned(payload, {}))


@pytest.mark.parametrize(("bad", "why"), BAD, ids=lambda v: v if isinstance(v, str) else v.fields.type)
def test_what_is_not(bad: Content, why: str) -> None:
    with pytest.raises(ObjectError, match=why):
        check(bad)


def fields(of: Content) -> Any:
    return email.message_from_bytes(render(of))


def test_an_edit_is_a_mail_that_supersedes() -> None:
    mail = fields(content("edit", b"Hullo", replaces=ID, parents=(OTHER,)))
    replaced, answered = f"<{ID.hex()}@alpha.test>", f"<{OTHER.hex()}@alpha.test>"
    assert (mail["Supersedes"], mail["In-Reply-To"]) == (replaced, replaced)
    assert mail["References"].split() == [answered, replaced]
    assert mail.get_payload(decode=True) == b"Hullo"


def test_a_retraction_is_a_note() -> None:
    mail = fields(content("retract", replaces=ID))
    assert mail["In-Reply-To"] == f"<{ID.hex()}@alpha.test>"
    assert "Supersedes" not in mail
    assert mail["Subject"] == "Message retracted"
    assert "retract" in mail.get_payload()


def test_what_no_mail_program_understands_goes_along_unseen() -> None:
    mail = fields(content("poll", b"Tea or coffee?", ext={"poll": {}}, crit=("poll",)))
    note, hidden = mail.get_payload()
    assert "programs that know: poll" in note.get_payload()
    assert hidden.get_content_disposition() == "attachment"
    assert hidden.get_payload(decode=True) == b"Tea or coffee?"


def test_a_reaction_is_one_of_rfc_9078_and_is_read_from_any_mail() -> None:
    reaction = content("reaction", "👍\n".encode(), parents=(ID,))
    mail = render(reaction)
    assert fields(reaction).get_content_disposition() == "reaction"
    assert emoji(reaction) == "👍"
    view, _ = bridged_payload(Mail(mail), by=ALPHA, nonce=b"n" * 16, received_ms=1, reverse_path=None)
    assert view.ext["bridged"]["reaction"] == "👍"
    assert view.parents == (ID,)
    plain, _ = bridged_payload(Mail(render(GOOD[0])), by=ALPHA, nonce=b"n" * 16, received_ms=1, reverse_path=None)
    assert "reaction" not in plain.ext["bridged"]
    assert emoji(GOOD[0]) is None


@given(st.binary(max_size=100))
def test_a_reaction_never_says_what_cannot_be_seen(body: bytes) -> None:
    text = reaction_text(body)
    assert text is None or (text.strip() == text and not any(c < " " for c in text))


def test_a_conversation_holds_across_the_bridge() -> None:
    """Parley, mail, Parley, mail: each names what it answers in its own way."""
    first = content("message", b"Shall we?")
    answer = (
        f"From: bob@beta.test\r\nMessage-ID: <yes@beta.test>\r\nIn-Reply-To: <{rendered_id(first)}>\r\n"
        f"References: <other@gamma.test>\r\n <{rendered_id(first)}>\r\n\r\nYes"
    ).encode()
    view, bodies = bridged_payload(Mail(answer), by=ALPHA, nonce=b"n" * 16, received_ms=1, reverse_path=None)
    assert view.parents == (first.id,)
    assert references(view) == [rendered_id(first), "other@gamma.test"]
    bridged = Content(b"", view.encode(), b"", bodies)
    assert rendered_id(bridged) == "yes@beta.test"
    again = content(
        "message", b"When?", parents=(bridged.id, first.id), ext={"references": ["yes@beta.test", rendered_id(first)]}
    )
    assert fields(again)["In-Reply-To"] == "<yes@beta.test>"
    assert fields(again)["References"].split() == [f"<{rendered_id(first)}>", "<yes@beta.test>"]


@pytest.mark.parametrize("said", [None, 7, {}, [7], ["a b@c"], ["a@b>\r\nBcc: c@d"], ["no at"], ["x" * 500 + "@b"]])
def test_references_that_are_none(said: Any) -> None:
    odd = content("message", b"Hello", parents=(ID,), ext={"references": said})
    expected = [] if isinstance(said, list) else [f"{ID.hex()}@alpha.test"]
    assert references(odd.fields) == expected
    assert "Bcc" not in fields(odd)
