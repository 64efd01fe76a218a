"""The outbound spool: leases, repeats, fairness; what every crash leaves is due again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from gatewayd.address import Address, Domain
from gatewayd.database.sqlite import Database
from gatewayd.outcome import Deferred, Delivered, Refused
from gatewayd.queue.sqlite import ENDED_FOR, SQLiteQueue
from gatewayd.queue.states import DELIVERED, LEASED, REFUSED, TRANSITIONS, WAITING
from tests.loop import Loop
from tests.test_store_sqlite import content

ALICE = Address.parse("alice@alpha.test")
BOB, CAROL = Address.parse("bob@beta.test"), Address.parse("carol@gamma.test")


class Queues:
    def __init__(self, path: Path) -> None:
        self.loop = Loop()
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.path = path
        self.database = Database(path, self.loop.post)
        self.queue = SQLiteQueue(self.database, self.clock)
        self.one = self.loop.one

    def enqueue(self, *recipients: Address, letter: object = None) -> object:
        letter = letter or content()
        self.one(self.queue.enqueue(letter, b"Received: x\r\n", ALICE, recipients))  # type: ignore[arg-type]
        return letter

    def lease(self, limit: int = 100, seconds: float = 60.0) -> list[str]:
        return [str(row.recipient) for row in self.one(self.queue.lease(limit, seconds))]


@pytest.fixture
def queues(tmp_path: Path) -> Iterator[Queues]:
    made = Queues(tmp_path / "test.sqlite")
    yield made
    made.database.close()


def test_a_message_is_leased_to_one_and_ends(queues: Queues) -> None:
    letter = queues.enqueue(BOB, CAROL)
    rows = queues.one(queues.queue.lease(10, 60.0))
    assert {str(row.recipient) for row in rows} == {"bob@beta.test", "carol@gamma.test"}
    assert {row.reverse_path for row in rows} == {ALICE}
    assert queues.lease() == []
    found, trace = queues.one(queues.queue.message(rows[0].message_key))
    assert (found.id, found.bodies, trace) == (letter.id, letter.bodies, b"Received: x\r\n")  # type: ignore[attr-defined]
    queues.one(queues.queue.settle(rows[0].queue_id, Delivered()))
    queues.one(queues.queue.settle(rows[1].queue_id, Deferred("4.4.1", "no"), queues.clock.seconds() + 30))
    assert queues.one(queues.queue.next_due()) == queues.clock.seconds() + 30
    (row,) = queues.one(queues.queue.listing())
    assert (row.attempts, row.last_status, row.state) == (1, "4.4.1 no", WAITING)
    queues.clock.advance(29)
    assert queues.lease() == []
    queues.clock.advance(1)
    assert len(queues.lease()) == 1


def test_a_lease_runs_out_or_is_recovered(queues: Queues) -> None:
    queues.enqueue(BOB)
    assert queues.lease(seconds=60.0) == ["bob@beta.test"]
    queues.clock.advance(60)
    assert queues.lease(seconds=60.0) == ["bob@beta.test"]
    assert queues.one(queues.queue.recover()) == 1
    assert queues.lease() == ["bob@beta.test"]


def test_a_late_answer_does_not_undo_what_is_settled(queues: Queues) -> None:
    queues.enqueue(BOB)
    (row,) = queues.one(queues.queue.lease(1, 60.0))
    queues.one(queues.queue.settle(row.queue_id, Delivered()))
    queues.one(queues.queue.settle(row.queue_id, Deferred(), 0.0))
    assert queues.lease() == []
    assert TRANSITIONS[DELIVERED] == TRANSITIONS[REFUSED] == set()
    assert TRANSITIONS[WAITING] == {LEASED}


def test_a_repeat_is_answered_from_what_is_known(queues: Queues) -> None:
    letter = queues.enqueue(BOB)
    (row,) = queues.one(queues.queue.lease(1, 60.0))
    answers = queues.one(queues.queue.enqueue(letter, b"", ALICE, [BOB, CAROL]))  # type: ignore[arg-type]
    assert {str(a): o.ok for a, o in answers.items()} == {"bob@beta.test": True, "carol@gamma.test": True}
    assert queues.lease() == ["carol@gamma.test"]  # bob is under way already
    queues.one(queues.queue.settle(row.queue_id, Refused("5.1.1", "nobody")))
    answers = queues.one(queues.queue.enqueue(letter, b"", ALICE, [BOB]))  # type: ignore[arg-type]
    assert answers[BOB] == Refused("5.1.1", "nobody")
    assert queues.lease() == []


def test_a_flood_to_one_domain_does_not_hold_up_another(queues: Queues) -> None:
    for _ in range(30):
        queues.enqueue(BOB)
    queues.enqueue(CAROL)
    assert "carol@gamma.test" in queues.lease(limit=2)


def test_contact_makes_the_domain_due(queues: Queues) -> None:
    called: list[int] = []
    queues.queue.watch(lambda: called.append(1))
    queues.enqueue(BOB, CAROL)
    for row in queues.one(queues.queue.lease(10, 60.0)):
        queues.one(queues.queue.settle(row.queue_id, Deferred(), queues.clock.seconds() + 9999))
    called.clear()
    assert queues.one(queues.queue.wake(Domain.parse("delta.test"))) == 0
    assert not called
    assert queues.one(queues.queue.wake(BOB.domain)) == 1
    assert called
    assert queues.lease() == ["bob@beta.test"]


def test_sweep_forgets_what_ended_long_ago(queues: Queues) -> None:
    letter = queues.enqueue(BOB)
    (row,) = queues.one(queues.queue.lease(1, 60.0))
    queues.one(queues.queue.settle(row.queue_id, Delivered()))
    queues.enqueue(CAROL)
    queues.clock.advance(ENDED_FOR + 1)
    queues.one(queues.queue.sweep())
    count = queues.one(queues.database.read(lambda db: db.execute("SELECT count(*) FROM queue_message").fetchone()[0]))
    assert count == 1  # carol's waits
    assert queues.lease() == ["carol@gamma.test"]
    queues.enqueue(BOB, letter=letter)
    assert queues.lease() == ["bob@beta.test"]
