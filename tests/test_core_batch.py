"""What waits is worked on together; each gets its own answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from gatewayd.core.batch import Batched, Gathered


class Thread:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, tuple[Any, ...], Deferred[Any]]] = []

    def __call__(self, function: Any, *arguments: Any) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.calls.append((function, arguments, answer))
        return answer

    def work(self) -> None:
        function, arguments, answer = self.calls.pop(0)
        try:
            answer.callback(function(*arguments))
        except Exception:
            answer.errback()


class Batches:
    def __init__(self, most: int = 10, few: int = 0) -> None:
        self.clock, self.thread = Clock(), Thread()
        self.seen: list[list[int]] = []
        self.batched = Batched(self.half, most, self.clock, self.thread, few)
        self.answers: list[Any] = []

    def half(self, items: Sequence[int]) -> list[int | Exception]:
        self.seen.append(list(items))
        if 13 in items:
            raise RuntimeError("13")
        return [ValueError(item) if item % 2 else item // 2 for item in items]

    def ask(self, *items: int) -> list[Deferred[Sequence[int | Exception]]]:
        asked = [Deferred.fromCoroutine(self.batched([item])) for item in items]
        for answer in asked:
            answer.addBoth(self.answered)
        return asked

    def answered(self, answer: Any) -> None:
        value = answer.value if isinstance(answer, Failure) else answer[0]
        self.answers.append(type(value) if isinstance(value, Exception) else value)


def test_few_need_no_thread() -> None:
    batches = Batches(few=2)
    batches.ask(2, 13)
    batches.clock.advance(0)
    assert batches.answers == [RuntimeError, RuntimeError]
    batches.ask(2, 4, 6)
    batches.clock.advance(0)
    assert len(batches.thread.calls) == 1


def test_one_turn_is_one_batch_and_what_comes_meanwhile_the_next() -> None:
    batches = Batches()
    batches.ask(2, 3)
    batches.ask(4)
    assert not batches.thread.calls
    batches.clock.advance(0)
    batches.ask(6)
    batches.clock.advance(0)
    batches.ask(8)
    batches.thread.work()
    assert batches.answers == [1, ValueError, 2]
    batches.thread.work()
    assert batches.answers == [1, ValueError, 2, 3, 4]
    assert batches.seen == [[2, 3, 4], [6, 8]]
    batches.ask(10)
    batches.clock.advance(0)
    batches.thread.work()
    assert batches.answers[-1] == 5 and not batches.thread.calls


def test_a_batch_has_a_limit() -> None:
    batches = Batches(most=2)
    batches.ask(2, 4, 6)
    batches.clock.advance(0)
    batches.thread.work()
    batches.thread.work()
    assert batches.seen == [[2, 4], [6]] and batches.answers == [1, 2, 3]


def test_one_who_asks_for_many_has_them_in_order() -> None:
    batches = Batches(most=3)
    answers: list[Any] = []
    for items in ([2, 3], [4, 6, 8, 10], [12]):
        Deferred.fromCoroutine(batches.batched(items)).addCallback(answers.append)
    batches.clock.advance(0)
    for _ in range(3):
        batches.thread.work()
    assert batches.seen == [[2, 3], [4, 6, 8, 10], [12]]  # what one asks for is not cut
    (half, error), *others = answers
    assert half == 1 and isinstance(error, ValueError) and others == [[2, 3, 4, 5], [6]]


def test_a_fault_of_the_work_reaches_all_who_wait_and_no_others() -> None:
    batches = Batches()
    batches.ask(2, 13)
    batches.clock.advance(0)
    batches.thread.work()
    assert batches.answers == [RuntimeError, RuntimeError]
    batches.ask(2)
    batches.clock.advance(0)
    batches.thread.work()
    assert batches.answers[-1] == 1


def test_one_who_goes_away_takes_nothing_from_the_others() -> None:
    batches = Batches()
    first, _ = batches.ask(2, 4)
    batches.clock.advance(0)
    first.cancel()
    batches.thread.work()
    assert batches.answers == [CancelledError, 2]


# -- without a thread -----------------------------------------------------------------------------------------------


class Turns:
    def __init__(self) -> None:
        self.clock = Clock()
        self.seen: list[list[int]] = []
        self.waiting: list[Deferred[None]] = []
        self.gathered = Gathered(self.half, self.clock, lambda item: item >= 100, most=4)
        self.answers: list[Any] = []

    async def half(self, items: Sequence[int]) -> list[int]:
        self.seen.append(list(items))
        self.waiting.append(Deferred())
        await self.waiting[-1]
        if 13 in items:
            raise RuntimeError("13")
        return [item // 2 for item in items]

    def ask(self, *items: int) -> None:
        for item in items:
            self.gathered(item, self.answered)

    def answered(self, answer: int | Exception) -> None:
        if answer == 3:
            raise KeyError("who asked is at fault")
        self.answers.append(type(answer) if isinstance(answer, Exception) else answer)


def test_turns_do_not_wait_for_each_other() -> None:
    turns = Turns()
    turns.ask(2, 4)
    turns.ask(8)
    turns.clock.advance(0)
    turns.ask(10)
    turns.clock.advance(0)
    assert turns.seen == [[2, 4, 8], [10]]
    for waiting in reversed(turns.waiting):
        waiting.callback(None)
    assert turns.answers == [5, 1, 2, 4]


def test_who_had_rather_wait_gets_what_came_of_it() -> None:
    turns = Turns()
    asked = [Deferred.fromCoroutine(turns.gathered.ask(item)) for item in (2, 13)]
    for each in asked:
        each.addBoth(lambda said: turns.answers.append(said.type if isinstance(said, Failure) else said))
    turns.clock.advance(0)
    while turns.waiting:
        turns.waiting.pop(0).callback(None)
    assert turns.answers == [1, RuntimeError]


def test_a_large_turn_goes_on_in_pieces_while_it_lasts() -> None:
    turns = Turns()
    turns.ask(2, 4, 6, 8, 10)
    assert turns.seen == [[2, 4, 6, 8]]
    turns.ask(12)
    turns.clock.advance(0)
    assert turns.seen == [[2, 4, 6, 8], [10, 12]]
    turns.clock.advance(0)
    turns.ask(14)
    turns.clock.advance(0)
    assert turns.seen[2:] == [[14]]


def test_nobody_waits_for_what_takes_long() -> None:
    turns = Turns()
    turns.ask(2, 100, 4)
    assert turns.seen == [[100]]
    turns.clock.advance(0)
    assert turns.seen == [[100], [2, 4]]
    turns.waiting[1].callback(None)
    assert turns.answers == [1, 2]
    turns.waiting[0].callback(None)
    assert turns.answers == [1, 2, 50]


def test_where_the_work_fails_each_is_done_again_alone() -> None:
    turns = Turns()
    turns.ask(2, 13, 4)
    turns.clock.advance(0)
    for _ in range(4):
        turns.waiting[-1].callback(None)
    assert turns.seen == [[2, 13, 4], [2], [13], [4]]
    assert turns.answers == [1, RuntimeError, 2]


def test_who_cannot_take_an_answer_keeps_nobody_from_theirs() -> None:
    turns = Turns()
    turns.ask(6, 8)
    turns.clock.advance(0)
    with capturedLogs() as logged:
        turns.waiting[0].callback(None)
    assert turns.answers == [4]
    assert [event["log_format"] for event in logged] == ["an answer could not be given"]
