"""What comes in one turn of the reactor is worked on in a thread in one go; what comes meanwhile is the next batch.

A hand-over to a thread costs more than the work on one item: so it is made once for all of them, and never on a timer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")

InThread = Callable[..., Awaitable[Any]]  # (function, *arguments) -> its result, off the reactor


class Batched(Generic[I, R]):
    """`work` gives an answer for each item, an exception where it failed; at most `most` at once."""

    def __init__(
        self, work: Callable[[Sequence[I]], Sequence[R | Exception]], most: int, clock: IReactorTime,
        in_thread: InThread,
    ) -> None:  # fmt: skip
        self._work = work
        self._most = most
        self._clock = clock
        self._in_thread = in_thread
        self._waiting: list[tuple[I, Deferred[R]]] = []
        self._busy = False

    async def __call__(self, item: I) -> R:
        answer: Deferred[R] = Deferred()
        self._waiting.append((item, answer))
        if not self._busy:
            self._busy = True
            self._clock.callLater(0, self._begin)
        return await answer

    def _begin(self) -> None:
        Deferred.fromCoroutine(self._work_off())

    async def _work_off(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            try:
                answers = await self._in_thread(self._work, [item for item, _ in batch])
            except Exception as error:
                answers = [error] * len(batch)
            for (_, waiter), answer in zip(batch, answers, strict=True):
                if isinstance(answer, Exception):
                    waiter.errback(answer)
                else:
                    waiter.callback(answer)
        self._busy = False
