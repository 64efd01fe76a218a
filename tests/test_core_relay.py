"""The relay over a real queue, with a clock of ours and couriers that do as they are told."""

from __future__ import annotations

import email
import re
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from twisted.internet.defer import Deferred as Later
from twisted.internet.defer import maybeDeferred

from gatewayd.address import Address, Domain
from gatewayd.core.attempts import Patience
from gatewayd.core.delivery import PostOffice
from gatewayd.core.receiving import Arrival
from gatewayd.core.relay import BREATH, GRACE, Relay
from gatewayd.core.story import Story
from gatewayd.crypto.cose import sign
from gatewayd.crypto.domain_keys import SigningKey
from gatewayd.database.sqlite import READERS
from gatewayd.errors import StoreError
from gatewayd.interfaces.dns import Endpoint
from gatewayd.interfaces.queue import Asked, Envelope, MailObject
from gatewayd.interfaces.records import ScramCredentials
from gatewayd.interfaces.routes import Local, Mail, Origin, Parley, Route
from gatewayd.interfaces.story import Event
from gatewayd.message.mime import Mail as Octets
from gatewayd.message.model import Content, Part, Payload
from gatewayd.message.render import LARGEST
from gatewayd.outcome import Deferred, Delivered, Outcome, Refused
from gatewayd.store.blobs import BlobStore
from gatewayd.store.sqlite import SQLiteStore
from tests.test_queue_sqlite import Queues
from tests.test_store_sqlite import content

ALPHA = Domain.parse("alpha.test")
ALICE = Address.parse("alice@alpha.test")
BOB, CAROL = Address.parse("bob@beta.test"), Address.parse("carol@gamma.test")
PEER = Origin("192.0.2.1", "peer.test")
RETRY = (10.0, 100.0)
GIVE_UP = 1000.0
DELAY_NOTICE = 400.0


class Signer:
    key = SigningKey.generate(ALPHA)

    async def sign(self, domain: Domain, payload: bytes) -> tuple[bytes, bytes]:
        if domain != ALPHA:
            raise KeyError(domain.name)
        return sign(payload, self.key)

    async def sign_all(self, payloads: Sequence[tuple[Domain, bytes]]) -> list[tuple[bytes, bytes] | None]:
        return [sign(payload, self.key) if domain == ALPHA else None for domain, payload in payloads]

    async def verify(self, content: Content) -> Domain:
        raise LookupError("no keys here")


class Courier:
    """Answers each attempt from its list, or as `default`; a Later in the list is waited for."""

    def __init__(self) -> None:
        self.attempts: list[tuple[Address | None, tuple[Address, ...]]] = []
        self.answers: dict[Domain, list[Any]] = defaultdict(list)
        self.default: Outcome = Delivered()

    async def deliver(self, route: Any, objects: Sequence[MailObject]) -> list[dict[Address, Outcome]]:
        return [await self._deliver(route, one.envelope) for one in objects]

    async def _deliver(self, route: Any, envelope: Envelope) -> dict[Address, Outcome]:
        self.attempts.append((envelope.reverse_path, envelope.recipients))
        waiting = self.answers[route.domain]
        answer = waiting.pop(0) if waiting else self.default
        if isinstance(answer, Later):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        return dict.fromkeys(envelope.recipients, answer)

    async def close(self) -> None:
        pass


