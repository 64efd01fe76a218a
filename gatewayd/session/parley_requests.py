"""What this side of a connection asked, and who waits for the answers. Either side may ask (docs/parley.rst §6)."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from gatewayd.session.link import Link
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


class Requests:
    """`patience`: seconds without any word from the other side while an answer is owed, after which the session is
    told that it timed out; `otherwise` when none is."""

    def __init__(self, engine: ParleyConnection, patience: float, otherwise: float | None) -> None:
        self._engine = engine
        self._patience = patience
        self._otherwise = otherwise
        self._waiting: dict[int, Deferred[Any]] = {}
        self.gone: Exception | None = None

    @property
    def idle(self) -> bool:
        return not self._waiting

    async def ask(self, link: Link, method: str, body: Body) -> dict[str, Any]:
        """The reply's body. Raises RequestFailed, ConnectionGone."""
        if self.gone is not None:
            raise self.gone
        stream = self._engine.new_stream()
        link.send(Request(stream, method, plain(body)))
        waiter: Deferred[Any] = Deferred()
        self._waiting[stream] = waiter
        link.set_timeout(self._patience)
        reply: dict[str, Any] = await waiter
        if "error" in reply:
            raise RequestFailed(str(reply["error"]), str(reply.get("text", "")))
        return reply

    def answered(self, link: Link, response: Response) -> None:
        waiter = self._waiting.pop(response.stream)
        if not self._waiting:
            link.set_timeout(self._otherwise)
        waiter.callback(response.body)

    def lost(self, error: Exception) -> None:
        """No more answers will come."""
        if self.gone is not None:
            return
        self.gone = error
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting.values():
            waiter.errback(error)
