"""The bot of docs/bot.py runs, over a restart of the gateway too, and answers each message once."""

from __future__ import annotations

import functools
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatewayd.client import ConnectionGone, connect, patience
from gatewayd.crypto.certificates import make_authority
from tests.house import ALICE, ALPHA, BOB, PASSWORD, House, wait_until
from tests.test_client import here, inbox, sign_in

BOT = Path(__file__).parent.parent / "docs" / "bot.py"


@pytest.fixture
def alpha(reactor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr(patience, "FIRST_WAIT", 0.05)
    made = House(reactor, tmp_path / "alpha", ALPHA, (ALICE, BOB), {}, make_authority("Test authority"))
    yield made
    made.stop()


def test_the_bot(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_USER", str(BOB))
    monkeypatch.setenv("PARLEY_PASSWORD", PASSWORD)
    made: list[Any] = []

    async def connecting(*arguments: Any, **how: Any) -> Any:
        made.append(await connect(*arguments, server=here(alpha), authorities=alpha.authorities, **how))
        return made[-1]

    bot = runpy.run_path(str(BOT))
    main = functools.partial(bot["main"], alpha.reactor)
    main.func.__globals__["connect"] = connecting
    alpha.wait(sign_in(alpha, ALICE).send([str(BOB)], "before it came"))
    alpha.call(lambda: alpha.spawn(main()))

    def answers() -> list[str]:
        return [message.text for message in inbox(alpha, sign_in(alpha, ALICE))]

    def until(count: int) -> None:
        async def run() -> None:
            async for _ in _counted(watching.messages(live=True), count):
                pass

        watching = sign_in(alpha, ALICE)
        alpha.wait(run())
        alpha.call(watching.close)

    until(1)
    alpha.hush()
    wait_until(alpha, lambda: not made[0].is_online)
    alpha.listen()
    alpha.wait(sign_in(alpha, ALICE).send([str(BOB)], "while it was away"))
    made[0]._where = (here(alpha), *made[0]._where[1:])
    until(2)
    assert answers() == ["You said: before it came", "You said: while it was away"]
    alpha.begun.addErrback(lambda failure: failure.trap(ConnectionGone))
    alpha.call(made[0].close)


async def _counted(messages: Any, count: int) -> Any:
    async for message in messages:
        yield message
        count -= 1
        if not count:
            return
