"""A connection that has gone quiet holds less, and goes on as if nothing had happened."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet.task import Clock

from gatewayd.crypto.certificates import issue, make_authority
from gatewayd.net import quiet
from gatewayd.net.quiet import QUIET, Quiet, renew_buffers
from gatewayd.net.tls import Trust, client_context, server_context


class Link:
    def __init__(self) -> None:
        self.trims = 0

    def trim(self) -> None:
        self.trims += 1


def test_who_says_nothing_for_a_while_is_trimmed_once() -> None:
    clock = Clock()
    known = Quiet(clock)
    busy, idle, gone = Link(), Link(), Link()
    for one in (idle, gone, busy):
        known.spoke(one)
    known.left(gone)
    for _ in range(3 * QUIET):
        clock.advance(1)
        known.spoke(busy)
    assert (busy.trims, idle.trims, gone.trims) == (0, 1, 0)
    clock.pump([1] * 2 * QUIET)
    assert (busy.trims, idle.trims) == (1, 1)
    assert clock.getDelayedCalls() == []
    known.spoke(idle)
    clock.pump([1] * 2 * QUIET)
    assert idle.trims == 2


def test_many_are_trimmed_some_at_a_time() -> None:
    clock = Clock()
    known, links = Quiet(clock), [Link() for _ in range(quiet.AT_ONCE * 2 + 1)]
    for one in links:
        known.spoke(one)
    most = before = 0
    while clock.getDelayedCalls():
        clock.advance(clock.getDelayedCalls()[0].getTime() - clock.seconds())
        done = sum(one.trims for one in links)
        most, before = max(most, done - before), done
    assert (most, before) == (quiet.AT_ONCE, len(links))


def test_buffers_are_renewed_only_when_nothing_is_in_them(tmp_path: Path) -> None:
    server, client = connected(tmp_path)
    for round in range(3):
        client.send(b"ping" * 4000)
        octets = client.bio_read(1 << 20)
        server.bio_write(octets[:100])
        held = server._into_ssl
        renew_buffers(server)
        assert server._into_ssl is held
        server.bio_write(octets[100:])
        assert received(server) == b"ping" * 4000
        renew_buffers(server)
        assert server._into_ssl is not held, round
        server.send(b"pong" * 4000)
        held = server._from_ssl
        renew_buffers(server)
        assert server._from_ssl is held  # they have not left yet
        client.bio_write(server.bio_read(1 << 20))
        assert received(client) == b"pong" * 4000


def connected(root: Path) -> tuple[Any, Any]:
    authority = make_authority("Test authority")
    key, chain = issue(*authority, ["alpha.test"])
    for name, octets in (("key.pem", key), ("certificate.pem", chain), ("ca.pem", authority[1])):
        (root / name).write_bytes(octets)
    server = SSL.Connection(server_context(root / "certificate.pem", root / "key.pem", parley=True), None)
    client = SSL.Connection(client_context(Trust(root / "ca.pem"), parley=True), None)
    server.set_accept_state()
    client.set_connect_state()
    for one, other in ((client, server), (server, client)) * 2:
        with suppress(SSL.WantReadError):
            one.do_handshake()
        with suppress(SSL.WantReadError):
            other.bio_write(one.bio_read(1 << 20))
    return server, client


def received(connection: Any) -> bytes:
    found = b""
    while True:
        try:
            found += connection.recv(1 << 16)
        except SSL.WantReadError:
            return found
