"""RFC 2782's weighted order and MX preference."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gatewayd.dns.selection import SRV, alternate, order_mx, order_srv

records = st.lists(
    st.builds(SRV, st.integers(0, 3), st.integers(0, 65535), st.integers(1, 65535), st.sampled_from(["a", "b", "c"]))
)


@given(records, st.integers())
def test_every_record_once_by_priority(found: list[SRV], seed: int) -> None:
    ordered = order_srv(found, Random(seed))
    assert Counter(ordered) == Counter(found)
    assert [r.priority for r in ordered] == sorted(r.priority for r in found)


def test_weight_decides_how_often_a_record_is_first() -> None:
    heavy, light, never = SRV(1, 90, 1, "heavy"), SRV(1, 10, 1, "light"), SRV(1, 0, 1, "never")
    random = Random(7)
    first = Counter(order_srv([light, never, heavy], random)[0].target for _ in range(2000))
    assert 1650 < first["heavy"] < 1900
    assert first["never"] < 60  # a very small chance, RFC 2782


def test_dot_is_no_service() -> None:
    assert order_srv([SRV(0, 0, 0, ".")], Random(1)) == []
    assert order_mx([(0, ".")], Random(1)) == []


def test_equal_preferences_are_shuffled() -> None:
    random = Random(3)
    orders = {tuple(order_mx([(20, "c"), (10, "a"), (10, "b")], random)) for _ in range(50)}
    assert orders == {((10, "a"), (10, "b"), (20, "c")), ((10, "b"), (10, "a"), (20, "c"))}


def test_addresses_of_both_families_take_turns() -> None:
    """A dead family costs one attempt before the other is tried."""
    assert alternate(["::1", "::2", "::3"], ["192.0.2.1"]) == ("::1", "192.0.2.1", "::2", "::3")
    assert alternate([], ["192.0.2.1", "192.0.2.2"]) == ("192.0.2.1", "192.0.2.2")
    assert alternate([], []) == ()