class House(Queues):
    """Everything between acceptance and the couriers."""

    def __init__(self, root: Path) -> None:
        super().__init__(root / "test.sqlite")
        self.events: list[Event] = []
        self.story = Story(self.clock.seconds, self.events.append)
        blobs, now = BlobStore(root / "blobs"), self.clock.seconds
        self.store = SQLiteStore(self.database, blobs, self.clock, now, maybeDeferred)
        self.one(self.store.add_domain(ALPHA))
        self.one(self.store.add_account(ALICE, ScramCredentials(b"", 1, b"", b"")))
        self.routes: dict[Domain, Route] = {}
        self.mail, self.parley = Courier(), Courier()
        self.office = PostOffice(
            self.store, self.queue, Signer(), Domain.parse("mx.alpha.test"), now, bytes, story=self.story
        )
        self.relay = Relay(
            self.queue, self, {Parley: self.parley, Mail: self.mail}, self.office, self.clock, now,
            patience=Patience(RETRY, GIVE_UP, DELAY_NOTICE), concurrency=2,
            story=self.story,
        )  # fmt: skip

    async def route(self, domain: Domain) -> Route:
        return self.routes.get(domain, Mail(domain, (Endpoint("192.0.2.1", 25),)))

    def work(self, seconds: float = 0.0) -> None:
        """Time passes; then the loop turns until nothing moves."""
        self.clock.advance(seconds)
        for _ in range(30):
            self.loop.wait([*self._meet(), Later.fromCoroutine(self.database.write(lambda db: None))])
            self.clock.advance(0.01)

    def _meet(self) -> list[Later[Any]]:
        """Done when each reader is: none is still at what it was at. One takes all that waits, so they come in turn."""
        meet, reads = Barrier(READERS, timeout=60), []
        for _ in range(READERS):
            here = threading.Event()

            def read(db: object, here: threading.Event = here) -> None:
                here.set()
                meet.wait()

            reads.append(Later.fromCoroutine(self.database.read(read)))
            here.wait(60)
        return reads

    def send(
        self, *recipients: Address, reverse_path: Address | None = ALICE, notify: str = "",
        mail: bytes = b"Subject: x\r\n\r\n",
    ) -> None:  # fmt: skip
        envelope = Envelope(reverse_path, recipients, asked=dict.fromkeys(recipients, Asked(frozenset(notify.split()))))
        self.one(self.queue.enqueue([MailObject(content(mail), b"", envelope)]))
        self.work()

    def inbox(self) -> list[bytes]:
        account = self.one(self.store.account(ALICE))
        box = self.one(self.store.mailbox(account.account_id, "INBOX"))
        entries = self.one(self.store.entries(account.account_id, box.mailbox_id))
        mails = self.one(self.store.mails(account.account_id, [entry.message_id for entry in entries]))
        return [mails[entry.message_id] for entry in entries]

    def waiting(self) -> int:
        return len(self.one(self.queue.listing()))


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    made.relay.start()
    made.work()
    yield made
    made.database.close()


def test_each_domain_goes_by_its_own_courier_once(house: House) -> None:
    house.routes[BOB.domain] = Parley(BOB.domain, (Endpoint("192.0.2.2", 5299),))
    other = Address.parse("eve@beta.test")
    house.send(BOB, other, CAROL)
    assert house.parley.attempts == [(ALICE, (BOB, other))]
    assert house.mail.attempts == [(ALICE, (CAROL,))]
    assert house.waiting() == 0


def test_retries_on_schedule_until_it_goes(house: House) -> None:
    house.mail.answers[BOB.domain] = [Deferred("4.4.1", "down")] * 3
    house.send(BOB)
    assert len(house.mail.attempts) == 1
    for wait, attempts in ((5, 1), (6, 2), (50, 2), (60, 3), (101, 4)):
        house.work(wait)
        assert len(house.mail.attempts) == attempts
    assert house.waiting() == 0
    assert house.inbox() == []


def test_a_peer_may_ask_for_a_longer_wait(house: House) -> None:
    house.mail.answers[BOB.domain] = [Deferred("4.7.0", "greylisted", 300.0)]
    house.send(BOB)
    house.work(200)
    assert len(house.mail.attempts) == 1
    house.work(101)
    assert len(house.mail.attempts) == 2


def test_contact_ends_the_back_off(house: House) -> None:
    house.mail.answers[BOB.domain] = [Deferred()]
    house.send(BOB)
    house.office.peer_contact(BOB.domain)
    house.work()
    assert len(house.mail.attempts) == 2


