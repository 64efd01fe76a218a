"""What is refused does not make the device's file grow for ever, and nothing that waits is lost for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gatewayd.client import Draft, compose, outbox
from gatewayd.client.archive import Archive
from gatewayd.client.outbox import Outbox
from gatewayd.wire.parley.schema import Result
from tests.loop import Loop

ALICE = "alice@alpha.test"


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def box(tmp_path: Path, loop: Loop) -> Iterator[Outbox]:
    archive = Archive(tmp_path / "alice.sqlite", ALICE, loop.post)
    yield Outbox(archive)
    archive.close()


def refused(loop: Loop, box: Outbox, text: str, *to: str, code: str = "5.1.1") -> Draft:
    draft = compose(ALICE, to, text, now=1.0)
    loop.one(box.put(to, draft))
    waiting = next(one for one in loop.one(box.waiting()) if one.draft.id == draft.id)
    loop.one(box.settle(waiting, [Result(one, code, "no") for one in to]))
    return draft


def texts(loop: Loop, box: Outbox) -> list[str | None]:
    return [one.draft.message.text if one.draft else None for one in loop.one(box.refused())]


def test_the_last_refused_drafts_are_kept(loop: Loop, box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "REFUSED_DRAFTS", 3)
    waits = refused(loop, box, "put off", "z@z.test", code="4.4.1")
    gone, *_ = [refused(loop, box, str(number), "a@a.test") for number in range(5)]
    assert sorted(texts(loop, box), key=str) == ["2", "3", "4", None, None]
    assert [one.draft.id for one in loop.one(box.waiting())] == [waits.id]
    found = {one.id: one.reasons for one in loop.one(box.refused())}
    assert found[gone.id] == {"a@a.test": "5.1.1 no"}  # who, and why, is known still
    assert not loop.one(box.again(gone.id))
    assert loop.one(box.cancel(gone.id))
    assert gone.id not in {one.id for one in loop.one(box.refused())}


def test_large_ones_are_fewer(loop: Loop, box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "REFUSED_OCTETS", 50_000)
    for number in range(4):
        refused(loop, box, f"{number}" * 20_000, "a@a.test")
    assert [text[0] for text in texts(loop, box) if text] == ["2", "3"]
    refused(loop, box, "x" * 60_000, "a@a.test")  # the last one is kept, whatever it takes
    assert [text[0] for text in texts(loop, box) if text] == ["x"]


def test_reasons_have_an_end_too(loop: Loop, box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "REFUSALS", 4)
    for number in range(3):
        refused(loop, box, str(number), *(f"{number}{to}@a.test" for to in range(3)))
    assert sum(len(one.reasons) for one in loop.one(box.refused())) == 4
