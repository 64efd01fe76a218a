"""Mail out of a running gateway: which hosts of a domain are tried, and how many at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from demo.world import Gateway, World
from gatewayd.core.relay import SHARE
from tests.smtp_talk import TIMEOUT, Mailbox, NextHop, Talk

MAIL = b"From: alice@alpha.test\r\nSubject: out\r\n\r\nbody\r\n"
THERE, GONE = "127.0.73.2", "127.0.73.9"  # nobody listens there
BEGIN = "@ 60 IN SOA ns hostmaster 1 3600 600 86400 5\n@ 60 IN NS ns\nns 60 IN A 127.0.0.1\n"
ZONES = {
    "alias_test": f"@ 60 IN MX 10 alias\nalias 60 IN CNAME mx\nmx 60 IN A {THERE}\n",
    "gone_test": f"@ 60 IN MX 1 gone\n@ 60 IN MX 2 mx\ngone 60 IN AAAA ::1\ngone 60 IN A {GONE}\nmx 60 IN A {THERE}\n",
    "backup_test": f"@ 60 IN MX 1 mx\n@ 60 IN MX 2 mx.alpha.test.\n@ 60 IN MX 3 gone\nmx 60 IN A {THERE}\n",
    "away_test": f"@ 60 IN MX 1 gone\n@ 60 IN MX 2 mx.alpha.test.\n@ 60 IN MX 3 mx\nmx 60 IN A {THERE}\n"
    f"gone 60 IN A {GONE}\n",
    "ours_test": "@ 60 IN MX 10 mx.alpha.test.\n",
    "null_test": "@ 60 IN MX 0 .\n",
    "slow_test": f"@ 60 IN MX 10 mx\nmx 60 IN A {THERE}\n",
}


class Slow(NextHop):
    """Thinks about MAIL to some until it is let go on."""

    def __init__(self, address: str, port: int) -> None:
        self.go_on = threading.Event()
        self.go_on.set()
        self.thinking = 0
        super().__init__(address, port)

    def _answer(self, command: str) -> bytes:
        if command.startswith("RCPT TO:<slow"):
            self.thinking += 1
            self.go_on.wait(TIMEOUT)
        return super()._answer(command)


@pytest.fixture(scope="module")
def alpha(tmp_path_factory: pytest.TempPathFactory, reactor: Any) -> Iterator[Gateway]:
    world = World(tmp_path_factory.mktemp("world"), {"alpha.test": "127.0.73.1"}, {}, ["alice"])
    world.publish(**{name: BEGIN + text for name, text in ZONES.items()})
    world.start()
    yield world.gateways["alpha.test"]
    world.stop()


@pytest.fixture(scope="module")
def server(alpha: Gateway) -> Iterator[Slow]:
    """One for all tests: connections to it are kept."""
    made = Slow(THERE, alpha.port("smtp")[1])
    yield made
    made.close()


@pytest.fixture
def there(server: Slow) -> Iterator[Slow]:
    server.heard.clear()
    server.mails.clear()
    yield server
    server.go_on.set()


def submit(alpha: Gateway, *to: str) -> None:
    with Talk(alpha, "submissions", tls=True) as talk:
        talk.sign_in()
        for address in to:
            assert talk.send("alice@alpha.test", [address], MAIL).startswith("250")


@pytest.mark.parametrize(
    "domain",
    [
        "alias.test",  # RFC 2181 §10.3 forbids it; who publishes it gets the mail all the same, as from Postfix
        "gone.test",
        "backup.test",
    ],
)
def test_the_host_that_is_there_gets_it(alpha: Gateway, there: Slow, domain: str) -> None:
    submit(alpha, f"carol@{domain}")
    there.wait(1)
    assert f"RCPT TO:<carol@{domain}>" in there.heard


def test_a_backup_that_is_ourselves_is_not_tried(alpha: Gateway, there: Slow) -> None:
    """Nor who stands behind it: while the better host is away, the mail waits (RFC 5321 §5.1)."""
    submit(alpha, "dave@away.test")
    log, deadline = alpha.root / "gatewayd.log", time.monotonic() + TIMEOUT
    while "dave@away.test deferred by Mail: 4.4.1 gone.away.test" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    back = NextHop(GONE, alpha.port("smtp")[1])
    back.wait(1)
    back.close()
    assert there.heard == []


@pytest.mark.parametrize(("domain", "status"), [("ours.test", b"5.4.6"), ("null.test", b"5.1.10")])
def test_what_no_host_takes_comes_back_at_once(alpha: Gateway, domain: str, status: bytes) -> None:
    submit(alpha, f"carol@{domain}")
    with Mailbox(alpha, "alice@alpha.test") as mailbox:
        (octets,) = mailbox.wait(1)
        mailbox.clear()
    assert b"Status: %s\r\n" % status in octets


def test_one_destination_has_a_part_of_all_connections(alpha: Gateway, there: Slow) -> None:
    submit(alpha, "first@slow.test")
    there.wait(1)
    most = 50 // SHARE  # of [relay] concurrency
    there.go_on.clear()
    submit(alpha, *(f"slow{number}@slow.test" for number in range(most + 10)))
    submit(alpha, "carol@alias.test")  # others are not held up
    there.wait(2)
    deadline = time.monotonic() + TIMEOUT
    while there.thinking < most and time.monotonic() < deadline:
        time.sleep(0.02)
    submit(alpha, "last@alias.test")
    there.wait(3)
    assert there.thinking == most
    there.go_on.set()
    there.wait(3 + most + 10)
