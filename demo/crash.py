"""SIGKILL in the middle of traffic: whatever was acknowledged is there afterwards, once (RFC 5321 §6.1)."""

from __future__ import annotations

import imaplib
import re
import smtplib
import threading
import time
from collections import Counter
from typing import NamedTuple

from demo.clients import ParleyProgram, mail_of
from demo.world import PASSWORD, Gateway, Reactor
from gatewayd.client import ConnectionGone, compose

COUNT = 60  # messages from each of the two senders
BREATH = 0.02  # seconds between two messages, so that the kill falls among them


class Crash(NamedTuple):
    killed: str
    acknowledged: int
    missing: int
    doubled: int

    @property
    def ok(self) -> bool:
        return self.acknowledged >= COUNT and not self.missing and not self.doubled

    @property
    def text(self) -> str:
        return (
            f"kill -9 of {self.killed} in the middle of {2 * COUNT} messages: {self.acknowledged} acknowledged, "
            f"{self.missing} of them missing, {self.doubled} doubled: {'ok' if self.ok else 'FAILED'}"
        )


class _Traffic:
    """By SMTP each message is tried once: not acknowledged may mean lost. By Parley the same draft is sent again."""

    def __init__(self, sender: Gateway, receiver: Gateway, reactor: Reactor, mark: str) -> None:
        self.acknowledged: set[str] = set()
        self._gateway = sender
        self._to = f"bob@{receiver.domain}"
        self._reactor = reactor
        self._mark = mark
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._smtp, self._parley)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        for thread in self._threads:
            thread.join(120)

    def _smtp(self) -> None:
        user = f"alice@{self._gateway.domain}"
        smtp: smtplib.SMTP | None = None
        for number in range(COUNT):
            subject = f"{self._mark} by SMTP {number}"
            time.sleep(BREATH)
            while smtp is None:
                try:
                    host, port = self._gateway.port("submissions")
                    smtp = smtplib.SMTP_SSL(host, port, timeout=30, context=self._gateway.ssl)
                    smtp.login(user, PASSWORD)
                except (OSError, smtplib.SMTPException):
                    smtp = None
                    time.sleep(0.1)
            try:
                smtp.sendmail(user, [self._to], mail_of(user, self._to, subject, "traffic").as_bytes())
                self.acknowledged.add(subject)
            except (OSError, smtplib.SMTPException):
                smtp = None

    def _parley(self) -> None:
        client = ParleyProgram(self._gateway, "zoe", self._reactor)

        async def send(subject: str) -> bool:
            draft = compose(client.address, [self._to], "traffic", now=time.time(), subject=subject)
            for _ in range(50):
                try:
                    async with await client.connect() as parley:
                        (result,) = await parley.send_draft([self._to], draft)
                        return result.code.startswith("2")
                except (OSError, ConnectionGone):
                    await self._pause(0.1)
            return False

        for number in range(COUNT):
            time.sleep(BREATH)
            subject = f"{self._mark} by Parley {number}"
            if self._reactor.wait(send(subject), 60):
                self.acknowledged.add(subject)

    async def _pause(self, seconds: float) -> None:
        from twisted.internet.task import deferLater

        await deferLater(self._reactor.reactor, seconds, lambda: None)


def subjects(gateway: Gateway, user: str) -> Counter[str]:
    host, port = gateway.port("imaps")
    with imaplib.IMAP4_SSL(host, port, ssl_context=gateway.ssl, timeout=30) as imap:
        imap.login(user, PASSWORD)
        if not int(imap.select("INBOX", readonly=True)[1][0] or 0):
            return Counter()
        fetched = imap.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")[1]
        found = [re.search(rb"Subject: (.*?)\r\n", part[1]) for part in fetched if isinstance(part, tuple)]
        return Counter(match[1].decode() for match in found if match)


def crash(sender: Gateway, receiver: Gateway, reactor: Reactor) -> list[Crash]:
    """First the sender's gateway, then the receiver's."""
    rows = []
    for victim in (sender, receiver):
        mark = f"crash of {victim.domain}"
        traffic = _Traffic(sender, receiver, reactor, mark)
        traffic.start()
        time.sleep(COUNT * BREATH)  # in the middle: a message takes longer than the breath after it
        victim.kill()
        time.sleep(0.5)
        victim.start()
        traffic.wait()
        deadline = time.monotonic() + 60
        while True:
            there = subjects(receiver, f"bob@{receiver.domain}")
            missing = sum(not there[subject] for subject in traffic.acknowledged)
            if not missing or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        time.sleep(1)  # what would come twice has its chance
        there = subjects(receiver, f"bob@{receiver.domain}")
        doubled = sum(count > 1 for subject, count in there.items() if subject.startswith(mark))
        rows.append(Crash(victim.domain, len(traffic.acknowledged), missing, doubled))
    return rows