def test_given_up_the_sender_is_told_in_words(house: House) -> None:
    house.mail.default = Deferred("4.4.1", "Connection refused")
    house.send(BOB)
    for _ in range(15):
        house.work(100)
    _, octets = house.inbox()  # after the warning
    report = email.message_from_bytes(octets)
    assert report["Return-Path"] == "<>"
    assert report["To"] == "<alice@alpha.test>"
    assert report.get_content_type() == "multipart/report"
    human, status, _ = report.get_payload()  # type: ignore[misc]
    assert "bob@beta.test" in human.get_payload()  # type: ignore[union-attr]
    assert "Connection refused" in human.get_payload()  # type: ignore[union-attr]
    assert "Status: 5.4.7" in str(status)
    assert house.waiting() == 0


def reports(house: House) -> list[str]:
    found = [re.search(rb"Action: (\w+)", mail) for mail in house.inbox()]
    return [match[1].decode() for match in found if match]


def test_a_delay_is_told_once(house: House) -> None:
    house.mail.default = Deferred("4.2.1", "greylisted")
    house.send(BOB)
    for _ in range(8):
        house.work(100)
    assert reports(house) == ["delayed"]
    assert b"Will-Retry-Until" in house.inbox()[0]


def test_only_people_who_wait_are_told_of_a_delay(house: House) -> None:
    house.mail.default = Deferred("4.4.1", "no answer")
    house.send(BOB, reverse_path=None)
    house.send(BOB, mail=b"List-Id: <x.test>\r\n\r\n")
    house.send(BOB, mail=b"Auto-Submitted: auto-generated\r\n\r\n")
    house.send(BOB, notify="FAILURE")
    for _ in range(7):
        house.work(100)
    assert reports(house) == []
    assert house.waiting() == 4


def test_one_report_for_all_recipients_of_a_message_with_one_fate(house: House) -> None:
    house.mail.default = Refused("5.1.1", "no such user")
    there = [Address.parse(f"{number}@beta.test") for number in range(5)]
    house.send(*there)
    (report,) = house.inbox()
    assert report.count(b"Final-Recipient: ") == 5
    house.mail.default = Deferred("4.4.1", "no answer")
    house.send(*there)
    for _ in range(14):
        house.work(100)
    assert sorted(reports(house)) == ["delayed", "failed", "failed"]


def test_the_sender_says_what_to_tell(house: House) -> None:
    house.mail.default = Refused("5.1.1", "no such user")
    house.send(BOB, notify="NEVER")
    house.send(BOB, notify="SUCCESS DELAY")
    assert reports(house) == []
    house.mail.default = Delivered()
    house.send(BOB, notify="SUCCESS")
    assert reports(house) == ["relayed"]
    house.mail.default = Delivered(reports=True)
    house.send(BOB, notify="SUCCESS")
    assert reports(house) == ["relayed"]


def test_a_domain_that_cannot_be_reached_is_tried_once_for_all(house: House) -> None:
    house.mail.answers[BOB.domain] = [Deferred("4.4.1", "no answer")] * 2
    house.send(BOB)
    for number in range(20):
        house.send(Address.parse(f"{number}@beta.test"))
    house.send(CAROL)
    assert [recipients for _, recipients in house.mail.attempts] == [(BOB,), (CAROL,)]
    house.work(11)
    assert len(house.mail.attempts) == 3
    house.work(101)
    for _ in range(5):
        house.work(2)
    assert len(house.mail.attempts) == 24
    assert house.waiting() == 0


def test_what_waits_for_a_dead_domain_is_told_and_given_up(house: House) -> None:
    house.mail.default = Deferred("4.4.1", "no answer")
    for number in range(5):
        house.send(Address.parse(f"{number}@beta.test"))
    for _ in range(14):
        house.work(100)
    assert sorted(reports(house)) == ["delayed"] * 5 + ["failed"] * 5
    assert house.waiting() == 0
    assert len(house.mail.attempts) < 15


