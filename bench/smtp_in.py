"""SMTP in, durable, until visible in IMAP: gatewayd against Postfix + Dovecot (LMTP), in the same run.

The same driver, a process of its own (load_smtp.py), does both; the clock stops when IMAP shows all messages. `server`
and `clients` are microseconds of processor for one message.
"""

from __future__ import annotations

import imaplib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench import figures
from bench.peers import Target, gateway, missing, postfix_dovecot

COUNT = {4096: 2000, 65536: 400}  # messages by size
ROUNDS = 3
SENDER = "sender@elsewhere.test"


class Measured(NamedTuple):
    rate: float  # messages a second, from the first connection to the last message visible
    server: float  # microseconds of the server's processors for one message
    clients: float  # and of the driver's


def mailbox(target: Target) -> imaplib.IMAP4_SSL:
    imap = imaplib.IMAP4_SSL(*target.imaps, ssl_context=target.ssl, timeout=60)
    imap.login(target.user, target.password)
    return imap


def visible(imap: imaplib.IMAP4) -> int:
    answer = imap.status("INBOX", "(MESSAGES)")[1][0]
    assert isinstance(answer, bytes)
    return int(answer.split()[-1].rstrip(b")"))


def deliver(target: Target, size: int, connections: int, count: int) -> Measured:
    """`count` is a multiple of `connections`. Raises CalledProcessError when the driver was refused."""
    with mailbox(target) as imap:
        before, spent = visible(imap), target.cpu()
        words = (*target.smtp, SENDER, target.user, size, connections, count)
        driver = [sys.executable, "-m", "bench.load_smtp", *map(str, words)]
        said = subprocess.run(driver, check=True, capture_output=True, text=True).stdout
        begin, clients = map(float, said.split())
        while (seen := visible(imap) - before) < count:
            if time.monotonic() - begin > 120:
                raise TimeoutError(f"only {seen} of {count} became visible")
            time.sleep(0.005)
        taken = time.monotonic() - begin
        return Measured(count / taken, (target.cpu() - spent) / count * 1e6, clients)


def _median(rounds: Sequence[Measured]) -> Measured:
    return Measured(*map(statistics.median, zip(*rounds, strict=True)))


def main() -> None:
    if missing():
        raise SystemExit(f"smtp_in: not installed: {missing()}; there is nothing to compare with")
    with (
        tempfile.TemporaryDirectory() as root,
        gateway(Path(root) / "ours") as ours,
        postfix_dovecot(Path(root) / "peer") as peer,
    ):
        for target in (ours, peer):
            deliver(target, 4096, 4, 400)  # warm
        for size, count in COUNT.items():
            for connections in (1, 20):
                rounds = range(ROUNDS)
                pairs = [[deliver(target, size, connections, count) for target in (ours, peer)] for _ in rounds]
                mine, theirs = (_median(side) for side in zip(*pairs, strict=True))
                figures.report(
                    bench="smtp_in",
                    work=f"{count} messages of {size // 1024} KiB, {connections} connections, until visible in IMAP",
                    ours=mine.rate,
                    peer="Postfix + Dovecot",
                    peer_figure=theirs.rate,
                    unit="messages/s",
                    ratio=statistics.median(a.rate / b.rate for a, b in pairs),
                    server=mine.server,
                    peer_server=theirs.server,
                    clients=mine.clients,
                    peer_clients=theirs.clients,
                )
