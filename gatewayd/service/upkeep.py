"""What is done over and over while the gateway runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet import defer
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from gatewayd.config import Config
from gatewayd.core.delivery import PostOffice
from gatewayd.errors import StoreError
from gatewayd.service.inbound import Inbound
from gatewayd.service.outbound import Outbound
from gatewayd.storage import Storage

HOURLY = 3600.0  # seconds
CLOCK = 1.0  # second
TESTIFY = 60.0  # seconds: what came in the last of them would not be missed in a restored backup


class Upkeep:
    log = Logger()

    def __init__(
        self, config: Config, reactor: Any, storage: Storage, post_office: PostOffice, inbound: Inbound,
        outbound: Outbound,
    ) -> None:  # fmt: skip
        self._reactor = reactor
        self._storage = storage
        self._reporters = (
            (inbound.reporter, config.incoming.dmarc_reports),
            (outbound.reporter, config.relay.tls_reports),
        )
        self._at_first = (post_office.resume_receipts, self._renew_keys)
        self._hourly = (
            storage.sweep_blobs, storage.queue.sweep, storage.sweep_trace, inbound.attempts.sweep, self._report,
            *self._at_first,
        )  # fmt: skip
        self._calls: list[LoopingCall] = []

    def start(self) -> None:
        defer.Deferred.fromCoroutine(self._each_of(*self._at_first))
        self._repeat(CLOCK, self._storage.queue.heed_clock)
        self._repeat(TESTIFY, self._storage.testify)
        self._repeat(HOURLY, *self._hourly)

    def _repeat(self, seconds: float, *works: Callable[[], Awaitable[None]]) -> None:
        call = LoopingCall(lambda: defer.Deferred.fromCoroutine(self._each_of(*works)))
        call.clock = self._reactor
        call.start(seconds, now=False)
        self._calls.append(call)

    def stop(self) -> None:
        for call in self._calls:
            call.stop()

    async def finish(self) -> None:
        """Nothing more is counted for reports."""
        await self._each_of(*(reporter.flush for reporter, _ in self._reporters))

    async def _each_of(self, *works: Callable[[], Awaitable[None]]) -> None:
        """What cannot be done now is done the next time."""
        for work in works:
            try:
                await work()
            except StoreError as error:
                self.log.error("not done for now: {error}", error=error)

    async def _report(self) -> None:
        for reporter, wanted in self._reporters:
            await reporter.flush()
            if wanted:
                await reporter.send_due()

    async def _renew_keys(self) -> None:
        """A year is long: nobody has to think of it, but who says the keys in a zone too."""
        for domain in await self._storage.store.domains():
            if (key := self._storage.keys.renew(domain)) is not None:
                self.log.info(
                    "{domain} has a new key, {kid}; if its zone says its keys, add it: gatewayctl dns {domain}",
                    domain=domain.name, kid=key.kid.hex(),
                )  # fmt: skip
