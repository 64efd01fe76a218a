"""The demo's little internet, on loopback addresses: a DNS server, gateways in processes of their own, trust between
them."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from twisted.internet import defer
from twisted.internet.threads import blockingCallFromThread

from demo.dns_server import DNSServer
from gatewayd.cli import gatewayctl
from gatewayd.cli.init import LOOPBACK_PORTS as PORTS

PASSWORD = "parley-demo"
BIN = Path(sys.executable).parent

T = TypeVar("T")

ZONE = """\
@ 60 IN SOA ns hostmaster 1 3600 600 86400 5
@ 60 IN NS ns
ns 60 IN A 127.0.0.1
mx 60 IN A {address}
@ 60 IN MX 10 mx
@ 60 IN TXT "v=spf1 mx -all"
"""
PARLEY = "_parley._tcp 60 IN SRV 0 0 {port} mx\n"


def zone(address: str, *, parley: bool) -> str:
    return ZONE.format(address=address) + (PARLEY.format(port=PORTS["parley"]) if parley else "")


class Reactor:
    """The global reactor in a thread: the DNS server and Parley clients live there, everything else is plain code."""

    def __init__(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self._thread: threading.Thread | None = None
        if not self.reactor.running:  # else whoever started it ends it
            run = {"installSignalHandlers": False}
            self._thread = threading.Thread(target=self.reactor.run, kwargs=run, daemon=True)
            self._thread.start()

    def wait(self, work: Coroutine[Any, Any, T], timeout: float = 30.0) -> T:
        """Run a coroutine there, and wait here. Raises what it raises, or TimeoutError."""

        def run() -> defer.Deferred[T]:
            return defer.Deferred.fromCoroutine(work).addTimeout(timeout, self.reactor)

        try:
            result: T = blockingCallFromThread(self.reactor, cast(Any, run))
        except defer.TimeoutError:
            raise TimeoutError("no answer in time") from None
        return result

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        result: T = blockingCallFromThread(self.reactor, function, *arguments)
        return result

    def stop(self) -> None:
        if self._thread is not None:
            self.reactor.callFromThread(self.reactor.stop)
            self._thread.join(10)


def ctl(*words: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """gatewayctl, in this process: as one of its own it would take most of its time to start."""
    said, failed, status = io.StringIO(), io.StringIO(), 0
    given, sys.stdin = sys.stdin, io.StringIO(stdin)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(failed):
            options = gatewayctl.command_line().parse_args(list(map(str, words)))
            running = Reactor()
            running.wait(gatewayctl.run(running.reactor, options), timeout=60.0)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
        failed.write("" if isinstance(ended.code, int) else f"{ended.code}\n")
    finally:
        sys.stdin = given
    return subprocess.CompletedProcess(words, status, said.getvalue(), failed.getvalue())


class Gateway:
    """One gateway: a directory, and a process that can be killed and started again."""

    def __init__(
        self, root: Path, domain: str, address: str, accounts: Sequence[str], dns_port: int, *,
        retry: Iterable[float] = (1, 1, 2, 2, 5),
    ) -> None:  # fmt: skip
        self.root = root
        self.domain = domain
        self.address = address
        self.under: Sequence[str | Path] = ()  # words that run its command in circumstances of its own
        self._process: subprocess.Popen[bytes] | None = None
        command: list[str | Path] = [
            "init", root, "--domain", domain, "--hostname", f"mx.{domain}", "--loopback",
            "--address", address, "--smtp-port", str(PORTS["smtp"]), "--nameserver", f"127.0.0.1:{dns_port}",
        ]  # fmt: skip
        command += [word for name in accounts for word in ("--account", f"{name}:{PASSWORD}")]
        done = ctl(*command)
        assert done.returncode == 0, done.stderr
        self.config = root / "gatewayd.toml"
        text = self.config.read_text().replace('trust = "ca.pem"', 'trust = "trust.pem"')
        relay = f'[relay]\nbind_address = "{address}"\nretry = [{", ".join(map(str, retry))}]\n'
        self.config.write_text(text.replace("[relay]\n", relay))
        self.believe([self])

    def believe(self, gateways: Iterable[Gateway]) -> None:
        """Whose authorities this gateway trusts."""
        (self.root / "trust.pem").write_text("".join((g.root / "ca.pem").read_text() for g in gateways))

    def port(self, service: str) -> tuple[str, int]:
        return self.address, PORTS[service]

    @property
    def pid(self) -> int:
        """The running process's."""
        assert self._process is not None
        return self._process.pid

    @property
    def ssl(self) -> ssl.SSLContext:
        """What a mail program that trusts this gateway's authority uses."""
        return ssl.create_default_context(cafile=str(self.root / "ca.pem"))

    def start(self) -> None:
        """Returns when it is healthy. Raises RuntimeError with its log's end."""
        self.begin()
        self.await_health()

    def begin(self) -> None:
        """Starts its process, and does not wait."""
        with (self.root / "gatewayd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self.under, BIN / "twistd", "-n", "--pidfile=", "gatewayd", "--config", self.config],
                stdout=log, stderr=log,
            )  # fmt: skip

    def await_health(self) -> None:
        """Raises RuntimeError with its log's end."""
        assert self._process is not None
        deadline = time.monotonic() + 30
        while True:
            try:
                if self.health() == {"store": "ok"} and self._process.poll() is None:  # it is ours that answers
                    return
            except OSError:
                pass
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = (self.root / "gatewayd.log").read_text()[-2000:]
                raise RuntimeError(f"the gateway of {self.domain} did not start:\n{tail}")
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> int:
        if self._process is None:
            return 0
        process, self._process = self._process, None
        process.send_signal(how)
        return process.wait(30)

    def health(self) -> dict[str, str]:
        parts: dict[str, str] = json.loads(self._http("health"))
        return parts

    def metric(self, name: str, **labels: str) -> float:
        """One sample of /metrics, 0.0 when it is not there yet."""
        for line in self._http("metrics").splitlines():
            found = re.fullmatch(rf"{name}(?:{{(.*)}})? (\S+)", line)
            if found and dict(re.findall(r'(\w+)="([^"]*)"', found[1] or "")) == labels:
                return float(found[2])
        return 0.0

    def _http(self, path: str) -> str:
        host, port = self.port("http")
        with urllib.request.urlopen(f"http://{host}:{port}/{path}", timeout=5) as answer:
            octets: bytes = answer.read()
            return octets.decode()


