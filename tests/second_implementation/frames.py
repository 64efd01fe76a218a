"""Section 6: frames, HELLO, requests and their replies, pushes, BYE. The same for both sides of both hops."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar

from . import strict_cbor
from .transport import Tls

HELLO, REQ, RES, PUSH, BYE = range(5)
FIRST_FRAME = 65_536
Body = dict[str, Any]
Answer = Callable[["Connection", str, Body], Awaitable[Body]]


class Failed(Exception):
    """A request was answered with an error (section 10.1)."""

    def __init__(self, error: str, text: str = "") -> None:
        super().__init__(error, text)
        self.error, self.text = error, text


class Ended(ConnectionError):
    """The connection ended; with the code of the BYE, if there was one."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def frame(kind: int, stream: int, method: str, body: Body) -> bytes:
    octets = strict_cbor.encode([kind, stream, method, body])
    return len(octets).to_bytes(4, "big") + octets


class Connection:
    """One connection. ``answer`` is asked what the other side requests; it raises Failed for an error. ``check`` sees
    each frame that comes, and raises ValueError for one that does not fit the schema."""

    _tasks: ClassVar[set[asyncio.Task[None]]] = set()  # the loop itself does not keep them
    check: Callable[[bytes], object] = staticmethod(lambda octets: None)

    def __init__(
        self, tls: Tls, answer: Answer | None = None, takes: int = 1 << 20, hello: bool = True, remember: int = 0
    ) -> None:  # fmt: skip
        self.tls, self._answer, self._takes = tls, answer, takes
        self.peer: Body = {}
        self.identity = ""
        self.pushes: asyncio.Queue[tuple[str, Body]] = asyncio.Queue()
        self._open: dict[int, asyncio.Future[Body]] = {}
        self._stream = 0
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        if hello:
            self.send(HELLO, 0, "", {"version": 1, "name": "second", "frame": takes, "remember": remember})
        self._reading = self._begin(self._read())

    def send(self, kind: int, stream: int, method: str, body: Body) -> None:
        self._send([frame(kind, stream, method, body)])

    def _send(self, frames: list[bytes]) -> None:
        if max(map(len, frames)) - 4 > self.peer.get("frame", FIRST_FRAME):
            self.end("too-big")
            raise Ended("too-big")
        self.tls.write(b"".join(frames))

    async def request(self, method: str, **body: Any) -> Body:
        """The reply. Raises Failed where it is an error, Ended where none can come any more."""
        (reply,) = self.begin(method, [body])
        return await reply

    def begin(self, method: str, bodies: list[Body]) -> "list[asyncio.Future[Body]]":
        """Requests of one kind, in one go."""
        if self.ended.done():
            raise Ended(self.ended.result())
        streams = range(self._stream + 1, self._stream + 1 + len(bodies))
        self._stream += len(bodies)
        replies = [asyncio.get_running_loop().create_future() for _ in bodies]
        self._open |= dict(zip(streams, replies, strict=True))
        if bodies:
            self._send([frame(REQ, stream, method, body) for stream, body in zip(streams, bodies, strict=True)])
        return replies

    async def push(self) -> tuple[str, Body]:
        return await asyncio.wait_for(self.pushes.get(), 60)

    def end(self, code: str = "", text: str = "") -> None:
        if not self.ended.done():
            self.tls.write(frame(BYE, 0, "", {"code": code, "text": text}))
            self._over(code)
            self.tls.close()
            self._reading.cancel()

    def cut(self) -> None:
        """As if the network were lost."""
        self.tls.abort()
        self._over("")
        self._reading.cancel()

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _over(self, code: str) -> None:
        if not self.ended.done():
            self.ended.set_result(code)
        for reply in self._open.values():
            if not reply.done():
                reply.set_exception(Ended(code))
                reply.exception()
        self._open.clear()

    async def _read(self) -> None:
        code = ""
        try:
            while True:
                size = int.from_bytes(await self.tls.read(4), "big")
                if size > (self._takes if self.peer else FIRST_FRAME):
                    self.end("too-big")
                    return
                octets = await self.tls.read(size)
                item = strict_cbor.decode(octets)
                self.check(octets)
                kind, stream, method, body = item
                if kind == BYE:
                    code = body["code"]
                    break
                self._take(kind, stream, method, body)
        except EOFError:
            pass
        except (ValueError, TypeError) as error:
            self.end("bad-frame", str(error))
            return
        self._over(code)
        self.tls.close()

    def _take(self, kind: int, stream: int, method: str, body: Body) -> None:
        if (kind == HELLO) == bool(self.peer):
            raise ValueError("HELLO is the first frame, and only that")
        if kind == HELLO:
            self.peer = body
            if body.get("version") != 1 or body.get("frame", 0) < 1024:
                self.end("version")
        elif kind == RES:
            if stream not in self._open:
                raise ValueError("a reply to nothing")
            reply = self._open.pop(stream)
            if reply.done():
                return
            if "error" in body:
                reply.set_exception(Failed(body["error"], body.get("text", "")))
            else:
                reply.set_result(body)
        elif kind == PUSH:
            self.pushes.put_nowait((method, body))
        elif kind == REQ and stream:
            self._begin(self._serve(stream, method, body))
        else:
            raise ValueError("no kind of frame")

    async def _serve(self, stream: int, method: str, body: Body) -> None:
        try:
            if self._answer is None:
                raise Failed("unknown-method", method)
            reply = await self._answer(self, method, body)
        except Failed as failed:
            reply = {"error": failed.error, "text": failed.text}
        except KeyError as missing:
            reply = {"error": "bad-request", "text": str(missing)}
        if not self.ended.done():
            self.send(RES, stream, method, reply)
