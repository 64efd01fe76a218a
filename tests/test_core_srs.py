"""SRS: what is sent on comes back, and nobody else can send through it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.address import Address, AddressError, Domain
from gatewayd.core.srs import DAYS, SRS

OURS = Domain.parse("alpha.test")
CAROL = Address.parse("carol@gamma.test")
DAY = 86400


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def test_there_and_back_until_it_is_old() -> None:
    clock = Clock()
    srs = SRS(b"secret", clock)
    rewritten = srs.forward(CAROL, OURS)
    assert rewritten.domain == OURS and rewritten.local.endswith("=gamma.test=carol")
    assert srs.reverse(rewritten) == CAROL
    assert srs.reverse(Address(rewritten.local.upper(), OURS)) == Address.parse("CAROL@gamma.test")
    clock.now += DAYS * DAY
    assert srs.reverse(rewritten) == CAROL
    clock.now += DAY
    assert srs.reverse(rewritten) is None


def test_a_second_and_a_third_forwarder() -> None:
    clock = Clock()
    one, two, three = (SRS(secret, clock) for secret in (b"1", b"2", b"3"))
    beta, delta = Domain.parse("b.test"), Domain.parse("d.test")
    first = one.forward(CAROL, beta)
    second = two.forward(first, OURS)
    assert second.local.startswith("SRS1=") and two.reverse(second) == first
    third = three.forward(second, delta)
    assert third.local.startswith("SRS1=") and three.reverse(third) == first  # past the one between


@pytest.mark.parametrize(
    "local", ["carol", "SRS0=AAAAAA=AA=gamma.test=carol", "SRS1=AAAAAA=gamma.test==x", "SRS0=", "srs0"]
)
def test_what_is_forged_stands_for_nobody(local: str) -> None:
    assert SRS(b"secret", Clock()).reverse(Address(local, OURS)) is None


def test_too_long_stays_as_it_is() -> None:
    long = Address.parse("x" * 60 + "@gamma.test")
    assert SRS(b"secret", Clock()).forward(long, OURS) == long


@given(st.text(max_size=64), st.text(max_size=30))
def test_any_address(local: str, text: str) -> None:
    srs = SRS(b"secret", Clock())
    srs.reverse(Address(text, OURS))
    try:
        sender = Address.parse(f"{local}@gamma.test")
    except AddressError:
        return
    rewritten = srs.forward(sender, OURS)
    assert rewritten == sender or srs.reverse(rewritten) == sender
