"""How long after a message was handed over an IMAP client in IDLE hears of it: gatewayd against Postfix + Dovecot."""

from __future__ import annotations

import imaplib
import smtplib
import tempfile
import time
from pathlib import Path

from bench import figures
from bench.load_smtp import message
from bench.peers import Target, gateway, missing, postfix_dovecot
from bench.smtp_in import SENDER, mailbox

COUNT = 100


def wakeups(target: Target) -> list[float]:
    """Milliseconds from the begin of the transaction, of four round trips, to the untagged EXISTS, for each message."""
    found = []
    mail = message(4096, SENDER, target.user)
    with mailbox(target) as imap, smtplib.SMTP(*target.smtp, timeout=60) as smtp:
        imap.select("INBOX", readonly=True)
        _idle(imap)
        for _ in range(COUNT):
            begin = time.perf_counter()
            smtp.sendmail(SENDER, [target.user], mail)
            while b"EXISTS" not in imap.readline():
                pass
            found.append((time.perf_counter() - begin) * 1000)
        imap.send(b"DONE\r\n")
        while not imap.readline().startswith(b"X1"):
            pass
    return found


def _idle(imap: imaplib.IMAP4) -> None:
    imap.send(b"X1 IDLE\r\n")
    while not imap.readline().startswith(b"+"):
        pass


def main() -> None:
    if missing():
        raise SystemExit(f"idle_wakeup: not installed: {missing()}; there is nothing to compare with")
    with (
        tempfile.TemporaryDirectory() as root,
        gateway(Path(root) / "ours") as ours,
        postfix_dovecot(Path(root) / "peer") as peer,
    ):
        measured = [sorted(wakeups(target)) for target in (ours, peer)]
        for name, quantile in (("p50", 0.5), ("p99", 0.99)):
            figure, peer_figure = (times[int(quantile * (len(times) - 1))] for times in measured)
            figures.report(
                bench="idle_wakeup",
                work=f"{COUNT} messages of 4 KiB, one transaction each until EXISTS in IDLE, {name}",
                ours=figure,
                peer="Postfix + Dovecot",
                peer_figure=peer_figure,
                unit="ms",
                ratio=figure / peer_figure,
            )
