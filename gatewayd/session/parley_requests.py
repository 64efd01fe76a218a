"""What this side of a connection asked, and who waits for the answers. Either side may ask (docs/parley.rst §6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from gatewayd.session.link import Link
from gatewayd.wire.parley import LocalProtocolError
from gatewayd.wire.parley.connection import ParleyConnection, Request, Response
from gatewayd.wire.parley.schema import Body, plain


class ConnectionGone(ConnectionError):
    """The connection ended before the answer came; whether it was done is not known: repeat it."""


class RequestFailed(Exception):
    """The other side answered with an error; `error` is the registry's name."""

    def __init__(self, error: str, text: str) -> None:
        super().__init__(f"{error}: {text}")
        self.error = error
        self.text = text


Answer = dict[str, Any] | Exception  # the reply's body; RequestFailed, ConnectionGone, LocalProtocolError


class Requests:
    """`patience`: seconds without any word from the other side while an answer is owed, after which the session is
    told that it timed out; `otherwise` when none is."""

    __slots__ = ("_engine", "_otherwise", "_patience", "_waiting", "gone")

    def __init__(self, engine: ParleyConnection, patience: float, otherwise: float | None) -> None:
        self._engine = engine
        self._patience = patience
        self._otherwise = otherwise
        self._waiting: dict[int, Callable[[Answer], None]] = {}
        self.gone: Exception | None = None

    @property
    def idle(self) -> bool:
        return not self._waiting

    async def ask(self, link: Link, method: str, body: Body) -> dict[str, Any]:
        """The reply's body. Raises RequestFailed, ConnectionGone, LocalProtocolError."""
        (answer,) = await self.ask_all(link, method, [body])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ask_all(self, link: Link, method: str, bodies: Sequence[Body]) -> list[Answer]:
        """All are sent before the first answer is waited for."""
        answers: dict[int, Answer] = {}
        complete: Deferred[None] = Deferred()

        def note(at: int, answer: Answer) -> None:
            answers[at] = answer
            if len(answers) == len(bodies):
                complete.callback(None)

        for at, body in enumerate(bodies):
            try:
                if link.full:
                    await link.drained()
                if self.gone is not None:
                    raise self.gone
                stream = self._engine.new_stream()
                link.send(Request(stream, method, plain(body)))
            except (LocalProtocolError, ConnectionError) as error:
                note(at, error)
                continue
            self._waiting[stream] = partial(note, at)
            link.set_timeout(self._patience)
        if bodies:
            await complete
        return [answers[at] for at in range(len(bodies))]

    def answered(self, link: Link, response: Response) -> None:
        note = self._waiting.pop(response.stream)
        if not self._waiting:
            link.set_timeout(self._otherwise)
        reply = response.body
        failed = "error" in reply
        note(RequestFailed(str(reply["error"]), str(reply.get("text", ""))) if failed else reply)

    def lost(self, error: Exception) -> None:
        """No more answers will come."""
        if self.gone is not None:
            return
        self.gone = error
        waiting, self._waiting = self._waiting, {}
        for note in waiting.values():
            note(error)
