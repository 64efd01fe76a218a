"""The one Twisted protocol: it joins a wire engine and a session, whatever they speak.

Bytes in -> engine.receive() -> events, handled by the session one at a time while the transport is paused; events
out -> engine.send() -> one write for each turn. The session sees this object as its `session.link.Link`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet import defer, interfaces
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from gatewayd.errors import StoreError
from gatewayd.net.limits import Place
from gatewayd.net.quiet import Quiet, renew_buffers
from gatewayd.net.tls import tls_info
from gatewayd.net.turn import Turn
from gatewayd.session.link import Engine, Session, TLSInfo

ENOUGH = 4096  # octets that count as a sign of life though they complete nothing
AT_ONCE = 64 * 1024  # octets that one turn gathers before they are written
PIECE = 1024 * 1024  # octets that the transport is given: who has read so many gives a sign of life


_OVER: Any = (None, None)


@implementer(interfaces.IHandshakeListener, interfaces.IPushProducer)
class LinkProtocol(Protocol):
    """One connection. `ready`, if given, fires once the session is open, or fails with why it never was."""

    __slots__ = (  # a connection that idles is mostly memory
        "_clock", "_closing", "_deadline", "_ended", "_events", "_flushes", "_gone", "_handling", "_heard",
        "_implicit_tls", "_opened", "_out", "_paused", "_place", "_quiet", "_readers", "_ready", "_reason", "_starttls",
        "_tasks", "_timeout", "_timer", "_trickled", "_turn", "_unfinished", "_unsent", "_upgrading", "_when_gone",
        "_working", "engine", "full", "peer_address", "session", "tls",
    )  # fmt: skip

    reads_on = False  # while the other side does not read: only where what comes was asked for

    log = Logger()
    faults: Sequence[int] | None = None  # a list that the handshake fills: the session judges the certificate

    def __init__(
        self,
        engine: Engine,
        session: Session,
        clock: IReactorTime,
        *,
        implicit_tls: bool,
        starttls: Any = None,
        ready: defer.Deferred[None] | None = None,
        place: Place | None = None,
        turn: Turn | None = None,
        quiet: Quiet | None = None,
    ) -> None:
        self.engine = engine
        self.session = session
        self.peer_address = ""
        self.tls: TLSInfo | None = None
        self._clock = clock
        self._turn = turn or Turn(clock)
        self._quiet = quiet  # of those that idle; None for one that we dialled
        self._implicit_tls = implicit_tls
        self._starttls = starttls  # the TLS options for start_tls()
        self._ready = ready
        self._place = place  # among all connections of the service; None for one that we dialled
        if place is not None:
            place.end = self.overloaded
        self._unfinished = 0  # octets since the last event
        self._opened = False
        self._gone = False
        self._ended = False
        self._reason: Exception | None = None
        self._when_gone: list[Callable[[Exception | None], None]] = []
        self._closing = False
        self._handling = False
        self._working = False  # on what has come in: what is sent meanwhile leaves at its end
        self._upgrading = False
        self._events: list[Any] = []
        self._out: list[bytes | memoryview] = []
        self._unsent = 0  # octets in it
        self._paused = False  # not reading
        self._flushes = False  # when the turn ends
        self.full = False  # the transport has more to write than it likes
        self._readers: list[defer.Deferred[None]] = []  # who waits until it has not
        self._trickled = 0  # octets since the last sign of life
        self._heard = 0.0  # when the other side gave its last sign of life
        self._timeout: float | None = None
        self._timer: IDelayedCall | None = None
        self._deadline: IDelayedCall | None = None
        self._tasks = 0  # that are spawned and not over

    # -- Twisted's side ---------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.peer_address = getattr(self.transport.getPeer(), "host", "")
        with contextlib.suppress(AttributeError):  # not TCP
            cast(Any, self.transport).setTcpNoDelay(True)  # each turn is one write already (RFC 896 would delay it)
        cast(Any, self.transport).registerProducer(self, True)
        if self._implicit_tls:
            self.set_timeout(30.0)  # a handshake that never ends
        else:
            self._open()

    def handshakeCompleted(self) -> None:
        try:
            self.tls = tls_info(cast(Any, self.transport).getHandle(), self.faults)
        except SSL.Error:
            self.abort()
            return
        if self._upgrading:
            self._upgrading = False
            self.guard(self.session.tls_started)
        elif not self._opened:
            self.set_timeout(None)
            self._open()

    def dataReceived(self, data: bytes) -> None:
        if self._closing or self._gone or (self._upgrading and self.tls is None):
            return
        self._trickled += len(data)
        self._receive(data)
        self._work()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._gone = True
        self._events.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.set_deadline(None)
        if self._quiet is not None:
            self._quiet.left(self)
        self._reason = reason.value if isinstance(reason.value, Exception) else None
        if self._ready is not None:
            ready, self._ready = self._ready, None
            ready.errback(ConnectionError(str(self._reason) or type(self._reason).__name__))
        self.resumeProducing()
        for hear in self._when_gone:
            self.guard(partial(hear, self._reason))
        self._end()

    # -- Twisted's side: the transport's buffer is full, or has room again --------------------------------------------

    def pauseProducing(self) -> None:
        self.full = True

    def resumeProducing(self) -> None:
        self.full = False
        if not self._gone and getattr(getattr(self.transport, "transport", None), "disconnecting", False):
            # the other side ended TLS while we had more to write than it liked: Twisted waits for yet more of us
            cast(Any, self.transport).unregisterProducer()
        self._heard = self._clock.seconds()
        self._flush()
        if self.full:
            return
        waiting, self._readers = self._readers, []
        for reader in waiting:
            reader.callback(None)

    def stopProducing(self) -> None:
        """The connection is gone: connectionLost follows."""

    def trim(self) -> None:
        if self.tls is not None and not self._gone:
            renew_buffers(cast(Any, self.transport).getHandle())

    # -- the session's side: Link -----------------------------------------------------------------------------------

    def send(self, event: Any) -> None:
        if self._gone:
            return
        octets = self.engine.send(event)
        self._out.append(octets)
        self._unsent += len(octets)
        if not self._flushes and not self._working:
            self._flushes = True
            self._turn.at_end(self._flush)

    async def drained(self) -> None:
        if self._unsent > AT_ONCE:
            self._flush()
        if self.full and not self._gone:
            reader: defer.Deferred[None] = defer.Deferred()
            self._readers.append(reader)
            await reader
        if self._gone:
            raise ConnectionError("the other side is gone")

    def start_tls(self) -> None:
        assert self.transport is not None
        self._flush(whole=True)
        self._events.clear()  # commands sent ahead of the handshake are never executed (RFC 3207 §6)
        self._upgrading = True
        self.engine.tls_started()
        cast(Any, self.transport).startTLS(self._starttls)
        self._lives()

    def close(self) -> None:
        if not self._gone:
            self._closing = True
            self._flush(whole=True)
            assert self.transport is not None
            cast(Any, self.transport).unregisterProducer()  # else it would wait for us
            self.transport.loseConnection()
            # a peer that never reads its goodbye is not waited for
            self._clock.callLater(10.0, lambda: None if self._gone else self.abort())

    def abort(self) -> None:
        self._closing = True
        if not self._gone and self.transport is not None:
            cast(Any, self.transport).abortConnection()

    def overloaded(self, why: str) -> None:
        """The service cannot keep this connection, nor what it has sent."""
        self.log.warn("{peer} is sent away: {why}", peer=self.peer_address, why=why)
        if self._opened and not self._gone:
            self.guard(lambda: self.session.failed(why))
            self.close()
            self._clock.callLater(1.0, self.abort)
        else:
            self.abort()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = defer.Deferred.fromCoroutine(work)
        if task.called:
            task.addErrback(self._unexpected)
            return
        self._tasks += 1

        def done(result: Any) -> Any:
            self._tasks -= 1
            return result

        task.addBoth(done)
        task.addErrback(self._unexpected)
        task.addBoth(lambda _: self._end())

    def guessed(self) -> None:
        if self._place is not None:
            self._place.guessed()

    def when_gone(self, call: Callable[[Exception | None], None]) -> None:
        self._when_gone.append(call)

    def set_timeout(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timeout = seconds
        self._lives()

    def set_deadline(self, seconds: float | None) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None
        if seconds is not None and not self._gone:
            self._deadline = self._clock.callLater(seconds, self._too_late)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._opened = True
        if self._place is not None:
            self._place.opened()
        self.guard(lambda: self.session.opened(self))
        self._flush()
        if self._ready is not None:
            ready, self._ready = self._ready, None
            ready.callback(None)

    def _receive(self, data: bytes) -> None:
        try:
            events = self.engine.receive(data)
        except Exception as error:
            self._receive_failed(error)
            return
        if events or self._trickled >= ENOUGH:  # else it trickles, which is as good as silence
            self._trickled = 0
            self._lives()
        self._events.extend(events)
        self._unfinished = 0 if events else self._unfinished + len(data)
        if self._place is not None:
            kept = getattr(self.engine, "held", 0)  # by an engine whose events complete parts of something
            self._place.holds(self._unfinished + kept)

    def _work(self) -> None:
        """Hand the waiting events to the session; stop reading once more comes while it waits for something."""
        if self._handling:
            self._pause()
            return
        self._handling = self._working = True
        defer.Deferred.fromCoroutine(self._handle_all())
        self._working = False
        self._flush()

    async def _handle_all(self) -> None:
        try:
            while self._events and not self._gone and not self._closing:
                await self.session.handle(self._events.pop(0))
                if not self.reads_on:
                    await self.drained()  # who does not read the answers is asked for no more questions
                if not self._events and not self._upgrading:
                    self._receive(b"")  # what an engine held back until its last event was answered
        except Exception:
            self._unexpected(Failure())
        self._handling = False
        self._end()
        if self._paused and not self._gone and not self._closing and self.transport is not None:
            self._paused = False
            cast(Any, self.transport).resumeProducing()

    def _pause(self) -> None:
        if self.transport is not None and not self._gone:
            self._paused = True
            cast(Any, self.transport).pauseProducing()

    def _flush(self, *, whole: bool = False) -> None:
        """As much as the transport likes, or the whole."""
        self._flushes = False
        while self._out and not self._gone and self.transport is not None and (whole or not self.full):
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out = [] if len(data) <= PIECE else [memoryview(data)[PIECE:]]
            self._unsent = max(0, len(data) - PIECE)
            self.transport.write(bytes(data[:PIECE]))
            if self._quiet is not None:
                self._quiet.spoke(self)

    def _end(self) -> None:
        """Once the connection is gone, and what had begun is done to its end: nobody is left half told, and a place is
        free when the work for it is over."""
        if not self._gone or self._handling or self._tasks or self._ended:
            return
        self._ended = True
        if self._opened:
            self.guard(lambda: self.session.closed(self._reason))
        if self._place is not None:
            self._place.leave()
        self.session, self.engine = _OVER  # the three hold each other, and what has come: not until the next collection

    def _lives(self) -> None:
        """The timer runs on, and sees when it ends: setting it back for each message costs more than that."""
        self._heard = self._clock.seconds()
        if self._timer is None and self._timeout is not None and not self._gone:
            self._timer = self._clock.callLater(self._timeout, self._timed_out)

    def _timed_out(self) -> None:
        self._timer = None
        left = self._heard + (self._timeout or 0.0) - self._clock.seconds()
        if left > 0:
            self._timer = self._clock.callLater(left, self._timed_out)
            return
        if self._opened and not self._upgrading:
            self._too_late()
        else:
            self.abort()

    def _too_late(self) -> None:
        self.guard(self.session.timed_out)
        self._flush()

    def _receive_failed(self, error: Exception) -> None:
        """A protocol error is the peer's and gets the session's goodbye; anything else is ours, and is logged."""
        if type(error).__name__ == "RemoteProtocolError":
            self.log.info("{peer}: {error}", peer=self.peer_address, error=error)
            self.guard(lambda: self.session.protocol_error(error))
            self.close()
        else:
            self._unexpected(Failure(error))

    def _unexpected(self, failure: Failure) -> None:
        if self._gone and failure.check(ConnectionError):
            return
        why = "internal error"
        if failure.check(StoreError):
            why = "the store is not available now"
            self.log.error("the session with {peer} ends: {error}", peer=self.peer_address, error=failure.value)
        else:
            text = "unexpected error; closing the session with {peer}"
            self.log.failure(text, failure=failure, peer=self.peer_address)
        if self._opened and not self._gone:
            try:
                self.session.failed(why)
            except Exception:
                self.log.failure("the session could not say goodbye to {peer}", peer=self.peer_address)
        self.close()

    def guard(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:
            self._unexpected(Failure())
