"""Mail that aliases send on, from gateway to gateway: it arrives, and what goes round is stopped and told of."""

from __future__ import annotations

import email
from collections.abc import Iterator
from typing import Any

import pytest

from demo.world import Gateway, World, ctl
from tests.smtp_talk import Mailbox, Talk

MAIL = b"From: alice@alpha.test\r\nSubject: sent on\r\n\r\nbody\r\n"
ALIASES = {
    "first@alpha.test": "second@beta.test",
    "second@beta.test": "alice@gamma.test",
    "round@alpha.test": "round@beta.test",
    "round@beta.test": "round@alpha.test",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, reactor: Any) -> Iterator[World]:
    addresses = {f"{name}.test": f"127.0.72.{number}" for number, name in enumerate(("alpha", "beta", "gamma"), 1)}
    made = World(tmp_path_factory.mktemp("world"), addresses, {}, ["alice"])
    for alias, target in ALIASES.items():
        gateway = made.gateways[alias.partition("@")[2]]
        assert ctl("--config", gateway.config, "alias", "add", alias, target).returncode == 0
    made.start()
    yield made
    made.stop()


@pytest.fixture
def alpha(world: World) -> Gateway:
    return world.gateways["alpha.test"]


def submit(alpha: Gateway, to: str, mail: bytes = MAIL) -> None:
    with Talk(alpha, "submissions", tls=True) as talk:
        assert talk.sign_in().send("alice@alpha.test", [to], mail).startswith("250")


@pytest.mark.parametrize("to", ["first@alpha.test", "second@beta.test"])
def test_from_one_gateway_over_another_to_a_third(world: World, alpha: Gateway, to: str) -> None:
    """Each says who it is, and nobody else's word is handed on: it reaches whom the alias names,
    as of one for whom nothing vouches."""
    submit(alpha, to)
    with (
        Mailbox(world.gateways["gamma.test"], "alice@gamma.test", "Introductions") as mailbox,
        Mailbox(alpha, "alice@alpha.test") as own,
    ):
        (octets,) = mailbox.wait(1)
        mailbox.clear()
        assert own.mails() == []
    got = email.message_from_bytes(octets)
    assert "second@beta.test" in got.get_all("Delivered-To", [])
    assert got["From"] == "alice@alpha.test" and octets.endswith(b"\r\n\r\nbody\r\n\r\n")


def test_what_goes_round_is_told_of(alpha: Gateway) -> None:
    submit(alpha, "round@alpha.test")
    with Mailbox(alpha, "alice@alpha.test") as mailbox:
        (octets,) = mailbox.wait(1)
        mailbox.clear()
    assert b"Status: 5.4.6" in octets
    assert b"round@beta.test has sent it on before" in octets


def test_what_only_speaks_of_a_loop_is_none(world: World, alpha: Gateway) -> None:
    """A bounce, or a mail that was sent on as a whole, quotes the field."""
    quoted = MAIL + b"\r\nDelivered-To: second@beta.test\r\n"
    submit(alpha, "second@beta.test", b"X-Original-Delivered-To: second@beta.test\r\n" + quoted)
    with Mailbox(world.gateways["gamma.test"], "alice@gamma.test", "Introductions") as mailbox:
        mailbox.wait(1)
        mailbox.clear()
