"""TLS reports: counted by day, sent once, in the form of RFC 8460."""

from __future__ import annotations

import email
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatewayd.address import Address, Domain
from gatewayd.core.mta_sts import FetchFailed, Policy
from gatewayd.core.tls_policy import Demand, Level
from gatewayd.core.tls_reports import DAY, MAX_PLACES, TLSReporter, destinations
from gatewayd.crypto.dane import TLSA
from gatewayd.database.sqlite import Database
from gatewayd.interfaces.dns import Answer, Endpoint, ResolutionFailed
from gatewayd.outcome import Delivered, Outcome
from gatewayd.store.tls import SQLiteTLSMemory
from tests.loop import Loop

BETA = Domain.parse("beta.test")
HOST = Endpoint("192.0.2.1", 25, "mx.beta.test")


class World:
    def __init__(self, path: Path) -> None:
        self.loop = Loop()
        self.database = Database(path, self.loop.post)
        self.time = 100.0 * DAY
        self.records: list[bytes] | None = [b"v=TLSRPTv1; rua=mailto:tls@beta.test,https://beta.test/"]
        self.sent: list[tuple[bytes, Address]] = []
        self.posted: list[tuple[str, bytes, str]] = []
        self.closed = False
        self.reporter = TLSReporter(
            SQLiteTLSMemory(self.database), self, Domain.parse("mx.alpha.test"), self.send,  # type: ignore[arg-type]
            self.post, self.contact, lambda: self.time,
        )  # fmt: skip

    async def txt(self, name: str) -> Answer:
        assert name == "_smtp._tls.beta.test"
        if self.records is None:
            raise ResolutionFailed("SERVFAIL")
        return Answer(tuple(self.records), exists=True)

    async def send(self, mail: bytes, to: Address) -> Outcome:
        self.sent.append((mail, to))
        return Delivered()

    async def post(self, url: str, document: bytes, media_type: str) -> None:
        if self.closed:
            raise FetchFailed("it answers 500")
        self.posted.append((url, document, media_type))

    async def contact(self) -> Address:
        return Address.parse("postmaster@alpha.test")

    def next_day(self) -> None:
        self.loop.one(self.reporter.flush())
        self.time += DAY
        self.loop.one(self.reporter.send_due())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "test.sqlite")
    yield made
    made.database.close()


def test_a_day_is_told(world: World) -> None:
    sts = Demand(Level.VERIFIED, Policy("enforce", ("mx.beta.test",), 60))
    for failure in ("", "", "certificate-expired"):
        world.reporter.note(BETA, sts, HOST, failure)
    world.reporter.note(BETA, Demand(), Endpoint("192.0.2.1", 25, "mx.beta.test", (TLSA(3, 1, 1, b"\1"),)), "")
    world.reporter.note(BETA, Demand(trouble="sts-policy-fetch-error"), HOST, "")
    world.next_day()
    ((octets, to),) = world.sent
    assert str(to) == "tls@beta.test"
    mail = email.message_from_bytes(octets)
    assert mail.get_content_type() == "multipart/report" and mail.get_param("report-type") == "tlsrpt"
    assert mail["TLS-Report-Domain"] == "beta.test" and mail["TLS-Report-Submitter"] == "mx.alpha.test"
    part = mail.get_payload(1)
    assert part.get_content_type() == "application/tlsrpt+gzip"  # type: ignore[union-attr]
    report = json.loads(gzip.decompress(part.get_payload(decode=True)))  # type: ignore[union-attr, arg-type]
    assert report["date-range"] == {
        "start-datetime": "1970-04-11T00:00:00Z", "end-datetime": "1970-04-11T23:59:59Z",
    }  # fmt: skip
    policies = {p["policy"]["policy-type"] + str("policy-string" in p["policy"]): p for p in report["policies"]}
    told = policies["stsTrue"]
    assert told["summary"] == {"total-successful-session-count": 2, "total-failure-session-count": 1}
    assert told["policy"]["mx-host"] == ["mx.beta.test"] and "mode: enforce" in told["policy"]["policy-string"]
    assert told["failure-details"] == [
        {"result-type": "certificate-expired", "receiving-mx-hostname": "mx.beta.test", "receiving-ip": "192.0.2.1",
         "failed-session-count": 1}
    ]  # fmt: skip
    ((url, posted, kind),) = world.posted
    assert (url, kind) == ("https://beta.test/", "application/tlsrpt+gzip")
    assert json.loads(gzip.decompress(posted)) == report
    assert policies["tlsaTrue"]["policy"]["policy-string"] == ["3 1 1 01"]
    assert policies["stsFalse"]["failure-details"][0]["result-type"] == "sts-policy-fetch-error"
    world.next_day()
    assert len(world.sent) == 1


def test_only_who_asks_is_told(world: World) -> None:
    world.records = None
    world.reporter.note(BETA, Demand(), HOST, "")
    world.next_day()
    world.records = []
    world.next_day()  # it waited for the DNS
    world.records = [b"v=TLSRPTv1; rua=mailto:tls@beta.test"]
    world.next_day()
    assert world.sent == []


def test_a_report_that_nobody_took_is_tried_for_some_days(world: World) -> None:
    world.records, world.closed = [b"v=TLSRPTv1; rua=https://beta.test/"], True
    world.reporter.note(BETA, Demand(), HOST, "")
    world.next_day()
    world.closed = False
    world.next_day()
    assert len(world.posted) == 1
    world.closed = True
    world.reporter.note(BETA, Demand(), HOST, "")
    for _ in range(4):
        world.next_day()
    world.closed = False
    world.next_day()
    assert len(world.posted) == 1  # it was too old


def test_where_reports_go() -> None:
    assert destinations([b"v=TLSRPTv1;rua=MAILTO:a@b.test , mailto:nobody, mailto:c@d.test; x=y", b"other"]) == [
        Address.parse("a@b.test"), Address.parse("c@d.test"),
    ]  # fmt: skip
    assert destinations([b"v=TLSRPTv1; rua=https://b.test/x , ftp://b.test"]) == ["https://b.test/x"]
    assert len(destinations([b"v=TLSRPTv1; rua=" + b",".join([b"https://b.test/"] * 1000)])) == MAX_PLACES
    assert destinations([b"v=TLSRPTv1; rua=mailto:a@b.test"] * 2) == []
    assert destinations([b"v=TLSRPTv1", b"rua=mailto:a@b.test"]) == []