def test_dead_domains_leave_room_for_the_living(house: House) -> None:
    """Half of the attempts at most are probes, though a hundred dead domains are due."""
    dead = [Address.parse(f"bob@dead{number}.test") for number in range(20)]
    for address in dead:
        house.mail.answers[address.domain] = [Deferred("4.4.1", "no answer")]
        house.send(address)
    hanging: list[Later[Outcome]] = [Later() for _ in dead]
    for address, later in zip(dead, hanging, strict=True):
        house.mail.answers[address.domain] = [later]
    house.work(20)
    assert len(house.mail.attempts) == 21
    house.send(CAROL)
    assert house.mail.attempts[-1] == (ALICE, (CAROL,))
    for later in hanging:
        later.callback(Delivered())
        house.work(2)
    assert house.waiting() == 0


def test_attempts_in_vain_are_paced_while_others_get_their_mail(house: House) -> None:
    """To find that a domain is dead costs as much as ten deliveries."""
    house.send(BOB)  # reached from now on
    dead = [Address.parse(f"bob@dead{number}.test") for number in range(20)]
    slow: Later[Outcome] = Later()
    house.mail.answers[BOB.domain].append(slow)
    for address in dead:
        house.mail.answers[address.domain].append(Deferred("4.4.1", "Connection refused"))
    house.send(BOB)
    house.send(*dead)
    assert 2 < len(house.mail.attempts) < 8  # less than a second has gone by, and alice's message is under way
    house.work(BREATH)
    slow.callback(Delivered())
    for _ in range(3):
        house.work(BREATH)
    assert len(house.mail.attempts) == 2 + len(dead)


def test_refused_is_told_at_once_and_a_bounce_never_bounces(house: House) -> None:
    house.mail.default = Refused("5.1.1", "no such user")
    house.send(BOB)
    assert len(house.inbox()) == 1
    house.send(BOB, reverse_path=None)
    assert len(house.inbox()) == 1
    house.send(BOB, reverse_path=CAROL)  # its bounce is refused too, and that is the end
    assert house.mail.attempts[-1] == (None, (CAROL,))
    assert house.waiting() == 0


def test_a_route_that_is_an_outcome_is_one(house: House) -> None:
    house.routes[BOB.domain] = Refused("5.1.10", "null MX")
    house.routes[CAROL.domain] = Deferred("4.4.3", "no DNS")
    house.send(BOB, CAROL)
    assert b"null MX" in house.inbox()[0]
    assert house.waiting() == 1


def test_a_courier_that_breaks_loses_nothing(house: House) -> None:
    house.mail.answers[BOB.domain] = [RuntimeError("a fault of ours")]
    house.send(BOB)
    assert house.waiting() == 1
    for _ in range(12):
        house.work(60)
    assert len(house.mail.attempts) == 2
    assert house.waiting() == 0


def test_files_too_large_for_mail_are_not_lost_in_silence(house: House) -> None:
    """By mail the recipient would get a note in their place, and could not fetch them: the sender is told."""
    part = Part(bytes(32), "video/mp4", LARGEST + 1, "holiday.mp4")
    payload = Payload(str(ALICE), (str(BOB),), 0, b"n" * 16, parts=(part,)).encode()
    protected, signature = house.one(Signer().sign(ALPHA, payload))
    house.routes[BOB.domain] = Parley(BOB.domain, (Endpoint("192.0.2.2", 5299),))
    letter = Content(protected, payload, signature, {})
    house.one(house.queue.enqueue([MailObject(letter, b"", Envelope(ALICE, (BOB, CAROL)))]))
    house.work()
    assert (house.parley.attempts, house.mail.attempts) == ([(ALICE, (BOB,))], [])
    (report,) = house.inbox()
    assert b"<carol@gamma.test>" in report
    assert b"Status: 5.3.4" in report
    assert b"Message-ID: <%s@alpha.test>" % letter.id.hex().encode() in report


def test_a_domain_that_hangs_holds_up_no_other(house: House) -> None:
    hanging: Later[Outcome] = Later()
    house.mail.answers[BOB.domain] = [hanging]
    house.send(BOB)
    house.send(CAROL)
    assert house.mail.attempts[-1] == (ALICE, (CAROL,))
    assert house.waiting() == 1
    hanging.callback(Delivered())
    house.work()
    assert house.waiting() == 0


