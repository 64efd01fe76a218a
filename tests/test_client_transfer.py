"""gatewayd/client/transfer.py against a gateway: large files there and back, cut off in the middle."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import defer

from gatewayd.client import (
    ConnectionGone,
    Message,
    ParleyClient,
    RequestFailed,
    TransferFailed,
    compose,
    connect,
    transfer,
)
from gatewayd.crypto.certificates import make_authority
from gatewayd.interfaces.dns import Endpoint
from gatewayd.message.model import Part
from gatewayd.session.parley_server import ParleyServerSession
from gatewayd.wire.parley.schema import CHUNK
from tests.house import ALICE, ALPHA, BOB, PASSWORD, House

SIZE = 40 * CHUNK + 12345


@pytest.fixture
def alpha(reactor: Any, tmp_path: Path) -> Iterator[House]:
    made = House(reactor, tmp_path / "alpha", ALPHA, (ALICE, BOB), {}, make_authority("Test authority"))
    yield made
    made.stop()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "holiday.mov"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "WAITS", (0.0, 0.0))


def sign_in(house: House, user: Any) -> ParleyClient:
    here = Endpoint("127.0.0.1", house.port)
    return house.wait(connect(house.reactor, str(user), PASSWORD, server=here, authorities=house.authorities))


def received(house: House, parley: ParleyClient) -> Message:
    async def first() -> Message:
        async for message in parley.messages():
            return message
        raise AssertionError("nothing came")

    return house.wait(first())


class Cutting:
    """Breaks off the server's side once for each connection, whenever so many octets more are there."""

    def __init__(self, house: House, every: int) -> None:
        self.cut: list[Any] = []
        self._house = house
        self._every = every
        self._next = every

    def __call__(self, part: Part, octets: int) -> None:
        session = self._house.sessions[-1]
        if octets >= self._next and session not in self.cut:
            self.cut.append(session)
            self._next = octets + self._every
            session._link.abort()


def test_a_file_there_and_back(alpha: House, file: Path, tmp_path: Path) -> None:
    alice, bob = sign_in(alpha, ALICE), sign_in(alpha, BOB)
    up: list[int] = []
    down: list[int] = []
    (result,) = alpha.wait(
        alice.send([str(BOB)], "Look", files=[file], progress=lambda part, octets: up.append(octets))
    )
    assert result.code == "2.0.0"
    message = received(alpha, bob)
    assert message.text == "Look"
    (part,) = message.content.absent
    assert (part.name, part.size) == ("holiday.mov", SIZE)
    alpha.wait(bob.download(part, tmp_path / "got", lambda part, octets: down.append(octets)))
    assert (tmp_path / "got").read_bytes() == file.read_bytes()
    assert not (tmp_path / "got.part").exists()
    for seen in (up, down):
        assert (seen[0], seen[-1]) == (0, SIZE)
        assert seen == sorted(seen)


def test_cut_off_again_and_again(alpha: House, file: Path, tmp_path: Path) -> None:
    """No octet that was there is asked for again but those in flight."""
    alice = sign_in(alpha, ALICE)
    up, down = Cutting(alpha, 10 * CHUNK), Cutting(alpha, 10 * CHUNK)
    (result,) = alpha.wait(alice.send([str(BOB)], files=[file], progress=up))
    assert result.code == "2.0.0"
    assert len(alpha.sessions) == 1 + len(up.cut)
    assert len(up.cut) > 1
    bob = sign_in(alpha, BOB)
    (part,) = received(alpha, bob).content.absent
    alpha.wait(bob.download(part, tmp_path / "got", down))
    assert len(down.cut) > 1
    assert (tmp_path / "got").read_bytes() == file.read_bytes()


def test_gone_on_with_by_another_process(alpha: House, file: Path, tmp_path: Path) -> None:
    """What is there of a file is where it was left, on both sides."""
    alice, bob = sign_in(alpha, ALICE), sign_in(alpha, BOB)

    def enough(part: Part, octets: int) -> None:
        if octets > 10 * CHUNK:
            raise KeyError("interrupted")

    with pytest.raises(KeyError):
        alpha.wait(alice.send([str(BOB)], files=[file], progress=enough))
    seen: list[int] = []
    alpha.wait(alice.send([str(BOB)], files=[file], progress=lambda part, octets: seen.append(octets)))
    assert seen[0] > 10 * CHUNK
    (part,) = received(alpha, bob).content.absent
    with pytest.raises(KeyError):
        alpha.wait(bob.download(part, tmp_path / "got", enough))
    seen.clear()
    alpha.wait(bob.download(part, tmp_path / "got", lambda part, octets: seen.append(octets)))
    assert seen[0] > 10 * CHUNK
    assert (tmp_path / "got").read_bytes() == file.read_bytes()


