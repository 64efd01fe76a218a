"""Token buckets: never more than the rate, nor than a bucket holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.core import rate
from gatewayd.core.rate import Buckets


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 5)), max_size=60), st.integers(1, 10))
def test_never_more_than_the_rate(steps: list[tuple[float, int]], most: int) -> None:
    time = [0.0]
    buckets = Buckets(most, lambda: time[0])
    taken = 0
    for pause, count in steps:
        time[0] += pause
        if not buckets.take("x", count):
            taken += count
            assert taken <= most * (1 + time[0] / 60) + 5 + 1e-6  # the last may be more than was there


def test_many_senders_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "MAX_KEYS", 100)
    buckets = Buckets(1, lambda: 0.0)
    for number in range(1000):
        buckets.take(str(number))
    assert len(buckets._levels) == 100


def test_more_a_minute_than_at_once() -> None:
    time = [0.0]
    buckets = Buckets(60, lambda: time[0], burst=2)
    assert buckets.take("x", 2) == 0.0
    assert buckets.take("x", 2) == 2.0
    time[0] = 2.0
    assert buckets.take("x", 2) == 0.0


def test_what_is_given_back_can_be_spent_again_and_a_debt_is_paid_first() -> None:
    time = [0.0]
    buckets = Buckets(60, lambda: time[0], burst=2)
    buckets.spend("x", -5)
    assert buckets.take("x", 2) == 0.0
    assert buckets.wait("x") == 1.0
    buckets.spend("x", -1)
    assert buckets.wait("x") == 0.0
    buckets.spend("x", 3)
    assert buckets.wait("x") == 3.0
    time[0] = 3.0
    assert buckets.take("x") == 0.0