def test_no_more_attempts_at_once_than_allowed(house: House) -> None:
    hanging: list[Later[Outcome]] = [Later() for _ in range(5)]
    house.know(*(f"b{n}.test" for n in range(5)))
    for n, each in enumerate(hanging):
        there = Address("bob", Domain.parse(f"b{n}.test"))
        house.mail.answers[there.domain] = [each]
        house.send(there)
    assert len(house.mail.attempts) == 2
    for each in hanging:
        each.callback(Delivered())
        house.work()
    assert len(house.mail.attempts) == 5
    assert house.waiting() == 0


def test_a_domain_that_hangs_leaves_room_for_the_others(house: House) -> None:
    hanging: list[Later[Outcome]] = [Later() for _ in range(50)]
    house.mail.answers[BOB.domain] = list(hanging)
    for _ in range(50):
        house.send(BOB)
    house.send(CAROL)
    assert [recipients for _, recipients in house.mail.attempts] == [(BOB,), (CAROL,)]
    for each in hanging:
        each.callback(Delivered())
        house.work()
    house.work(2.0)
    assert len(house.mail.attempts) == 51
    assert house.waiting() == 0


# -- the post office itself -----------------------------------------------------------------------------------------

MAIL = b"From: alice@alpha.test\r\nSubject: x\r\n\r\nbody\r\n"


def stamp(trace_id: str) -> bytes:
    return b"Received: id %s\r\n" % trace_id.encode()


def accept(house: House, mail: bytes, *recipients: Address, submitter: Any = None) -> list[str]:
    sender = ALICE if submitter else CAROL
    arrival = Arrival(Envelope(sender, recipients), Octets(mail), stamp, submitter, PEER)
    (answers,) = house.one(house.office.receive([arrival]))
    house.work()
    return [answers[recipient].code for recipient in recipients]


def test_who_may_write_to_whom(house: House) -> None:
    ask, alice = house.office, house.one(house.store.account(ALICE))
    nobody = Address.parse("nobody@alpha.test")
    cases = [(ALICE, None, "2.1.5"), (nobody, None, "5.1.1"), (BOB, None, "5.7.1"), (BOB, alice, "2.1.5")]
    for recipient, submitter, code in cases:
        assert house.one(ask.recipient(recipient, submitter)).code == code
    paths = [(CAROL, None, True), (ALICE, None, False), (None, None, True), (ALICE, alice, True), (CAROL, alice, False)]
    for path, submitter, ok in paths:
        assert house.one(ask.reverse_path(path, submitter, "192.0.2.7")).ok == ok


def test_mail_for_here_and_there(house: House) -> None:
    alice = house.one(house.store.account(ALICE))
    assert accept(house, MAIL, ALICE, BOB, submitter=alice) == ["2.0.0", "2.0.0"]
    (octets,) = house.inbox()
    head, body = octets.removesuffix(MAIL), octets[-len(MAIL) :]
    assert body == MAIL
    assert re.fullmatch(  # what the program left out is there
        rb"Return-Path: <alice@alpha\.test>\r\nReceived: id [0-9a-f]{16}\r\n"
        rb"Date: [^\r]* \+0000\r\nMessage-ID: <0{24}@alpha\.test>\r\n",
        head,
    )
    assert house.mail.attempts == [(ALICE, (BOB,))]


