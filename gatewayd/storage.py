"""What lies in the state directory: a running gateway's, and for the commands that work on it beside one."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from typing import Any

from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from gatewayd.config import DAY, Config
from gatewayd.crypto.domain_keys import KeyStore
from gatewayd.database.sqlite import Database
from gatewayd.errors import StoreError
from gatewayd.queue.sqlite import SQLiteQueue
from gatewayd.store import epochs
from gatewayd.store.blobs import BlobStore
from gatewayd.store.sqlite import SQLiteStore
from gatewayd.store.tls import SQLiteTLSMemory
from gatewayd.store.trace import TraceLog

LEAST_FREE = 64 * 1024 * 1024  # octets on the disk: with less, some message will soon find no room


class Storage:
    """One database that store, queue and all that is remembered share, and files beside it. Raises StoreError."""

    log = Logger()

    def __init__(self, config: Config, reactor: Any, now: Callable[[], float]) -> None:
        self.config = config
        self.now = now
        self.database = Database(config.database, reactor.callFromThread)
        self.store = SQLiteStore(self.database, BlobStore(config.blobs), reactor, now)
        self.queue = SQLiteQueue(self.database, reactor, now)
        self.trace = TraceLog(self.database, reactor)
        self.tls = SQLiteTLSMemory(self.database)
        self.keys = KeyStore(config.keys, now)
        self._witness = config.state_dir / "epoch"

    def begin(self) -> None:
        """To serve it: as the only one, and in an epoch of its own. Raises StoreError."""
        try:
            self._lock = (self.config.state_dir / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the queue's leases count on being the only one
        except OSError as failed:
            raise StoreError(f"{self.config.state_dir} is not ours alone: {failed}") from None
        if epochs.begin(self.database.path, self._witness, self.now()):
            self.log.warn("this store is an older one than was here: clients read their mailboxes anew")
        self.queue.follow()

    async def end(self) -> None:
        """What was accepted is committed."""
        self.queue.stop()
        await self.trace.flush()
        try:
            await self.testify()
        except StoreError as error:
            self.log.error("not noted how far the store has come: {error}", error=error)
        await deferToThread(self.database.close)
        self._lock.close()

    async def testify(self) -> None:
        await deferToThread(epochs.testify, self.database.path, self._witness)

    async def sweep_blobs(self) -> None:
        await self.store.sweep(await self.queue.blobs())

    async def sweep_trace(self) -> None:
        await self.trace.sweep(self.now() - self.config.trace_days * DAY)

    async def trouble(self) -> str:
        """What is wrong with it. "": nothing."""
        if wrong := await self.database.check():
            return wrong
        free = shutil.disk_usage(self.config.state_dir).free
        return f"only {free // 1024} KiB are left on the disk of {self.config.state_dir}" if free < LEAST_FREE else ""
