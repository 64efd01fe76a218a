"""SMTP in, durable, until visible in IMAP: gatewayd against Postfix + Dovecot (LMTP), in the same run.

The same driver does both: some senders deliver COUNT messages; the clock stops when IMAP shows them all.
"""

from __future__ import annotations

import imaplib
import smtplib
import statistics
import tempfile
import threading
import time
from pathlib import Path

from bench import figures
from bench.peers import Target, gateway, missing, postfix_dovecot

COUNT = 400
ROUNDS = 3
SENDER = "sender@elsewhere.test"


def message(size: int) -> bytes:
    head = b"From: sender@elsewhere.test\r\nSubject: a benchmark\r\nDate: Tue, 24 Nov 2026 10:00:00 +0000\r\n\r\n"
    line = b"The quick brown fox jumps over the lazy dog, and the lazy dog lets it pass.\r\n"
    return head + line * ((size - len(head)) // len(line))


def mailbox(target: Target) -> imaplib.IMAP4_SSL:
    imap = imaplib.IMAP4_SSL(*target.imaps, ssl_context=target.ssl, timeout=60)
    imap.login(target.user, target.password)
    return imap


def visible(imap: imaplib.IMAP4) -> int:
    answer = imap.status("INBOX", "(MESSAGES)")[1][0]
    assert isinstance(answer, bytes)
    return int(answer.split()[-1].rstrip(b")"))


def rate(target: Target, size: int, connections: int, count: int = COUNT) -> float:
    """Messages a second, from the first connection to the last message visible."""
    mail = message(size)
    failures: list[Exception] = []

    def send(share: int) -> None:
        try:
            with smtplib.SMTP(*target.smtp, timeout=60) as smtp:
                for _ in range(share):
                    smtp.sendmail(SENDER, [target.user], mail)
        except (OSError, smtplib.SMTPException) as error:
            failures.append(error)

    with mailbox(target) as imap:
        before = visible(imap)
        threads = [threading.Thread(target=send, args=(count // connections,)) for _ in range(connections)]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        while (seen := visible(imap) - before) < count // connections * connections:
            if time.perf_counter() - begin > 120:
                raise TimeoutError(f"only {seen} of {count} became visible")
            time.sleep(0.005)
        return count / (time.perf_counter() - begin)


def main() -> None:
    if missing():
        raise SystemExit(f"smtp_in: not installed: {missing()}; there is nothing to compare with")
    with (
        tempfile.TemporaryDirectory() as root,
        gateway(Path(root) / "ours") as ours,
        postfix_dovecot(Path(root) / "peer") as peer,
    ):
        for target in (ours, peer):
            rate(target, 4096, 4, 40)  # warm
        for size in (4096, 65536):
            for connections in (1, 20):
                pairs = [(rate(ours, size, connections), rate(peer, size, connections)) for _ in range(ROUNDS)]
                figures.report(
                    bench="smtp_in",
                    work=f"{COUNT} messages of {size // 1024} KiB, {connections} connections, until visible in IMAP",
                    ours=statistics.median(pair[0] for pair in pairs),
                    peer="Postfix + Dovecot",
                    peer_figure=statistics.median(pair[1] for pair in pairs),
                    unit="messages/s",
                    ratio=statistics.median(a / b for a, b in pairs),
                )
