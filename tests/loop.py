"""What stands for the reactor where only its thread matters."""

from __future__ import annotations

import queue
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


class Loop:
    """Stands for the reactor: results come back on the thread that waits for them."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def post(self, call: Callable[[], None]) -> None:
        self._calls.put(call)

    def all(self, *work: Coroutine[Any, Any, Any]) -> list[Any]:
        """Begun together; each one's result, or the exception that it raised."""
        return self.wait([Deferred.fromCoroutine(one) for one in work])

    def wait(self, begun: list[Deferred[Any]]) -> list[Any]:
        done: dict[int, Any] = {}
        for number, deferred in enumerate(begun):
            deferred.addBoth(lambda answer, number=number: done.__setitem__(number, answer))
        while len(done) < len(begun):
            self._calls.get(timeout=60)()
        answers = [done[number] for number in range(len(begun))]
        return [answer.value if isinstance(answer, Failure) else answer for answer in answers]

    def one(self, work: Coroutine[Any, Any, Any]) -> Any:
        (answer,) = self.all(work)
        if isinstance(answer, BaseException):
            raise answer
        return answer
