"""Many at once: a hand-over to a thread, or a coroutine of its own, costs more than the work on one item. So it is made
once for all that comes in one turn of the reactor, and never on a timer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")

InThread = Callable[..., Awaitable[Any]]  # (function, *arguments) -> its result, off the reactor


class Gathered(Generic[I, R]):
    """What is asked in one turn is one call of `work`, or a few: as soon as there are `most` they go, so that threads
    have work while the turn lasts. No call waits for another. If one raises, each of it is done again alone, so `work`
    may run twice for one. Nobody waits for what is `long`: that is a call of its own."""

    log = Logger()

    def __init__(
        self, work: Callable[[Sequence[I]], Coroutine[Any, Any, Sequence[R]]], clock: IReactorTime,
        long: Callable[[I], bool] = lambda item: False, most: int = 64,
    ) -> None:  # fmt: skip
        self._work = work
        self._most = most
        self._clock = clock
        self._long = long
        self._asked: list[tuple[I, Callable[[R | Exception], None]]] = []
        self._planned = False

    def __call__(self, item: I, done: Callable[[R | Exception], None]) -> None:
        """`done` gets the answer, or what was raised."""
        if self._long(item):
            Deferred.fromCoroutine(self._work_off([(item, done)]))
            return
        self._asked.append((item, done))
        if len(self._asked) >= self._most:
            self._begin()
        elif not self._planned:
            self._planned = True
            self._clock.callLater(0, self._turn_ends)

    async def ask(self, item: I) -> R:
        """For who had rather wait for the answer."""
        answer: Deferred[R | Exception] = Deferred()
        self(item, answer.callback)
        said = await answer
        if isinstance(said, Exception):
            raise said
        return said

    def _turn_ends(self) -> None:
        self._planned = False
        if self._asked:
            self._begin()

    def _begin(self) -> None:
        asked, self._asked = self._asked, []
        Deferred.fromCoroutine(self._work_off(asked))

    async def _work_off(self, asked: Sequence[tuple[I, Callable[[R | Exception], None]]]) -> None:
        answers: Sequence[R | Exception]
        try:
            answers = await self._work([item for item, _ in asked])
        except Exception as error:
            if len(asked) > 1:
                for one in asked:
                    await self._work_off([one])
                return
            answers = [error]
        for (_, done), answer in zip(asked, answers, strict=True):
            try:
                done(answer)
            except Exception:  # no reason to leave the others without theirs
                self.log.failure("an answer could not be given")


class Batched(Generic[I, R]):
    """What is asked in one turn is worked on in a thread in one go; what comes meanwhile is the next batch. `work` has
    an answer for each item, an exception where it failed; after `most` items no more are added to a batch. Up to `few`
    take less time than the hand-over to the thread would: they are worked on at once."""

    def __init__(
        self, work: Callable[[Sequence[I]], Sequence[R | Exception]], most: int, clock: IReactorTime,
        in_thread: InThread, few: int = 0,
    ) -> None:  # fmt: skip
        self._work = work
        self._most = most
        self._few = few
        self._clock = clock
        self._in_thread = in_thread
        self._waiting: list[tuple[Sequence[I], Deferred[Sequence[R | Exception]]]] = []
        self._busy = False

    async def __call__(self, items: Sequence[I]) -> Sequence[R | Exception]:
        answer: Deferred[Sequence[R | Exception]] = Deferred()
        self._waiting.append((items, answer))
        if not self._busy:
            self._busy = True
            self._clock.callLater(0, self._begin)
        return await answer

    def _begin(self) -> None:
        Deferred.fromCoroutine(self._work_off())

    async def _work_off(self) -> None:
        while self._waiting:
            batch, items = self._next_batch()
            answers: Sequence[R | Exception]
            try:
                few = len(items) <= self._few
                answers = self._work(items) if few else await self._in_thread(self._work, items)
            except Exception as error:
                answers = [error] * len(items)
            at = 0
            for asked, waiter in batch:
                waiter.callback(answers[at : at + len(asked)])
                at += len(asked)
        self._busy = False

    def _next_batch(self) -> tuple[list[tuple[Sequence[I], Deferred[Sequence[R | Exception]]]], list[I]]:
        items: list[I] = []
        count = 0
        for asked, _ in self._waiting:
            if items and len(items) + len(asked) > self._most:
                break
            items += asked
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch, items
