"""`fetch` over real sockets: objects by id, in replies that fit the frame."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatewayd.crypto.certificates import make_authority
from gatewayd.session import parley_sync
from gatewayd.session.parley_client import RequestFailed
from gatewayd.wire.parley.schema import MAX_FETCH, Fetch, FetchReply, Mark, Sync, read
from tests.house import ALICE, ALPHA, BOB, House, message, of_user


@pytest.fixture
def alpha(reactor: Any, tmp_path: Path) -> Iterator[House]:
    house = House(reactor, tmp_path / "alpha", ALPHA, (ALICE, BOB), {}, make_authority("test authority"))
    yield house
    house.stop()


def fetched(house: House, session: object, ids: list[bytes]) -> FetchReply:
    return read(FetchReply, house.ask(session, "fetch", Fetch(tuple(ids))))  # type: ignore[arg-type]


def test_objects_come_by_their_ids_in_the_order_asked_for(alpha: House) -> None:
    made = alpha.fill(ALICE, 3)
    (other,) = alpha.fill(BOB, 1)
    session = alpha.user(ALICE)
    reply = fetched(alpha, session, [made[2].id, other.id, bytes(32), made[0].id, made[2].id])
    assert [(o.id, o.signed, o.bodies) for o in reply.objects] == [
        (c.id, c.signed, tuple(c.bodies.values())) for c in (made[2], made[0])
    ]
    assert not reply.more
    alpha.ask(session, "mark", Mark("INBOX", (1,), delete=True))
    assert fetched(alpha, session, [made[0].id]) == FetchReply(())


def test_a_reply_is_full_when_the_next_object_does_not_fit(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parley_sync, "PAGE", 10_000)
    made = alpha.fill(ALICE, 7, 4000)
    session = alpha.user(ALICE)
    rest, rounds = [content.id for content in made], 0
    while rest:
        reply = fetched(alpha, session, rest)
        got = [one.id for one in reply.objects]
        assert got == rest[: len(got)]
        rest, rounds = rest[len(got) :], rounds + 1
        assert reply.more is bool(rest)
    assert rounds == 4
    (large,) = alpha.fill(ALICE, 1, 20_000)
    reply = fetched(alpha, session, [large.id, made[0].id])
    assert [one.id for one in reply.objects] == [large.id]
    assert reply.more


def test_what_a_page_left_out_can_be_had(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parley_sync, "PAGE", 10_000)
    alpha.fill(ALICE, 10, 4000)
    session = alpha.user(ALICE)
    alpha.ask(session, "mark", Mark("INBOX", tuple(range(1, 11)), add=("later",)))
    page = alpha.ask(session, "sync", Sync(0, 500))
    bare = [change["id"] for change in page["changes"] if "signed" not in change]
    assert 0 < len(bare) < 10
    reply = fetched(alpha, session, bare)
    assert [one.id for one in reply.objects] == bare[: len(reply.objects)]


@pytest.mark.parametrize("ids", [[], [bytes(31)], [bytes(32)] * (MAX_FETCH + 1)])
def test_what_cannot_be_asked(alpha: House, ids: list[bytes]) -> None:
    session = alpha.user(ALICE)
    with pytest.raises(RequestFailed, match="bad-request"):
        alpha.ask(session, "fetch", {"ids": ids})
    with pytest.raises(RequestFailed, match="auth-required"):
        alpha.ask(alpha.dial(), "fetch", Fetch((bytes(32),)))


def test_who_fetches_a_message_has_been_given_it(alpha: House) -> None:
    """A receipt "delivered" is owed for what was fetched, as for what was synced."""
    sender, reader = alpha.user(ALICE), alpha.user(BOB)
    sent = message(str(ALICE), ext={"receipts": ["delivered"]})
    alpha.ask(sender, "send", of_user(sent))
    fetched(alpha, reader, [sent.id])
    alpha.settle()
    assert [content.fields.type for content in alpha.inbox(ALICE, "Receipts")] == ["receipt"]
