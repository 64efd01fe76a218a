"""A million queued messages to domains that do not answer, and what they cost the others: nothing, it should be.

A thousand domains are dead: the hosts of half of them drop every SYN, so that connecting takes until the timeout, those
of the others refuse at once. The clock measures messages to a living domain, from the first that its sink has to the
last, with the million in the queue and without; then how long a restart and `gatewayctl queue list` take.
"""

from __future__ import annotations

import re
import shutil
import socket
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench import figures
from bench.peers import OURS
from bench.smtp_out import SINK, fill, measured, ours
from demo.dns_server import DNSServer
from demo.legacy import PORT
from demo.world import BIN, Gateway, Reactor, zone
from gatewayd.config import load

COUNT = 1500
ROUNDS = 3
DOMAINS = 1000
EACH = 1000  # messages
DEAD, REFUSING = "127.0.0.34", "127.0.0.35"
KEY = 10_000_000  # the first of their message keys


@contextmanager
def black_hole() -> Iterator[None]:
    """A port whose SYNs are dropped: the listen queue is full and nobody accepts."""
    listener = socket.create_server((DEAD, PORT), backlog=0)
    held = []
    for _ in range(4):
        waiting = socket.socket()
        waiting.setblocking(False)
        waiting.connect_ex((DEAD, PORT))
        held.append(waiting)
    try:
        yield
    finally:
        for each in (*held, listener):
            each.close()


def bury(gateway: Gateway) -> None:
    """A million rows: EACH messages, each to all domains. What is in the messages does not matter."""
    copied = "protected, payload, signature, bodies, trace"
    with sqlite3.connect(load(gateway.config).database) as db:
        db.executemany(
            f"INSERT INTO queue_message (message_key, object_id, {copied})"
            f" SELECT ?, ?, {copied} FROM queue_message ORDER BY message_key LIMIT 1",
            [(KEY + n, b"%d" % n) for n in range(EACH)],
        )
        now = time.time() - 3600
        rows = (
            (KEY + n, f"{n}@d{d}.dead.test", f"d{d}.dead.test", "alice@bench.test", "waiting", now, now)
            for d in range(DOMAINS)
            for n in range(EACH)
        )
        db.executemany(
            "INSERT INTO queue_recipient (message_key, recipient, domain, reverse_path, state, next_attempt, accepted)"
            " VALUES (?,?,?,?,?,?,?)",
            rows,
        )
        names = [(f"d{d}.dead.test", now) for d in range(DOMAINS)]
        db.executemany("INSERT INTO queue_destination (domain, due) VALUES (?,?)", names)


class Figures(NamedTuple):
    rate: float  # messages a second
    start: float  # seconds until a restarted gateway is healthy
    listing: float  # seconds of `gatewayctl queue list`
    memory: float  # MiB


def once(reactor: Reactor, gateway: Gateway) -> Figures:
    times = []

    def start() -> None:
        begin = time.perf_counter()
        gateway.start()
        times.append(time.perf_counter() - begin)

    fill(reactor, gateway, COUNT, 4096)
    try:
        rate = measured(start, COUNT)
        memory = int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{gateway.pid}/status").read_text())[0]) / 1024
        begin = time.perf_counter()
        command: list[str | Path] = [BIN / "gatewayctl", "--config", gateway.config, "queue", "list"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return Figures(rate, times[0], time.perf_counter() - begin, memory)
    finally:
        gateway.stop()


def median(found: Sequence[Figures]) -> Figures:
    return Figures(*map(statistics.median, zip(*found, strict=True)))


def main() -> None:
    if shutil.which("smtp-sink") is None:
        raise SystemExit("dead_domains: smtp-sink (of Postfix) is not installed")
    names = "".join(f"d{n} 60 IN MX 10 {'mx' if n % 2 else 'refusing'}\n" for n in range(DOMAINS))
    dead = zone(DEAD, parley=False) + f"refusing 60 IN A {REFUSING}\n" + names
    reactor = Reactor()
    dns = DNSServer({"sink.test": zone(SINK, parley=False), "dead.test": dead})
    reactor.call(dns.listen, reactor.reactor)
    with tempfile.TemporaryDirectory() as root, black_hole():
        gateway = Gateway(Path(root) / "ours", "bench.test", OURS, ["alice"], dns.port)
        ours(reactor, gateway, 200, 4096)  # warm; and the sink is known
        without = median([once(reactor, gateway) for _ in range(ROUNDS)])
        bury(gateway)
        among = median([once(reactor, gateway) for _ in range(ROUNDS)])
    reactor.stop()
    million = f"{DOMAINS * EACH:,} others queued to {DOMAINS:,} dead domains"
    for work, unit, field in (
        (f"{COUNT} queued messages of 4 KiB to one server", "messages/s", "rate"), ("a restart", "s", "start"),
        ("gatewayctl queue list", "s", "listing"), ("memory of the gateway", "MiB", "memory"),
    ):  # fmt: skip
        mine, other = getattr(among, field), getattr(without, field)
        figures.report(
            bench="dead_domains", work=f"{work}, {million}", ours=mine, peer="the same without them", peer_figure=other,
            unit=unit, ratio=mine / other,
        )  # fmt: skip
