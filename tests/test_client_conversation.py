"""What belongs together is shown together, in whichever order it came, and only if it may."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gatewayd.address import Domain
from gatewayd.client.conversation import laid_together, most_known
from gatewayd.client.message import Message, Receipt, about, compose
from gatewayd.crypto import cose
from gatewayd.crypto.domain_keys import SigningKey
from gatewayd.message.model import Content, Part, Payload

KEYS = {name: SigningKey.generate(Domain.parse(name)) for name in ("alpha.test", "beta.test")}
ALICE, BOB = "alice@alpha.test", "bob@beta.test"


def said(
    text: str, sender: str = ALICE, *, date: int = 1, signer: str = "", to: tuple[str, ...] = (), **fields: Any
) -> Message:  # fmt: skip
    body = text.encode()
    parts = (Part(sha256(body).digest(), "text/plain", len(body)),) if text else ()
    to = to or (BOB if sender == ALICE else ALICE,)
    payload = Payload(sender, to, date, sha256(repr((text, fields)).encode()).digest()[:16], parts=parts, **fields)
    octets = payload.encode()
    protected, signature = cose.sign(octets, KEYS[signer or sender.partition("@")[2]])
    return Message("INBOX", 1, 1, (), Content(protected, octets, signature, {sha256(body).digest(): body}))


def shown(*messages: Message) -> list[tuple[str, bool, bool]]:
    return [(one.text, one.edited, one.retracted) for one in laid_together(messages)]


def test_the_latest_edit_counts_in_any_order() -> None:
    original = said("one")
    edits = [said(f"edit {n}", type="edit", replaces=original.id, date=n) for n in (2, 3, 4)]
    back = said("", type="retract", replaces=edits[2].id, date=9)
    for seed in range(10):
        everything = [original, *edits, back]
        Random(seed).shuffle(everything)
        assert shown(*everything) == [("edit 3", True, False)]
    assert shown(edits[0]) == [("edit 2", True, False)]  # the original is not here


def test_taken_back() -> None:
    original = said("one", subject="S")
    back = said("", type="retract", replaces=original.id)
    (one,) = laid_together([back, original])
    assert (one.text, one.subject, one.retracted) == ("", "", True)
    assert shown(back) == []


def test_what_a_message_answers() -> None:
    """As it is now, wherever it stands, unless nobody has it."""
    original = said("one")
    edit = said("better", type="edit", replaces=original.id, date=2)
    answer = said("yes", BOB, parents=(original.id,))
    loose = said("no", BOB, parents=(bytes(32),))
    found = laid_together([answer, loose], [original, edit])
    assert [(one.text, one.answers.text if one.answers else None) for one in found] == [("yes", "better"), ("no", None)]


@pytest.mark.parametrize(
    "forged",
    [
        {"sender": BOB},
        {"signer": "beta.test"},
    ],
)
def test_only_the_author_may(forged: dict[str, Any]) -> None:
    original = said("true")
    for fields in ({"type": "edit", "text": "forged"}, {"type": "retract", "text": ""}):
        other = said(**{**fields, **forged, "replaces": original.id})
        assert shown(original, other) == [("true", False, False)]


def test_reactions() -> None:
    original = said("one")
    liked = [said("\N{THUMBS UP SIGN}", BOB, type="reaction", parents=(original.id,), date=n) for n in (1, 2)]
    gone = said("-", BOB, type="reaction", parents=(original.id,), date=3)
    back = said("", BOB, type="retract", replaces=gone.id, date=4)
    (one,) = laid_together([original, *liked, gone, back])
    assert one.reactions == {(BOB, "\N{THUMBS UP SIGN}"): [liked[0].id, liked[1].id]}


def test_reports_of_failure() -> None:
    """They stand at the message too; one about somebody to whom it was not written says nothing."""
    original = said("one")
    words = "Your message could not be delivered.\n  In detail: 5.1.1 No such user\n"

    def report(who: str, date: int) -> Message:
        ext = {"bridged": {"by": "alpha.test"}, "receipt": {"status": "failed", "recipient": who}}
        return said(words, type="mail", parents=(original.id,), ext=ext, date=date)

    reports = [report(BOB, 2), report("eve@elsewhere.test", 3)]
    one, *others = laid_together([original, *reports])
    assert (one.undelivered, one.reports) == ({BOB: "5.1.1 No such user"}, [reports[0]])
    assert [other.text for other in others] == [words, words]
    native = said(words, parents=(original.id,), ext={"receipt": {"status": "failed", "recipient": BOB}})
    assert laid_together([original], [native])[0].undelivered == {}


def test_reports_on_several() -> None:
    """Each recipient's fate is his own; what was told first of a delay is over when more is known."""
    original = said("one", to=(BOB, "carol@beta.test", "Dave@GAMMA.test"))
    failed = {"recipient": "carol@beta.test", "status": "failed", "why": "5.1.1 No such user"}
    delayed = [{"recipient": who, "status": "delayed", "why": "4.4.1 no"} for who in (BOB, "Dave@gamma.test")]
    odd = ["x", {"status": "failed"}, {"recipient": BOB, "status": "adored"}, {**failed, "recipient": "eve@x.test"}]

    def report(*fates: object, date: int) -> Message:
        ext = {"bridged": {"by": "alpha.test"}, "receipt": {"fates": [*fates]}}
        return said("words", type="mail", parents=(original.id,), ext=ext, date=date)

    mixed = report(failed, *delayed, *odd, {"recipient": BOB, "status": "stored"}, date=2)
    one, _ = laid_together([original, mixed])
    assert one.undelivered == {"carol@beta.test": "5.1.1 No such user"}
    assert {to: said.why for to, said in one.delayed.items()} == {BOB: "4.4.1 no", "Dave@gamma.test": "4.4.1 no"}
    assert most_known(mixed.receipts) == {BOB: "stored"}
    assert replace(one, receipts=most_known(mixed.receipts)).delayed.keys() == {"Dave@gamma.test"}
    for nothing in (None, 7, {}, "failed"):
        assert report(nothing, date=3).receipts == ()


