"""What became of a message, at a glance and for each recipient."""

from __future__ import annotations

import pytest

from gatewayd.cli.parley import fates
from gatewayd.client import Receipt, compose
from gatewayd.client.conversation import Said, laid_together

TO = ("bob@beta.test", "carol@beta.test", "dave@gamma.test")
MANY = tuple(f"u{n}@beta.test" for n in range(9))


def said(to: tuple[str, ...] = TO, refused: dict[str, str] | None = None, **known: str) -> Said:
    """What is known of whom stands before the @."""
    message = compose("alice@alpha.test", to, "Hello", now=5).message
    (found,) = laid_together([message])
    receipts = {one: known[one.partition("@")[0]] for one in to if one.partition("@")[0] in known}
    refusals = {message.id: refused} if refused else {}
    return Said(**{**vars(found), "receipts": receipts, "refused": refusals})


@pytest.mark.parametrize(
    ("shown", "state"),
    [
        (said(TO[:1]), "on the server"),
        (said(TO[:1], bob="displayed"), "read"),
        (said(), "on the server"),
        (said(bob="delivered", carol="delivered", dave="delivered"), "delivered to all"),
        (said(bob="displayed", carol="delivered"), "read by bob, delivered to carol, on the server for dave"),
        (said(bob="displayed", carol="displayed", dave="stored"), "read by bob and carol, stored for dave"),
        (said(dave="relayed", refused={TO[0]: "5.1.1 No such user"}), "handed on for dave, on the server for carol"),
        (said(refused=dict.fromkeys(TO, "5.1.1 no")), ""),
        (said(("bob@beta.test", "bob@gamma.test"), refused={"bob@beta.test": "5"}), "on the server for bob@gamma.test"),
        (said(MANY, u0="displayed"), "read by u0, on the server for 8 of 9"),
    ],
)
def test_at_a_glance(shown: Said, state: str) -> None:
    assert fates.state(shown) == state


def test_who_did_not_get_it_and_why() -> None:
    shown = said(refused={TO[0]: "5.1.1 No such user"}, dave="displayed")
    assert fates.troubles(shown) == [("not delivered to bob@beta.test: 5.1.1 No such user", True)]
    later = Receipt(shown.message.id, "delayed", TO[1], 0.0, False, "4.2.2 The mailbox is full")
    shown = Said(**{**vars(shown), "put_off": {TO[1]: later}})
    assert fates.state(shown) == "read by dave"
    assert fates.each(shown) == [
        "dave@gamma.test: read",
        "not delivered to bob@beta.test: 5.1.1 No such user",
        "not yet delivered to carol@beta.test: 4.2.2 The mailbox is full",
    ]


def test_what_waits() -> None:
    shown = Said(**{**vars(said(TO[:2])), "waiting": ""})
    assert fates.each(shown) == ["bob@beta.test: waits to be sent", "carol@beta.test: waits to be sent"]
