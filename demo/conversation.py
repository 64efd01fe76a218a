"""Two who know each other, at two domains: receipts, a reaction, an edit, and who is typing."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator

from twisted.internet.task import deferLater

from demo.clients import TIMEOUT, Lost, ParleyProgram
from gatewayd.client import Message, ParleyClient
from gatewayd.wire.parley.schema import Signalled

STATUSES = {"stored", "delivered", "displayed"}


def converse(here: ParleyProgram, there: ParleyProgram) -> Iterator[tuple[str, float]]:
    """What was done, and the milliseconds until the other one had it. Raises Lost."""
    done: list[tuple[str, float]] = []
    here.reactor.wait(_converse(here, there, lambda what, spent: done.append((what, spent))), 4 * TIMEOUT)
    yield from done


async def _converse(here: ParleyProgram, there: ParleyProgram, tell: Callable[[str, float], None]) -> None:
    heard: list[Signalled] = []
    async with await here.connect() as near, await there.connect() as far:
        far.on_signal = heard.append
        near_tail, far_tail = await _tail(near), await _tail(far)
        begin = time.perf_counter()
        await near.send([far.user], "Shall we meat?", subject="Dinner", receipts=sorted(STATUSES))
        got = await _until(far_tail, lambda m: m.subject == "Dinner" and m.type == "message")
        await far.mark(got.mailbox, [got.uid], displayed=True)
        waiting = set(STATUSES)
        while waiting:
            receipt = (await _until(near_tail, lambda m: m.type == "receipt")).receipts[0]
            if receipt is None or not receipt.signed or receipt.by != far.user or receipt.of != got.id:
                raise Lost(f"a receipt that says {receipt}")
            waiting.discard(receipt.status)
        tell("receipts", _since(begin))

        begin = time.perf_counter()
        await far.react(got, "\N{THUMBS UP SIGN}")
        reaction = await _until(near_tail, lambda m: m.type == "reaction")
        if (reaction.reaction, reaction.content.fields.parents) != ("\N{THUMBS UP SIGN}", (got.id,)):
            raise Lost(f"a reaction that says {reaction.reaction!r}")
        tell("reaction", _since(begin))

        begin = time.perf_counter()
        await near.edit(got, "Shall we meet?", subject="Dinner")
        edit = await _until(far_tail, lambda m: m.type == "edit")
        if not edit.replaces(got) or edit.text != "Shall we meet?":
            raise Lost(f"an edit that says {edit.text!r}")
        tell("edit", _since(begin))

        begin = time.perf_counter()
        await near.signal([far.user], "typing", "composing", lease=10, about=got.id)
        while not heard:
            if _since(begin) > TIMEOUT * 1000:
                raise Lost("nobody heard the typing")
            await deferLater(here.reactor.reactor, 0.001)
        tell("typing", _since(begin))


async def _tail(client: ParleyClient) -> AsyncIterator[Message]:
    """What comes from now on."""
    since = 0
    async for page in client.changes():
        since = page.modseq
    changes = client.changes(since, live=True)
    await anext(changes)  # the tail is on

    async def messages() -> AsyncIterator[Message]:
        async for page in changes:
            for change in page.changes:
                if change.signed:
                    yield Message.of(change)

    return messages()


async def _until(tail: AsyncIterator[Message], wanted: Callable[[Message], bool]) -> Message:
    async for message in tail:
        if wanted(message):
            return message
    raise Lost("the log ended")


def _since(begin: float) -> float:
    return (time.perf_counter() - begin) * 1000
