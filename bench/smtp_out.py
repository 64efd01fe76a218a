"""Relay out: some thousand queued messages to one mail server, gatewayd against Postfix, to the same sink in one run.

The sink is Postfix's smtp-sink. Both queues are full before the clock starts; it runs from the first message that the
sink has to the last. Ours looks up the MX by DNS and signs nothing; Postfix has the host in its transport map.
"""

from __future__ import annotations

import os
import shutil
import smtplib
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import figures
from bench.load_smtp import message
from bench.peers import MAIN_CF, OURS, PEER, missing
from bench.smtp_in import SENDER
from demo.dns_server import DNSServer
from demo.legacy import PORT, PostfixInstance
from demo.world import Gateway, Reactor, zone
from gatewayd.address import Address, Domain
from gatewayd.cli.gatewayctl import Gateway as Parts
from gatewayd.cli.office import post_office
from gatewayd.config import load
from gatewayd.core.receiving import Arrival
from gatewayd.interfaces.queue import Envelope
from gatewayd.interfaces.routes import Origin
from gatewayd.message.mime import Mail

COUNT = 2000
ROUNDS = 3
SINK = "127.0.0.33"
TO = "bob@sink.test"

RELAYING = """\
smtpd_client_message_rate_limit = 0
in_flow_delay = 0
transport_maps = inline:{{ {{ sink.test = smtp:[127.0.0.33]:2525 }} }}
defer_transports = smtp
"""


class Sink:
    """smtp-sink, and when it had how many."""

    def __init__(self) -> None:
        self.count = 0
        self.times: list[float] = []
        user = ["-u", "postfix"] if os.geteuid() == 0 else []
        self._process = subprocess.Popen(
            ["smtp-sink", "-c", "-h", "mx.sink.test", *user, f"{SINK}:{PORT}", "1000"], stdout=subprocess.PIPE
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        """It says "sess=%d quit=%d mesg=%d", again and again."""
        assert self._process.stdout is not None
        rest = b""
        while octets := os.read(self._process.stdout.fileno(), 65536):
            *lines, rest = (rest + octets).split(b"\r")
            if lines:
                self.count = int(lines[-1].rpartition(b"mesg=")[2].split()[0])
                self.times.append(time.perf_counter())

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def measured(begin: Callable[[], None], count: int) -> float:
    """Messages a second at a sink of its own."""
    sink = Sink()
    try:
        time.sleep(0.3)
        begin()
        deadline = time.perf_counter() + 120
        while sink.count < count:
            if time.perf_counter() > deadline:
                raise TimeoutError(f"only {sink.count} of {count} came")
            time.sleep(0.01)
        return count / (sink.times[-1] - sink.times[0])
    finally:
        sink.stop()


def fill(reactor: Reactor, gateway: Gateway, count: int, size: int) -> None:
    """Into the queue of a gateway that does not run."""
    mail = message(size, "alice@bench.test", TO)

    async def work() -> None:
        parts = Parts(load(gateway.config), reactor.reactor)
        try:
            office, alice = post_office(parts), await parts.account("alice@bench.test")
            envelope = Envelope(alice.address, (Address("bob", Domain("sink.test")),))
            arrival = Arrival(envelope, Mail(mail), lambda name: b"", alice, Origin("127.0.0.1", "bench"))
            for begin in range(0, count, 64):
                await office.receive([arrival] * min(64, count - begin))
        finally:
            parts.database.close()

    reactor.wait(work(), timeout=120)


@contextmanager
def postfix(root: Path) -> Iterator[PostfixInstance]:
    made = PostfixInstance(root, PEER, MAIN_CF + RELAYING)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def _postconf(peer: PostfixInstance, setting: str) -> None:
    etc = str(peer.root / "etc")
    subprocess.run(["postconf", "-c", etc, "-e", setting], check=True)
    subprocess.run(["postfix", "-c", etc, "reload"], check=True, capture_output=True)


def theirs(peer: PostfixInstance, count: int, size: int) -> float:
    mail = message(size, SENDER, TO)
    _postconf(peer, "defer_transports = smtp")
    with smtplib.SMTP(PEER, PORT, timeout=60, source_address=(PEER, 0)) as smtp:
        for _ in range(count):
            smtp.sendmail(SENDER, [TO], mail)
    time.sleep(1)

    def begin() -> None:
        _postconf(peer, "defer_transports =")
        subprocess.run(["postqueue", "-c", str(peer.root / "etc"), "-f"], check=True)

    return measured(begin, count)


def ours(reactor: Reactor, gateway: Gateway, count: int, size: int) -> float:
    fill(reactor, gateway, count, size)
    try:
        return measured(gateway.start, count)
    finally:
        gateway.stop()


def main() -> None:
    if missing() or shutil.which("smtp-sink") is None:
        raise SystemExit(f"smtp_out: not installed: {missing() or 'smtp-sink'}; there is nothing to compare with")
    reactor = Reactor()
    dns = DNSServer({"sink.test": zone(SINK, parley=False)})
    reactor.call(dns.listen, reactor.reactor)
    with tempfile.TemporaryDirectory() as root, postfix(Path(root) / "peer") as peer:
        gateway = Gateway(Path(root) / "ours", "bench.test", OURS, ["alice"], dns.port)
        ours(reactor, gateway, 200, 4096)  # warm
        for size in (4096, 65536):
            pairs = [(ours(reactor, gateway, COUNT, size), theirs(peer, COUNT, size)) for _ in range(ROUNDS)]
            figures.report(
                bench="smtp_out",
                work=f"{COUNT} queued messages of {size // 1024} KiB to one server",
                ours=statistics.median(pair[0] for pair in pairs),
                peer="Postfix",
                peer_figure=statistics.median(pair[1] for pair in pairs),
                unit="messages/s",
                ratio=statistics.median(a / b for a, b in pairs),
            )
    reactor.stop()
