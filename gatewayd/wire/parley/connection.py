"""One connection, either side of it: [kind, stream, method, body], HELLO first, replies for open streams only."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

import msgspec

from gatewayd.wire.parley import LocalProtocolError, RemoteProtocolError
from gatewayd.wire.parley.frames import FrameReader, encode
from gatewayd.wire.parley.schema import Body, Hello, plain, read

HELLO, REQ, RES, PUSH, BYE = range(5)
FIRST_FRAME = 64 * 1024  # octets, until the peer's HELLO; and what is taken of a stranger
MAX_FRAME = 2 * 1024 * 1024  # octets that a listener announces: an object without its blobs, or a few chunks
MAX_REPLY = 64 * 1024 * 1024  # octets that a dialler announces: all that one change of its log may have moved
FRAME = [int, int, str, dict]
STREAMS = range(1, 2**32)
NO_STREAM = range(1)
MAX_OPEN = 1000  # requests without a reply, in each direction


class Request(msgspec.Struct, frozen=True):
    stream: int
    method: str
    body: Any


class Response(msgspec.Struct, frozen=True):
    stream: int
    method: str
    body: Any


class Push(msgspec.Struct, frozen=True):
    method: str
    body: Any


class Bye(msgspec.Struct, frozen=True):
    code: str
    text: str


class State(Enum):
    HELLO = auto()
    OPEN = auto()
    OVER = auto()


Event = Hello | Request | Response | Push | Bye

# What each state takes from the peer.
ALLOWED = {State.HELLO: {HELLO, BYE}, State.OPEN: {REQ, RES, PUSH, BYE}, State.OVER: set[int]()}


class ParleyConnection:
    """`receive` raises RemoteProtocolError; after it, or after a Bye, nothing more is read. `receive(b"")` raises what
    was wrong behind the last events."""

    __slots__ = ("_asked", "_failed", "_next_stream", "_ours", "_owed", "_peer_frame", "_reader", "_theirs")

    def __init__(self) -> None:
        self._reader = FrameReader(FIRST_FRAME)
        self._theirs = State.HELLO
        self._ours = State.HELLO
        self._peer_frame = FIRST_FRAME
        self._next_stream = 1
        self._asked: dict[int, str] = {}  # our requests that wait for a reply
        self._owed: dict[int, str] = {}  # theirs
        self._failed: RemoteProtocolError | None = None  # to be raised when the events before it have been handled

    def trust(self, largest: int = MAX_FRAME) -> None:
        """The peer has signed in: frames of so many octets are taken, as was announced."""
        self._reader.limit = largest

    @property
    def peer_frame(self) -> int:
        """Octets of the largest frame that the peer takes."""
        return self._peer_frame

    def new_stream(self) -> int:
        self._next_stream += 1
        return self._next_stream - 1

    def receive(self, data: bytes) -> list[Event]:
        if self._failed is not None:
            raise self._failed
        events: list[Event] = []
        if self._theirs is State.OVER:
            return events
        try:
            for item in self._reader.feed(data):
                event = self._event(item)
                events.append(event)
                if isinstance(event, Bye):
                    break
        except RemoteProtocolError as error:
            if not events:
                raise
            self._failed = error  # what came before it counts
        return events

    def send(self, event: Event) -> bytes:
        if self._ours is State.OVER:
            raise LocalProtocolError("BYE was said")
        match event:
            case Bye(code, text):
                self._ours = State.OVER
                self._reader = FrameReader(self._reader.limit)  # what had begun to come is not read any more
                return encode([BYE, 0, "", {"code": code, "text": text}], self._peer_frame)
            case Hello():
                if self._ours is not State.HELLO:
                    raise LocalProtocolError("HELLO comes once")
                self._ours = State.OPEN
                return encode([HELLO, 0, "", plain(event)], self._peer_frame)
        if self._ours is not State.OPEN:
            raise LocalProtocolError("HELLO comes first")
        match event:
            case Request(stream, method, body):
                octets = self._frame(REQ, stream, method, body)
                self._asked[stream] = method
                return octets
            case Response(stream, method, body):
                if stream not in self._owed:
                    raise LocalProtocolError("no such request")
                octets = self._frame(RES, stream, method, body)
                del self._owed[stream]
                return octets
            case Push(method, body):
                return self._frame(PUSH, 0, method, body)
        raise LocalProtocolError("no such event")

    def tls_started(self) -> None:
        raise LocalProtocolError("Parley has no STARTTLS")

    def _frame(self, kind: int, stream: int, method: str, body: Any) -> bytes:
        return encode([kind, stream, method, plain(body) if isinstance(body, Body) else body], self._peer_frame)

    def _event(self, item: Any) -> Event:
        if type(item) is not list or [*map(type, item)] != FRAME:
            raise RemoteProtocolError("bad-frame", "a frame is [kind, stream, method, body]")
        kind, stream, method, body = item
        if kind not in ALLOWED[self._theirs]:
            raise RemoteProtocolError("bad-frame", f"kind {kind} is not allowed now")
        if stream not in (STREAMS if kind in (REQ, RES) else NO_STREAM):
            raise RemoteProtocolError("bad-frame", "a stream that this kind does not have")
        if method and kind in (HELLO, BYE):
            raise RemoteProtocolError("bad-frame", "a method where none is")
        if kind == HELLO:
            hello = read(Hello, body)
            if hello.version != 1 or hello.frame < 1024:
                raise RemoteProtocolError("version", "only Parley/1, with frames of 1024 octets or more")
            self._theirs = State.OPEN
            self._peer_frame = min(hello.frame, MAX_REPLY)
            return hello
        if kind == BYE:
            self._theirs = State.OVER
            return Bye(str(body.get("code", ""))[:64], str(body.get("text", ""))[:1000])
        if kind == RES:
            if self._asked.pop(stream, None) != method:
                raise RemoteProtocolError("bad-frame", "a reply to nothing")
            return Response(stream, method, body)
        if kind == PUSH:
            return Push(method, body)
        if stream in self._owed or len(self._owed) >= MAX_OPEN:
            raise RemoteProtocolError("bad-frame", "the stream is in use, or too many are")
        self._owed[stream] = method
        return Request(stream, method, body)
