"""Blobs of a peer's object are fetched from that peer, and only from it, before anything is accepted."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred as Later
from twisted.internet.defer import maybeDeferred

from gatewayd.address import Domain
from gatewayd.core import pulling
from gatewayd.core.pulling import Puller
from gatewayd.errors import StoreFull
from gatewayd.message.model import Part
from gatewayd.outcome import Deferred, Outcome, Refused
from gatewayd.store.blobs import BlobStore
from gatewayd.store.bodies import Blobs
from gatewayd.store.holdings import Holdings

BETA, GAMMA = Domain.parse("beta.test"), Domain.parse("gamma.test")
CHUNK = 1000


def part_of(body: bytes) -> Part:
    return Part(sha256(body).digest(), "video/mp4", len(body))


class Peer:
    """Serves one body; `breaks` after so many chunks, or waits before each until it is let go on."""

    def __init__(self, body: bytes, breaks: int | None = None, gate: Later[None] | None = None) -> None:
        self.body = body
        self.asked: list[int] = []
        self._breaks = breaks
        self._gate = gate

    async def pieces(self, part: Part, offset: int) -> AsyncIterator[bytes]:
        self.asked.append(offset)
        if self._gate is not None:
            await self._gate
        for count, begin in enumerate(range(offset, len(self.body), CHUNK)):
            if count == self._breaks:
                raise ConnectionError("connection lost")
            yield self.body[begin : begin + CHUNK]


@pytest.fixture
def files(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def holdings(tmp_path: Path, files: BlobStore) -> Holdings:
    return Holdings(tmp_path / "held", files, reserve=0)


@pytest.fixture
def puller(files: BlobStore, holdings: Holdings) -> Iterator[Puller]:
    return Puller(Blobs(files, holdings, maybeDeferred), quota=1_000_000)


def pull(puller: Puller, source: Peer, *parts: Part, peer: Domain = BETA) -> Later[Outcome | None]:
    return Later.fromCoroutine(puller.pull(peer, parts or [part_of(source.body)], source))


def done(pulled: Later[Outcome | None]) -> Outcome | None:
    outcome: list[Outcome | None] = []
    pulled.addCallback(outcome.append)
    (one,) = outcome
    return one


BODY = os.urandom(10 * CHUNK + 1)


def test_fetched_whole_and_once(puller: Puller, files: BlobStore) -> None:
    peer = Peer(BODY)
    assert done(pull(puller, peer)) is None
    assert done(pull(puller, peer)) is None
    assert peer.asked == [0]
    assert files.get(part_of(BODY).hash) == BODY


def test_broken_off_and_gone_on_with(puller: Puller, files: BlobStore) -> None:
    failed = done(pull(puller, Peer(BODY, breaks=4)))
    assert isinstance(failed, Deferred)
    assert not files.path(part_of(BODY).hash).exists()
    peer = Peer(BODY)
    assert done(pull(puller, peer)) is None
    assert peer.asked == [4 * CHUNK]


def test_what_another_peer_brought_does_not_count(puller: Puller) -> None:
    """Else a peer could learn what others sent, and its accomplice here could read it, by the hash alone."""
    assert done(pull(puller, Peer(BODY))) is None
    other = Peer(BODY)
    assert done(pull(puller, other, peer=GAMMA)) is None
    assert other.asked == [0]


def test_other_octets(puller: Puller, files: BlobStore) -> None:
    part = part_of(BODY)
    wrong = bytes(len(BODY))
    assert isinstance(done(pull(puller, Peer(wrong), part)), Refused)
    assert isinstance(done(pull(puller, Peer(BODY, breaks=4), part)), Deferred)
    # what was here before may have been what is wrong: once more, from the beginning
    assert isinstance(done(pull(puller, Peer(wrong), part)), Deferred)
    assert isinstance(done(pull(puller, Peer(wrong), part)), Refused)
    assert not files.path(part.hash).exists()
    peer = Peer(BODY)
    assert done(pull(puller, peer, part)) is None
    assert peer.asked == [0]


def test_too_few_and_too_many_octets(puller: Puller) -> None:
    part = part_of(BODY)
    assert isinstance(done(pull(puller, Peer(BODY[:-1]), part)), Deferred)
    assert isinstance(done(pull(puller, Peer(BODY[: 10 * CHUNK] + b"more"), part)), Deferred)


def test_the_same_blob_is_not_fetched_twice_at_once(puller: Puller) -> None:
    gate: Later[None] = Later()
    first = pull(puller, Peer(BODY, gate=gate))
    second = done(pull(puller, Peer(BODY)))
    assert isinstance(second, Deferred)
    assert second.retry_after == pulling.AGAIN
    gate.callback(None)
    assert done(first) is None
    assert done(pull(puller, Peer(BODY))) is None


def test_a_peer_has_its_share(puller: Puller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "TOTAL", pulling.PER_PEER + 1)
    gate: Later[None] = Later()
    bodies = [os.urandom(CHUNK) for _ in range(pulling.PER_PEER + 2)]
    running = [pull(puller, Peer(body, gate=gate)) for body in bodies[: pulling.PER_PEER]]
    assert isinstance(done(pull(puller, Peer(bodies[-1]))), Deferred)
    running.append(pull(puller, Peer(bodies[-2], gate=gate), peer=GAMMA))
    assert isinstance(done(pull(puller, Peer(bodies[-1]), peer=GAMMA)), Deferred)
    gate.callback(None)
    assert [done(one) for one in running] == [None] * len(running)
    assert done(pull(puller, Peer(bodies[-1]))) is None


def test_a_quota(puller: Puller) -> None:
    part = Part(bytes(32), "video/mp4", 1_000_001)
    peer = Peer(BODY)
    assert isinstance(done(pull(puller, peer, part)), Deferred)
    assert peer.asked == []


def test_a_full_disk(puller: Puller, holdings: Holdings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdings, "_reserve", 2**60)
    pulled = pull(puller, Peer(BODY))
    pulled.addErrback(lambda failure: failure.trap(StoreFull) and None)
    assert done(pulled) is None


def test_who_gives_up_leaves_no_trace(puller: Puller) -> None:
    pulled = pull(puller, Peer(BODY, gate=Later()))
    pulled.addErrback(lambda failure: None)
    pulled.cancel()
    assert done(pull(puller, Peer(BODY))) is None