def test_no_server_any_more(alpha: House, file: Path) -> None:
    alice = sign_in(alpha, ALICE)

    def end(part: Part, octets: int) -> None:
        if octets > 10 * CHUNK:
            alpha.reactor.callWhenRunning(alpha._listening.stopListening)
            alpha.sessions[-1]._link.abort()

    with pytest.raises(OSError, match="refused"):
        alpha.wait(alice.send([str(BOB)], files=[file], progress=end))
    alpha.listen()


def test_a_file_that_changes_meanwhile(alpha: House, file: Path) -> None:
    alice = sign_in(alpha, ALICE)

    def change(part: Part, octets: int) -> None:
        if octets == 0:
            file.write_bytes(bytes(SIZE))

    with pytest.raises(RequestFailed, match="wrong-octets"):
        alpha.wait(alice.send([str(BOB)], files=[file], progress=change))
    assert alpha.inbox(BOB) == []


def test_a_server_with_other_octets(alpha: House, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = sign_in(alpha, ALICE), sign_in(alpha, BOB)
    alpha.wait(alice.send([str(BOB)], files=[file]))
    (part,) = received(alpha, bob).content.absent
    alpha.store.blobs._files.path(part.hash).write_bytes(bytes(SIZE))
    with pytest.raises(TransferFailed, match="does not have the hash"):
        alpha.wait(bob.download(part, tmp_path / "got"))
    assert list(tmp_path.glob("got*")) == []
    alpha.store.blobs._files.path(part.hash).write_bytes(bytes(SIZE - 1))
    with pytest.raises(TransferFailed, match="another size"):
        alpha.wait(bob.download(part, tmp_path / "got"))
    alpha.store.blobs._files.path(part.hash).unlink()
    with pytest.raises(RequestFailed, match="unavailable: a body is missing"):
        alpha.wait(bob.download(part, tmp_path / "got"))


def test_a_quota(alpha: House, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ParleyServerSession.__init__, "__defaults__", (SIZE - 1,))
    with pytest.raises(RequestFailed, match="quota"):
        alpha.wait(sign_in(alpha, ALICE).send([str(BOB)], files=[file]))


def test_large_text_and_many_small_files(alpha: House, tmp_path: Path) -> None:
    """What is too much for one frame goes in chunks, whatever it is."""
    files = []
    for number in range(12):
        files.append(tmp_path / f"{number}.bin")
        files[-1].write_bytes(os.urandom(60_000))
    alice, bob = sign_in(alpha, ALICE), sign_in(alpha, BOB)
    (result,) = alpha.wait(alice.send([str(BOB)], "word " * 20_000, files=files))
    assert result.code == "2.0.0"
    message = received(alpha, bob)
    assert message.text == ""
    assert len(message.content.bodies) == 8
    for part in message.content.absent:
        alpha.wait(bob.download(part, tmp_path / "got"))
        body = (tmp_path / "got").read_bytes()
        assert sha256(body).digest() == part.hash
        assert body in [b"word " * 20_000, *(file.read_bytes() for file in files)]


def test_both_ways_at_once_on_one_connection(alpha: House, tmp_path: Path) -> None:
    """Neither side waits for the other to read first."""
    alice = sign_in(alpha, ALICE)
    files = [tmp_path / f"{number}.bin" for number in range(12)]
    for file in files:
        file.write_bytes(os.urandom(4_000_000))
    alpha.wait(alice.send([str(ALICE)], files=files[:6]))
    parts = received(alpha, alice).content.absent
    there = compose(str(ALICE), [str(ALICE)], now=0.0, files=files[6:]).blobs

    async def both() -> None:
        work = [alice.download(part, tmp_path / f"got{number}") for number, part in enumerate(parts)]
        work += [alice.upload(part, source) for part, source in there]
        await defer.gatherResults([defer.Deferred.fromCoroutine(each) for each in work])

    alpha.wait(both())
    for number, file in enumerate(files[:6]):
        assert (tmp_path / f"got{number}").read_bytes() == file.read_bytes()


def test_closed_by_us_in_the_middle(alpha: House, file: Path) -> None:
    alice = sign_in(alpha, ALICE)
    with pytest.raises(ConnectionGone, match="closed by us"):
        alpha.wait(alice.send([str(BOB)], files=[file], progress=lambda part, octets: alice.close()))
