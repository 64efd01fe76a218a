"""`put` and `get` of a user over real sockets: what is theirs, in chunks, cut off and gone on with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import defer

from gatewayd.core.pulling import QUOTA
from gatewayd.crypto.certificates import make_authority
from gatewayd.message.model import Content, Part, Payload
from gatewayd.session.parley_client import ParleyClientSession, RequestFailed
from gatewayd.session.parley_server import ParleyServerSession
from gatewayd.wire.parley.schema import CHUNK, Changes, Get, GetReply, Mark, Put, PutReply, Send, SendReply, Sync, read
from tests.house import ALICE, ALPHA, BOB, House, codes

BODY = os.urandom(2 * CHUNK + 1000)
DIGEST = sha256(BODY).digest()


@pytest.fixture
def alpha(reactor: Any, tmp_path: Path) -> Iterator[House]:
    made = House(reactor, tmp_path / "alpha", ALPHA, (ALICE, BOB), {}, make_authority("Test authority"))
    yield made
    made.stop()


def put(
    house: House, session: ParleyClientSession, offset: int, data: bytes, digest: bytes = DIGEST, size: int = len(BODY)
) -> int:
    return read(PutReply, house.ask(session, "put", Put(digest, size, offset, data))).offset


def put_all(house: House, session: ParleyClientSession, body: bytes = BODY) -> None:
    there = 0
    while there < len(body):
        there = put(house, session, there, body[there : there + CHUNK], sha256(body).digest(), len(body))


def get_all(house: House, session: ParleyClientSession, digest: bytes = DIGEST) -> bytes:
    got = b""
    while True:
        reply = read(GetReply, house.ask(session, "get", Get(digest, len(got))))
        got += reply.data
        if len(got) == reply.size:
            return got


def naming(body: bytes = BODY, **fields: Any) -> Content:
    part = Part(sha256(body).digest(), "application/octet-stream", len(body), "file.bin")
    payload = Payload(str(ALICE), (str(BOB),), 1735689600000, os.urandom(16), parts=(part,), **fields)
    return Content(b"", payload.encode(), b"", {})


def send(house: House, session: ParleyClientSession, content: Content) -> list[str]:
    return codes(house.ask(session, "send", Send((str(BOB),), payload=content.payload)))


def test_put_named_and_got(alpha: House) -> None:
    alice, bob = alpha.user(ALICE), alpha.user(BOB)
    put_all(alpha, alice)
    with pytest.raises(RequestFailed, match="not-found"):
        get_all(alpha, alice)  # no message has it
    assert send(alpha, alice, naming()) == ["2.0.0"]
    (change,) = [c for c in read(Changes, alpha.ask(bob, "sync", Sync(0))).changes if c.signed]
    assert change.bodies == ()
    assert get_all(alpha, bob) == get_all(alpha, alice) == BODY
    assert read(GetReply, alpha.ask(bob, "get", Get(DIGEST, CHUNK))) == GetReply(BODY[CHUNK : 2 * CHUNK], len(BODY))
    assert read(GetReply, alpha.ask(bob, "get", Get(DIGEST, 2**62))) == GetReply(b"", len(BODY))
    alpha.wait(alpha.store.sweep())
    assert get_all(alpha, bob) == BODY


def test_a_put_that_was_cut_off_goes_on(alpha: House) -> None:
    first = alpha.user(ALICE)
    assert put(alpha, first, 0, BODY[:CHUNK]) == CHUNK
    alpha.call(first._link.abort)
    second = alpha.user(ALICE)
    assert put(alpha, second, 0, b"") == CHUNK
    assert put(alpha, second, 0, BODY[:CHUNK]) == CHUNK
    assert put(alpha, second, 2 * CHUNK, BODY[2 * CHUNK :]) == CHUNK  # nothing is left out in between
    assert put(alpha, second, CHUNK, BODY[CHUNK : 2 * CHUNK]) == 2 * CHUNK
    assert put(alpha, second, 2 * CHUNK, BODY[2 * CHUNK :]) == len(BODY)
    assert send(alpha, second, naming()) == ["2.0.0"]


def test_somebody_elses_hash(alpha: House) -> None:
    """Whether a blob is here, and how much of it, is told to nobody who has not brought it or been sent it."""
    alice, bob = alpha.user(ALICE), alpha.user(BOB)
    put_all(alpha, alice)
    content = naming()
    assert codes(alpha.ask(alice, "send", Send((str(ALICE),), payload=content.payload))) == ["2.0.0"]
    said = []
    for digest in (DIGEST, bytes(32)):
        with pytest.raises(RequestFailed) as failed:
            alpha.ask(bob, "get", Get(digest, 0))
        said.append(str(failed.value))
        assert put(alpha, bob, 0, b"", digest) == 0
    assert said[0] == said[1]
    theirs = Payload(str(BOB), (str(BOB),), 1735689600000, os.urandom(16), parts=content.fields.parts)
    reply = alpha.ask(bob, "send", Send((str(BOB),), payload=theirs.encode()))
    assert [r.code for r in read(SendReply, reply).results] == ["5.6.0"]
    assert alpha.inbox(BOB) == []


def test_a_blob_is_sent_on_by_who_was_sent_it(alpha: House) -> None:
    alice, bob = alpha.user(ALICE), alpha.user(BOB)
    put_all(alpha, alice)
    content = naming()
    assert send(alpha, alice, content) == ["2.0.0"]
    on = Payload(str(BOB), (str(ALICE),), 1735689600000, os.urandom(16), parts=content.fields.parts)
    assert codes(alpha.ask(bob, "send", Send((str(ALICE),), payload=on.encode()))) == ["2.0.0"]
    alpha.ask(bob, "mark", Mark("INBOX", (1,), delete=True))
    assert get_all(alpha, bob) == BODY  # in Sent still


def test_neither_beside_its_object_nor_with_another_size(alpha: House) -> None:
    alice = alpha.user(ALICE)
    beside = Send((str(BOB),), (BODY,), payload=naming().payload)
    assert codes(alpha.ask(alice, "send", beside)) == ["5.6.0"]
    put_all(alpha, alice)
    assert send(alpha, alice, naming()) == ["2.0.0"]
    part = Part(DIGEST, "application/octet-stream", len(BODY) + 1)
    larger = Payload(str(ALICE), (str(BOB),), 1735689600000, os.urandom(16), parts=(part,))
    assert codes(alpha.ask(alice, "send", Send((str(BOB),), payload=larger.encode()))) == ["5.6.0"]
    assert len(alpha.inbox(BOB)) == 1


def test_a_message_that_is_gone(alpha: House) -> None:
    alice, bob = alpha.user(ALICE), alpha.user(BOB)
    put_all(alpha, alice)
    assert send(alpha, alice, naming()) == ["2.0.0"]
    alpha.ask(bob, "mark", Mark("INBOX", (1,), delete=True))
    with pytest.raises(RequestFailed, match="not-found"):
        get_all(alpha, bob)
    assert get_all(alpha, alice) == BODY


def test_wrong_octets(alpha: House) -> None:
    session = alpha.user(ALICE)
    put_all(alpha, session, BODY[:CHUNK])
    assert put(alpha, session, 0, BODY[:10], size=20) == 10
    with pytest.raises(RequestFailed, match="wrong-octets"):
        put(alpha, session, 10, bytes(10), size=20)
    assert put(alpha, session, 0, b"", size=20) == 0
    assert send(alpha, session, naming()) == ["5.6.0"]


@pytest.mark.parametrize("size", [0, 2**63 - 1, QUOTA + 1])
def test_a_size_that_is_never_taken(alpha: House, size: int) -> None:
    session = alpha.user(ALICE)
    with pytest.raises(RequestFailed, match="quota: a blob has 1 to"):
        put(alpha, session, 0, b"", size=size)
    with pytest.raises(RequestFailed, match="bad-request"):
        alpha.ask(session, "put", {"hash": DIGEST, "size": 10**6, "offset": 0, "data": bytes(CHUNK + 1)})
    with pytest.raises(RequestFailed, match="bad-request"):
        alpha.ask(session, "put", {"hash": b"../../etc/passwd", "size": 10**6, "offset": 0, "data": b""})


def test_many_at_once_and_no_more_than_the_quota(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ParleyServerSession.__init__, "__defaults__", (10 * len(BODY),))
    session = alpha.user(ALICE)
    bodies = [os.urandom(len(BODY)) for _ in range(12)]
    outcomes = []
    for body in bodies:
        try:
            put_all(alpha, session, body)
            outcomes.append("there")
        except RequestFailed as failed:
            outcomes.append(failed.error)
    assert outcomes == ["there"] * 10 + ["quota"] * 2
    assert send(alpha, session, naming(bodies[0])) == ["2.0.0"]
    put_all(alpha, session, bodies[11])  # one of them counts no more


def test_chunks_in_flight_come_in_their_order(alpha: House) -> None:
    session = alpha.user(ALICE)
    body = os.urandom(20 * CHUNK)

    async def at_once() -> list[int]:
        puts = [
            defer.Deferred.fromCoroutine(
                session.request("put", Put(sha256(body).digest(), len(body), at, body[at : at + CHUNK]))
            )
            for at in range(0, len(body), CHUNK)
        ]
        return [reply["offset"] for reply in await defer.gatherResults(puts)]

    assert alpha.wait(at_once()) == [(number + 1) * CHUNK for number in range(20)]
    assert send(alpha, session, naming(body)) == ["2.0.0"]


def test_a_disk_without_room(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    session = alpha.user(ALICE)
    assert put(alpha, session, 0, BODY[:CHUNK]) == CHUNK
    with monkeypatch.context() as patch:
        patch.setattr(alpha.store.blobs._holdings, "_reserve", 2**60)
        with pytest.raises(RequestFailed, match=r"unavailable: .*No space left"):
            put(alpha, session, 0, b"", bytes(32))
    assert put(alpha, session, CHUNK, BODY[CHUNK : 2 * CHUNK]) == 2 * CHUNK


def test_more_than_a_message_may_carry(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    session = alpha.user(ALICE)
    put_all(alpha, session)
    monkeypatch.setattr(alpha.office._submitting, "_largest", len(BODY) - 1)
    assert send(alpha, session, naming()) == ["5.3.4"]
    monkeypatch.setattr(alpha.office._submitting, "_largest", len(BODY))
    assert send(alpha, session, naming()) == ["2.0.0"]


def test_only_users_put(alpha: House) -> None:
    for method in ("put", "get"):
        with pytest.raises(RequestFailed, match="auth-required"):
            alpha.ask(alpha.dial(), method, Get(DIGEST, 0))
