"""Counting for daily reports, and their mail."""

from __future__ import annotations

from collections.abc import Mapping

from gatewayd.address import Address, Domain
from gatewayd.core.daily_reports import Tally, report_mail
from tests.loop import Loop


def test_only_so_many_kinds_are_counted() -> None:
    kept: dict[str, int] = {}

    async def keep(counts: Mapping[str, int]) -> None:
        kept.update(counts)

    tally, loop = Tally[str](keep, 2), Loop()
    for kind in ("a", "b", "c", "a"):
        tally.count(kind)
    loop.one(tally.flush())
    assert kept == {"a": 2, "b": 1}
    kept.clear()
    loop.one(tally.flush())
    assert kept == {}


def test_the_mail_says_whose_report_it_is() -> None:
    here, us, them = Domain.parse("mx.alpha.test"), Address.parse("postmaster@alpha.test"), Address.parse("d@b.test")
    mail = report_mail(here, us, them, "b.test", "1.b.test@mx.alpha.test", 0.0)
    assert mail["Subject"] == "Report Domain: b.test Submitter: mx.alpha.test Report-ID: <1.b.test@mx.alpha.test>"
    assert (mail["From"], mail["To"], mail["Auto-Submitted"]) == (str(us), str(them), "auto-generated")
