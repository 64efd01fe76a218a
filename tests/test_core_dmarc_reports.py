"""Aggregate reports: counted, kept, and told once, to those who may ask for them."""

from __future__ import annotations

import email
import email.policy
import gzip
from collections import Counter
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.address import Address, Domain
from gatewayd.core.dmarc_reports import DAY, DMARCReporter, Kind, destinations
from gatewayd.errors import StoreError
from gatewayd.interfaces.dns import Answer, ResolutionFailed
from gatewayd.outcome import Delivered, Outcome
from tests.loop import Loop
from tests.test_core_examination import CAROL, GOOD_SPF, MAIL, ORIGIN, RSA, SIGNER, examine, forwarded, zone

HERE = Domain.parse("mx.alpha.test")
RECORD = "v=DMARC1; p=reject; rua=mailto:Dmarc@good-shop.co.uk"
MIDNIGHT = 20_000 * DAY


class Kept:
    """A store that can be full."""

    def __init__(self) -> None:
        self.counts: Counter[Kind] = Counter()
        self.full = False

    async def add(self, counts: Mapping[Kind, int]) -> None:
        if self.full:
            raise StoreError("full")
        self.counts.update(counts)

    async def finished(self, today: int) -> list[tuple[int, str]]:
        return sorted({(day, domain) for day, domain, _, _ in self.counts if day < today})

    async def of(self, day: int, domain: str) -> list[tuple[str, str, int]]:
        return [(*kind[2:], count) for kind, count in self.counts.items() if kind[:2] == (day, domain)]

    async def forget(self, day: int, domain: str) -> None:
        self.counts = Counter({kind: n for kind, n in self.counts.items() if kind[:2] != (day, domain)})


class Reports:
    def __init__(self) -> None:
        self.loop = Loop()
        self.kept = Kept()
        self.time = MIDNIGHT + 5.0
        self.sent: list[tuple[Address, bytes]] = []
        self.texts: dict[str, tuple[bytes, ...]] = {}
        self.dead = False
        self.reporter = DMARCReporter(self.kept, self, HERE, self._send, self._contact, lambda: self.time)  # type: ignore[arg-type]

    async def txt(self, name: str) -> Answer:
        if self.dead:
            raise ResolutionFailed("no server")
        return Answer(self.texts.get(name, ()))

    async def _send(self, mail: bytes, to: Address) -> Outcome:
        self.sent.append((to, mail))
        return Delivered()

    async def _contact(self) -> Address:
        return Address.parse("postmaster@alpha.test")

    def see(self, mail: bytes = MAIL, *trusted: str, **texts: str) -> None:
        texts.setdefault("dmarc", RECORD)
        self.reporter.note(examine(mail, ORIGIN, CAROL, zone(**texts), trusted), CAROL)

    def due(self) -> None:
        self.loop.one(self.reporter.flush())
        self.loop.one(self.reporter.send_due())


@pytest.fixture
def reports() -> Reports:
    return Reports()


def content(mail: bytes) -> tuple[Any, ElementTree.Element]:
    parsed: Any = email.message_from_bytes(mail, policy=email.policy.default)
    (attached,) = parsed.iter_attachments()
    assert attached.get_content_type() == "application/gzip"
    return parsed, ElementTree.fromstring(gzip.decompress(attached.get_content()))


def rows(document: ElementTree.Element) -> list[dict[str, str | None]]:
    return [{each.tag: each.text for each in record.iter() if each.text} for record in document.iter("record")]


def test_a_day_is_reported_once(reports: Reports) -> None:
    signed = SIGNER.sign(MAIL) + MAIL
    for _ in range(3):
        reports.see(signed, spf=GOOD_SPF, key=SIGNER.record)
    reports.see()
    reports.due()
    assert reports.sent == []  # the day is not over
    reports.time += DAY
    reports.due()
    ((to, mail),) = reports.sent
    assert str(to) == "Dmarc@good-shop.co.uk"
    head, document = content(mail)
    name = "20000.good-shop.co.uk@mx.alpha.test"
    assert head["subject"] == f"Report Domain: good-shop.co.uk Submitter: mx.alpha.test Report-ID: <{name}>"
    assert head["from"] == "postmaster@alpha.test"
    (attached,) = head.iter_attachments()
    assert attached.get_filename() == f"mx.alpha.test!good-shop.co.uk!{MIDNIGHT}!{MIDNIGHT + DAY - 1}.xml.gz"
    said = {each.tag: each.text for each in document.iter() if each.text and each.text.strip()}
    assert said["report_id"] == name
    assert (said["begin"], said["end"]) == (str(MIDNIGHT), str(MIDNIGHT + DAY - 1))
    assert (said["p"], said["sp"], said["adkim"], said["pct"]) == ("reject", "reject", "r", "100")
    good, bad = sorted(rows(document), key=lambda row: str(row["disposition"]))
    assert good["count"] == "3"
    assert (good["disposition"], good["selector"], good["source_ip"]) == ("none", "sel", "192.0.2.7")
    assert (bad["count"], bad["disposition"], bad["spf"]) == ("1", "reject", "fail")
    reports.due()
    assert len(reports.sent) == 1


def test_a_forgiven_failure_says_why(reports: Reports) -> None:
    reports.see(forwarded(SIGNER.sign(MAIL) + MAIL), "list.test", **{RSA.name: RSA.record})
    reports.time += DAY
    reports.due()
    ((_, mail),) = reports.sent
    (row,) = rows(content(mail)[1])
    assert (row["disposition"], row["type"]) == ("none", "trusted_forwarder")


def test_who_asks_for_nothing_gets_nothing(reports: Reports) -> None:
    for record in ("v=DMARC1; p=reject", "v=DMARC1; p=reject; rua=https://good-shop.co.uk/", "nothing"):
        reports.see(dmarc=record)
    reports.time += DAY
    reports.due()
    assert reports.sent == []
    assert not reports.kept.counts


def test_another_organisation_is_asked_first(reports: Reports) -> None:
    asked = "good-shop.co.uk._report._dmarc.reports.test"
    reports.see(dmarc="v=DMARC1; p=none; rua=mailto:victim@elsewhere.test,mailto:d@reports.test")
    reports.texts[asked] = (b"v=DMARC1",)
    reports.dead = True
    reports.time += DAY
    reports.due()
    assert reports.sent == []
    reports.dead = False
    reports.due()
    assert [str(to) for to, _ in reports.sent] == ["d@reports.test"]


def test_too_large_for_who_asked(reports: Reports) -> None:
    reports.see(dmarc="v=DMARC1; p=none; rua=mailto:a@good-shop.co.uk!10,mailto:b@good-shop.co.uk!10k")
    reports.time += DAY
    reports.due()
    assert [str(to) for to, _ in reports.sent] == ["b@good-shop.co.uk"]


def test_a_full_disk_loses_no_count(reports: Reports) -> None:
    reports.see()
    reports.kept.full = True
    with pytest.raises(StoreError):
        reports.due()
    reports.kept.full = False
    reports.see()
    reports.loop.one(reports.reporter.flush())
    assert list(reports.kept.counts.values()) == [2]


@given(st.text(alphabet="mailto:@!,.0123456789kmgtab ", max_size=80))
def test_any_rua(text: str) -> None:
    for _, limit in destinations(text):
        assert limit >= 0