def test_what_this_program_does_not_know() -> None:
    poll = said("which?", type="poll")
    assert shown(poll) == [("which?", False, False)]
    (secret,) = laid_together([said("secret", crit=("sealed",), ext={"sealed": 1})])
    assert (secret.understood, secret.text) == (False, "")
    (fine,) = laid_together([said("fine", crit=("references",), ext={"references": []})])
    assert fine.understood


def test_the_most_that_is_known() -> None:
    said = [Receipt(b"", status, by, 0, True) for by, status in
            (("b", "displayed"), ("b", "stored"), ("c", "stored"), ("c", "delivered"), ("d", "odd"))]  # fmt: skip
    assert most_known(said) == {"b": "displayed", "c": "delivered"}


def test_drafts_are_laid_upon_what_they_change() -> None:
    """As if they had been sent; which are drafts is told."""
    original = said("one")
    edit = compose(ALICE, text="two", now=9, **about("edit", original, ALICE)).message
    liked = compose(BOB, text="+1", now=9, **about("reaction", original, BOB)).message
    (one,) = laid_together([original, edit, liked])
    assert (one.text, list(one.reactions), one.changes) == ("two", [(BOB, "+1")], [edit.id, liked.id])
    unliked = compose(BOB, now=9, **about("retract", liked, BOB)).message
    (one,) = laid_together([original], [liked, unliked])
    assert (one.reactions, one.changes) == ({}, [liked.id, unliked.id])
    back = compose(ALICE, now=9, **about("retract", original, ALICE)).message
    (one,) = laid_together([original, back])
    assert (one.retracted, one.changes) == (True, [back.id])


def test_files_are_those_of_the_version_that_is_shown(tmp_path: Path) -> None:
    (tmp_path / "menu.txt").write_text("soup")
    original = compose(ALICE, [BOB], "at none", now=1, files=[tmp_path / "menu.txt"]).message
    (menu,) = original.files
    edit, without = (
        compose(ALICE, text="at noon", now=9, kept=kept, **about("edit", original, ALICE)) for kept in (original, None)
    )
    assert edit.bodies == (b"at noon", b"soup")
    assert [one.files for one in laid_together([original, edit.message])] == [(menu,)]
    assert [one.files for one in laid_together([original, without.message])] == [()]
