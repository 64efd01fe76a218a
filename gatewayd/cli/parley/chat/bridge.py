"""From asyncio's thread to the reactor's, and back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


class Bridge:
    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    async def ask(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs on the reactor's thread; awaited on asyncio's. Raises what it raises."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():  # who asked is gone
                return
            begun = Deferred.fromCoroutine(work())
            begun.addCallbacks(future.set_result, lambda failure: future.set_exception(failure.value))

        self._reactor.callFromThread(run)
        return await asyncio.wrap_future(future)