def test_the_whole_story_of_a_message(house: House) -> None:
    alice = house.one(house.store.account(ALICE))
    house.mail.answers[BOB.domain] = [Deferred("4.2.1", "greylisted"), Refused("5.1.1", "no such user")]
    assert accept(house, MAIL, ALICE, BOB, submitter=alice) == ["2.0.0", "2.0.0"]
    house.work(11)
    (name,) = {event.trace_id for event in house.events if event.address == "bob@beta.test"}
    assert b"Received: id " + name.encode() in house.inbox()[0]
    told = [(event.address, event.text) for event in house.events if event.trace_id == name]
    bob = [text for address, text in told if address == "bob@beta.test"]
    assert sorted(bob, key=lambda text: text.startswith("attempt")) == [  # the attempt may be quicker than the answer
        "waits in the queue",
        "attempt 1, by SMTP to beta.test (192.0.2.1): put off for 10 s (4.2.1 greylisted)",
        "attempt 2, by SMTP to beta.test (192.0.2.1): refused for good (5.1.1 no such user)",
    ]
    assert [text for address, text in told if address == "alice@alpha.test"] == [
        "received by SMTP from peer.test [192.0.2.1], sender <alice@alpha.test>, signed in as "
        f"alice@alpha.test, {len(MAIL)} octets",
        "in the mailbox INBOX",
        "<alice@alpha.test> was told that it could not be delivered",
    ]
    report = {event.trace_id for event in house.events} - {name}
    assert [event.text for event in house.events if event.trace_id in report] == [
        "written by this gateway itself", "in the mailbox INBOX",
    ]  # fmt: skip


def test_one_recipient_that_cannot_be_stored_is_not_forgotten(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """SMTP's one reply says yes: the other copy waits in the queue, and comes."""
    second = Address.parse("second@alpha.test")
    house.one(house.store.add_account(second, ScramCredentials(b"", 1, b"", b"")))
    deliver, broken = house.store.deliver, [True]

    async def deliver_one(deliveries: Any) -> Any:
        if broken:
            broken.clear()
            return [(await deliver(deliveries[:1]))[0], StoreError("the disk")]
        return await deliver(deliveries)

    monkeypatch.setattr(house.store, "deliver", deliver_one)
    house.routes[ALPHA] = Local()
    assert accept(house, MAIL, ALICE, second) == ["2.0.0", "2.0.0"]
    account = house.one(house.store.account(second)).account_id
    box = house.one(house.store.mailbox(account, "INBOX"))
    assert len(house.one(house.store.entries(account, box.mailbox_id))) == 1
    assert len(house.inbox()) == 1
    assert house.waiting() == 0


def test_from_has_to_be_the_submitters_own(house: House) -> None:
    alice = house.one(house.store.account(ALICE))
    for forged in (b"From: bob@alpha.test", b"From: alice@alpha.test, ceo@alpha.test", b"From: alice"):
        assert accept(house, MAIL.replace(b"From: alice@alpha.test", forged), BOB, submitter=alice) == ["5.7.1"]
    assert house.mail.attempts == []


def test_a_store_that_cannot_is_a_temporary_error(house: House) -> None:
    house.database.close()
    arrival = Arrival(Envelope(CAROL, (ALICE,)), Octets(MAIL), stamp, None, PEER)
    (answers,) = house.one(house.office.receive([arrival]))
    assert isinstance(answers[ALICE], Deferred)
    assert isinstance(house.one(house.office.recipient(Address.parse("new@alpha.test"), None)), Deferred)


def test_without_a_key_nothing_is_accepted(house: House) -> None:
    house.one(house.store.add_domain(BOB.domain))
    house.one(house.store.add_account(BOB, ScramCredentials(b"", 1, b"", b"")))
    assert accept(house, MAIL, BOB) == ["4.3.0"]


def test_stopping_waits_for_attempts_but_not_for_ever(house: House) -> None:
    """What hangs is as if the process had been killed: made again at the next start."""
    answer: Later[Outcome] = Later()
    house.mail.answers[BOB.domain] = [answer]
    house.send(BOB)
    stopped: list[None] = []
    Later.fromCoroutine(house.relay.stop()).addCallback(stopped.append)
    house.work()
    assert stopped == []
    house.work(GRACE)
    assert stopped == [None]
    assert house.waiting() == 1
    assert house.one(house.queue.recover()) == 1


def test_stopping_ends_with_the_last_attempt(house: House) -> None:
    answer: Later[Outcome] = Later()
    house.mail.answers[BOB.domain] = [answer]
    house.send(BOB)
    stopped: list[None] = []
    Later.fromCoroutine(house.relay.stop()).addCallback(stopped.append)
    answer.callback(Delivered())
    house.work()
    assert stopped == [None]
    assert house.waiting() == 0
