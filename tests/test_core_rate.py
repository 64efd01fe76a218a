"""Counts in a window: never more than so many, and a new window begins anew."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from gatewayd.core import rate
from gatewayd.core.rate import Buckets, Rate

STEPS = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["take", "give back", "wait"])))


@given(STEPS, st.integers(0, 3))
def test_so_many_in_a_window(steps: list[tuple[str, str]], most: int) -> None:
    clock = Clock()
    clock.advance(1_000_000)
    counted, taken = Rate(clock.seconds, 10.0), {"a": 0, "b": 0}
    for key, step in steps:
        match step:
            case "take":
                assert counted.take(key, most) is (taken[key] < most)
                taken[key] = min(most, taken[key] + 1)
            case "give back":
                counted.give_back(key)
                taken[key] = max(0, taken[key] - 1)
            case "wait":
                assert 0 < counted.left <= 10.0
                clock.advance(counted.left)
                taken = dict.fromkeys(taken, 0)


def test_more_keys_than_are_remembered() -> None:
    """Then all begin anew: an attacker with so many domains gains a window, and no memory of ours."""
    counted = Rate(Clock().seconds, 10.0)
    for number in range(rate.MAX_KEYS + 10):
        assert counted.take(number, 1)
    assert len(counted._taken) <= rate.MAX_KEYS


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
