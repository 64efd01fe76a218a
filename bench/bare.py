"""The bare path of a message (DESIGN §6), as a yardstick: what this machine can do where nothing is looked at.

TLS by Twisted, a frame of CBOR converted and hashed, one signature a turn, one row in SQLite (synchronous=FULL) by a
thread that commits whatever waits, then the acknowledgement and the push. No accounts, addresses, consent, quota,
repeats, Sent, log, story or limits; whoever says their name is signed in. Between this and the gateway
is all that the gateway does.

`python -m bench.bare DIRECTORY` with certificate.pem and key.pem in the directory.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

import cbor2
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet import reactor as _reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory

from bench.servers import Server, server
from gatewayd.message.model import Payload
from gatewayd.net.tls import ServerConnections, server_context
from gatewayd.wire.parley.connection import MAX_FRAME, PUSH, RES
from gatewayd.wire.parley.frames import encode
from gatewayd.wire.parley.schema import Send

ADDRESS, DOMAIN = ("127.0.0.34", 5224), "bare.test"
reactor: Any = _reactor


class Message(NamedTuple):
    sender: Connection
    stream: int
    id: bytes
    send: Send
    signature: list[bytes]  # the turn's


class Post:
    """Who is there, what waits, and the thread that keeps it."""

    def __init__(self, root: Path) -> None:
        self.here: dict[str, Connection] = {}
        self._root = root
        self._key = Ed25519PrivateKey.generate()
        self._turn: list[Message] = []
        self._signature: list[bytes] = []
        self._waiting: SimpleQueue[list[Message]] = SimpleQueue()
        Thread(target=self._keep, daemon=True).start()

    def accept(self, sender: Connection, stream: int, send: Send) -> None:
        payload = msgspec.convert(cbor2.loads(send.payload), Payload, builtin_types=(bytes,))
        if [part.hash for part in payload.parts] != [sha256(body).digest() for body in send.bodies]:
            raise ValueError("a body is not the one that was announced")
        if not self._turn:
            self._signature = []
            reactor.callLater(0, self._sign)
        self._turn.append(Message(sender, stream, sha256(send.payload).digest(), send, self._signature))

    def _sign(self) -> None:
        turn, self._turn = self._turn, []
        self._signature.append(self._key.sign(b"".join([message.id for message in turn])))
        self._waiting.put(turn)

    def _keep(self) -> None:
        database = sqlite3.connect(self._root / "bare.sqlite", isolation_level=None)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE message (id BLOB, recipient TEXT, payload BLOB, body BLOB, signature BLOB)")
        while True:
            batch = self._waiting.get()
            while not self._waiting.empty():
                batch += self._waiting.get()
            rows = [(m.id, m.send.to[0], m.send.payload, m.send.bodies[0], m.signature[0]) for m in batch]
            database.execute("BEGIN")
            database.executemany("INSERT INTO message VALUES (?,?,?,?,?)", rows)
            database.execute("COMMIT")
            reactor.callFromThread(self._kept, batch)

    def _kept(self, batch: Sequence[Message]) -> None:
        written: dict[Connection, list[bytes]] = {}
        for message in batch:
            (to,) = message.send.to
            result = {"to": to, "code": "2.0.0", "text": "Delivered"}
            reply = encode([RES, message.stream, "send", {"results": [result]}], MAX_FRAME)
            written.setdefault(message.sender, []).append(reply)
            signed = cbor2.dumps([b"", {}, message.send.payload, message.signature[0]])
            push = encode([PUSH, 0, "changes", {"signed": signed, "bodies": message.send.bodies}], MAX_FRAME)
            written.setdefault(self.here[to], []).append(push)
        for connection, frames in written.items():
            connection.transport.write(b"".join(frames))


class Connection(Protocol):
    transport: Any

    def __init__(self, post: Post) -> None:
        self._post = post
        self._buffer = b""

    def dataReceived(self, data: bytes) -> None:
        data = self._buffer + data
        at = 0
        while len(data) - at >= 4:
            end = at + 4 + int.from_bytes(data[at : at + 4], "big")
            if end > len(data):
                break
            _, stream, method, body = cbor2.loads(data[at + 4 : end])
            at = end
            if method == "send":
                self._post.accept(self, stream, msgspec.convert(body, Send, builtin_types=(bytes,)))
            else:
                self._post.here[body] = self
        self._buffer = data[at:]


class Listener(Factory):
    def __init__(self, post: Post) -> None:
        self._post = post

    def buildProtocol(self, addr: object) -> Connection:
        return Connection(self._post)


@contextmanager
def bare(root: Path) -> Iterator[Server]:
    root.mkdir()
    with server(root, "bare", ADDRESS, DOMAIN, [sys.executable, "-m", "bench.bare", str(root)]) as made:
        yield made


def main() -> None:
    root = Path(sys.argv[1])
    options = ServerConnections(server_context(root / "certificate.pem", root / "key.pem", parley=True))
    host, port = ADDRESS
    reactor.listenTCP(port, TLSMemoryBIOFactory(options, False, Listener(Post(root))), interface=host)
    reactor.run()


if __name__ == "__main__":
    main()
