"""Mail that arrives together: one batch, and each has its own answer."""

from __future__ import annotations

import os
from typing import Any

import pytest
from twisted.internet.defer import Deferred as Later

from gatewayd.address import Address, Domain
from gatewayd.core.batch import Gathered
from gatewayd.core.receiving import Arrival
from gatewayd.errors import StoreError
from gatewayd.interfaces.queue import Envelope
from gatewayd.interfaces.records import ScramCredentials
from gatewayd.message.mime import Mail
from gatewayd.message.model import INLINE
from gatewayd.outcome import STORE_FAILED
from tests.test_core_relay import ALICE, BOB, CAROL, MAIL, PEER, House, house, stamp

__all__ = ["house"]

NOBODY = Address.parse("nobody@alpha.test")


def arrival(*to: Address, mail: bytes = MAIL, sender: Address = CAROL, **more: Any) -> Arrival:
    submitter = more.pop("submitter", None)
    return Arrival(Envelope(sender, to, **more.pop("envelope", {})), Mail(mail), stamp, submitter, PEER, **more)


def receive(house: House, *arrivals: Arrival) -> list[list[str]]:
    answers = house.one(house.office.receive(arrivals))
    return [[said[to].code for to in each.recipients] for each, said in zip(arrivals, answers, strict=True)]


def test_each_has_its_own_answer(house: House) -> None:
    alice = house.one(house.store.account(ALICE))
    forged = MAIL.replace(b"alice@", b"carol@")
    assert receive(
        house,
        arrival(ALICE),
        arrival(BOB, mail=forged, sender=ALICE, submitter=alice),
        arrival(ALICE, NOBODY, mail=MAIL + b"2\r\n"),
        arrival(ALICE, NOBODY, mail=MAIL + b"3\r\n", each=True),
        arrival(BOB, sender=ALICE, submitter=alice, envelope={"not_before": house.clock.seconds() + 60}),
        arrival(ALICE, BOB, mail=MAIL + b"5\r\n", sender=ALICE, submitter=alice),
    ) == [["2.0.0"], ["5.7.1"], ["2.0.0", "2.0.0"], ["2.0.0", "5.1.1"], ["2.0.0"], ["2.0.0", "2.0.0"]]
    house.work()
    assert sorted(mail.partition(MAIL)[2] for mail in house.inbox()) == [b"", b"2\r\n", b"3\r\n", b"5\r\n"]
    assert sorted(house.mail.attempts, key=str) == [(ALICE, (BOB,)), (None, (CAROL,))]  # carol is told
    assert house.waiting() == 1  # what is held


def test_many_are_signed_and_stored_at_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver, calls = house.store.deliver, []

    async def counted(deliveries: Any) -> Any:
        calls.append(len(deliveries))
        return await deliver(deliveries)

    monkeypatch.setattr(house.store, "deliver", counted)
    assert receive(house, *[arrival(ALICE)] * 20) == [["2.0.0"]] * 20
    assert calls == [20]


def test_a_domain_without_a_key_holds_up_its_own_mail_only(house: House) -> None:
    keyless = Address.parse("dave@delta.test")
    house.one(house.store.add_domain(keyless.domain))
    house.one(house.store.add_account(keyless, ScramCredentials(b"", 1, b"", b"")))
    assert receive(house, arrival(ALICE), arrival(keyless), arrival(ALICE)) == [["2.0.0"], ["4.3.0"], ["2.0.0"]]


def test_what_cannot_be_noted_of_a_user_is_not_sent(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = house.one(house.store.account(ALICE))

    async def broken(*what: Any) -> None:
        raise StoreError("the disk")

    monkeypatch.setattr(house.store, "set_contact", broken)
    mine = arrival(BOB, sender=ALICE, submitter=alice)
    assert receive(house, mine, arrival(ALICE)) == [[STORE_FAILED.code], ["2.0.0"]]
    house.work()
    assert house.mail.attempts == []


def test_who_waits_for_others_goes_alone(house: House) -> None:
    takes_long = house.office.takes_long
    assert not takes_long(arrival(ALICE))
    assert takes_long(arrival(ALICE, mail=MAIL + b"x" * INLINE))  # a file is written
    assert takes_long(arrival(ALICE, mail=b"Parley-Object: abc\r\n" + MAIL))  # a signature may be verified


def test_the_gateways_own_name_signs_for_recipients_elsewhere(house: House) -> None:
    """It has no key here: nothing is lost, the client keeps it."""
    assert receive(house, arrival(Address("x", Domain("elsewhere.test")))) == [["4.3.0"]]


@pytest.mark.parametrize("where", ["posted", "stored"])
def test_a_fault_after_posting_doubles_nothing(house: House, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Whoever hands over a batch does each of it again alone when that raises: as another mail it would come twice."""
    monkeypatch.setattr(house.office._bridge, "_random", os.urandom)
    told, faults = house.office._posting._note, [1, 2] if where == "posted" else [1]

    def note(line: str) -> None:
        if faults and faults.pop():
            raise RuntimeError("a fault of ours")
        told(line)

    if where == "posted":
        monkeypatch.setattr(house.office._posting, "_note", note)
    else:
        fate = house.office._posting.one_fate

        async def one_fate(letter: Any, answers: Any) -> Any:
            note("")
            return await fate(letter, answers)

        monkeypatch.setattr(house.office._posting, "one_fate", one_fate)
    receive_all = Gathered(house.office.receive, house.clock)
    answers = [receive_all.ask(arrival(ALICE, mail=MAIL + b"%d\r\n" % number)) for number in range(3)]
    begun = [Later.fromCoroutine(each) for each in answers]
    house.clock.advance(0)
    said = house.loop.wait(begun)
    assert sorted(mail.partition(MAIL)[2] for mail in house.inbox()) == [b"0\r\n", b"1\r\n", b"2\r\n"]
    assert sum(each[ALICE].ok for each in said) >= 2
