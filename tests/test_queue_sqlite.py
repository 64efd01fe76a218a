"""The outbound spool: leases, repeats, fairness; what every crash leaves is due again."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace
from twisted.internet.task import Clock

from gatewayd.address import Address, AddressError, Domain
from gatewayd.database.sqlite import Database
from gatewayd.errors import StoreFull
from gatewayd.interfaces.queue import Asked, Envelope, MailObject, Picked, Settlement
from gatewayd.message.model import Content, Part, Payload
from gatewayd.outcome import Deferred, Delivered, Outcome, Refused
from gatewayd.queue import destinations, picking
from gatewayd.queue.destinations import NEVER
from gatewayd.queue.messages import DROPPED_HERE
from gatewayd.queue.sqlite import ENDED_FOR, PAUSE, REACHED_FOR, SQLiteQueue
from gatewayd.queue.states import DELIVERED, DROPPED, ENDED, HELD, IN_QUEUE, LEASED, REFUSED, TRANSITIONS, WAITING
from tests.loop import Loop
from tests.test_store_sqlite import content

ALICE = Address.parse("alice@alpha.test")
BOB, CAROL = Address.parse("bob@beta.test"), Address.parse("carol@gamma.test")


REACHED = "INSERT OR IGNORE INTO queue_destination (domain, due, standing, reached) VALUES (?, ?, 0, 1e12)"


class Queues:
    """Three domains are old acquaintances."""

    def __init__(self, path: Path) -> None:
        self.loop = Loop()
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.path = path
        self.database = Database(path, self.loop.post)
        self.queue = SQLiteQueue(self.database, self.clock, self.clock.seconds)
        self.one = self.loop.one
        self.know("beta.test", "gamma.test", "delta.test")

    def know(self, *domains: str) -> None:
        rows = [(name, NEVER) for name in domains]
        self.one(self.database.write(lambda db: db.executemany(REACHED, rows)))  # type: ignore[arg-type]

    def enqueue(self, *recipients: Address, letter: object = None) -> object:
        letter = letter or content()
        self.one(self.queue.enqueue([MailObject(letter, b"Received: x\r\n", Envelope(ALICE, recipients))]))  # type: ignore[arg-type]
        return letter

    def settle(
        self, queue_id: int, outcome: Outcome, next_attempt: float | None = None, failures: int | None = None
    ) -> None:
        self.one(self.queue.settle([Settlement(queue_id, outcome, next_attempt, failures)]))

    def lease(self, limit: int = 100, seconds: float = 60.0) -> list[str]:
        return [str(row.recipient) for row in self.one(self.queue.lease(limit, seconds))]


@pytest.fixture
def queues(tmp_path: Path) -> Iterator[Queues]:
    made = Queues(tmp_path / "test.sqlite")
    yield made
    made.database.close()


def test_what_the_sender_asked_stays_with_the_envelope(queues: Queues) -> None:
    asked = {BOB: Asked(frozenset({"SUCCESS", "DELAY"}), "rfc822;bob+tag@beta.test")}
    options = frozenset({"SMTPUTF8", "REQUIRETLS"})
    envelope = Envelope(ALICE, (BOB, CAROL), options, "FULL", "QQ 314", asked)
    queues.one(queues.queue.enqueue([MailObject(content(), b"", envelope)]))
    bob, carol = queues.one(queues.queue.lease(10, 60.0))
    assert bob.envelope == replace(envelope, recipients=(BOB,))
    assert carol.envelope == replace(envelope, recipients=(CAROL,), asked={})
    assert bob.envelope.terms == carol.envelope.terms


def test_what_is_held_is_let_go_in_its_time_and_not_by_contact(queues: Queues) -> None:
    later = queues.clock.seconds() + 3600
    queues.one(queues.queue.enqueue([MailObject(content(), b"", Envelope(ALICE, (BOB,), not_before=later))]))
    assert not queues.one(queues.queue.wake(BOB.domain))
    assert queues.lease() == []
    queues.clock.advance(3601)
    assert queues.lease() == ["bob@beta.test"]


def test_a_message_is_leased_to_one_and_ends(queues: Queues) -> None:
    letter = queues.enqueue(BOB, CAROL)
    rows = queues.one(queues.queue.lease(10, 60.0))
    assert {str(row.recipient) for row in rows} == {"bob@beta.test", "carol@gamma.test"}
    assert {row.envelope.reverse_path for row in rows} == {ALICE}
    assert queues.lease() == []
    found, trace = queues.one(queues.queue.messages([rows[0].message_key]))[rows[0].message_key]
    assert (found.id, found.bodies, trace) == (letter.id, letter.bodies, b"Received: x\r\n")  # type: ignore[attr-defined]
    queues.settle(rows[0].queue_id, Delivered())
    queues.settle(rows[1].queue_id, Deferred("4.4.1", "no"), queues.clock.seconds() + 30)
    assert queues.one(queues.queue.due_in()) == 30
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
    queues.settle(row.queue_id, Delivered())
    queues.settle(row.queue_id, Deferred(), 0.0)
    assert queues.lease() == []
    assert not any(TRANSITIONS[state] for state in ENDED)


def test_a_repeat_is_answered_from_what_is_known(queues: Queues) -> None:
    letter = queues.enqueue(BOB)
    (row,) = queues.one(queues.queue.lease(1, 60.0))
    (answers,) = queues.one(queues.queue.enqueue([MailObject(letter, b"", Envelope(ALICE, (BOB, CAROL)))]))  # type: ignore[arg-type]
    assert {str(a): o.ok for a, o in answers.items()} == {"bob@beta.test": True, "carol@gamma.test": True}
    assert queues.lease() == ["carol@gamma.test"]  # bob is under way already
    queues.settle(row.queue_id, Refused("5.1.1", "nobody"))
    (answers,) = queues.one(queues.queue.enqueue([MailObject(letter, b"", Envelope(ALICE, (BOB,)))]))  # type: ignore[arg-type]
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
        queues.settle(row.queue_id, Deferred(), queues.clock.seconds() + 9999)
    called.clear()
    assert not queues.one(queues.queue.wake(Domain.parse("delta.test")))
    assert not called
    assert queues.one(queues.queue.wake(BOB.domain))
    assert called
    assert queues.lease() == ["bob@beta.test"]


def test_blobs_are_wanted_as_long_as_a_message_waits(queues: Queues) -> None:
    hashes = [bytes([number]) * 32 for number in range(3)]

    def letter(*digests: bytes) -> Content:
        parts = tuple(Part(digest, "video/mp4", 1_000_000) for digest in digests)
        return Content(b"", Payload("a@alpha.test", (), 0, digests[0][:16], parts=parts).encode(), b"", {})

    queues.enqueue(BOB, letter=letter(*hashes[:2]))
    queues.enqueue(CAROL, letter=letter(*hashes[1:]))
    assert queues.one(queues.queue.blobs()) == set(hashes)
    bob, carol = sorted(queues.one(queues.queue.lease(10, 60.0)), key=lambda row: str(row.recipient))
    assert queues.one(queues.queue.blobs()) == set(hashes)
    queues.settle(bob.queue_id, Delivered())
    assert queues.one(queues.queue.blobs()) == set(hashes[1:])
    queues.settle(carol.queue_id, Deferred(), 2_000_000.0)
    assert queues.one(queues.queue.blobs()) == set(hashes[1:])


def test_sweep_forgets_what_ended_long_ago(queues: Queues) -> None:
    letter = queues.enqueue(BOB)
    (row,) = queues.one(queues.queue.lease(1, 60.0))
    queues.settle(row.queue_id, Delivered())
    queues.enqueue(CAROL)
    queues.clock.advance(ENDED_FOR + 1)
    queues.one(queues.queue.sweep())
    count = queues.one(queues.database.read(lambda db: db.execute("SELECT count(*) FROM queue_message").fetchone()[0]))
    assert count == 1  # carol's waits
    assert queues.lease() == ["carol@gamma.test"]
    queues.enqueue(BOB, letter=letter)
    assert queues.lease() == ["bob@beta.test"]


def test_a_sweep_goes_step_by_step(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatewayd.queue.sqlite.SWEPT", 2)
    queues.enqueue(*(Address.parse(f"{number}@beta.test") for number in range(4)), CAROL)
    for row in queues.one(queues.queue.lease(10, 60.0)):
        queues.settle(row.queue_id, Delivered())
    queues.clock.advance(ENDED_FOR + 1)
    commits = queues.database.commits
    queues.one(queues.queue.sweep())
    assert queues.database.commits - commits == 3 + 1  # five rows, two at a time; then the domains
    for table in ("queue_recipient", "queue_message"):
        query = f"SELECT count(*) FROM {table}"
        assert queues.one(queues.database.read(lambda db, q=query: db.execute(q).fetchone()[0])) == 0


def walks(plans: list[str]) -> list[str]:
    """The steps that go through a whole table; what a statement was given, or has found by an index, is none."""
    ours = ("CONSTANT ROW", "(subquery", "json_each VIRTUAL TABLE")
    return [plan for plan in plans if plan.startswith("SCAN") and not any(what in plan for what in ours)]


def test_what_is_asked_of_a_million_rows_reads_few(queues: Queues) -> None:
    """Nothing that the gateway asks by itself walks through the queue."""
    asked: list[str] = []
    queues.one(queues.database.write(lambda db: db.set_trace_callback(asked.append)))
    queues.enqueue(BOB, CAROL)
    (row, *others) = queues.one(queues.queue.lease(10, 60.0))
    queues.settle(row.queue_id, Deferred("4.4.1", "down"), queues.clock.seconds(), failures=1)
    queues.one(queues.queue.give_back([other.queue_id for other in others]))
    queues.one(queues.queue.wake(BOB.domain))
    queues.one(queues.queue.recover())
    queues.one(queues.queue.sweep())
    queues.one(queues.database.write(lambda db: db.set_trace_callback(None)))
    asked = [query for query in asked if "queue_" in query and not query.startswith("--")]
    assert len(asked) > 10

    def plans(db: sqlite3.Connection) -> list[str]:
        return [step[3] for query in asked for step in db.execute(f"EXPLAIN QUERY PLAN {query}")]

    walked = walks(queues.one(queues.database.read(plans)))
    assert [step for step in walked if "queue_destination" not in step] == []
    asked = [query for query in asked if "json_each" in query]
    assert len(asked) == 4 and not [step for step in queues.one(queues.database.read(plans)) if "queue_due" in step]


def test_leases_spare_the_excluded_and_take_turns(queues: Queues) -> None:
    """Of each domain what waits longest first."""
    flood = [Address.parse(f"{number}@beta.test") for number in range(6)]
    queues.enqueue(*flood)
    queues.clock.advance(1)
    queues.enqueue(CAROL, Address.parse("dave@gamma.test"))
    rows = queues.one(queues.queue.lease(100, 60.0, [BOB.domain]))
    assert {str(row.recipient.domain) for row in rows} == {"gamma.test"}
    for row in rows:
        queues.settle(row.queue_id, Deferred(), queues.clock.seconds())
    assert [name.partition("@")[2] for name in queues.lease(limit=5)] == [
        "beta.test", "gamma.test", "beta.test", "gamma.test", "beta.test",
    ]  # fmt: skip
    assert queues.lease(limit=0) == []
    assert len(queues.lease()) == 3
    assert queues.one(queues.queue.lease(100, 60.0, [BOB.domain, CAROL.domain])) == []


def test_a_domain_that_cannot_be_reached_costs_a_probe(queues: Queues) -> None:
    for number in range(6):
        queues.enqueue(Address.parse(f"{number}@beta.test"))
    now, queue = queues.clock.seconds(), queues.queue
    rows = queues.one(queue.lease(2, 60.0))
    queues.settle(rows[0].queue_id, Deferred("4.4.1", "down"), now + 100, failures=1)
    queues.one(queue.give_back([rows[1].queue_id]))
    queues.enqueue(CAROL)
    queues.enqueue(Address.parse("new@beta.test"))
    assert queues.lease() == ["carol@gamma.test"]
    assert queues.one(queue.due_in()) == 60  # carol's lease
    assert {row.next_attempt for row in queues.one(queue.listing(picked=Picked(domain="beta.test")))} == {now + 100}
    queues.clock.advance(100)
    assert queues.one(queue.lease(10, 60.0, [CAROL.domain], strangers=0)) == []
    (probe,) = queues.one(queue.lease(10, 60.0, [CAROL.domain]))
    assert probe.failures == 1
    queues.settle(probe.queue_id, Deferred("4.4.1", "down"), now + 900, failures=2)
    queues.clock.advance(200)
    assert queues.one(queue.lease(10, 60.0, [CAROL.domain])) == []
    assert queues.one(queue.wake(BOB.domain))
    assert len(queues.one(queue.lease(10, 60.0, [CAROL.domain]))) == 7


def test_a_stranger_is_tried_with_one_message(queues: Queues) -> None:
    there = [Address.parse(f"{number}@new.test") for number in range(4)]
    queues.enqueue(*there[:2])
    queues.enqueue(*there[2:])
    queues.enqueue(BOB)
    queue = queues.queue
    rows = queues.one(queue.lease(10, 60.0))
    assert {row.recipient: row.probe for row in rows} == {BOB: False, there[0]: True, there[1]: True}
    assert queues.lease() == []
    queues.one(queue.recover())
    rows = [row for row in queues.one(queue.lease(10, 60.0)) if row.probe]
    assert len(rows) == 2
    queues.settle(rows[0].queue_id, Delivered())
    assert queues.lease() == ["2@new.test", "3@new.test"]
    queues.enqueue(Address.parse("5@new.test"))
    assert [row.probe for row in queues.one(queue.lease(10, 60.0))] == [False]


def test_strangers_leave_room_for_each_other(queues: Queues) -> None:
    """Of those who may come half at most are such as could not be reached."""
    now, queue = queues.clock.seconds(), queues.queue
    for number in range(8):
        queues.enqueue(Address.parse(f"bob@dead{number}.test"))
    for row in queues.one(queue.lease(100, 60.0)):
        queues.settle(row.queue_id, Deferred("4.4.1", "down"), now + 10, failures=1)
    queues.clock.advance(10)
    for number in range(8):
        queues.enqueue(Address.parse(f"bob@new{number}.test"))
    rows = queues.one(queue.lease(100, 60.0, strangers=4))
    assert [row.recipient.domain.name[:3] for row in rows] == ["new"] * 4
    rows = queues.one(queue.lease(100, 60.0, strangers=6))
    assert [row.recipient.domain.name[:3] for row in rows] == ["new"] * 4 + ["dea"] * 2


def test_an_acquaintance_is_forgotten_in_time(queues: Queues) -> None:
    queues.enqueue(Address.parse("bob@new.test"))
    (row,) = queues.one(queues.queue.lease(1, 60.0))
    queues.settle(row.queue_id, Delivered())
    queues.clock.advance(REACHED_FOR + 1)
    queues.one(queues.queue.sweep())
    queues.enqueue(Address.parse("bob@new.test"))
    assert queues.one(queues.queue.lease(1, 60.0))[0].probe


def test_one_that_answers_is_reached_again(queues: Queues) -> None:
    for number in range(3):
        queues.enqueue(Address.parse(f"{number}@beta.test"))
    now, queue = queues.clock.seconds(), queues.queue
    (row,) = queues.one(queue.lease(1, 60.0))
    queues.settle(row.queue_id, Deferred("4.4.1", "down"), now + 100, failures=1)
    queues.clock.advance(100)
    (row,) = queues.one(queue.lease(10, 60.0))
    called: list[int] = []
    queue.watch(lambda: called.append(1))
    queues.settle(row.queue_id, Deferred("4.2.1", "busy"), now + 500)
    assert called
    assert len(queues.lease()) == 2


def test_old_rows_of_a_domain(queues: Queues) -> None:
    queues.enqueue(BOB, CAROL)
    queues.clock.advance(100)
    queue = queues.queue
    queues.enqueue(Address.parse("new@beta.test"))
    (row,) = queues.one(queue.unwarned(BOB.domain, 50, 10))
    assert (row.recipient, row.warned) == (BOB, False)
    queues.one(queue.warned([row.queue_id]))
    assert queues.one(queue.unwarned(BOB.domain, 50, 10)) == []
    (row,) = queues.one(queue.overdue(BOB.domain, 50, 60.0, 10))
    assert (row.recipient, row.warned) == (BOB, True)
    assert queues.one(queue.overdue(BOB.domain, 50, 60.0, 10)) == []


def test_the_operator_picks(queues: Queues) -> None:
    letter = queues.enqueue(BOB, CAROL)
    queues.enqueue(BOB)
    ids = [row.queue_id for row in queues.one(queues.queue.listing())]
    for picked, count in (
        (Picked(), 3), (Picked(queue_ids=(ids[0], 999)), 1), (Picked(address="Bob@beta.test"), 2),
        (Picked(address=str(ALICE)), 3), (Picked(domain="gamma.test"), 1), (Picked(message=letter.id[:4]), 2),  # type: ignore[attr-defined]
        (Picked(message=letter.id, address="bob@beta.test"), 1), (Picked(domain="delta.test"), 0),  # type: ignore[attr-defined]
    ):  # fmt: skip
        assert len(queues.one(queues.queue.listing(picked=picked))) == count
    assert queues.one(queues.queue.hold(Picked(domain="beta.test"))) == 2
    assert queues.lease() == ["carol@gamma.test"]
    assert queues.one(queues.queue.drop(Picked(queue_ids=tuple(ids)))) == 2  # carol's is tried just now
    assert queues.one(queues.queue.release(Picked())) == 0
    (answers,) = queues.one(queues.queue.enqueue([MailObject(letter, b"", Envelope(ALICE, (BOB,)))]))  # type: ignore[arg-type]
    assert answers[BOB] == DROPPED_HERE


def test_another_process_is_seen(queues: Queues) -> None:
    called: list[int] = []
    queues.enqueue(BOB)
    queues.one(queues.queue.hold(Picked()))
    queues.queue.watch(lambda: called.append(1))
    queues.queue.follow()
    other = Queues(queues.path)

    def look() -> None:
        queues.clock.advance(1.0)
        queues.loop.all(queues.database.write(lambda db: None))  # type: ignore[arg-type]

    look()
    called.clear()
    assert other.one(other.queue.release(Picked())) == 1
    other.database.close()
    look()
    assert called
    queues.queue.stop()


def test_no_plan_walks_through_the_table(queues: Queues) -> None:
    """Whatever a lease asks comes from an index; a million rows are as good as ten."""
    plans: list[str] = []

    def explain(db: sqlite3.Connection) -> None:
        said: list[str] = []
        db.set_trace_callback(said.append)
        destinations.lease(db, 2e6, 2e6, 100, ["delta.test"], 10)
        destinations.reckon(db, "beta.test")
        db.set_trace_callback(None)
        for statement in said:
            plans.extend(row[3] for row in db.execute("EXPLAIN QUERY PLAN " + statement).fetchall())

    queues.enqueue(BOB, CAROL)
    queues.one(queues.database.write(explain))
    assert any("queue_domain" in plan for plan in plans) and any("destination_due" in plan for plan in plans)
    assert not walks(plans), plans
    assert not [plan for plan in plans if "TEMP B-TREE" in plan], plans


def test_a_message_that_is_gone(queues: Queues) -> None:
    assert queues.one(queues.queue.messages([99])) == {}


def test_nothing_is_queued_when_there_is_no_room(queues: Queues) -> None:
    pages = queues.one(queues.database.read(lambda db: db.execute("PRAGMA page_count").fetchone()[0]))
    limit = "PRAGMA max_page_count={}"
    queues.one(queues.database.write(lambda db: db.execute(limit.format(pages + 2)).fetchone()))
    letter = content(b"Subject: big\r\n\r\n" + b"x" * 100_000)
    called: list[int] = []
    queues.queue.watch(lambda: called.append(1))
    with pytest.raises(StoreFull):
        queues.enqueue(BOB, letter=letter)
    assert not called
    assert queues.lease() == []
    queues.one(queues.database.write(lambda db: db.execute(limit.format(10 * pages)).fetchone()))
    queues.enqueue(BOB, letter=letter)
    assert queues.lease() == ["bob@beta.test"]


@given(
    st.builds(lambda local, domain: f"{local}@{domain}",
              st.text(min_size=1, max_size=30) | st.text(max_size=20).map(lambda text: f'"{text}"'),
              st.sampled_from(["beta.test", "xn--bcher-kva.test", "bücher.test"]))
)  # fmt: skip
def test_an_address_that_was_accepted_can_be_leased(text: str) -> None:
    """It is kept as text; one that could not be read again would stop the whole queue."""
    try:
        address = Address.parse(text)
    except AddressError:
        return
    assert Address.parse(str(address)) == address


KILLED = """
import sys
from pathlib import Path
from tests.test_queue_sqlite import *

