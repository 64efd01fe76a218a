"""Edits, retractions and reactions between two domains, over real sockets: whose they are, and where they stand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatewayd.client import Message, ParleyClient
from gatewayd.crypto.certificates import make_authority
from gatewayd.message.model import Content, Payload
from gatewayd.wire.parley.schema import Result
from tests.house import ALICE, ALPHA, BETA, BOB, CAROL, House, codes, message, of_domain, of_user, signed
from tests.test_client import inbox, sign_in


@pytest.fixture
def houses(reactor: Any, tmp_path: Path) -> Iterator[tuple[House, House]]:
    routes: dict[Any, Any] = {}
    authority = make_authority("Test authority")
    alpha = House(reactor, tmp_path / "alpha", ALPHA, (ALICE, BOB), routes, authority)
    beta = House(reactor, tmp_path / "beta", BETA, (CAROL,), routes, authority)
    for address in (ALICE, BOB):
        alpha.grant(address, CAROL)
    yield alpha, beta
    alpha.stop()
    beta.stop()


def said(house: House, results: Any) -> list[str]:
    found: tuple[Result, ...] = house.wait(results)
    return [result.code for result in found]


def only(house: House, client: ParleyClient, mailbox: str = "INBOX") -> Message:
    (message,) = inbox(house, client, mailbox=mailbox)
    return message


def test_an_edit_a_retraction_and_a_reaction(houses: tuple[House, House]) -> None:
    alpha, _ = houses
    alice, bob = sign_in(alpha, ALICE), sign_in(alpha, BOB)
    assert said(alpha, alice.send([str(BOB)], "Helo", subject="Hi")) == ["2.0.0"]
    original = only(alpha, alice, "Sent")
    assert said(alpha, alice.edit(original, "Hello")) == ["2.0.0"]
    assert said(alpha, bob.react(only_message(alpha, bob), "👍")) == ["2.0.0"]
    assert said(alpha, alice.retract(original)) == ["2.0.0"]
    got = inbox(alpha, bob)
    assert [(m.type, m.text, m.flags) for m in got] == [
        ("message", "Helo", ()),
        ("edit", "Hello", ()),  # news
        ("retract", "", ("\\Seen",)),
    ]
    assert [m.replaces(got[0]) for m in got] == [False, True, True]
    reaction = only(alpha, alice)
    assert (reaction.type, reaction.reaction, reaction.flags) == ("reaction", "👍", ("\\Seen",))
    assert reaction.content.fields.parents == (original.id,)
    assert said(alpha, bob.retract(only(alpha, bob, "Sent"))) == ["2.0.0"]
    withdrawn = inbox(alpha, alice)[1]
    assert withdrawn.replaces(reaction)
    assert not withdrawn.replaces(original)


def only_message(house: House, client: ParleyClient) -> Message:
    (message,) = [m for m in inbox(house, client) if m.type == "message"]
    return message


def test_an_answer_names_what_it_answers(houses: tuple[House, House]) -> None:
    alpha, beta = houses
    content = signed(message(str(CAROL), b"Hello", parents=(b"\7" * 32,)), beta.key)
    assert codes(alpha.ask(alpha.peer(beta.key), "send", of_domain(content))) == ["2.0.0"]
    bob = sign_in(alpha, BOB)
    assert said(alpha, bob.send([str(ALICE)], "She said hello", answers=only(alpha, bob))) == ["2.0.0"]
    fields = only(alpha, sign_in(alpha, ALICE)).content.fields
    assert fields.parents == (content.id, b"\7" * 32)
    assert fields.ext["references"] == [f"{content.id.hex()}@beta.test", f"{'07' * 32}@beta.test"]


def replacing(type: str, author: Any, original: bytes, text: bytes = b"") -> Content:
    made = message(str(author), text or b"x")
    parts = made.fields.parts if type == "edit" else ()
    payload = Payload(str(author), (str(BOB),), 1735689600000, bytes(16), type, parts=parts, replaces=original)
    return Content(b"", payload.encode(), b"", made.bodies if parts else {})


@pytest.mark.parametrize("type", ["edit", "retract"])
def test_nobody_replaces_what_another_said(houses: tuple[House, House], type: str) -> None:
    """Not a user of another domain, not one of the same; and the forger's own server keeps none of it either."""
    alpha, beta = houses
    alice, bob = alpha.user(ALICE), alpha.user(BOB)
    original = message(str(ALICE))
    assert codes(alpha.ask(alice, "send", of_user(original))) == ["2.0.0"]
    forged = replacing(type, BOB, original.id)
    assert codes(alpha.ask(bob, "send", of_user(forged, str(ALICE), str(BOB)))) == ["5.7.1"] * 2
    assert alpha.inbox(BOB, "Sent") == []
    peer = alpha.peer(beta.key)
    foreign = signed(replacing(type, CAROL, original.id), beta.key)
    reply = alpha.ask(peer, "send", of_domain(foreign))
    assert codes(reply) == ["5.7.1"]
    assert "Only its author" in reply["results"][0]["text"]
    assert [c.id for c in alpha.inbox(BOB)] == [original.id]
    as_alice = signed(replacing(type, ALICE, original.id), beta.key)
    assert codes(alpha.ask(peer, "send", of_domain(as_alice))) == ["5.7.1"]


def test_what_comes_before_its_original_is_kept(houses: tuple[House, House]) -> None:
    alpha, beta = houses
    original = signed(message(str(CAROL)), beta.key)
    edit = signed(replacing("edit", CAROL, original.id, b"Hullo"), beta.key)
    peer = alpha.peer(beta.key)
    for content in (edit, original):
        assert codes(alpha.ask(peer, "send", of_domain(content))) == ["2.0.0"]
    got = inbox(alpha, sign_in(alpha, BOB))
    assert got[0].replaces(got[1])


def test_only_what_was_said_natively_is_replaced(houses: tuple[House, House]) -> None:
    """A mail that names Carol is not hers until her domain signed it; and an edit is not edited."""
    alpha, beta = houses
    peer = alpha.peer(beta.key)
    first = signed(message(str(CAROL)), beta.key)
    edit = signed(replacing("edit", CAROL, first.id, b"Hullo"), beta.key)
    again = signed(replacing("edit", CAROL, edit.id, b"Hullo?"), beta.key)
    assert [codes(alpha.ask(peer, "send", of_domain(c))) for c in (first, edit, again)] == [
        ["2.0.0"], ["2.0.0"], ["5.7.1"],
    ]  # fmt: skip


def test_a_malformed_one_is_refused_on_both_hops(houses: tuple[House, House]) -> None:
    alpha, beta = houses
    bare = message(str(BOB), replaces=b"\1" * 32)
    assert codes(alpha.ask(alpha.user(BOB), "send", of_user(bare, str(ALICE)))) == ["5.6.0"]
    foreign = signed(message(str(CAROL), b"x" * 65, type="reaction", parents=(bytes(32),)), beta.key)
    assert codes(alpha.ask(alpha.peer(beta.key), "send", of_domain(foreign))) == ["5.6.0"]


def test_a_type_of_tomorrow_is_kept(houses: tuple[House, House]) -> None:
    alpha, beta = houses
    poll = signed(message(str(CAROL), b"Tea or coffee?", type="poll", crit=("poll",)), beta.key)
    assert codes(alpha.ask(alpha.peer(beta.key), "send", of_domain(poll))) == ["2.0.0"]
    (got,) = inbox(alpha, sign_in(alpha, BOB))
    assert (got.type, got.text) == ("poll", "Tea or coffee?")
