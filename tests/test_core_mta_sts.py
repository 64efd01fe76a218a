"""MTA-STS: policies read, matched, fetched once, and kept for as long as they said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred as Later

from gatewayd.address import Domain
from gatewayd.core.mta_sts import AGAIN, REFRESH, BadPolicy, FetchFailed, Policy, PolicyDirectory, parse
from gatewayd.core.tls_policy import KNOWN_FOR, Demand, Level, TLSPolicies
from gatewayd.database.sqlite import Database
from gatewayd.interfaces.dns import Answer, ResolutionFailed
from gatewayd.store.tls import SQLiteTLSMemory
from tests.loop import Loop

BETA = Domain.parse("beta.test")
TEXT = b"version: STSv1\r\nmode: enforce\r\nmx: mx.beta.test\r\nmx: *.mail.beta.test\r\nmax_age: 604800\r\n"


def test_a_policy_is_read() -> None:
    policy = parse(TEXT)
    assert policy == Policy("enforce", ("mx.beta.test", "*.mail.beta.test"), 604800)
    assert parse(b"version: STSv1\nmode: none\nmax_age: 9999999999") == Policy("none", (), 31_557_600)
    assert parse(TEXT + b"mode: none\r\nunknown: thing\r\n\r\n").mode == "enforce"


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\xff", b"mode: enforce\nversion: STSv1\nmx: a.test\nmax_age: 1", TEXT.replace(b"enforce", b"hope"),
        TEXT.replace(b"604800", b"-1"), b"version: STSv1\nmode: testing\nmax_age: 1", TEXT.replace(b"*.mail", b"*.*"),
    ],
)  # fmt: skip
def test_what_is_no_policy(text: bytes) -> None:
    with pytest.raises(BadPolicy):
        parse(text)


@given(st.binary() | st.text().map(lambda text: b"version: STSv1\nmode: enforce\nmax_age: 1\nmx: " + text.encode()))
def test_nothing_else_is_raised(text: bytes) -> None:
    try:
        parse(text)
    except BadPolicy:
        pass


def test_which_hosts_it_allows() -> None:
    policy = parse(TEXT)
    assert policy.allows("MX.beta.test.") and policy.allows("a.mail.beta.test")
    for host in ("mail.beta.test", "a.b.mail.beta.test", "beta.test", "xmx.beta.test", ""):
        assert not policy.allows(host)


class World:
    def __init__(self, path: Path) -> None:
        self.loop = Loop()
        self.database = Database(path, self.loop.post)
        self.memory = SQLiteTLSMemory(self.database)
        self.records: Any = Answer((b"v=STSv1; id=1;",), exists=True)
        self.served: Any = TEXT
        self.fetched = 0
        self.time = 1_000_000.0
        self.directory = PolicyDirectory(self.memory, self, self.fetch, lambda: self.time, lambda: self.time)  # type: ignore[arg-type]

    async def txt(self, name: str) -> Answer:
        assert name == "_mta-sts.beta.test"
        if isinstance(self.records, Exception):
            raise self.records
        answer: Answer = self.records
        return answer

    async def fetch(self, domain: Domain) -> bytes:
        self.fetched += 1
        served = await self.served if isinstance(self.served, Later) else self.served
        if isinstance(served, Exception):
            raise served
        return bytes(served)

    def ask(self) -> tuple[str, str]:
        """(the mode, the trouble)."""
        policy, trouble = self.loop.one(self.directory.policy(BETA))
        return policy.mode if policy else "", trouble

    def publish(self, *records: bytes) -> None:
        self.records = Answer(records, exists=True)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "test.sqlite")
    yield made
    made.database.close()


def test_a_policy_is_fetched_once_and_kept(world: World) -> None:
    assert [world.ask() for _ in range(3)] == [("enforce", "")] * 3
    assert world.fetched == 1
    world.records, world.served = ResolutionFailed("SERVFAIL"), FetchFailed("gone")
    world.time += 604800 - 1
    assert world.ask() == ("enforce", "")  # nobody can hide it
    world.publish()
    assert world.ask() == ("enforce", "")
    world.time += 1
    assert world.ask() == ("", "")


def test_another_id_or_another_day_has_it_fetched_again(world: World) -> None:
    world.ask()
    world.publish(b"v=STSv1; id=2")
    world.served = TEXT.replace(b"enforce", b"testing")
    assert world.ask() == ("testing", "")
    world.time += REFRESH + 1
    world.served = TEXT
    assert world.ask() == ("enforce", "")
    assert world.fetched == 3


def test_what_cannot_be_had_leaves_what_was(world: World) -> None:
    world.served = FetchFailed("refused")
    assert world.ask() == ("", "sts-policy-fetch-error")
    world.served = TEXT
    assert world.ask() == ("", "sts-policy-fetch-error")  # not asked again at once
    world.time += AGAIN
    assert world.ask() == ("enforce", "")
    world.publish(b"v=STSv1; id=2;")
    world.served = b"<html>"
    assert world.ask() == ("enforce", "sts-policy-invalid")


@pytest.mark.parametrize(
    "records", [(), (b"v=spf1",), (b"v=STSv1; id=1", b"v=STSv1; id=2"), (b"v=STSv1",), (b"v=STSv1; id=a-b",)]
)
def test_no_policy_without_one_good_record(world: World, records: tuple[bytes, ...]) -> None:
    world.publish(*records)
    assert world.ask() == ("", "")
    assert world.fetched == 0


def test_many_ask_and_one_fetches(world: World) -> None:
    world.served = Later()
    asked = [Later.fromCoroutine(world.directory.policy(BETA)) for _ in range(5)]
    served, world.served = world.served, TEXT
    world.loop.all(world.memory.level(BETA))  # type: ignore[arg-type]
    served.callback(TEXT)
    assert {policy.mode for policy, _ in world.loop.wait(asked)} == {"enforce"}
    assert world.fetched == 1


def test_the_strictest_is_demanded(world: World) -> None:
    policies = TLSPolicies(world.memory, world.directory, lambda: world.time, lambda: world.time)
    assert world.loop.one(policies.demand(BETA)) == Demand(Level.VERIFIED, parse(TEXT))
    world.publish()
    world.time += 604801
    assert world.loop.one(policies.demand(BETA)) == Demand()
    for level, known in ((Level.ENCRYPTED, Level.ENCRYPTED), (Level.PLAIN, Level.ENCRYPTED), (Level.VERIFIED,) * 2):
        world.loop.one(policies.learn(BETA, Level.PLAIN, level))
        assert world.loop.one(policies.demand(BETA)) == Demand(known)
    assert world.loop.one(world.memory.levels()) == [("beta.test", 2, world.time)]
    assert world.loop.one(world.memory.forget(BETA))
    assert world.loop.one(policies.demand(BETA)) == Demand(Level.VERIFIED)
    world.time += KNOWN_FOR
    assert world.loop.one(policies.demand(BETA)) == Demand()
