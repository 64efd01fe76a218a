"""Mail at the door: examination, greylist and filters in their order, and what each has to say."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from gatewayd.address import Address, Domain
from gatewayd.core.examination import Examined
from gatewayd.core.filtering import AfterTheData, FilterDown, Filtered, Filters
from gatewayd.core.reception import Judged, Reception
from gatewayd.interfaces.queue import Envelope
from gatewayd.interfaces.records import Account
from gatewayd.interfaces.routes import Origin
from gatewayd.message.mime import Mail
from gatewayd.outcome import Deferred, Delivered, Refused
from tests.loop import Loop
from tests.test_core_examination import CAROL, GOOD_SPF, MAIL, ORIGIN, examined

HERE = Domain.parse("mx.alpha.test")
ALICE, BOB = Address.parse("alice@alpha.test"), Address.parse("bob@alpha.test")
ENVELOPE = Envelope(CAROL, (ALICE, BOB))
GOOD = examined(spf=GOOD_SPF, dmarc="v=DMARC1; p=reject")
LATER = Deferred("4.7.1", "later", 300)


class Door:
    """`examined` is what examination finds; `said` what each filter says, in turn, of the mail that it is shown."""

    def __init__(self, found: Examined | None, *said: Any, when_down: Any = "defer", early: Deferred | None = None):
        self.found, self.early = found, early
        self.shown: list[bytes] = []
        self.loop = Loop()
        asked = [partial(AfterTheData, self._filter(each)) for each in said]
        filters = Filters(asked, when_down=when_down) if said else None
        self.reception = Reception(
            HERE, lambda: 1e9, bytes, examine=self._examine, filters=filters, greylist=self,  # type: ignore[arg-type]
            trusts=lambda address: self.found is None,
        )  # fmt: skip

    async def _examine(self, mail: bytes, origin: Origin, reverse_path: Address | None) -> Examined:
        assert self.found is not None
        return self.found

    async def ask(self, *_: object) -> Deferred | None:
        return self.early

    def _filter(self, said: Any) -> Any:
        async def ask(mail: bytes, envelope: Envelope, origin: Origin, submitter: Address | None) -> Filtered:
            self.shown.append(mail)
            if isinstance(said, Exception):
                raise said
            return said if said.mail else replace(said, mail=mail)

        return ask

    def judge(self, mail: bytes = MAIL, submitter: Account | None = None) -> Any:
        return self.loop.one(self.reception.judge(ENVELOPE, Mail(mail), submitter, ORIGIN))


def filtered(action: Any, why: str = "", mail: bytes = b"", **more: Any) -> Filtered:
    return Filtered(action, mail, why, **more)


def test_good_mail_is_taken_as_it_is() -> None:
    assert Door(GOOD).judge() == Judged(Mail(MAIL), GOOD.field(HERE), examined=GOOD)
    assert Door(None).judge() == Judged(Mail(MAIL))


@pytest.mark.parametrize(("policy", "answer"), [("reject", Refused), ("quarantine", "\\Junk"), ("none", "INBOX")])
def test_what_the_authors_domain_asks_for(policy: str, answer: Any) -> None:
    judged = Door(examined(dmarc=f"v=DMARC1; p={policy}")).judge()
    if policy == "reject":
        assert judged == Refused("5.7.26", "good-shop.co.uk asks that mail which fails DMARC be refused")
    else:
        assert judged.mailbox == answer
        asked = "good-shop.co.uk asks that mail which fails DMARC be put apart"
        assert judged.verdict == (asked if policy == "quarantine" else "")


def test_only_what_nobody_vouches_for_is_greylisted() -> None:
    assert Door(GOOD, early=LATER).judge().examined is GOOD
    assert Door(None, early=LATER).judge() == Judged(Mail(MAIL))
    assert Door(examined(), early=LATER).judge() == LATER


def test_filters_say_why() -> None:
    door = Door(GOOD, filtered("take", "rspamd: 1 of 15"), filtered("junk", "milter x:\r\nodd\N{SNOWMAN}"))
    judged = door.judge()
    assert judged.mailbox == "\\Junk"
    assert judged.verdict == "rspamd: 1 of 15; milter x:\r\nodd\N{SNOWMAN}"
    assert judged.fields == GOOD.field(HERE)
    judged = Door(None, filtered("take", "rspamd: 1 of 15")).judge()
    assert (judged.verdict, judged.fields) == ("rspamd: 1 of 15", b"")


def test_a_filter_sees_what_the_one_before_it_made() -> None:
    changed = b"X: y\r\n" + MAIL
    door = Door(None, filtered("take", mail=changed), filtered("take", refused=frozenset([BOB])))
    judged = door.judge()
    assert door.shown == [MAIL, changed]
    assert (judged.mail.octets, judged.refused) == (changed, {BOB})


def test_a_refusal_ends_the_round() -> None:
    no = Refused("5.7.1", "spam")
    door = Door(None, filtered("refuse", "spam", outcome=no), filtered("take"))
    assert door.judge() == no
    assert len(door.shown) == 1
    assert Door(None, filtered("defer", outcome=LATER)).judge() == LATER
    assert Door(None, filtered("discard")).judge() == Delivered("2.0.0", "Accepted")


def test_a_filter_that_is_down() -> None:
    down = FilterDown("milter x: nobody there")
    assert Door(None, down, filtered("take")).judge() == Deferred("4.7.1", "A content filter is not available")
    judged = Door(None, down, filtered("take"), when_down="take").judge()
    assert judged.verdict == "milter x: nobody there"


def test_nobody_else_writes_our_verdict() -> None:
    forged = b"gatewayd-verdict: taken; all is well\r\n" + MAIL
    assert Door(None, filtered("take")).judge(forged).mail.octets == MAIL


def test_users_are_filtered_and_not_examined() -> None:
    door = Door(examined(dmarc="v=DMARC1; p=reject"), filtered("take"), early=LATER)
    mail = b"From: alice@alpha.test\r\n\r\nx\r\n"
    judged = door.judge(mail, Account(1, ALICE))
    assert judged.examined is None
    assert judged.mail.octets.endswith(mail)
    assert b"Message-ID: <" in judged.mail.octets
    assert door.shown == [judged.mail.octets]
