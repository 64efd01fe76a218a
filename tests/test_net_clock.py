"""The clock is set while a gateway runs: nothing stops for as long as it was set back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.threads import blockingCallFromThread

from demo.dns_server import DNSServer
from demo.world import Gateway, Reactor, zone
from gatewayd.net.clock import make_steady
from tests.patience import eventually
from tests.smtp_talk import Mailbox, NextHop, Talk

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
ADDRESS, HOP = "127.0.70.71", "127.0.70.72"
MAIL = b"From: %s\r\nSubject: what time is it\r\n\r\nx\r\n"


def test_timers_heed_the_steady_clock_only() -> None:
    reactor = EPollReactor()
    make_steady(reactor)
    call = reactor.callLater(5.0, lambda: None)
    assert abs(call.getTime() - time.monotonic() - 5.0) < 60
    call.cancel()


CACHED = 1  # seconds that libfaketime goes by what it has read; without, each look at the clock would read the file


class World:
    def __init__(self, root: Path, reactor: Any) -> None:
        self.dns = DNSServer({"legacy.test": zone(HOP, parley=False)})
        blockingCallFromThread(reactor, self.dns.listen, reactor)
        self.hop = NextHop(HOP, 2525)
        self.gateway = Gateway(root / "gateway", "alpha.test", ADDRESS, ["alice", "bob"], self.dns.port)
        text = self.gateway.config.read_text()
        self.gateway.config.write_text(
            text + "\n[incoming]\ntrusted = []\nsenders_exist = false\n[limits]\nmessages_per_address = 60\n"
        )
        self._file = root / "time"
        self.set("+0")
        self.gateway.under = [
            "env", f"LD_PRELOAD={FAKETIME}", f"FAKETIME_TIMESTAMP_FILE={self._file}",
            f"FAKETIME_CACHE_DURATION={CACHED}", "DONT_FAKE_MONOTONIC=1", "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "NO_FAKE_STAT=1",
        ]  # fmt: skip
        self.gateway.start()

    def set(self, offset: str) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(offset + "\n")
        new.rename(self._file)

    def stop(self) -> None:
        self.gateway.stop()
        self.hop.close()
        Reactor().wait(self.dns.stop())


@pytest.fixture
def world(tmp_path: Path, reactor: Any) -> Iterator[World]:
    made = World(tmp_path, reactor)
    yield made
    made.stop()


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")
@pytest.mark.parametrize("offset", ["-40d", "+3d"])
def test_the_clock_is_set(world: World, offset: str) -> None:
    gateway, hop = world.gateway, world.hop
    hop.answers.update(RCPT=b"451 4.2.0 later\r\n", DATA=b"503 5.5.1 no recipient\r\n")
    with Mailbox(gateway, "bob@alpha.test", "Introductions") as bob, Talk(gateway) as open_before:
        open_before.do("EHLO here.test")
        assert open_before.send("x@elsewhere.test", ["bob@alpha.test"], MAIL % b"x@elsewhere.test").startswith("250")
        bob.wait(1)
        with Talk(gateway, "submissions", tls=True) as alice:
            alice.sign_in()
            mail = MAIL % b"alice@alpha.test"
            assert alice.send("alice@alpha.test", ["carol@legacy.test"], mail).startswith("250")
        eventually(lambda: any(line.startswith("RCPT") for line in hop.heard))
        world.set(offset)
        time.sleep(2 * CACHED)  # now it is seen
        assert open_before.send("y@elsewhere.test", ["bob@alpha.test"], MAIL % b"y@elsewhere.test").startswith("250")
        bob.wait(2)
        hop.answers.clear()
        hop.wait(1)  # what waited for its second attempt does not wait for the clock
        with Talk(gateway, "submissions", tls=True) as alice:
            alice.sign_in()
            assert alice.send("alice@alpha.test", ["dave@legacy.test"], mail).startswith("250")
        hop.wait(2)
        with Talk(gateway) as stranger:
            stranger.do("EHLO here.test")
            answers = [stranger.all("MAIL FROM:<x@elsewhere.test>", "RSET")[0] for _ in range(5)]
            assert {answer[:3] for answer in answers} == {"250"}
    world.set("+0")
    assert gateway.health() == {"store": "ok"}
    assert "Traceback" not in (gateway.root / "gatewayd.log").read_text()
