"""A short, always equal slice of `make fuzz`."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from fuzz import engines
from fuzz.sessions import House, house

INPUTS = 150
SESSIONS = 30
MEMORY = 40e6  # octets more that a gateway may have after these sessions; what it caches at first is among them


@pytest.mark.parametrize("name", engines.TARGETS)
def test_engines(name: str) -> None:
    for number in range(INPUTS):
        engines.TARGETS[name](Random(f"{name} {number}"))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, reactor: Any) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("house")) as made:
        yield made


@pytest.mark.parametrize(
    "name", ["parley_stranger", "parley_user", "parley_domain", "parley_schema", "smtp", "imap", "pop3"]
)
def test_sessions(gateway: House, name: str) -> None:
    before = gateway.memory()
    for number in range(SESSIONS):
        gateway.targets[f"session_{name}"](Random(f"{name} {number}"))
    assert gateway.memory() - before < MEMORY


@pytest.mark.parametrize("given", [b"abc", bytes(200)])
def test_nothing_is_valid_for_ever(given: bytes) -> None:
    """A fuzzer that changes nothing finds nothing."""
    assert len({engines.mutation.octets(Random(seed), given) for seed in range(50)}) > 20
