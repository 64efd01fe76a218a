"""gatewayctl queue over a directory in which a gateway may run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet import defer
from twisted.internet.threads import blockingCallFromThread

from demo.world import ctl
from gatewayd.address import Address, AddressError
from gatewayd.cli.gatewayctl import Gateway
from gatewayd.cli.queue import picked
from gatewayd.config import load
from gatewayd.interfaces.queue import EVERYTHING, Asked, Envelope, MailObject, Picked
from gatewayd.interfaces.story import Event
from tests.test_store_sqlite import content

BOB, CAROL = Address.parse("bob@beta.test"), Address.parse("carol@gamma.test")
ALICE = Address.parse("alice@alpha.test")


def test_words_of_the_operator() -> None:
    assert picked([]) == []
    assert picked(["3", "all"]) == [EVERYTHING]
    assert picked(["3", "14", "beta.test", "Bob@beta.test"]) == [
        Picked(queue_ids=(3, 14)), Picked(domain="beta.test"), Picked(address="Bob@beta.test"),
    ]  # fmt: skip
    assert picked(["0123456789abcdef"]) == [Picked(message=bytes.fromhex("0123456789abcdef"))]
    with pytest.raises(AddressError):
        picked(["what?"])


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    where = tmp_path_factory.mktemp("broken") / "alpha"
    made = ["init", str(where), "--domain", "alpha.test", "--hostname", "mx.alpha.test", "--loopback"]
    assert ctl(*made, "--account", "alice:one").returncode == 0
    return ["--config", str(where / "gatewayd.toml")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trace", ""], "expected an address or the 16 hex digits of an id, got ''"),
        (["trace", "@"], "'@': bad local part"),
        (["trace", "\udcff"], "expected an address or the 16 hex digits of an id, got '\\udcff'"),
        (["trace", "x" * 5000], f"got '{'x' * 80}'"),
        (["trace", "a@b.test", "--limit", "0"], "1 or more, not 0"),
        (["queue", "show", ""], "'': empty domain name; say a number of the list, an address"),
        (["queue", "show", "0"], "nothing in the queue fits 0"),
        (["queue", "show", "9" * 30], "an IP address; say a number of the list"),
        (["queue", "show", "a@"], "'a@': empty domain name"),
        (["queue", "show", "\udcff"], "not an internationalized domain name"),
        (["queue", "hold", "all", "not this"], "'not this': "),
        (["queue", "list", "--limit", "-5"], "1 or more, not -5"),
        (["dns", "nope.test"], "nope.test is not served here: gatewayctl domain add nope.test"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_one_clear_line(gateway: list[str], words: list[str], said: str) -> None:
    done = ctl(*gateway, *words)
    assert done.returncode != 0 and said in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


def test_the_queue_in_the_operators_hands(tmp_path: Path, reactor: Any) -> None:
    where = tmp_path / "alpha"
    made = ["init", str(where), "--domain", "alpha.test", "--hostname", "mx.alpha.test", "--loopback"]
    assert ctl(*made, "--account", "alice:one").returncode == 0
    config = ["--config", str(where / "gatewayd.toml"), "queue"]

    def inside(work: Any) -> Any:
        async def run() -> Any:
            gateway = Gateway(load(where / "gatewayd.toml"), reactor)
            try:
                return await work(gateway)
            finally:
                gateway.database.close()

        return blockingCallFromThread(reactor, lambda: defer.Deferred.fromCoroutine(run()))

    async def fill(gateway: Gateway) -> None:
        letter = content(b"Subject: what is queued\r\n\r\nbody")
        silent = {CAROL: Asked(frozenset({"NEVER"}))}
        envelope = Envelope(ALICE, (BOB, CAROL), asked=silent)
        await gateway.queue.enqueue([MailObject(letter, b"Received: here\r\n", envelope)])

    async def inbox(gateway: Gateway) -> list[bytes]:
        account = await gateway.account(str(ALICE))
        box = await gateway.store.mailbox(account.account_id, "INBOX")
        entries = await gateway.store.entries(account.account_id, box.mailbox_id)
        return list((await gateway.store.mails(account.account_id, [e.message_id for e in entries])).values())

    inside(fill)
    assert "carol@gamma.test" in ctl(*config).stdout
    assert "carol@gamma.test" not in ctl(*config, "list", "beta.test").stdout
    shown = ctl(*config, "show", "bob@beta.test").stdout
    assert "To:         <bob@beta.test>" in shown and "Subject: what is queued" in shown and "nothing yet" in shown
    assert ctl(*config, "hold", "beta.test").stdout == "1 held\n"
    assert "when it is released" in ctl(*config, "show", "1").stdout
    assert ctl(*config, "retry", "all").stdout == "1 due now\n"
    assert ctl(*config, "release", "1", "2").stdout == "1 released\n"
    assert ctl(*config, "drop", "--bounce", "alice@alpha.test").stdout == "2 dropped\n"
    assert ctl(*config, "drop", "all").stdout == "0 dropped\n"
    (told,) = inside(inbox)
    assert b"bob@beta.test" in told and b"Taken out of the queue by the operator" in told
    assert ctl(*config, "drop").returncode == 2
    assert ctl(*config[:2], "trace", "bob@beta.test").stdout == "nothing is known of bob@beta.test\n"

    async def seen(gateway: Gateway) -> None:
        await gateway.tls.raise_level(BOB.domain, 2, 0.0)

    inside(seen)
    assert ctl(*config[:2], "tls", "list").stdout == "beta.test verified since 1970-01-01 00:00:00Z\n"
    assert ctl(*config[:2], "tls", "forget", "beta.test").stdout == "beta.test begins anew\n"
    assert ctl(*config[:2], "tls", "forget", "beta.test").returncode == 1

    async def happens(gateway: Gateway) -> None:
        for event in (
            Event("0123456789abcdef", 0.0, "bob@beta.test", "waits in the queue"),
            Event("0123456789abcdef", 60.0, "bob@beta.test", "attempt 1, said: \x1b[2J"),
            Event("", 61.0, "bob@beta.test", "mail from <x@y.test> was not taken"),
        ):
            gateway.trace.record(event)
        await gateway.trace.flush()

    inside(happens)
    story = "0123456789abcdef\n  1970-01-01 00:00:00Z  <bob@beta.test> waits in the queue\n"
    story += "  1970-01-01 00:01:00Z  <bob@beta.test> attempt 1, said: ?[2J\n"
    assert ctl(*config[:2], "trace", "0123456789ABCDEF").stdout == story.replace("abcdef", "ABCDEF", 1)
    told = ctl(*config[:2], "trace", "BOB@beta.test").stdout
    assert told.startswith(story) and "not taken\n" in told
    assert ctl(*config[:2], "trace", "17").returncode == 1
    assert "bad label" in ctl(*config, "hold", "no domain").stderr
