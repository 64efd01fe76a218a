"""The load: a process that keeps many clients busy and costs little, because they share the server's processors.

`python -m bench.load SPEC` (JSON, see Spec) prints one JSON line, see Result. One epoll loop, no library for the
protocol, messages that are ready but for their number. A message is under way until its recipient has it.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import msgspec
from OpenSSL import SSL

BODY = b"Meet me at the usual place, an hour later than we said; bring the books, and the other thing. Yours, as ever."
PATIENCE = 20.0  # seconds until what does not arrive is called lost
WARM = 0.25  # of the time goes by before anything is counted
SIGNING_IN = 20  # idle clients at a time
PAGE = os.sysconf("SC_PAGESIZE")
TICK = os.sysconf("SC_CLK_TCK")


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """Senders s0@, s1@, ... write to the recipients r0@, r1@, ..., each to its own."""

    protocol: str  # "parley", "bare" or "xmpp"
    authorities: str  # a PEM file
    password: str
    from_domain: str
    from_address: tuple[str, int]
    to_domain: str
    to_address: tuple[str, int]
    pairs: int = 0
    in_flight: int = 1  # messages of one sender
    rate: float = 0.0  # messages a second in all; 0: as many as go
    seconds: float = 5.0
    idle: int = 0  # only sign in so many recipients
    pids: tuple[int, ...] = ()  # the servers' processes


class Result(msgspec.Struct, frozen=True, kw_only=True):
    rate: float = 0.0  # messages a second that arrived
    p50: float = 0.0  # milliseconds from the sender's write to the recipient's read
    p99: float = 0.0
    cpu: float = 0.0  # microseconds of the servers' processors for one message
    client_cpu: float = 0.0  # and of ours
    memory: float = 0.0  # KiB of the servers for one idle client


class Client(Protocol):
    """One signed-in connection."""

    def fileno(self) -> int: ...

    def prepare(self, sender: int, recipient: str) -> None:
        """Messages go to that address from now on."""

    def message(self, number: int) -> bytes:
        """The octets of one whose number the recipient will see."""

    def read(self) -> list[tuple[int, int]]:
        """(sender, number) of the messages that have come. Raises RuntimeError when one was refused."""

    def write(self, octets: bytes) -> None: ...


class Connection:
    """TLS 1.3; blocking while it signs in, then not."""

    def __init__(self, address: tuple[str, int], domain: str, authorities: str, alpn: bytes | None = None) -> None:
        context = _context(authorities, alpn)
        self._socket = socket.create_connection(address, 30)
        self._socket.setblocking(True)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tls = SSL.Connection(context, self._socket)
        self.tls.set_tlsext_host_name(domain.encode())
        self.tls.set_connect_state()
        self.tls.do_handshake()

    def fileno(self) -> int:
        return self._socket.fileno()

    def ready(self) -> None:
        self._socket.setblocking(False)

    def receive(self) -> bytes:
        """What is there, b"" for nothing. Raises ConnectionError."""
        try:
            data = self.tls.recv(65536)
            while self.tls.pending():
                data += self.tls.recv(65536)
        except SSL.WantReadError:
            return b""
        except SSL.Error as error:
            raise ConnectionError(f"the server has gone: {error!r}") from None
        return data

    def write(self, octets: bytes) -> None:
        while octets:
            try:
                octets = octets[self.tls.send(octets) :]
            except SSL.WantWriteError:
                select.select([], [self], [])


_contexts: dict[str, SSL.Context] = {}


def _context(authorities: str, alpn: bytes | None) -> SSL.Context:
    if authorities not in _contexts:
        context = _contexts[authorities] = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.load_verify_locations(authorities)
        context.set_verify(SSL.VERIFY_PEER)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        if alpn:
            context.set_alpn_protos([alpn])
    return _contexts[authorities]


class Load:
    """Drives the pairs, and measures."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._clients: dict[int, Client] = {}
        self._senders: list[Client] = []
        self._poll = select.epoll()
        for number in range(spec.pairs):
            sender = sign_in(spec, f"s{number}", spec.from_domain, spec.from_address)
            sender.prepare(number, f"r{number}@{spec.to_domain}")
            self._senders.append(sender)
            for client in (sender, sign_in(spec, f"r{number}", spec.to_domain, spec.to_address)):
                self._clients[client.fileno()] = client
                self._poll.register(client.fileno(), select.EPOLLIN)
        self._number = 0
        self._under_way: dict[int, float] = {}  # message number -> when it was written
        self._arrivals: list[float] = []  # after how many seconds each
        self._begin = 0.0
        self._ending = False

    def run(self) -> Result:
        spec = self._spec
        self._begin = time.perf_counter()
        if not spec.rate:
            for sender in range(spec.pairs):
                self._send(sender, spec.in_flight)
        self._go_on(WARM * spec.seconds)
        self._arrivals.clear()
        warm, cpu, own = time.perf_counter(), _cpu(spec.pids), time.process_time()
        self._go_on(spec.seconds)
        cpu, own = _cpu(spec.pids) - cpu, time.process_time() - own
        taken, delays = time.perf_counter() - warm, sorted(self._arrivals)
        self._ending = True
        lost = time.perf_counter() + PATIENCE
        while self._under_way and time.perf_counter() < lost:
            self._turn(0.1)
        if self._under_way or not delays:
            raise RuntimeError(f"{len(self._under_way)} of {self._number} messages did not arrive")
        return Result(
            rate=len(delays) / taken,
            p50=delays[len(delays) // 2] * 1000,
            p99=delays[int(len(delays) * 0.99)] * 1000,
            cpu=cpu / len(delays) * 1e6,
            client_cpu=own / len(delays) * 1e6,
        )

    def _go_on(self, seconds: float) -> None:
        """So long; longer where not even what was sent at once has come in that time."""
        spec = self._spec
        end = time.perf_counter() + seconds
        latest, least = end + PATIENCE, spec.pairs * spec.in_flight if not spec.rate else 1
        while (now := time.perf_counter()) < end or (len(self._arrivals) < least and now < latest):
            wait = max(end - now, 0.1)
            if spec.rate:
                due = self._begin + self._number / spec.rate
                if due <= now:
                    self._send(self._number % spec.pairs, 1)
                    continue
                wait = min(wait, due - now)
            self._turn(wait)

    def _turn(self, wait: float) -> None:
        """One message more of a sender for each that arrived."""
        free: dict[int, int] = {}
        for fileno, _ in self._poll.poll(wait):
            come = self._clients[fileno].read()
            if come:
                now = time.perf_counter()
                for sender, number in come:
                    self._arrivals.append(now - self._under_way.pop(number))
                    free[sender] = free.get(sender, 0) + 1
        if not self._spec.rate and not self._ending:
            for sender, count in free.items():
                self._send(sender, count)

    def _send(self, sender: int, count: int) -> None:
        client = self._senders[sender]
        numbers = range(self._number, self._number + count)
        self._number += count
        octets = b"".join([client.message(number) for number in numbers])
        self._under_way.update(dict.fromkeys(numbers, time.perf_counter()))
        client.write(octets)


def sign_in(spec: Spec, user: str, domain: str, address: tuple[str, int]) -> Client:
    if spec.protocol == "parley":
        from bench.load_parley import ParleyLoad

        return ParleyLoad(address, user, domain, spec.password, spec.authorities)
    if spec.protocol == "bare":
        from bench.load_parley import BareLoad

        return BareLoad(address, user, domain, spec.password, spec.authorities)
    from bench.load_xmpp import XMPPLoad

    return XMPPLoad(address, user, domain, spec.password, spec.authorities)


IDLE = 8.0  # seconds: then they are quiet


def idle(spec: Spec) -> Result:
    """The servers' memory with so many clients on their live tail, over what it was with ten of them."""
    few = [sign_in(spec, f"r{n}", spec.to_domain, spec.to_address) for n in range(10)]
    before = _memory(spec.pids)
    with ThreadPoolExecutor(SIGNING_IN) as threads:
        names = [f"r{n}" for n in range(10, spec.idle)]
        many = list(threads.map(lambda name: sign_in(spec, name, spec.to_domain, spec.to_address), names))
    time.sleep(IDLE)
    return Result(memory=(_memory(spec.pids) - before) / len(many), rate=float(len(few) + len(many)))


def _cpu(pids: tuple[int, ...]) -> float:
    """Seconds of all of them, user and system."""
    fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids)
    return sum(int(values[11]) + int(values[12]) for values in fields) / TICK


def _memory(pids: tuple[int, ...]) -> float:
    """KiB resident."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * PAGE / 1024


def main() -> None:
    spec = msgspec.json.decode(sys.argv[1], type=Spec)
    result = idle(spec) if spec.idle else Load(spec).run()
    print(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    main()
