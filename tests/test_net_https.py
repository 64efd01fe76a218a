"""Fetching a policy over real TLS: a good certificate, 200, text/plain, and nothing else."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import defer
from twisted.internet.threads import blockingCallFromThread

from gatewayd.address import Domain
from gatewayd.core.mta_sts import FetchFailed
from gatewayd.crypto.certificates import issue, make_authority
from gatewayd.interfaces.dns import Answer
from gatewayd.net.https import HTTPS, MAX_SIZE
from gatewayd.net.tls import Trust

BETA = Domain.parse("beta.test")
POLICY = b"version: STSv1\nmode: none\nmax_age: 1\n"


class Handler(BaseHTTPRequestHandler):
    asked: list[str] = []
    posted: list[tuple[str, bytes]] = []
    reply: tuple[int, str, bytes] = (200, "text/plain", POLICY)

    def do_POST(self) -> None:
        self.posted.append((self.headers["Content-Type"], self.rfile.read(int(self.headers["Content-Length"]))))
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append(f"{self.headers['Host']}{self.path}")
        code, kind, body = self.reply
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Resolver:
    found: tuple[str, ...] = ("127.0.0.1",)

    async def addresses(self, host: str) -> Answer:
        assert host == "mta-sts.beta.test"
        return Answer(self.found, exists=True)


class World:
    def __init__(self, root: Path, reactor: Any, *names: str) -> None:
        key, authority = make_authority("test")
        (root / "ca.pem").write_bytes(authority)
        for name, octets in zip(("key.pem", "chain.pem"), issue(key, authority, names), strict=True):
            (root / name).write_bytes(octets)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(root / "chain.pem", root / "key.pem")
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.resolver = Resolver()
        trust, port = Trust(root / "ca.pem"), self.server.server_address[1]
        self.fetcher = HTTPS(reactor, self.resolver, trust, port, lambda address: True)  # type: ignore[arg-type]
        self.guarded = HTTPS(reactor, self.resolver, trust, port)  # type: ignore[arg-type]
        self._reactor = reactor
        Handler.asked, Handler.posted, Handler.reply = [], [], (200, "text/plain", POLICY)

    def wait(self, work: Any) -> Any:
        return blockingCallFromThread(self._reactor, lambda: defer.Deferred.fromCoroutine(work))

    def fetch(self) -> bytes:
        fetched: bytes = self.wait(self.fetcher.fetch(BETA))
        return fetched


@pytest.fixture
def world(tmp_path: Path, reactor: Any, request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(tmp_path, reactor, getattr(request, "param", "mta-sts.beta.test"))
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_the_policy_comes(world: World) -> None:
    Handler.reply = (200, "text/plain; charset=utf-8", POLICY)
    assert world.fetch() == POLICY
    assert Handler.asked == ["mta-sts.beta.test/.well-known/mta-sts.txt"]


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ((404, "text/plain", POLICY), "404"),
        ((301, "text/plain", POLICY), "301"),
        ((200, "text/html", POLICY), "text/html"),
        ((200, "text/plain", b"x" * (MAX_SIZE + 1)), "more than"),
    ],
)
def test_anything_else_is_no_policy(world: World, reply: tuple[int, str, bytes], why: str) -> None:
    Handler.reply = reply
    with pytest.raises(FetchFailed, match=why):
        world.fetch()
    assert len(Handler.asked) == 1


@pytest.mark.parametrize("world", ["beta.test"], indirect=True)
def test_the_certificate_has_to_name_the_host(world: World) -> None:
    with pytest.raises(FetchFailed):
        world.fetch()
    assert Handler.asked == []


def test_a_host_that_is_not_there(world: World) -> None:
    world.resolver.found = ()
    with pytest.raises(FetchFailed, match="no address"):
        world.fetch()
    world.resolver.found = ("127.0.0.1",)
    world.server.shutdown()
    world.server.server_close()
    with pytest.raises(FetchFailed):
        world.fetch()


@pytest.mark.parametrize("code", [200, 201, 204])
def test_a_report_is_posted(world: World, code: int) -> None:
    Handler.reply = (code, "text/plain", b"")
    world.wait(world.fetcher.post("https://mta-sts.beta.test/v1/tls?from=us", b"\x1f\x8b" * 40_000, "application/x"))
    assert Handler.asked == ["mta-sts.beta.test/v1/tls?from=us"]
    assert Handler.posted == [("application/x", b"\x1f\x8b" * 40_000)]


@pytest.mark.parametrize("code", [301, 307, 400, 500])
def test_a_report_that_is_not_taken(world: World, code: int) -> None:
    Handler.reply = (code, "text/plain", b"")
    with pytest.raises(FetchFailed, match=str(code)):
        world.wait(world.fetcher.post("https://mta-sts.beta.test", b"x", "application/x"))
    assert Handler.asked == ["mta-sts.beta.test/"]  # nobody is followed anywhere


@pytest.mark.parametrize(
    "url",
    [
        "http://mta-sts.beta.test/", "https:///x", "https://mta-sts.beta.test:8443/", "https://user@mta-sts.beta.test/",
        "https://[::1]/", "https://127.0.0.1/", "https://mta-sts.beta.test:x/", "https://mta-sts.beta.test/\u00fc",
        "https://mta-sts.beta.test/ HTTP/1.1\r\nX: y", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_no_place_to_report_to(world: World, url: str) -> None:
    with pytest.raises(FetchFailed):
        world.wait(world.fetcher.post(url, b"x", "application/x"))
    assert Handler.asked == []


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fd00::1", "::ffff:127.0.0.1"])
def test_nobody_has_us_knock_at_our_own_doors(world: World, address: str) -> None:
    world.resolver.found = (address,)
    for work in (world.guarded.fetch(BETA), world.guarded.post("https://mta-sts.beta.test/", b"x", "application/x")):
        with pytest.raises(FetchFailed, match="open internet"):
            world.wait(work)
    assert Handler.asked == []
