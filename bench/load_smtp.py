"""Mail servers that write to one: so many connections, each with one message under way, in one loop that costs little.

`python -m bench.load_smtp HOST PORT SENDER RECIPIENT SIZE CONNECTIONS COUNT` prints when it began (seconds of the
system's monotonic clock) and the microseconds of its own processor for one message. It pipelines as Postfix's client
does (RFC 2920): envelope and DATA in one write, then the content.
"""

from __future__ import annotations

import select
import socket
import sys
import time

HEAD = "From: {sender}\r\nTo: {to}\r\nSubject: a benchmark\r\nDate: Tue, 24 Nov 2026 10:00:00 +0000\r\n\r\n"
LINE = b"The quick brown fox jumps over the lazy dog, and the lazy dog lets it pass.\r\n"
PATIENCE = 60.0  # seconds without any answer


def message(size: int, sender: str, to: str) -> bytes:
    head = HEAD.format(sender=sender, to=to).encode("ascii")
    return head + LINE * ((size - len(head)) // len(LINE))


class Connection:
    """Greeting, EHLO, messages, QUIT: each step is written when all replies to the one before have come."""

    def __init__(self, address: tuple[str, int], envelope: bytes, content: bytes, count: int) -> None:
        self.socket = socket.create_connection(address, PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._steps = [(b"", 220, 1), (b"EHLO bench.elsewhere.test\r\n", 250, 1)]
        self._steps += [(envelope, 354, 3), (content, 250, 1)] * count
        self._steps.append((b"QUIT\r\n", 221, 1))
        self._steps.reverse()
        self._came = b""
        self._next()

    def _next(self) -> None:
        octets, self._expected, self._replies = self._steps.pop()
        if octets:
            self.socket.sendall(octets)

    def read(self) -> bool:
        """Whether more is to come. Raises RuntimeError when something was refused."""
        data = self.socket.recv(65536)
        if not data:
            raise RuntimeError("the server closed the connection")
        self._came += data
        lines = self._came.split(b"\r\n")
        ends = [line for line in lines[:-1] if line[3:4] != b"-"]
        if len(ends) < self._replies and all(end < b"4" for end in ends):
            return True
        if len(ends) != self._replies or not ends[-1].startswith(b"%d" % self._expected) or lines[-1]:
            raise RuntimeError(f"the server said {self._came!r}")
        self._came = b""
        if not self._steps:
            self.socket.close()
            return False
        self._next()
        return True


def run(address: tuple[str, int], sender: str, to: str, size: int, connections: int, count: int) -> None:
    envelope = f"MAIL FROM:<{sender}>\r\nRCPT TO:<{to}>\r\nDATA\r\n".encode("ascii")
    content = message(size, sender, to) + b".\r\n"
    poll = select.epoll()
    working: dict[int, Connection] = {}
    for _ in range(connections):
        connection = Connection(address, envelope, content, count // connections)
        working[connection.socket.fileno()] = connection
        poll.register(connection.socket, select.EPOLLIN)
    while working:
        ready = poll.poll(PATIENCE)
        if not ready:
            raise RuntimeError("the server is silent")
        for fileno, _ in ready:
            if not working[fileno].read():
                del working[fileno]


def main() -> None:
    host, port, sender, to, size, connections, count = sys.argv[1:]
    begin, before = time.monotonic(), time.process_time()
    run((host, int(port)), sender, to, int(size), int(connections), int(count))
    print(begin, (time.process_time() - before) / int(count) * 1e6)


if __name__ == "__main__":
    main()
