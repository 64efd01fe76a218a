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
from gatewayd.net.https import MAX_SIZE, PolicyFetcher
from gatewayd.net.tls import Trust

BETA = Domain.parse("beta.test")
POLICY = b"version: STSv1\nmode: none\nmax_age: 1\n"


class Handler(BaseHTTPRequestHandler):
    asked: list[str] = []
    reply: tuple[int, str, bytes] = (200, "text/plain", POLICY)

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
        self.fetcher = PolicyFetcher(reactor, self.resolver, trust, port)  # type: ignore[arg-type]
        self._reactor = reactor
        Handler.asked, Handler.reply = [], (200, "text/plain", POLICY)

    def fetch(self) -> bytes:
        work = lambda: defer.Deferred.fromCoroutine(self.fetcher.fetch(BETA))  # noqa: E731
        fetched: bytes = blockingCallFromThread(self._reactor, work)
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
