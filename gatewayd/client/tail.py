"""What was pushed and one live loop has not read yet."""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred

from gatewayd.wire.parley.schema import Changes

TAIL = 8 * 1024 * 1024  # octets kept for a reader; when more come it asks the log instead


class Tail:
    """When too much waits, or the connection is lost, all of it is dropped, and the loop asks the log: so a slow reader
    costs no memory."""

    def __init__(self) -> None:
        self._pages: deque[Changes] = deque()
        self._octets = 0
        self._whole = False  # every push since `restart` is here
        self._waiter: Deferred[None] | None = None

    def restart(self) -> None:
        self.stop()
        self._whole = True

    def push(self, page: Changes) -> None:
        if not self._whole:
            return
        self._pages.append(page)
        self._octets += _octets(page)
        if self._octets > TAIL:
            self.stop()
        self._wake()

    def stop(self) -> None:
        self._pages.clear()
        self._octets = 0
        self._whole = False
        self._wake()

    async def next(self) -> Changes | None:
        """Waits for a page; None: ask the log."""
        while self._whole:
            if self._pages:
                page = self._pages.popleft()
                self._octets -= _octets(page)
                return page
            self._waiter = Deferred()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return None

    def _wake(self) -> None:
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            waiter.callback(None)


def _octets(page: Changes) -> int:
    return sum(200 + len(change.signed) + sum(map(len, change.bodies)) for change in page.changes)