class World:
    """Some domains with gateways that trust each other, in one DNS. `others` have only mail (name -> address)."""

    def __init__(self, root: Path, gateways: dict[str, str], others: dict[str, str], accounts: Sequence[str]) -> None:
        self.reactor = Reactor()
        zones = {name: zone(address, parley=True) for name, address in gateways.items()}
        zones |= {name: zone(address, parley=False) for name, address in others.items()}
        self._zones = zones
        self.dns = DNSServer(zones)
        self.reactor.call(self.dns.listen, self.reactor.reactor)
        self.gateways = {
            name: Gateway(root / name, name, address, accounts, self.dns.port) for name, address in gateways.items()
        }
        for gateway in self.gateways.values():
            gateway.believe(self.gateways.values())

    def start(self) -> None:
        for gateway in self.gateways.values():
            gateway.begin()
        for gateway in self.gateways.values():
            gateway.await_health()

    def publish(self, **zones: str) -> None:
        """More zones, or others for those that are there; underscores stand for dots."""
        self._zones |= {name.replace("_", "."): text for name, text in zones.items()}
        self.reactor.call(self.dns.replace, self._zones)

    def stop(self) -> None:
        for gateway in self.gateways.values():
            gateway.stop()
        self.reactor.wait(self.dns.stop())
        self.reactor.stop()
