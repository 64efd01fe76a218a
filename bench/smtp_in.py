"""SMTP in, durable, until visible in IMAP: gatewayd against Postfix + Dovecot (LMTP), in the same run.

The same driver does both: some senders deliver COUNT messages of 4 KiB; the clock stops when IMAP shows all.
"""

from __future__ import annotations

import imaplib
import json
import shutil
import smtplib
import statistics
import sys
import tempfile
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from bench.peers import Gateway, PostfixDovecot

SIZE = 4096
COUNT = 400
ROUNDS = 3


class Target(NamedTuple):
    smtp: tuple[str, int]
    imap: tuple[str, int]
    user: str
    password: str
    recipient: str


def message(size: int) -> bytes:
    head = b"From: sender@elsewhere.test\r\nSubject: a benchmark\r\nDate: Tue, 24 Nov 2026 10:00:00 +0000\r\n\r\n"
    line = b"The quick brown fox jumps over the lazy dog, and the lazy dog lets it pass.\r\n"
    return head + line * ((size - len(head)) // len(line))


def visible(target: Target) -> int:
    with imaplib.IMAP4(*target.imap) as imap:
        imap.login(target.user, target.password)
        return int(imap.select("INBOX", readonly=True)[1][0] or 0)


def rate(target: Target, connections: int, count: int) -> float:
    """Messages a second, from the first connection to the last message visible."""
    before = visible(target)
    mail = message(SIZE)
    failures: list[Exception] = []

    def send(share: int) -> None:
        try:
            with smtplib.SMTP(*target.smtp, timeout=60) as smtp:
                for _ in range(share):
                    smtp.sendmail("sender@elsewhere.test", [target.recipient], mail)
        except (OSError, smtplib.SMTPException) as error:
            failures.append(error)

    threads = [threading.Thread(target=send, args=(count // connections,)) for _ in range(connections)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    wanted = before + count // connections * connections
    with imaplib.IMAP4(*target.imap) as imap:
        imap.login(target.user, target.password)
        imap.select("INBOX", readonly=True)
        while True:
            imap.noop()
            if visible_now(imap) >= wanted:
                break
            if time.perf_counter() - begin > 120:
                raise TimeoutError(f"only {visible_now(imap) - before} of {count} became visible")
            time.sleep(0.01)
    return count / (time.perf_counter() - begin)


def visible_now(imap: imaplib.IMAP4) -> int:
    return int(imap.status("INBOX", "(MESSAGES)")[1][0].split()[-1].rstrip(b")"))


def main() -> None:
    if not (shutil.which("postfix") and shutil.which("dovecot")):
        print("smtp_in: Postfix and Dovecot are not installed; there is nothing to compare with", file=sys.stderr)
        sys.exit(1)
    with tempfile.TemporaryDirectory() as root:
        ours: AbstractContextManager[Target] = Gateway(Path(root) / "ours")
        peer: AbstractContextManager[Target] = PostfixDovecot(Path(root) / "peer")
        with ours as our_target, peer as peer_target:
            for connections in (1, 20):
                pairs = [
                    (rate(our_target, connections, COUNT), rate(peer_target, connections, COUNT)) for _ in range(ROUNDS)
                ]
                figure, peer_figure = (statistics.median(column) for column in zip(*pairs, strict=True))
                print(
                    json.dumps(
                        {
                            "bench": "smtp_in",
                            "work": f"{COUNT} messages of 4 KiB, {connections} connections, until visible in IMAP",
                            "ours": round(figure, 1),
                            "peer": "Postfix + Dovecot",
                            "peer_figure": round(peer_figure, 1),
                            "unit": "messages/s",
                            "ratio": round(statistics.median(a / b for a, b in pairs), 2),
                        }
                    ),
                    flush=True,
                )