queues = Queues(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    letter = queues.enqueue(BOB, CAROL)
    print("queued", letter.id.hex(), flush=True)
    if number % 2:
        (row,) = queues.one(queues.queue.lease(1, 60.0))
        queues.settle(row.queue_id, Delivered())
        print("done", row.queue_id, flush=True)
"""


def test_what_is_acknowledged_survives_kill_9(queues: Queues) -> None:
    said: dict[str, list[str]] = {"queued": [], "done": []}
    for lines in (5, 32, 71):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(queues.path)], stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parent.parent,
        )  # fmt: skip
        assert process.stdout is not None
        for number, line in enumerate(process.stdout):
            if not line.endswith("\n"):
                break  # killed in the middle of a word
            kind, name = line.split()
            said[kind].append(name)
            if number == lines:
                process.send_signal(signal.SIGKILL)
        process.wait()
    queues.one(queues.queue.recover())
    rows = queues.one(queues.queue.lease(10_000, 60.0))
    ended = queues.one(queues.database.read(lambda db: db.execute(
        "SELECT queue_id, message_key FROM queue_recipient WHERE state='delivered'").fetchall()))  # fmt: skip
    assert set(said["done"]) <= {str(queue_id) for queue_id, _ in ended}
    assert not {row.queue_id for row in rows} & {queue_id for queue_id, _ in ended}
    keys = [row.message_key for row in rows] + [key for _, key in ended]
    assert set(Counter(keys).values()) == {2}  # each once to bob and to carol
    there = {queues.one(queues.queue.messages([key]))[key][0].id.hex() for key in set(keys)}
    assert set(said["queued"]) <= there
    assert len(there) == len(set(keys))


LETTERS = [content(b"Subject: %d\r\n\r\n" % number) for number in range(4)]
PEOPLE = [Address.parse(text) for text in ("a@beta.test", "b@beta.test", "c@beta.test", "a@gamma.test", "a@delta.test")]
domains = st.sampled_from([Domain.parse("beta.test"), Domain.parse("gamma.test"), Domain.parse("delta.test")])
OUTCOMES = st.sampled_from([Delivered("2.0.0", "yes"), Refused("5.1.1", "no"), Deferred("4.4.1", "later")])


@dataclass
class Row:
    state: str
    due: float
    recipient: Address
    reverse_path: Address | None
    attempts: int = 0
    said: Outcome | None = None


class Model(RuleBasedStateMachine):
    """The queue beside a model of it; whatever happens, only the transitions in the table do."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.queues = Queues(self.root / "test.sqlite")
        self.one, self.queue = self.queues.one, self.queues.queue
        self.rows: dict[tuple[bytes, Address], Row] = {}
        self.by_id: dict[int, Row] = {}
        self.before: dict[int, str] = {}
        self.calls = 0
        self.queue.watch(self.called)

    def called(self) -> None:
        self.calls += 1

    def teardown(self) -> None:
        self.queues.database.close()
        shutil.rmtree(self.root)

    @property
    def now(self) -> float:
        return self.queues.clock.seconds()

    def waiting(self) -> list[Row]:
        return [row for row in self.rows.values() if row.state in {WAITING, LEASED}]

    @rule(
        number=st.integers(0, 3),
        to=st.lists(st.sampled_from(PEOPLE), min_size=1, max_size=4),
        path=st.sampled_from([ALICE, None]),
    )
    def enqueue(self, number: int, to: list[Address], path: Address | None) -> None:
        letter, calls = LETTERS[number], self.calls
        (answers,) = self.one(self.queue.enqueue([MailObject(letter, b"", Envelope(path, tuple(to)))]))
        assert self.calls > calls or not to
        for address in to:
            row = self.rows.setdefault((letter.id, address), Row(WAITING, self.now, address, path))
            assert answers[address] == (row.said if row.state in {REFUSED, DROPPED} else Delivered("2.0.0", "Queued"))
        assert set(answers) == set(to)

    @rule(limit=st.integers(0, 6), seconds=st.integers(1, 30), exclude=st.sets(domains, max_size=2))
    def lease(self, limit: int, seconds: int, exclude: set[Domain]) -> None:
        due = [row for row in self.waiting() if row.due <= self.now and row.recipient.domain not in exclude]
        leased = self.one(self.queue.lease(limit, float(seconds), exclude))
        assert len(leased) == min(limit, len(due))
        taken: Counter[Domain] = Counter()
        for found in leased:
            key = (self.one(self.queue.messages([found.message_key]))[found.message_key][0].id, found.recipient)
            row = self.rows[key]
            assert any(row is each for each in due)
            assert (found.envelope.reverse_path, found.attempts) == (row.reverse_path, row.attempts)
            longest = min(each.due for each in due if each.recipient.domain == found.recipient.domain)
            assert row.due == longest
            due = [each for each in due if each is not row]
            taken[found.recipient.domain] += 1
            assert self.by_id.setdefault(found.queue_id, row) is row
            row.state = LEASED
        for row in due:  # left behind: its domain had its turns
            assert taken[row.recipient.domain] >= max(taken.values(), default=0) - 1
        for found in leased:
            self.by_id[found.queue_id].due = self.now + seconds

    @rule(which=st.integers(0, 50), outcome=OUTCOMES, wait=st.integers(0, 40))
    def settle(self, which: int, outcome: Outcome, wait: int) -> None:
        """Of anything that was ever leased: a late answer changes nothing."""
        if not self.by_id:
            return
        queue_id = sorted(self.by_id)[which % len(self.by_id)]
        later = isinstance(outcome, Deferred)
        self.one(self.queue.settle([Settlement(queue_id, outcome, self.now + wait if later else None)]))
        row = self.by_id[queue_id]
        if row.state != LEASED:
            return
        row.said, row.attempts, row.due = outcome, row.attempts + later, self.now + wait * later
        row.state = WAITING if later else DELIVERED if outcome.ok else REFUSED

    @rule(domain=domains)
    def wake(self, domain: Domain) -> None:
        calls = self.calls
        rows = [row for row in self.waiting() if row.state == WAITING and row.recipient.domain == domain]
        late = [row for row in rows if row.due > self.now and row.attempts]
        assert self.one(self.queue.wake(domain)) == bool(late)
        assert (self.calls > calls) == bool(late)
        for row in late:
            row.due = self.now

    @rule(domain=domains, action=st.sampled_from(["hold", "release", "retry", "drop"]))
    def operator(self, domain: Domain, action: str) -> None:
        """Nothing that is tried just now is touched."""
        states, state = {
            "hold": ({WAITING}, HELD), "release": ({HELD}, WAITING), "retry": ({WAITING}, WAITING),
            "drop": ({WAITING, HELD}, DROPPED),
        }[action]  # fmt: skip
        rows = [row for row in self.rows.values() if row.state in states and row.recipient.domain == domain]
        assert self.one(getattr(self.queue, action)(Picked(domain=domain.name))) == len(rows)
        for row in rows:
            row.state, row.due = state, self.now
            if state == DROPPED:
                row.said = DROPPED_HERE

    @rule()
    def recover(self) -> None:
        leased = [row for row in self.rows.values() if row.state == LEASED]
        assert self.one(self.queue.recover()) == len(leased)
        for row in leased:
            row.state, row.due = WAITING, self.now

    @rule(seconds=st.sampled_from([1, 5, 20, ENDED_FOR]))
    def advance(self, seconds: float) -> None:
        self.queues.clock.advance(seconds)

    @rule()
    def sweep(self) -> None:
        self.one(self.queue.sweep())
        old = [k for k, row in self.rows.items() if row.state in ENDED and row.due < self.now - ENDED_FOR]
        for key in old:
            del self.rows[key]
        count = "SELECT count(*) FROM queue_message"
        assert self.one(self.queues.database.read(lambda db: db.execute(count).fetchone()[0])) == len(
            {letter for letter, _ in self.rows}
        )

    @invariant()
    def the_table_is_kept(self) -> None:
        query = "SELECT queue_id, state FROM queue_recipient"
        after = dict(self.one(self.queues.database.read(lambda db: db.execute(query).fetchall())))
        for queue_id, state in after.items():
            old = self.before.get(queue_id, WAITING)
            assert state == old or state in TRANSITIONS[old]
        assert {self.before[gone] for gone in self.before.keys() - after.keys()} <= set(ENDED)
        self.before = after

    @invariant()
    def what_the_operator_sees(self) -> None:
        waiting = self.waiting()
        wait = self.one(self.queue.due_in())
        soonest = min((row.due for row in waiting), default=None)
        assert wait == soonest - self.now if soonest is not None and soonest > self.now else wait is None or wait <= 0
        assert (wait is None) is (soonest is None)
        rows = [row for row in self.rows.values() if row.state in IN_QUEUE]
        assert Counter(
            (r.recipient, r.reverse_path, r.state, r.attempts, r.next_attempt, r.last_status)
            for r in self.one(self.queue.listing())
        ) == Counter(
            (str(r.recipient), str(r.reverse_path or ""), r.state, r.attempts, r.due,
             f"{r.said.code} {r.said.text}" if r.said else " ")
            for r in rows
        )  # fmt: skip


Model.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestModel = Model.TestCase


def in_pieces(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Of ten rows. The pauses that are made between them."""
    monkeypatch.setattr(picking, "PIECE", 10)
    pauses: list[float] = []

    def call_later(delay: float, call: Callable[..., object], *arguments: object) -> None:
        pauses.append(delay)
        queues.loop.post(lambda: call(*arguments))  # type: ignore[arg-type, return-value]

    monkeypatch.setattr(queues.clock, "callLater", call_later)
    return pauses


def test_a_peer_that_calls_does_not_wait_until_all_is_due(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses, now = in_pieces(queues, monkeypatch), queues.clock.seconds()
    queues.enqueue(*(Address.parse(f"{n}@beta.test") for n in range(35)))
    for row in queues.one(queues.queue.lease(35, 60.0)):
        queues.settle(row.queue_id, Deferred("4.2.0", "later"), now + 900)
    commits = queues.database.commits
    assert queues.one(queues.queue.wake(BOB.domain))
    assert queues.database.commits == commits + 1
    assert len(queues.lease()) == 10
    assert queues.one(queues.queue.wake(BOB.domain))  # the others go on meanwhile, once
    while len(pauses) < 4:
        queues.one(queues.queue.due_in())
    assert {row.next_attempt for row in queues.one(queues.queue.listing()) if row.state == WAITING} <= {now}


def test_the_list_is_the_same_whether_it_is_sorted_or_found_in_order(queues: Queues) -> None:
    now = queues.clock.seconds()
    people = [Address.parse(f"{n}@{name}.test") for n in range(6) for name in ("beta", "gamma", "new", "dead")]
    queues.enqueue(*people)
    for number, row in enumerate(queues.one(queues.queue.lease(20, 60.0))):
        failures = 1 if row.recipient.domain.name == "dead.test" else None
        if number % 3:
            queues.settle(row.queue_id, Deferred("4.2.0", "later"), now + 900 - 7 * number, failures)
    queues.one(queues.queue.hold(Picked(queue_ids=(4, 9))))
    for domain in ("", "beta.test", "dead.test", "none.test"):
        found = queues.one(queues.queue.listing(picked=Picked(domain=domain)))
        sorted_ = queues.one(queues.queue.listing(picked=Picked(domain=domain, queue_ids=tuple(range(1, 25)))))
        assert {row.queue_id for row in found} == {row.queue_id for row in sorted_}
        assert [row.next_attempt for row in found] == [row.next_attempt for row in sorted_]
        assert queues.one(queues.queue.listing(3, Picked(domain=domain))) == found[:3]


def test_many_rows_are_moved_in_pieces(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have their turn between two of them; each row is moved once."""
    pauses = in_pieces(queues, monkeypatch)
    people = [Address.parse(f"{n}@{name}.test") for n in range(25) for name in ("beta", "gamma")]
    queues.enqueue(*people)
    for row in queues.one(queues.queue.lease(1, 60.0)):
        queues.settle(row.queue_id, Deferred("4.2.0", "later"), queues.clock.seconds() + 900)
    commits = queues.database.commits
    assert queues.one(queues.queue.retry(Picked())) == 50
    assert pauses == [PAUSE] * 5 and queues.database.commits == commits + 5
    assert queues.one(queues.queue.hold(Picked(domain="beta.test"))) == 25
    assert len(queues.lease()) == 25
    assert queues.one(queues.queue.release(Picked())) == 25
    assert len(queues.lease()) == 25


def test_a_clock_that_is_set_back_lets_nothing_wait(tmp_path: Path) -> None:
    loop, clock, wall = Loop(), Clock(), [1_000_000.0]
    database = Database(tmp_path / "test.sqlite", loop.post)
    queue = SQLiteQueue(database, clock, lambda: wall[0])
    held = Envelope(ALICE, (CAROL,), not_before=1_900_000)
    new = Envelope(ALICE, (BOB,))
    loop.one(queue.enqueue([MailObject(content(), b"", new), MailObject(content(), b"", held)]))
    (row,) = loop.one(queue.lease(10, 60.0))
    loop.one(queue.settle([Settlement(row.queue_id, Deferred("4.4.1", "no host"), 1_000_900, 1)]))

    def passed(real: float, shown: float) -> list[str]:
        """Whose rows are due when so many seconds were, and the wall says so many more."""
        clock.advance(real)
        wall[0] += shown
        loop.one(queue.heed_clock())
        return [str(each.recipient) for each in loop.one(queue.lease(10, 60.0))]

    assert passed(10, 5) == []
    assert passed(10, -500_000 + 10) == []
    assert passed(870, 870) == []
    assert passed(20, 20) == ["bob@beta.test"]
    (one,) = loop.one(queue.listing(10, Picked(address="bob@beta.test")))
    assert one.accepted < wall[0]
    assert passed(500_000, 500_000) == ["bob@beta.test"]  # its lease has run out; the sender's wish for hers has not
    database.close()
