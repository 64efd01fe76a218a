"""A million queued messages to domains that do not answer, and what they cost the others: nothing, it should be.

A thousand domains share a mail host whose listen queue is full: connecting takes until the timeout. The clock measures
messages to a living domain, from the first that its sink has to the last, with the million in the queue and without.
"""

from __future__ import annotations

import shutil
import socket
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import figures
from bench.peers import OURS
from bench.smtp_out import SINK, fill, measured, ours
from demo.dns_server import DNSServer
from demo.legacy import PORT
from demo.world import Gateway, Reactor, zone
from gatewayd.config import load
from gatewayd.queue import destinations

COUNT = 1000
ROUNDS = 3
DOMAINS = 1000
EACH = 1000  # messages
DEAD = "127.0.0.34"
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


def lease_times(path: Path) -> list[float]:
    """Milliseconds of a lease and a reckoning, undone each time."""
    db = sqlite3.connect(path, isolation_level=None)
    found = []
    for _ in range(50):
        db.execute("BEGIN")
        begin = time.perf_counter()
        destinations.lease(db, time.time(), time.time() + 600, 200, [], 25)
        found.append((time.perf_counter() - begin) * 1000)
        db.execute("ROLLBACK")
    db.close()
    return found


def rounds(reactor: Reactor, gateway: Gateway) -> tuple[float, list[float]]:
    """The milliseconds of a lease, and the messages a second of each round."""
    leases, rates = [], []
    for _ in range(ROUNDS):
        fill(reactor, gateway, COUNT, 4096)
        leases += lease_times(load(gateway.config).database)
        try:
            rates.append(measured(gateway.start, COUNT))
        finally:
            gateway.stop()
    return statistics.median(leases), rates


def main() -> None:
    if shutil.which("smtp-sink") is None:
        raise SystemExit("dead_domains: smtp-sink (of Postfix) is not installed")
    names = "".join(f"d{n} 60 IN MX 10 mx\n" for n in range(DOMAINS))
    reactor = Reactor()
    dns = DNSServer({"sink.test": zone(SINK, parley=False), "dead.test": zone(DEAD, parley=False) + names})
    reactor.call(dns.listen, reactor.reactor)
    with tempfile.TemporaryDirectory() as root, black_hole():
        gateway = Gateway(Path(root) / "ours", "bench.test", OURS, ["alice"], dns.port)
        ours(reactor, gateway, 200, 4096)  # warm; and the sink is known
        few, without = rounds(reactor, gateway)
        bury(gateway)
        many, among = rounds(reactor, gateway)
    reactor.stop()
    million = f"{DOMAINS * EACH:,} others queued to {DOMAINS:,} dead domains"
    figures.report(
        bench="dead_domains", work=f"{COUNT} queued messages of 4 KiB to one server, {million}",
        ours=statistics.median(among), peer="the same without them", peer_figure=statistics.median(without),
        unit="messages/s", ratio=statistics.median(among) / statistics.median(without),
    )  # fmt: skip
    figures.report(
        bench="dead_domains", work=f"a lease, {million}", ours=many, peer="the same without them", peer_figure=few,
        unit="ms", ratio=many / few,
    )  # fmt: skip
